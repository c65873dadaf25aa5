"""Scores of adapters: how right they answer test rows, what they still know of what was asked about, how far from Retrain.

accuracy, AUC (one answer against the others, mean) in percent and loss in nats on clean test rows; forget_loss: mean loss on
the rows as they were trained on before the request; membership: AUC in percent of telling these rows from test rows by their
loss, 50 being none. Distances are from Retrain: of parameters, over Corrupted's own distance; of predictions, the
Jensen-Shannon divergence on test rows; cosine: between the steps that both take from Corrupted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.language import influence
from unlearning.language.rows import read_record, task_label
from unlearning.language.session import Place, session_of
from unlearning.metrics import predictions, statistics
from unlearning.reports import tables

Scored = tuple[dict[str, Any], torch.Tensor, torch.Tensor]  # metrics, parameters as one vector, test logits


def score(folder: Path | None, record: dict[str, Any], before: Sequence[tuple[str, str]], place: Place) -> Scored:
    """The scores of the adapter in `folder`; folder None: of the base without one.

    record: of an adapter of the same base and task. before: the rows (query, answer) that were asked about, as trained on.
    """
    from sklearn.metrics import roc_auc_score

    with session_of(record, place, folder) as session, torch.no_grad():
        task = session.task
        if folder is None:
            influence.assign(session.parameters, torch.zeros_like(influence.flat(session.parameters)))
        test = task.encode(session.data.test)
        labels = torch.tensor([session.data.answers.index(answer) for _, answer in session.data.test])
        logits = task.choices(session.tail, test).cpu()
        test_loss = task.losses(session.tail, test).cpu()
        found = {
            "accuracy": predictions.accuracy(logits, labels),
            "auc": 100 * _auc(logits, labels),
            "loss": test_loss.mean().item(),
        }
        if before:
            asked = task.losses(session.tail, task.encode(before)).cpu()
            known = torch.cat([-asked, -test_loss])
            member = torch.arange(len(known)) < len(asked)
            found |= {"forget_loss": asked.mean().item(), "membership": 100 * roc_auc_score(member, known)}
        return found, influence.flat(session.parameters).cpu().clone(), logits


def compare(scored: Scored, corrupted: Scored, retrained: Scored) -> None:
    """Add to a `score` its distances from Retrain's."""
    found, at, logits = scored
    found["js"] = predictions.js_divergence(logits, retrained[2])
    whole = retrained[1] - corrupted[1]
    found["distance"] = ((at - retrained[1]).norm() / whole.norm()).item()
    step = at - corrupted[1]
    found["cosine"] = torch.cosine_similarity(step, whole, 0).item() if step.any() else {"missing": "no step", "cell": "–"}


def undone(loss: float, corrupted: float, retrained: float) -> float:
    """How much of the damage is undone, in percent, by losses on clean test rows: Corrupted's is 0, Retrain's 100."""
    return 100 * (corrupted - loss) / (corrupted - retrained)


def table(adapters: Sequence[Path], retrain: Path | None, place: Place) -> str:
    """The table of `llmeraser.py evaluate` as text. Each adapter is scored on what was asked of it last."""
    records = [read_record(folder) for folder in adapters]
    same = ("base", "base_sha256", "fingerprint", "rank", "targets", "blocks")
    exact = read_record(retrain) if retrain else records[0]
    for folder, record in zip([*adapters, retrain], [*records, exact], strict=True):
        if any(record[key] != records[0][key] for key in same):
            raise UserError(f"{folder} has another base, task or shape than {adapters[0]}")
    asked = [[tuple(row) for row in record["ledger"][-1]["before"]] if record["ledger"] else [] for record in records]
    requests = [rows for i, rows in enumerate(asked) if rows and rows not in asked[:i]]
    common = requests[0] if len(requests) == 1 else []  # for an adapter of which nothing was asked itself
    retrained = score(retrain, exact, [], place) if retrain else None
    rows = []
    for folder, record, before in zip(adapters, records, asked, strict=True):
        scored = score(folder, record, before or common, place)
        if retrained:
            scored[0]["js"] = predictions.js_divergence(scored[2], retrained[2])
        cost = record["ledger"][-1]["cost"] if record["ledger"] else record["cost"]
        rows.append(
            {
                "dataset": task_label(record["task"]),
                "model": record["base"],
                "forget": record["ledger"][-1]["action"] if record["ledger"] else "nothing",
                "method": folder.name,
                "epochs": None,
                "n": 1,
                "metrics": statistics.metrics_over_seeds([{"metrics": scored[0] | cost}]),
            }
        )
    return tables.terminal({"rows": rows})


def _auc(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean over answers of the AUC of one against the others; an answer that no row has is left out."""
    from sklearn.metrics import roc_auc_score

    p = logits.softmax(1)
    there = labels.unique().tolist()
    return sum(roc_auc_score(labels == k, p[:, k]) for k in there) / len(there)
