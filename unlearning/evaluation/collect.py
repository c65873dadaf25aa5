"""From checkpoints to the rows of a table: each file is scored once, and seeds of one identity are put together."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import data
import models
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.flags import as_words
from unlearning.core.provenance import provenance
from unlearning.core.words import say
from unlearning.evaluation import answers, network
from unlearning.evaluation.entries import (
    Entry,
    NotScored,
    check_identities,
    dataset_of,
    describe,
    is_elsewhere,
    network_of,
    once,
    other_recipes,
    read,
    refuse_nan,
)
from unlearning.evaluation.flags import Scoring
from unlearning.evaluation.forget_sets import drawn, forget_sets, lists, own_positions, request_in_words, scored_on, tagged
from unlearning.evaluation.references import ReferenceNetworks
from unlearning.evaluation.row_names import labels
from unlearning.evaluation.unfinished import circumstances
from unlearning.metrics import statistics
from unlearning.vision import originals
from unlearning.vision.identity import canonical, digest, first_parent, of_row, with_parent
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

TABLE = ("dataset", "model", "forget")  # what all rows of a table have in common
SHOWN = (*TABLE, "method", "epochs")
BETWEEN = "; "  # machines


def score_files(
    paths: Sequence[str | Path],
    scoring: Scoring,
    shared: Shared,
    beneath: bool = True,
    keep: Literal["answers", "pictures"] | None = None,
    more: Callable[[Entry], dict[str, Any]] = lambda entry: {},
) -> list[dict[str, Any]]:
    """Score the files `paths`, all seeds of an identity together: rows as reports/results.py describes them.

    beneath: also look beneath the head, by a probe, relearning and a picture of the features. keep: give each row the
    `account` that reports/answers.py describes, with or without images. more: function of a file, giving further metrics. An
    original is scored on every forget set that the other files of its data and network bring, or on the one that `scoring`
    names. Raises UserError when a forget set is missing or contradicts `scoring`, when two files are the same run with the
    same seed, and when there are two Retrains to measure from.
    """
    described = _described(once(paths), scoring, shared)
    given = _or_left_out(described, lambda entry: replace(entry, forgets=forget_sets(entry, described, scoring, shared)))
    entries = drawn(_with_parents(given + _companions(given, scoring, shared)), scoring, shared)
    check_identities(entries)
    for line in request_in_words(given, scoring, shared):
        say(line)
    for sentence in other_recipes(entries):
        say(f"note: {sentence}")
    references = ReferenceNetworks.named(scoring, shared)
    names, tags, networks = labels(entries), _data_names(entries, scoring, shared), _network_names(entries)
    scorer = _Scorer(
        [entry.tensors for entry in entries], scoring, shared, beneath, keep, lists(entries, scoring), references
    )
    scored = []
    order = sorted(entries, key=lambda entry: entry.method != "retrain")  # others are measured from Retrain
    for place, entry in enumerate(order, 1):
        rows, before = scorer.score(entry)
        for row in rows:
            named: dict[str, Any] = {"dataset": tags[entry.images], "model": networks[entry.network]}
            named["metrics"] = row["metrics"] | more(entry)
            scored.append(row | named | {"method": names[entry.key, row["forget"]]})
        report_scored(entry.path, scoring.compute, f"{'before, ' if before else ''}{place} of {len(order)}: ")
    retrains = {_pair(row): row for row in scored if row["entry"].method == "retrain"}
    for row in scored:
        original, retrain = _original_of(row, scored), retrains.get(_pair(row))
        network.compare(row, original, retrain)
        row["before"], row["retrained"] = (other and other.get("answers") for other in (original, retrain))
    return _put_seeds_together(scored)


def _described(paths: list[Path], scoring: Scoring, shared: Shared) -> list[Entry]:
    """An entry for each file that can be scored, in their order. This project's come first, for they know what they started
    from."""
    known: list[Entry] = []

    def described(path):
        known.append(tagged(describe(path, scoring, shared, known), scoring, shared))
        return known[-1]

    found = _or_left_out(sorted(paths, key=lambda path: is_elsewhere(path, shared)), described)
    return sorted(found, key=lambda entry: paths.index(entry.path))


def _or_left_out(given: Sequence[Any], make: Callable[[Any], Entry]) -> list[Entry]:
    """What `make` makes of each. Where it raises NotScored, that one is left out and named, unless nothing else is left."""
    found, left_out = [], []
    for one in given:
        try:
            found.append(make(one))
        except NotScored as reason:
            left_out.append(reason)
    if left_out and not found:
        raise left_out[0]
    for unscored in left_out:
        say(f"left out: {unscored}")
    return found


class _Scorer:
    """Scores one file after the other, Retrains first, for the files after them are measured from these.

    states: digests of every file's tensors. listed_in: `forget_sets.lists` of all files. references: RMIA's. The others are
    those of `score_files`.
    """

    def __init__(
        self,
        states: list[dict[str, bytes]],
        scoring: Scoring,
        shared: Shared,
        beneath: bool,
        keep: Literal["answers", "pictures"] | None,
        listed_in: dict[str, str],
        references: ReferenceNetworks,
    ) -> None:
        self.listed_in, self.references = listed_in, references
        self.states, self.scoring, self.shared, self.beneath, self.keep = states, scoring, shared, beneath, keep
        self.retrained: dict[tuple, tuple[str, torch.Tensor]] = {}  # Retrain's digest and answers on training images
        self.skipped: list[Entry] = []  # files scored before a kill, whose layers the files after them share

    def score(self, entry: Entry) -> tuple[list[dict[str, Any]], bool]:
        """One row for each forget set of the file, and whether its scores were there from a command that was killed.

        Accounts are made again from the kept answers, so that no image of a forget set lies in the folder of what is kept.
        """
        dataset = self._scored_on(entry)
        whole = dataset_of(entry, self.scoring, self.shared)  # by the places in which files are called
        for positions, tag in entry.forgets:
            whole.check_missing(positions, tag, entry.scored)
        if self.keep and len(dataset.missing):
            raise UserError(f"{entry.path}: {network.GONE}, so that no page can show how they are answered")
        sha = answers.sha256_of(entry)
        key = self._key(entry, sha, dataset)
        found = self.scoring.kept.find(key)
        if before := found is not None:
            self.skipped.append(entry)
        else:
            found = self.scoring.kept.keep(key, self._scores(entry, dataset))
        if entry.method == "retrain":
            self.retrained |= {pair: (sha, found["logits"][0]) for pair in _pairs(entry)}
        rows = [
            self._row(entry, dataset, positions, tag, found, scores)
            for (positions, tag), scores in zip(entry.forgets, found["scores"], strict=True)
        ]
        return rows, before

    def _key(self, entry: Entry, sha: str, dataset: data.Dataset) -> dict[str, Any]:
        """What makes a file's scores."""
        own, drawn = self.scoring.told.own, None if entry.drawn is None else digest(entry.drawn)
        return {
            "file": sha,
            "network": [entry.key, entry.built, repr(self.scoring.told), own and own.sha256],
            "data": [entry.images, dataset.missing.tolist(), drawn, len(dataset.test)],
            "forget": [(digest(positions), tag) for positions, tag in entry.forgets],
            "from": [self.retrained[pair][0] if pair in self.retrained else None for pair in _pairs(entry)],
            "flags": [self.scoring.attack, self.scoring.every_attack, self.beneath, bool(self.keep), entry.seed],
            "asked": [self.scoring.recovery, *(one.sha256 for one in self.references.of(entry))],
            "where": circumstances(self.scoring.compute),
        }

    def _scores(self, entry: Entry, dataset: data.Dataset) -> dict[str, Any]:
        """`precision`, `scores`, a pair of metrics and curves for each forget set, and `logits`, as far as these are needed:
        float32 (N, C) of the training images for what is measured from a Retrain, for accounts of the test images too."""
        for other in self.skipped:  # the same layers are cached as if they had been scored now, for the same bits
            self._placed(other, self._scored_on(other))
        self.skipped = []
        model, compute = self._placed(entry, dataset)
        logits = [predict(model, split, compute, self.shared.features) for split in (dataset.train, dataset.test)]
        refuse_nan(entry.path, logits)
        cached = self.shared.features
        sample = network.sampled(model, dataset, compute, cached) if self.beneath else None
        scores = []
        for (positions, _), pair in zip(entry.forgets, _pairs(entry), strict=True):
            forget = own_positions(entry, positions)
            attack, every = self.scoring.attack, self.scoring.every_attack
            found, curves = network.score(logits, dataset, forget, attack, every, entry.seed)
            known = logits[0] if entry.method == "retrain" else self.retrained.get(pair, ("", None))[1]
            if known is not None:
                found |= network.distances(logits[0], known, forget)
            if self.beneath:
                under, more = network.beneath(model, dataset, forget, compute, sample, cached)
                found, curves = found | under, curves | more
            found |= network.recovery(model, dataset, forget, compute) if self.scoring.recovery else {}
            if self.references.entries:
                asked = network.asked_about(dataset, forget)
                found |= network.rmia(logits, dataset, asked, self.references.say(entry, dataset, asked))
            if len(dataset.missing):
                found, curves = network.without_forgotten(found, curves)
            scores.append((found, curves))
        kept = logits if self.keep else logits[:1] if entry.method == "retrain" else []
        return {"precision": compute.precision, "scores": scores, "logits": kept, "zeros": models.zeros(model)}

    def _scored_on(self, entry: Entry) -> data.Dataset:
        return scored_on(entry, dataset_of(entry, self.scoring, self.shared), self.scoring.images)

    def _placed(self, entry: Entry, dataset: data.Dataset) -> tuple[torch.nn.Module, Compute]:
        """The network of a file on its device, the layers that it shares with others about to be cached."""
        model = network_of(entry, self.shared, self.scoring.told.own)
        compute = self.scoring.compute.placed(model)
        model.to(compute.device)
        self.shared.features.share_between(model, entry.tensors, self.states, dataset.train, compute)
        return model, compute

    def _row(
        self,
        entry: Entry,
        dataset: data.Dataset,
        positions: torch.Tensor,
        tag: str,
        found: dict[str, Any],
        scores: tuple[dict[str, Any], dict[str, Any]],
    ) -> dict[str, Any]:
        """The row of a forget set. found: `_scores`; scores: its pair of this forget set."""
        whole = replace(entry, drawn=None)
        about = scored_on(whole, dataset_of(entry, self.scoring, self.shared))
        row: dict[str, Any] = {key: getattr(entry, key) for key in ("model", "epochs", "seed", "command", "device")}
        row |= {
            "forget": tag,
            "forgotten": about.in_words(own_positions(whole, positions), tag, self.listed_in.get(tag)),
            "entry": entry,
            "precision": found["precision"],
            "metrics": scores[0] | entry.cost | {"zeros": found["zeros"], "bytes": _bytes(entry.path)},
            "curves": scores[1],
        }
        if self.keep:
            row |= answers.of_network(entry, found["logits"], dataset, about, positions, self.keep == "pictures")
        return row


