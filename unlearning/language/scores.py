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
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.words import say
from unlearning.language import generation, influence
from unlearning.language.adapters import read_record
from unlearning.language.batches import Batch, Tokens, batches_of, row_means, token_log_likelihoods
from unlearning.language.rows import Row, few
from unlearning.language.session import Place, Session, current_rows, given_files, session_of
from unlearning.metrics import predictions, statistics
from unlearning.reports import tables

CLOSED = 20  # different answers of a closed list, at most
MIN_K = 0.2  # of a row's tokens, the least likely

# Metrics, parameters as one vector, logits on test rows, of a closed choice the place of each right answer (else empty).
Scored = tuple[dict[str, Any], torch.Tensor, torch.Tensor, torch.Tensor]


def score(
    folder: Path, record: dict[str, Any], before: Sequence[Row], place: Place, generate: int = 0, bare: bool = False
) -> Scored:
    """The scores of the adapter in `folder`, whose record it is; bare: of its base without it.

    before: the rows that were asked about, as trained on. generate: test rows, and asked ones, that are answered in full.
    """
    with session_of(record, place, folder) as session, torch.no_grad():
        if bare:
            influence.assign(session.parameters, torch.zeros_like(influence.flat(session.parameters)))
        if not session.test:
            raise UserError(f"{folder}: no test rows are known: give --test")
        found, logits, right = _on_test_rows(session, generate)
        if before:
            found |= _on_asked_rows(session, before, generate)
        return found, influence.flat(session.parameters).detach().cpu(), logits, right


def _on_test_rows(session: Session, generate: int) -> tuple[dict[str, Any], torch.Tensor, torch.Tensor]:
    """Metrics on test rows; logits (N, answers) of a closed choice, else the first tokens' (N, V); and the right answers."""
    rows = session.test
    listed = closed_list(session)
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


def of_choices(logits: torch.Tensor, right: torch.Tensor, listed: bool) -> dict[str, float]:
    """Accuracy, and of a list that all rows share AUC, in percent. logits: (N, answers). right: the place of each answer."""
    found = {"accuracy": predictions.accuracy(logits, right)}
    return found | ({"auc": 100 * _auc(logits, right)} if listed else {})


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


def closed_list(session: Session) -> list[str]:
    """The answers of all rows, where they are few enough for a closed list and each is given more than once; else none."""
    every = [row.response for row in [*session.rows, *session.validation, *session.test] if row is not None]
    listed = sorted(set(every))
    return listed if 1 < len(listed) <= CLOSED and len(every) >= 2 * len(listed) else []


def likelihoods(session: Session, rows: Sequence[Row], listed: Sequence[str]) -> torch.Tensor:
    """The log-likelihood of each answer of the list, or of a row's own candidates, float32 (N, answers), end token included.

    Raises UserError where rows have unlike numbers of candidates.
    """
    from dataclasses import replace

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
    tokens = [Tokens(row.prompt, row.response[:1]) for row in session.tokens(rows)]
    session.forward.keep(tokens)
    batches: list[Batch] = batches_of(tokens, session.forward.device)
    return torch.cat([session.logits(batch).cpu() for batch in batches])


def _auc(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """One answer against the others, by its probability, mean over the answers that test rows have."""
    from sklearn.metrics import roc_auc_score

    probability = logits.softmax(1)
    every = [k for k in labels.unique().tolist() if 0 < int((labels == k).sum()) < len(labels)]
    areas = [roc_auc_score(labels == k, probability[:, k]) for k in every]
    return float(sum(areas) / len(areas)) if areas else float("nan")


def compare(scored: Scored, corrupted: Scored, retrained: Scored) -> None:
    """Add to a `score` its distances from Retrain's."""
    found, at, logits, _ = scored
    found["js"] = predictions.js_divergence(logits, retrained[2])
    whole = retrained[1] - corrupted[1]
    found["distance"] = ((at - retrained[1]).norm() / whole.norm()).item()
    step = at - corrupted[1]
    found["cosine"] = torch.cosine_similarity(step, whole, 0).item() if step.any() else {"missing": "no step", "cell": "–"}


def undone(value: float, corrupted: float, retrained: float) -> float:
    """How much of the damage is undone, in percent, by a loss or a divergence: Corrupted's is 0, Retrain's 100."""
    return 100 * (corrupted - value) / (corrupted - retrained)


def asked_rows(record: dict[str, Any], place: Place) -> list[Row]:
    """The rows of an adapter's last request, as they were trained on before it; none where nothing was asked, or where some
    are in the file no more, which is said."""
    if not record["ledger"]:
        return []
    last = record["ledger"][-1]["edits"]
    there = {row.name for row in place.rows(record["files"]["train"], "--train")}
    if lost := [edit["id"] for edit in last if edit["id"] not in there]:
        say(f"in {record['files']['train']} no more: {few(lost)}; what is still known of what was asked about isn't scored")
        return []
    rows = current_rows(record | {"edits": record["edits"][: len(record["edits"]) - len(last)]}, place)
    named = {name: row for (name, _), row in zip(record["rows"], rows, strict=True)}
    return [row for edit in last if (row := named[edit["id"]]) is not None]


def table(args: argparse.Namespace, place: Place) -> str:
    """The table of `llmeraser.py evaluate` as text. Each adapter is scored on what was asked of it last."""
    folders = [*args.adapters, *([args.retrain] if args.retrain else [])]
    records = [_known(folder, args) for folder in folders]
    for folder, record in zip(folders, records, strict=True):
        if any(record[key] != records[0][key] for key in ("base", "base_sha256", "rows", "prompt")):
            raise UserError(f"{folder} has another base, rows or prompt than {folders[0]}")
    asked = [asked_rows(record, place) for record in records]
    requests = [rows for i, rows in enumerate(asked) if rows and rows not in asked[:i]]
    common = requests[0] if len(requests) == 1 else []  # for an adapter of which nothing was asked itself
    retrained = score(folders[-1], records[-1], [], place) if args.retrain else None
    rows = []
    for folder, record, before in zip(args.adapters, records, asked, strict=False):
        found, _, logits, _ = score(folder, record, before or common, place, args.generate)
        if retrained:
            found["js"] = predictions.js_divergence(logits, retrained[2])
        cost = record["ledger"][-1]["cost"] if record["ledger"] else record.get("cost", {})
        rows.append(
            {
                "dataset": Path(record["files"]["train"]).stem,
                "model": Path(record["base"]).name,
                "forget": record["ledger"][-1]["action"] if record["ledger"] else "nothing",
                "method": folder.name,
                "epochs": None,
                "n": 1,
                "metrics": statistics.metrics_over_seeds([{"metrics": found | cost}]),
            }
        )
    return tables.terminal({"rows": rows})


def _known(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What an adapter's record says, with the files that the flags name in place of its own."""
    record = read_record(folder)
    if record is None:
        raise UserError(f"{folder} is an adapter from elsewhere: only those that a request was answered into are scored")
    return record | {"files": record["files"] | given_files(args)}
