"""Training an adapter: the mean loss of its answers plus (decay / 2) |Theta|^2 is minimised, to a stationary point where it
can be, as influence functions want it."""

import math
from collections.abc import Callable
from typing import Any

import torch

from unlearning.core.errors import RunFailed
from unlearning.language.batches import Batch, batches_of
from unlearning.language.influence import gradient
from unlearning.language.session import Session

LOOKED_AT = 16  # rows whose own gradients the objective's is compared with, at most


def objective(session: Session, total: int) -> Callable[[Batch], torch.Tensor]:
    """A function of batches of `total` rows whose sum over them is the training objective: losses over n, and the decay.

    n is what the adapter began with: Retrain without some rows divides by the same, or the decay would weigh more.
    """
    n = len(session.rows)

    def part(batch: Batch) -> torch.Tensor:
        squares: Any = sum((parameter**2).sum() for parameter in session.parameters)
        return session.losses(batch).sum() / n + len(batch.rows) / total * session.decay / 2 * squares

    return part


def relative_gradient(session: Session) -> float:
    """The norm of the training objective's gradient over the mean norm of a row's own: 0 at rest, where influence functions
    are exact to first order."""
    there = [row for row in session.rows if row is not None]
    part = objective(session, len(there))
    whole: Any = sum(gradient(part(batch), session.parameters) for batch in session.batches(there))
    some = session.batches(there[:: -(-len(there) // LOOKED_AT)], most=1)
    norms = [gradient(session.losses(batch).sum(), session.parameters).norm() for batch in some]
    return float(whole.norm() / torch.stack(norms).mean())


def train_adapter(session: Session, most: int | None = None) -> tuple[float, int]:
    """Minimise the objective on the session's rows from where the parameters are, as its record says: (objective, passes).

    lbfgs: full batches until it is at rest, at most `evaluations` of them, or `most`. adamw: PEFT's and TRL's usual way, for
    so many epochs, with a rate that falls linearly. Raises RunFailed where the objective isn't a number any more.
    """
    how = session.record["training"]
    count = sum(row is not None for row in session.rows)
    if how["optimizer"] == "adamw":
        return _adamw(session, how, count, most)
    return _lbfgs(session, most or how["evaluations"], count)


def _check_finite(loss: float, how: str) -> None:
    if not math.isfinite(loss):
        raise RunFailed(f"the objective is {loss}: try a larger --decay{how}")


def _lbfgs(session: Session, evaluations: int, total: int) -> tuple[float, int]:
    rows, part, count, last = session.batches(session.rows), objective(session, total), 0, 0.0
    optimizer = torch.optim.LBFGS(
        session.parameters,
        max_iter=evaluations,
        max_eval=evaluations,
        tolerance_grad=1e-4,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        nonlocal count, last
        optimizer.zero_grad()
        count, last = count + 1, 0.0
        for batch in rows:
            loss = part(batch)
            loss.backward()
            last += loss.item()
        _check_finite(last, "")
        return last

    optimizer.step(closure)
    with torch.no_grad():  # the last point that the line search has tried needn't be the one that it took
        return sum(part(batch).item() for batch in rows), count


def _adamw(session: Session, how: dict[str, Any], total: int, most: int | None) -> tuple[float, int]:
    """Mini-batches, in another order each epoch. The decay is the objective's: AdamW's own has no minimum."""
    epochs, size = most or how["epochs"], how["batch_size"]
    tokens, n = session.tokens(session.rows), len(session.rows)
    session.forward.keep(tokens)
    optimizer = torch.optim.AdamW(session.parameters, lr=how["lr"], weight_decay=0.0)
    steps = epochs * -(-total // size)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    generator = torch.Generator().manual_seed(session.record["seed"])
    part, last = objective(session, total), 0.0
    for _ in range(epochs):
        last = 0.0
        for chosen in torch.randperm(total, generator=generator).split(size):
            optimizer.zero_grad()
            for batch in batches_of([tokens[i] for i in chosen.tolist()], session.forward.device):
                loss = part(batch)
                (loss * n / len(chosen)).backward()
                last += loss.item()
            _check_finite(last, ", or a smaller --lr")
            optimizer.step()
            scheduler.step()
    return last, epochs