def report_scored(path: Path, compute: Compute, place: str = "") -> None:
    """Say that a file has been scored. place: which of how many it is, in words."""
    if not compute.quiet:
        say(f"scored {place}{path}")


def result(table: str, command: str, rows: list[dict[str, Any]], attack: str) -> dict[str, Any]:
    """The rows with what made them: the dictionary that reports draw."""
    hardware = BETWEEN.join(dict.fromkeys(device for row in rows for device in row["device"].split(BETWEEN)))
    return {"table": table, **provenance(command, hardware), "attack": attack, "rows": rows}


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _data_names(entries: Sequence[Entry], scoring: Scoring, shared: Shared) -> dict[str, str]:
    """What tables call the images that a file is scored on: the data's tag, how many of them are private to a system, how
    many are scored where not all are, and some digits of a SHA-256 where two have one name."""
    names = {}
    for entry in entries:
        private = "" if entry.private is None else f", {len(entry.private):,} private"
        dataset = dataset_of(entry, scoring, shared)
        some = scored_on(entry, dataset, scoring.images)
        counts = f"{len(some.train):,} training and {len(some.test):,} test images"
        less = entry.drawn is not None or len(some.test) < len(dataset.test)
        names[entry.images] = dataset.tag + private + (f", scored on {counts}" if less else "")
    alike = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {digest: f"{name} ({digest[:8]})" if name in alike else name for digest, name in names.items()}


