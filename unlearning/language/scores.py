"""Scores of adapters: how right they answer test rows, what they still know of what was asked about, how far from Retrain.

loss in nats on test rows; accuracy and AUC (one answer against the others, mean) in percent by the likelihood of each of a
closed list of answers; hits, valid and ROUGE-L in percent by generation. forget_loss: mean loss on the rows as they were
trained on before the request; membership: AUC in percent of telling these rows from test rows by their loss, and min_k by
the least likely fifth of their tokens (Min-K% Prob, Shi et al. 2024), 50 being none; forget_rouge: ROUGE-L of what is
generated to them against what was to be forgotten. Distances are from Retrain: of parameters, over Corrupted's
own; of predictions, the Jensen-Shannon divergence on test rows; cosine: between the steps that both take from Corrupted.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.words import say
from unlearning.language import generation, influence
from unlearning.language.adapters import read_record
from unlearning.language.batches import Batch, batches_of, row_means, token_log_likelihoods
from unlearning.language.records import absolute
from unlearning.language.requests import Edit
from unlearning.language.rows import Row, digest, few
from unlearning.language.session import (
    UNSEEN,
    Place,
    Session,
    current_rows,
    digest_of,
    given_files,
    session_of,
    versions,
)
from unlearning.metrics import predictions, statistics
from unlearning.reports import tables

CLOSED = 20  # different answers of a closed list, at most
MIN_K = 0.2  # of a row's tokens, the least likely
ALIKE = {"missing": "distance: Retrain is where the adapter was before the request"}
UNDONE = {"undone": "loss", "undone_js": "js"}  # of how much damage is undone: by what

# Metrics, parameters as one vector, logits on test rows, of a closed choice the place of each right answer (else empty).
Scored = tuple[dict[str, Any], torch.Tensor, torch.Tensor, torch.Tensor]


def score(
    folder: Path,
    record: dict[str, Any],
    before: Sequence[Row],
    place: Place,
    generate: int = 0,
    listed: Sequence[str] | None = None,
) -> Scored:
    """The scores of the adapter in `folder`, whose record it is.

    before: the rows that were asked about, as trained on. generate: test rows, and asked ones, that are answered in full.
    listed: the answers to choose from; None for those of the adapter's own rows.
    """
    with session_of(record, place, folder) as session, torch.no_grad():
        if not session.test:
            raise UserError(f"{folder}: no test rows are known: give --test")
        session.check_choice(session.test)
        own = closed_list([*session.rows, *session.validation, *session.test]) if listed is None else listed
        found, logits, right = _on_test_rows(session, generate, own)
        if before:
            with session.forward.unwritten():
                found |= _on_asked_rows(session, before, generate)
        return found, influence.flat(session.parameters).detach().cpu(), logits, right


def _on_test_rows(
    session: Session, generate: int, listed: Sequence[str]
) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Metrics on test rows; logits (N, answers) of a closed choice, else the first tokens' (N, V); and the right answers."""
    rows = session.test
    found: dict[str, Any] = {"loss": session.losses_of(rows).mean().item()}
    if listed or all(row.choices for row in rows):
        logits = likelihoods(session, rows, listed)
        right = torch.tensor([(listed or row.choices).index(row.response) for row in rows])
        found |= of_choices(logits, right, bool(listed))
    else:
        logits, right = _first_tokens(session, rows), torch.tensor([], dtype=torch.int64)
    if generate:
        some = rows[:generate]
        said = generation.answers(session, some)
        found |= {"hits": generation.hit_ratio(said, some), "rouge": generation.rouge_l(said, some)}
        if listed or all(row.choices for row in rows):
            found["valid"] = generation.valid_ratio(said, some, listed)
    return found, logits, right


def of_choices(logits: torch.Tensor, right: torch.Tensor, listed: bool) -> dict[str, Any]:
    """Accuracy, and of a list that all rows share AUC, in percent. logits: (N, answers). right: the place of each answer."""
    found: dict[str, Any] = {"accuracy": predictions.accuracy(logits, right)}
    return found | ({"auc": _auc(logits, right)} if listed else {})


