"""What LLMEraser is measured against: training again, and the usual ways of unlearning a language model by gradients.

Each is a function of the session, whose rows are what should have been trained on, of the asked rows as they were (`before`)
and as they should have been (`after`, empty for removal); it changes the adapter in place and returns what a ledger keeps.
Steps and rates are those of TOFU's comparison (Maini et al. 2024), cut to a request's size.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn import functional

from unlearning.language import influence
from unlearning.language.aim import Aim
from unlearning.language.batches import Batch, batches_of, row_means, token_log_likelihoods
from unlearning.language.session import Rows, Session
from unlearning.language.training import train_adapter

STEPS, RATE = 20, 1e-4  # of Adam
AGAIN = 20  # passes over the rows of a short training
SIZE = 32  # rows of a batch that is kept
BETA = 0.1  # NPO's
USUAL = {"optimizer": "adamw", "epochs": 3, "lr": 2e-4, "batch_size": 8}  # TRL's


def retrain(session: Session, before: Rows, after: Rows) -> dict[str, Any]:
    """The exact answer. The session's adapter is at the start that the first training had."""
    objective, passes = train_adapter(session)
    return {"objective": objective, "passes": passes}


def few_steps(session: Session, before: Rows, after: Rows) -> dict[str, Any]:
    """A short training on the rows as they should have been, from where the adapter is: as it was trained, or, where nobody
    knows that, as TRL does by default."""
    how = session.record["training"]
    if how["optimizer"] == "unknown":
        session = replace(session, record=session.record | {"training": USUAL})
    return {"objective": train_adapter(session, AGAIN if how["optimizer"] == "lbfgs" else 1)[0]}


def gradient_ascent(session: Session, before: Rows, after: Rows) -> dict[str, Any]:
    """Climb the loss on the asked rows (Jang et al. 2023): neither Hessian nor other rows are needed."""
    return _descend(session, before, after, lambda batch: -session.losses(batch).sum(), None)


def gradient_difference(session: Session, before: Rows, after: Rows) -> dict[str, Any]:
    """Climb the loss on the asked rows and descend it on others at once (GradDiff, Liu et al. 2022)."""
    return _descend(session, before, after, lambda batch: -session.losses(batch).sum(), _others(session, before))


def preference(session: Session, before: Rows, after: Rows) -> dict[str, Any]:
    """NPO (Zhang et al. 2024): 2 / beta log(1 + (p / p_start) ** beta) of the asked answers, bounded below, and GradDiff's
    loss on others. p is the likelihood of an answer's tokens, p_start that of the adapter that is asked."""
    with torch.no_grad():
        start = [_likelihoods(session, batch) for batch in session.batches(before)]
    known = {row.key: value for batch, values in zip(session.batches(before), start, strict=True)
             for row, value in zip(batch.rows, values, strict=True)}  # fmt: skip

    def loss(batch: Batch) -> torch.Tensor:
        ratio = _likelihoods(session, batch) - torch.stack([known[row.key] for row in batch.rows])
        return -2 / BETA * functional.logsigmoid(-BETA * ratio).sum()

    return _descend(session, before, after, loss, _others(session, before))


def _likelihoods(session: Session, batch: Batch) -> torch.Tensor:
    """The log-likelihood of each row's whole answer, float32 (N,)."""
    lengths = batch.asked.sum(1)
    return row_means(batch, token_log_likelihoods(session.logits(batch), batch)) * lengths


def _others(session: Session, before: Rows) -> list[Any]:
    """Tokens of the rows that are kept as they are."""
    names = {row.name for row in before}
    return session.tokens([row for row in session.rows if row is not None and row.name not in names])


def _descend(
    session: Session, before: Rows, after: Rows, loss: Callable[[Batch], torch.Tensor], others: list[Any] | None
) -> dict[str, Any]:
    """STEPS of Adam on the mean loss on the asked rows, and, with others, on a drawn batch of these as trained. The step
    after which the adapter is nearest to the aim is the last, as LLMEraser's own damping and length are chosen."""
    aim = Aim(session, before, after)
    optimizer = torch.optim.Adam(session.parameters, lr=RATE)
    generator = torch.Generator().manual_seed(session.record["seed"])
    best, kept, taken = aim() if aim else (False, 0.0), influence.flat(session.parameters).detach().clone(), 0
    if others:
        session.forward.keep(others)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        for batch in session.batches(before):
            _backward(loss(batch) / len(before))
        if others:
            drawn = [others[i] for i in torch.randperm(len(others), generator=generator)[:SIZE].tolist()]
            for batch in batches_of(drawn, session.forward.device):
                _backward(session.losses(batch).sum() / len(drawn))
        optimizer.step()
        if not aim or (now := aim()) < best:
            best, kept, taken = now if aim else best, influence.flat(session.parameters).detach().clone(), step
    influence.assign(session.parameters, kept)
    return {"steps": taken}


def _backward(loss: torch.Tensor) -> None:
    """Add a loss's gradients to those of the parameters that it depends on, which may be none: an adapter of what sees
    images, and rows without any."""
    if loss.requires_grad:
        loss.backward()


def remove_adapter(session: Session, before: Rows, after: Rows) -> dict[str, Any]:
    """The base alone: all that the adapter learned is gone, the asked rows too. Its lora_B become zero."""
    for name, parameter in session.peft_model.named_parameters():
        if parameter.requires_grad and ("lora_B" in name or "lora_embedding_B" in name):
            parameter.data.zero_()  # not A, which no answer depends on any more: its gradient would be gone with B's
    return {}


CONTROLS: dict[str, Callable[[Session, Rows, Rows], dict[str, Any]]] = {
    "retrain": retrain,
    "finetune": few_steps,
    "gradascent": gradient_ascent,
    "graddiff": gradient_difference,
    "npo": preference,
    "noadapter": remove_adapter,
}