def _network_names(entries: Sequence[Entry]) -> dict[tuple, str]:
    """What tables call each network: its name, with what shapes it where two have one name."""
    shapes = {entry.network: (entry.model, entry.shape) for entry in entries}
    alike = [name for name, _ in set(shapes.values())]
    return {key: name if alike.count(name) == 1 else f"{name} ({shape})" for key, (name, shape) in shapes.items()}


def _with_parents(entries: list[Entry]) -> list[Entry]:
    """The entries; those of earlier versions, which know the original by its SHA-256 alone, with what it says of itself."""
    known = {entry.sha256: entry.identity for entry in entries if entry.sha256}
    return [replace(entry, identity=with_parent(entry.identity, known)) for entry in entries]


def _companions(entries: Sequence[Entry], scoring: Scoring, shared: Shared) -> list[Entry]:
    """The Originals that the files come from, and the Retrains of their network, forget sets and seed, out of the folder of
    weights, where `entries` lack them."""
    known, found = {entry.sha256 for entry in entries}, []
    for method in ("original", "retrain"):
        for path in sorted(scoring.weights.glob(f"*_{method}*.pth")):
            try:
                _, sha = read(path, shared)
                if sha is None or sha in known:  # what others have trained; given already, or a copy
                    continue
                entry = describe(path, scoring, shared)
            except UserError as reason:  # nobody has named it
                say(f"note: left out: {reason}")
                continue
            near = next((other for other in entries if other.network == entry.network), None)
            if entry.method != method or near is None:
                continue
            entry = tagged(replace(entry, source=near.source), scoring, shared)  # the same images, which may have moved
            if forgets := _accompanied(entry, entries):
                found.append(replace(entry, forgets=forgets))
                known.add(sha)
    have = {(entry.sha256, entry.key) for entry in entries}
    away = {(one.origin, _start_of(one)): one for one in entries if one.elsewhere and one.origin}
    for (origin, start), one in away.items():
        path = Path(one.elsewhere or "")
        if (origin, start) in have:
            continue
        if not path.exists() or originals.digest_of(path) != origin:
            what = "isn't there any more, or is another file now, so that there is no row of the Original"
            say(f"note: {path}, from which {one.path} started, {what}")
        else:
            entry = describe(path, scoring, shared, [one])
            same = [other for other in entries if _start_of(other) == start]
            found.append(replace(entry, forgets=_accompanied(entry, same)))
    return found


