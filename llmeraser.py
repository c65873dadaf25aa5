"""LLMEraser: unlearn rows of what a language model was tuned on, by one step of its LoRA adapter's parameters.

Ding, Wu, Yuan et al., "Unified Parameter-Efficient Unlearning for LLMs" (ICLR 2025, arXiv 2412.00383). With G(x, y) the
gradient of a row's loss at the trained adapter, H the Hessian of the mean loss on what it was trained on, and n its rows:

    remove   Theta + 1/n H^-1 sum G(x, y)                 modify   Theta + 1/n H^-1 sum [G(x, y) - G(x', y)]
    correct  Theta + 1/n H^-1 sum [G(x, y) - G(x, y')]

H^-1 b comes from Hessian-vector products alone: by conjugate gradients, or, as in the paper, by stochastic steps on the
quadratic that it minimises; or from EK-FAC's factors, which are computed once for an adapter. This project's own: the
training objective has (decay / 2) |Theta|^2, and so has H; the damping is the one with which that objective, on the rows as
the request leaves them, is least; from an adapter that isn't at rest, unseen rows choose it and the step's length.

    python llmeraser.py finetune --train rows.jsonl --validation unseen.jsonl
    python llmeraser.py remove ADAPTER --ids 3 17 --train rows.jsonl --validation unseen.jsonl
    python llmeraser.py correct ADAPTER --request right.jsonl
    python llmeraser.py evaluate ADAPTER ADAPTER_remove* --test test.jsonl

ADAPTER is a folder of finetune, or of PEFT or TRL; --train is needed once, for one from elsewhere.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import RunFailed
from unlearning.core.flags import Parser, main
from unlearning.language import command, ekfac, flags, influence
from unlearning.language.aim import Aim, Rest
from unlearning.language.command import How
from unlearning.language.session import Rows, Session, Workspace
from unlearning.language.training import objective

DAMPINGS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # one is chosen
LENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0)  # of the step, times the formula's
KEPT = 2 * 2**30  # bytes of graphs, at most, that all products with H share
MINI = 100  # rows of a mini-batch of the stochastic solver


def unlearn(session: Session, before: Rows, after: Rows, how: How) -> dict[str, Any]:
    """The paper's step, from the rows `before`, which have been trained on, to `after`, which should have been: a dictionary
    of damping, length, residual and products. Raises RunFailed where no damping's system was solved."""
    n = len(session.rows)
    b = (_summed_gradient(session, before) - _summed_gradient(session, after)) / n
    if not b.any():
        return {"damping": 0.0, "length": 0.0, "residual": 0.0, "products": 0}
    solutions = _solve(session, b, how)
    if not solutions:
        rest = "" if session.at_rest else "the adapter isn't at rest; "
        way = "try a larger --damping, or --curvature gauss-newton, whose curvature is never negative"
        raise RunFailed(f"not solved to {how.tolerance:g}: {rest}{way}")
    steps = {damping: solution.x for damping, solution in solutions.items()}
    exact = session.at_rest and how.curvature == "hessian"
    aim = Rest(session, before, after) if exact else Aim(session, before, after)
    damping, length = _choose(session, aim, steps, how)
    spent = sum if how.solver == "adam" else max  # the others share their products, the paper's way starts again
    products = spent(solution.products for solution in solutions.values())
    return {"damping": damping, "length": length, "residual": solutions[damping].residual, "products": products}


def _summed_gradient(session: Session, rows: Rows) -> torch.Tensor:
    """The sum of G over rows, float32 (p,)."""
    total = torch.zeros_like(influence.flat(session.parameters))
    for batch in session.batches(rows):
        total += influence.gradient(session.losses(batch).sum(), session.parameters)
    return total


def _solve(session: Session, b: torch.Tensor, how: How) -> dict[float, influence.Solution]:
    """Damping to Solution for the session's H, of those dampings that can be solved."""
    dampings = DAMPINGS if how.damping is None else (how.damping,)
    if how.solver == "ekfac":
        return ekfac.fitted(session, b, ekfac.solve(ekfac.factors_of(session)[0], b, dampings, session.decay))
    session = session if how.curvature == "hessian" else session.without_checkpointing
    n, parameters = len(session.rows), session.parameters
    there = sum(row is not None for row in session.rows)

    every = session.batches(session.rows, None if how.solver == "cg" else MINI)
    keep = len(every) == 1 or session.forward.graph_bytes(every) <= KEPT

    def product(batches, count, total):
        if how.curvature == "hessian":
            part = objective(session, total)
            return influence.hessian_product(lambda batch: part(batch) * n / count, batches, parameters, keep)

        def logits_of(batch):
            return session.logits(batch), batch.weights / count

        flat = influence.gauss_newton_product(logits_of, batches, parameters, keep)
        return lambda v: flat(v) + session.decay * v

    if how.solver == "cg":
        whole = product(every, n, there)
        most = {"most": how.products, "rough": True} if how.products else {}
        return influence.conjugate_gradients(whole, b, dampings, how.tolerance, **most)
    sizes = [len(batch.rows) for batch in every]
    most = {"most": how.products, "every": how.products} if how.products else {}
    return {  # rows may be gone, but n is what it was
        damping: influence.stochastic(
            lambda batch: product([batch], len(batch.rows) * n / there, there),
            every,
            sizes,
            b,
            damping,
            tolerance=how.tolerance,
            **most,
        )
        for damping in dampings
    }


def _choose(session: Session, aim: Aim | Rest, steps: dict[float, torch.Tensor], how: How) -> tuple[float, float]:
    """Go the step whose damping and length come nearest to the aim: these two, as far as flags don't say them. With nothing
    to choose by it is the largest damping, and the formula's length. Another length is tried only after a removal, and by
    unseen rows: at rest, with the Hessian, the formula's own is right."""
    trained = influence.flat(session.parameters).detach().clone()
    lengths = LENGTHS if how.length is None and aim and aim.asked else (how.length or 1.0,)

    def distance(choice):
        influence.assign(session.parameters, trained + choice[1] * steps[choice[0]])
        return aim()

    choices = [(damping, scale) for damping in (steps if aim else [max(steps)]) for scale in lengths]
    damping, scale = min(choices, key=distance) if len(choices) > 1 else choices[0]
    influence.assign(session.parameters, trained + scale * steps[damping])
    return damping, scale


def parser() -> Parser:
    """The command line."""
    return flags.parser(__doc__)


def run(args: argparse.Namespace, typed: str, shared: Workspace | None = None) -> Path | None:
    """Carry out the command line's action; of those that write an adapter the folder is returned."""
    return command.run(args, typed, unlearn, shared)


if __name__ == "__main__":
    main(run, parser())