def _on_asked_rows(session: Session, before: Sequence[Row], generate: int) -> dict[str, float]:
    """What is still known of the rows that were asked about."""
    from sklearn.metrics import roc_auc_score

    asked, test = (_token_scores(session, rows) for rows in (before, session.test))
    member = torch.arange(len(before) + len(session.test)) < len(before)
    found = {"forget_loss": -asked[0].mean().item()}
    for key, values in zip(("membership", "min_k"), zip(asked, test, strict=True), strict=True):
        found[key] = 100 * float(roc_auc_score(member, torch.cat(values)))
    if generate:
        some = before[:generate]
        found["forget_rouge"] = generation.rouge_l(generation.answers(session, some), some)
    return found


def _token_scores(session: Session, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each row the mean log-likelihood of its answer's tokens, and of the least likely MIN_K of them, float32 (N,)."""
    means, least = [], []
    for batch in session.batches(rows):
        each = token_log_likelihoods(session.logits(batch), batch).cpu()
        for values in each.split(batch.asked.sum(1).tolist()):
            means.append(values.mean())
            least.append(values.sort().values[: max(1, round(MIN_K * len(values)))].mean())
    return torch.stack(means), torch.stack(least)


def closed_list(rows: Sequence[Row | None]) -> list[str]:
    """The answers of all rows, where they are few enough for a closed list and given twice on average; else none."""
    every = [row.response for row in rows if row is not None]
    listed = sorted(set(every))
    return listed if 1 < len(listed) <= CLOSED and len(every) >= 2 * len(listed) else []


def likelihoods(session: Session, rows: Sequence[Row], listed: Sequence[str]) -> torch.Tensor:
    """The log-likelihood of each answer of the list, or of a row's own candidates, float32 (N, answers), end token included.

    Raises UserError where rows have unlike numbers of candidates.
    """
    counts = {len(listed or row.choices) for row in rows}
    if len(counts) != 1:
        raise UserError(
            f"test rows have {min(counts)} to {max(counts)} choices: they are compared only where all have as many"
        )
    wide = [replace(row, response=answer) for row in rows for answer in listed or row.choices]
    sums = []
    for batch in session.batches(wide):
        each = token_log_likelihoods(session.logits(batch), batch)
        sums.append(row_means(batch, each) * batch.asked.sum(1))
    return torch.cat(sums).view(len(rows), -1).cpu()


def _first_tokens(session: Session, rows: Sequence[Row]) -> torch.Tensor:
    """Logits of the first token that is answered, float32 (N, V)."""
    tokens = [replace(row, response=row.response[:1]) for row in session.tokens(rows)]  # with its image
    session.forward.keep(tokens)
    batches: list[Batch] = batches_of(tokens, session.forward.device)
    return torch.cat([session.logits(batch).cpu() for batch in batches])


def _auc(logits: torch.Tensor, labels: torch.Tensor) -> Any:
    """One answer against the others, by its probability, mean over the answers that test rows have, in percent; why there is
    none where they have one alone."""
    from sklearn.metrics import roc_auc_score

    probability = logits.softmax(1)
    every = [k for k in labels.unique().tolist() if 0 < int((labels == k).sum()) < len(labels)]
    areas = [roc_auc_score(labels == k, probability[:, k]) for k in every]
    return 100 * float(sum(areas) / len(areas)) if areas else {"missing": "AUC: test rows have one answer alone"}


def compare(scored: Scored, corrupted: Scored, retrained: Scored) -> None:
    """Add to a `score` its distances from Retrain's."""
    found, at, logits, _ = scored
    found["js"] = predictions.js_divergence(logits, retrained[2])
    whole = retrained[1] - corrupted[1]
    step = at - corrupted[1]
    found["distance"] = ((at - retrained[1]).norm() / whole.norm()).item() if whole.any() else ALIKE
    some = step.any() and whole.any()
    found["cosine"] = torch.cosine_similarity(step, whole, 0).item() if some else {"missing": "no step", "cell": "–"}


def undone(value: float, corrupted: float, retrained: float) -> Any:
    """How much of the damage is undone, in percent, by a loss or a divergence: Corrupted's is 0, Retrain's 100. Why it can't
    be said where there was none."""
    if corrupted == retrained:
        return {"missing": "damage undone: there was none"}
    return 100 * (corrupted - value) / (corrupted - retrained)


def asked_rows(record: dict[str, Any], place: Place) -> list[Row]:
    """The rows of an adapter's last request, as they were trained on before it; none where nothing was asked, or where some
    aren't known any more, which is said."""
    if not record["ledger"]:
        return []
    last = record["ledger"][-1]["edits"]
    trained, there = dict(record["rows"]), {row.name: row for row in place.rows(record["files"]["train"], "--train")}
    lost = [edit["id"] for edit in last if edit["id"] not in there]
    other = [edit["id"] for edit in last if "remove" in edit and edit["id"] not in lost]
    other = [name for name in other if digest(there[name]) != trained[name]]  # a removed row may be blackened in its file
    if lost or other:
        told = [f"{verb}: {few(some)}" for verb, some in (("no more", lost), ("another by now", other)) if some]
        say(f"in {record['files']['train']} {' and '.join(told)}; what is still known of what was asked about isn't scored")
        return []
    earlier = record["edits"][: len(record["edits"]) - len(last)]
    changed = {edit["id"] for edit in earlier if "forgotten" in edit} & {edit["id"] for edit in last}
    if changed:
        say(
            f"changed by an earlier request, to what isn't kept: {few(sorted(changed))}; what is known of these isn't scored"
        )
    rows = current_rows(record | {"edits": earlier}, place)
    named = {name: row for (name, _), row in zip(record["rows"], rows, strict=True)}
    return [row for edit in last if (row := named[edit["id"]]) is not None and edit["id"] not in changed]


def answers_of_all(records: Sequence[dict[str, Any]], place: Place) -> list[str]:
    """The closed list that adapters are compared by: `closed_list` of all rows that any of them stands for."""
    rows: dict[Row, None] = {}
    for record in records:
        unseen = [place.rows(record["files"][kind], f"--{kind}") for kind in UNSEEN if record["files"].get(kind)]
        rows |= dict.fromkeys([row for row in [*current_rows(record, place), *(r for some in unseen for r in some)] if row])
    return closed_list(list(rows))


def table(args: argparse.Namespace, place: Place) -> str:
    """The table of `llmeraser.py evaluate` as text. Each adapter is scored on what was asked of it last, on one closed list
    for all. With --retrain, which has a row too, it also says how far from it they are."""
    folders = list(dict.fromkeys([*args.adapters, *([args.retrain] if args.retrain else [])]))
    records = _records(folders, args)
    _check_comparable(folders, records, args, place)
    asked = [asked_rows(record, place) for record in records]
    requests = [rows for i, rows in enumerate(asked) if rows and rows not in asked[:i]]
    common = requests[0] if len(requests) == 1 else []  # for an adapter of which nothing was asked itself
    listed = answers_of_all(records, place)
    scored = [
        score(folder, record, before or common, place, args.generate, listed)
        for folder, record, before in zip(folders, records, asked, strict=True)
    ]
    if args.retrain:
        _set_beside_retrain(scored, records, folders.index(args.retrain))
    _forget_removed(folders, records, place)
    actions = [record["ledger"][-1]["action"] if record["ledger"] else "" for record in records]
    one = {action for action in actions if action}
    rows = []
    for folder, record, action, (found, *_) in zip(folders, records, actions, scored, strict=True):
        cost = record["ledger"][-1]["cost"] if record["ledger"] else record.get("cost", {})
        kept = record["ledger"][-1].get("found", {}) if record["ledger"] else {}
        told = {key: kept[key] for key in ("residual", "products", "damping", "length") if key in kept}
        rows.append(
            {
                "dataset": Path(record["files"]["train"]).stem,
                "model": Path(record["base"]).name,
                "forget": action or (min(one) if len(one) == 1 else "nothing asked"),
                "method": folder.name,
                "epochs": None,
                "n": 1,
                "metrics": statistics.metrics_over_seeds([{"metrics": found | cost | told}]),
            }
        )
    return tables.terminal({"rows": rows})


def _records(folders: Sequence[Path], args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each adapter's record says, with the base and files that the flags name in place of its own; of one from
    elsewhere what the record of a request to it does."""
    own = [read_record(folder) for folder in folders]
    found = []
    for folder, record in zip(folders, own, strict=True):
        if record is None:
            digest = digest_of(folder)
            heirs = [other for other in own if other and other.get("elsewhere") == digest]
            if not heirs:
                way = "score it beside one that a request to it made, whose record says rows and prompt"
                raise UserError(f"{folder} is an adapter from elsewhere: {way}")
            record = {key: value for key, value in heirs[0].items() if key != "tokens_sha256"} | {"edits": [], "ledger": []}
        base = absolute(args.base) if args.base else record["base"]
        found.append(record | {"base": base, "files": record["files"] | given_files(args)})
    return found


def _check_comparable(
    folders: Sequence[Path], records: Sequence[dict[str, Any]], args: argparse.Namespace, place: Place
) -> None:
    """Raise UserError for adapters that numbers don't compare, and for a --retrain that is the answer to something else."""
    first, tested = records[0], [_test_digests(record, place) for record in records]
    for folder, record, test in zip(folders, records, tested, strict=True):
        other = [key for key in ("base_sha256", "rows", "prompt", "precision", "loss") if record[key] != first[key]]
        other += ["test"] if test != tested[0] else []
        if other:
            what = " and ".join(other).replace("base_sha256", "base's weights").replace("test", "test rows (--test)")
            raise UserError(f"{folder} has another {what} than {folders[0]}")
    if not args.retrain:
        return
    of = records[folders.index(args.retrain)]
    trained = ("training", "lora", "decay", "seed", "elsewhere")
    for folder, record in zip(folders, records, strict=True):
        if record["edits"] and _asked_for(record) != _asked_for(of):
            raise UserError(f"--retrain {args.retrain} is the answer to another request than {folder}")
        told = [key for key in trained if {"optimizer": "unknown"} not in (record.get(key), of.get(key))]
        if other := [key for key in told if record.get(key) != of.get(key)]:
            raise UserError(f"--retrain {args.retrain} comes from another adapter than {folder}: another {other[0]}")


def _asked_for(record: dict[str, Any]) -> list[list[Edit]]:
    """The edits of each request, in the order of its rows' names: that in which they were given is no part of it."""
    return [sorted(entry["edits"], key=lambda edit: edit["id"]) for entry in record["ledger"]]


def _test_digests(record: dict[str, Any], place: Place) -> list[str]:
    file = record["files"].get("test")
    return [digest(row) for row in place.rows(file, "--test")] if file else []


def _set_beside_retrain(scored: Sequence[Scored], records: Sequence[dict[str, Any]], retrain: int) -> None:
    """Add how far each adapter is from Retrain, and, where the one before the request is among them, how much of its damage
    is undone; and how many times less the request costs."""
    start = next((i for i, record in enumerate(records) if not record["ledger"]), None)
    for found, _, logits, _ in scored:
        found["js"] = predictions.js_divergence(logits, scored[retrain][2])
    if start is not None and start != retrain:
        for one in scored:
            compare(one, scored[start], scored[retrain])
        worst, best = dict(scored[start][0]), dict(scored[retrain][0])
        for (found, *_), record in zip(scored, records, strict=True):
            if record["ledger"] and record["ledger"][-1]["action"] != "remove":
                found |= {key: undone(found[of], worst[of], best[of]) for key, of in UNDONE.items()}
    for (found, *_), record in zip(scored, records, strict=True):
        if record["ledger"] and records[retrain]["ledger"] and record["ledger"][-1]["cost"]["seconds"]:
            seconds = (r["ledger"][-1]["cost"]["seconds"] for r in (records[retrain], record))
            found["seconds_ratio"] = next(seconds) / next(seconds)


def _forget_removed(folders: Sequence[Path], records: Sequence[dict[str, Any]], place: Place) -> None:
    """`forget` the rows that any of the adapters stands without, and what they had become before: others of these may have
    read them. All at once, for a session of an adapter that still has some reads these again."""
    removed = [{edit["id"] for edit in record["edits"] if "remove" in edit} for record in records]
    names = sorted(set().union(*removed))
    rows = [row for record in records for row in versions(record, names, place)]
    if rows:
        without = next(i for i, some in enumerate(removed) if some)
        forget(folders[without], records[without], rows, place)


def forget(folder: Path, record: dict[str, Any], rows: Sequence[Row], place: Place) -> None:
    """Take removed rows, which were read to score what is still known of them, out of what is kept of the frozen part."""
    with session_of(record, place, folder) as session:
        session.forward.forget(session.tokens(rows))