def _start_of(entry: Entry) -> str:
    """The identity of the original that a file comes from, as text: one file from elsewhere may be read in several ways."""
    return canonical(of_row(first_parent(entry.identity), False))


def _accompanied(entry: Entry, entries: Sequence[Entry]) -> tuple[tuple[torch.Tensor, str], ...]:
    """The forget sets on which an Original or a Retrain is to be scored along with `entries`."""
    near = [other for other in entries if other.network == entry.network]
    origins = {other.origin for other in near if other.origin}
    if entry.method == "original" and origins:
        wanted = near if entry.sha256 in origins else []
        own = [other for other in wanted if (other.key, other.seed) == (entry.key, entry.seed)]  # other seeds have theirs
    else:
        wanted = own = [other for other in near if other.seed == entry.seed]
    have = {tag for other in own if other.method == entry.method for _, tag in other.forgets}
    sets = {tag: (forget, tag) for other in wanted for forget, tag in other.forgets if tag not in have}
    return tuple(pair for tag, pair in sets.items() if entry.forget_tag in (None, tag))


def _pairs(entry: Entry) -> list[tuple]:
    """`_pair` of each of the file's rows."""
    return [(*entry.network, tag, entry.seed) for _, tag in entry.forgets]


def _pair(row: dict[str, Any]) -> tuple:
    return (*row["entry"].network, row["forget"], row["seed"])


def _original_of(row: dict[str, Any], scored: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row of the original that a row's network comes from; for Retrain, which comes from none, that of its seed."""
    entry = row["entry"]
    same = [r for r in scored if r["entry"].method == "original" and _pair(r)[:-1] == _pair(row)[:-1]]
    if entry.origin:
        same = [r for r in same if r["entry"].sha256 == entry.origin]
        exact = [r for r in same if r["entry"].key == _start_of(entry)]
        return next(iter(exact or [r for r in same if not r["entry"].elsewhere]), None)
    if entry.method == "original":
        return row
    own = [r for r in same if r["seed"] == row["seed"]]
    return own[0] if len(own) == 1 else None


def _put_seeds_together(scored: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of single networks to rows of methods: Original, Retrain, then the others in the order in which they came."""
    groups = statistics.grouped(scored, lambda row: (*(row[key] for key in SHOWN), row["entry"].key))
    tables = list(dict.fromkeys(key[:3] for key in groups))
    anchors = {"original": 0, "retrain": 1}
    rows = []
    for group in sorted(groups.values(), key=lambda g: (tables.index(tuple(g[0][k] for k in TABLE)), _rank(g, anchors))):
        group.sort(key=lambda row: row["seed"])
        names = {key: group[0][key] for key in SHOWN}
        same = {
            "forgotten": group[0]["forgotten"],
            "n": len(group),
            "seeds": [row["seed"] for row in group],
            "command": group[0]["command"],
            "device": BETWEEN.join(dict.fromkeys(row["device"] for row in group)),
        }
        same["precision"] = " and ".join(dict.fromkeys(row["precision"] for row in group))
        same["flags"] = as_words(group[0]["entry"].flags)
        curves = _curves_over_seeds([row["curves"] for row in group])
        rows.append(names | same | {"metrics": statistics.metrics_over_seeds(group), "curves": curves})
        if "answers" in group[0]:
            rows[-1]["account"] = answers.account(group)
    return rows


def _rank(group: list[dict[str, Any]], anchors: dict[str, int]) -> int:
    return anchors.get(group[0]["entry"].method, 2)


def _curves_over_seeds(group: list[dict[str, Any]]) -> dict[str, Any]:
    """The relearning curve of each seed, ROC and histograms averaged over seeds, the first seed's features."""
    roc = [curves["roc"] for curves in group if curves["roc"] is not None]
    losses = {
        name: np.mean([curves["losses"][name] for curves in group], 0).round(4).tolist() for name in group[0]["losses"]
    }
    return {
        "relearn": [curves["relearn"] for curves in group if curves.get("relearn")],
        "relearn_steps": network.RELEARN_STEPS,
        "roc": np.mean(roc, 0).round(4).tolist() if roc else None,
        "losses": losses,
        "features": group[0].get("features"),
    }
