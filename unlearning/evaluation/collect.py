"""From checkpoints to the rows of a table: each file is scored once, and seeds of one identity are put together."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import models
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.files import sha256
from unlearning.core.flags import as_words
from unlearning.core.provenance import provenance
from unlearning.evaluation import answers, network
from unlearning.evaluation.entries import (
    Entry,
    NotScored,
    check_identities,
    dataset_of,
    describe,
    forget_sets,
    labels,
    other_recipes,
    own_positions,
    read,
    request_in_words,
    scored_on,
    tagged,
)
from unlearning.evaluation.flags import Scoring
from unlearning.exact import learners
from unlearning.metrics import statistics
from unlearning.networks.own import OwnNetwork
from unlearning.vision import originals
from unlearning.vision.identity import canonical, first_parent, with_parent
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

TABLE = ("dataset", "model", "forget")  # what all rows of a table have in common
SHOWN = (*TABLE, "method", "epochs")


def score_files(
    paths: Sequence[str | Path],
    scoring: Scoring,
    shared: Shared,
    beneath: bool = True,
    keep: Literal["answers", "pictures"] | None = None,
) -> list[dict[str, Any]]:
    """Score the files `paths`, all seeds of an identity together: rows as reports/results.py describes them.

    beneath: also look beneath the head, by a probe, relearning and a picture of the features. keep: give each row the
    `account` that reports/answers.py describes, with or without images. An original is scored on every forget set that the
    other files of its data and network bring, or on the one that `scoring` names. Raises UserError when a forget set is
    missing or contradicts `scoring`, when two files are the same run with the same seed, and when there are two Retrains to
    measure from.
    """
    described = _described(_once(paths), scoring, shared)
    given = _or_left_out(described, lambda entry: replace(entry, forgets=forget_sets(entry, described, scoring, shared)))
    entries = _with_parents(given + _companions(given, scoring, shared))
    check_identities(entries)
    for line in request_in_words(given, scoring, shared):
        print(line, file=sys.stderr, flush=True)
    for sentence in other_recipes(entries):
        print(f"note: {sentence}", file=sys.stderr, flush=True)
    names, tags, networks = labels(entries), _data_names(entries, scoring, shared), _network_names(entries)
    retrained: dict[tuple, torch.Tensor] = {}
    scored = []
    order = sorted(entries, key=lambda entry: entry.method != "retrain")  # others are measured from Retrain
    for place, entry in enumerate(order, 1):
        others = [other.tensors for other in entries]
        for row in _score_file(entry, retrained, others, scoring, shared, beneath, keep):
            named = {"dataset": tags[entry.images], "model": networks[entry.network]}
            scored.append(row | named | {"method": names[entry.key, row["forget"]]})
        report_scored(entry.path, scoring.compute, f"{place} of {len(order)}: ")
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

    found = _or_left_out(sorted(paths, key=originals.is_elsewhere), described)
    return sorted(found, key=lambda entry: paths.index(entry.path))


def _once(paths: Sequence[str | Path]) -> list[Path]:
    """The paths, each file once."""
    return list({Path(path).resolve(): Path(path) for path in paths}.values())


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
        print(f"left out: {unscored}", file=sys.stderr, flush=True)
    return found


def _score_file(
    entry: Entry,
    retrained: dict[tuple, torch.Tensor],
    states: list[dict[str, bytes]],
    scoring: Scoring,
    shared: Shared,
    beneath: bool,
    keep: Literal["answers", "pictures"] | None,
) -> list[dict[str, Any]]:
    """One row for each forget set of the file. A Retrain's answers are left in `retrained` for the files after it.

    states: digests of every file's tensors.
    """
    dataset, model = scored_on(entry, dataset_of(entry, scoring, shared)), network_of(entry, scoring.told.own)
    size = {"zeros": models.zeros(model), "bytes": _bytes(entry.path)}
    compute = scoring.compute.placed(model)
    model.to(compute.device)
    shared.features.share_between(model, entry.tensors, states, dataset.train, compute)
    logits = [predict(model, split, compute, shared.features) for split in (dataset.train, dataset.test)]
    refuse_nan(entry.path, logits)
    rows = []
    for positions, tag in entry.forgets:
        forget = own_positions(entry, positions)
        row: dict[str, Any] = {key: getattr(entry, key) for key in ("model", "epochs", "seed", "command", "device")}
        row |= {
            "forget": tag,
            "forgotten": dataset.in_words(forget, tag),
            "entry": entry,
            "precision": compute.precision,
        }
        dataset.check_missing(forget, tag)
        found, row["curves"] = network.score(logits, dataset, forget, scoring.attack, scoring.every_attack, entry.seed)
        if entry.method == "retrain":
            retrained[_pair(row)] = logits[0]
        if _pair(row) in retrained:
            found |= network.distances(logits[0], retrained[_pair(row)], forget)
        if beneath:
            under, curves = network.beneath(model, dataset, forget, compute, shared.features)
            found |= under
            row["curves"] |= curves
        if len(dataset.missing):
            found, row["curves"] = network.without_forgotten(found, row["curves"])
        row["metrics"] = found | entry.cost | size
        if keep and len(dataset.missing):
            raise UserError(f"{entry.path}: {network.GONE}, so that no page can show how they are answered")
        if keep:
            row |= answers.of_network(entry, logits, dataset, positions, keep == "pictures")
        rows.append(row)
    return rows


def network_of(entry: Entry, own: OwnNetwork | None = None) -> torch.nn.Module:
    """The network of a file, on the CPU, in evaluation mode. own: what makes it, where that is the user's own."""
    content = read(entry.path)
    if content is None:
        return originals.rebuilt(entry.path, entry.built, entry.identity["settings"].get("entry"), own)
    return learners.build(content, entry.path) if entry.path.is_dir() else models.build(content, entry.path, own)


def refuse_nan(path: Path, logits: Sequence[torch.Tensor]) -> None:
    """Raise UserError where the network in `path` answers an image with NaN. logits: (N, C) of each set of images."""
    if wrong := sum(int(some.softmax(1).isnan().any(1).sum()) for some in logits):
        raise UserError(f"{path} answers {wrong} images with NaN: its weights or its precision are at fault")


def report_scored(path: Path, compute: Compute, place: str = "") -> None:
    """Say that a file has been scored. place: which of how many it is, in words."""
    if not compute.quiet:
        print(f"scored {place}{path}", file=sys.stderr, flush=True)


def result(table: str, command: str, rows: list[dict[str, Any]], attack: str) -> dict[str, Any]:
    """The rows with what made them: the dictionary that reports draw."""
    hardware = "; ".join(dict.fromkeys(row["device"] for row in rows))
    return {"table": table, **provenance(command, hardware), "attack": attack, "rows": rows}


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _data_names(entries: Sequence[Entry], scoring: Scoring, shared: Shared) -> dict[str, str]:
    """What tables call the images that a file is scored on: the data's tag, how many of them are private to a system, and
    some digits of a SHA-256 where two have one name."""
    names = {}
    for entry in entries:
        private = "" if entry.private is None else f", {len(entry.private):,} private"
        names[entry.images] = dataset_of(entry, scoring, shared).tag + private
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
            if (digest := sha256(path)) in known:  # given already, or a copy
                continue
            entry = describe(path, scoring, shared)
            near = next((other for other in entries if other.network == entry.network), None)
            if entry.method != method or near is None:
                continue
            entry = tagged(replace(entry, source=near.source), scoring, shared)  # the same images, which may have moved
            if forgets := _accompanied(entry, entries):
                found.append(replace(entry, forgets=forgets))
                known.add(digest)
    have = {(entry.sha256, entry.key) for entry in entries}
    away = {(one.origin, _start_of(one)): one for one in entries if one.elsewhere and one.origin}
    for (origin, start), one in away.items():
        path = Path(one.elsewhere or "")
        if (origin, start) not in have and path.exists() and originals.digest_of(path) == origin:
            entry = describe(path, scoring, shared, [one])
            same = [other for other in entries if _start_of(other) == start]
            found.append(replace(entry, forgets=_accompanied(entry, same)))
    return found


def _start_of(entry: Entry) -> str:
    """The identity of the original that a file comes from, as text: one file from elsewhere may be read in several ways."""
    return canonical(first_parent(entry.identity))


def _accompanied(entry: Entry, entries: Sequence[Entry]) -> tuple[tuple[torch.Tensor, str], ...]:
    """The forget sets on which an Original or a Retrain is to be scored along with `entries`."""
    near = [other for other in entries if other.network == entry.network]
    origins = {other.origin for other in near if other.origin}
    if entry.method == "original" and origins:
        wanted = near if entry.sha256 in origins else []
    else:
        wanted = [other for other in near if other.seed == entry.seed]
    have = {tag for other in wanted if other.method == entry.method for _, tag in other.forgets}
    sets = {tag: (forget, tag) for other in wanted for forget, tag in other.forgets if tag not in have}
    return tuple(pair for tag, pair in sets.items() if entry.forget_tag in (None, tag))


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
            "command": group[0]["command"],
            "device": group[0]["device"],
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
