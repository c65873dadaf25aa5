"""LLMEraser: unlearn instances of an instruction-tuned language model by one step of its adapter's parameters.

Ding, Wu, Yuan et al., "Unified Parameter-Efficient Unlearning for LLMs" (ICLR 2025, arXiv 2412.00383). With G(x, y) the
gradient of a row's loss at the trained adapter, H the Hessian of the mean loss on what it was trained on, and n its rows:

    remove   Theta + 1/n H^-1 sum G(x, y)                 modify   Theta + 1/n H^-1 sum [G(x, y) - G(x', y)]
    correct  Theta + 1/n H^-1 sum [G(x, y) - G(x, y')]

H^-1 b comes from Hessian-vector products alone: by conjugate gradients, or, as in the paper, by stochastic steps on the
quadratic that it minimises. This project's own: the training objective has (decay / 2) |Theta|^2, and so has H; damping is
chosen on validation rows; answers are chosen among the task's (language/base.py).

    python llmeraser.py finetune --task genre
    python llmeraser.py remove model_weights/genre_finetune_s0 --ids 3 17
    python llmeraser.py correct model_weights/genre_finetune_s0 --request right.jsonl --method retrain
    python llmeraser.py evaluate model_weights/genre_finetune_s0 model_weights/genre_finetune_s0_remove*
"""

import argparse
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unlearning.core import names
from unlearning.core.device import Compute, clock, peak_memory_mib, reset_peak_memory
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import (
    LORA_RANK,
    NOT_NEGATIVE,
    NOT_NEGATIVE_FLOAT,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    QUIET,
    SEED,
    Parser,
    main,
    written,
)
from unlearning.core.locks import to_make
from unlearning.core.paths import folder, input_file, name_or_path, output_folder
from unlearning.core.provenance import device_name, provenance
from unlearning.core.words import say
from unlearning.language import influence, movielens, scores
from unlearning.language.base import SMOLLM2
from unlearning.language.rows import (
    FILES,
    Rows,
    check_edits,
    edited,
    in_words,
    read_edits,
    read_record,
    rows_of,
    write_adapter,
)
from unlearning.language.session import Place, Session, Workspace, batches, objective, session_of, train_adapter

DAMPINGS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # one is chosen on validation rows
METHODS = ("influence", "gradascent", "finetune", "retrain")
MINI = 100  # rows of a mini-batch of the stochastic solver


@dataclass(frozen=True)
class How:
    """How a request is answered. damping: None for one chosen on validation rows. tolerance: of the relative residual.

    evaluations: of the objective, at most, where the adapter is trained again.
    """

    method: str = "influence"
    solver: str = "cg"
    curvature: str = "hessian"
    damping: float | None = None
    tolerance: float = 1e-4
    evaluations: int = 400


def unlearn(session: Session, before: Rows, after: Rows, how: How) -> dict[str, Any]:
    """The paper's step, from the rows `before`, which have been trained on, to `after`, which should have been: a dictionary
    of damping, residual and products. Of the dampings whose system was solved one is chosen by validation rows: the one with
    the least loss on them, or, for removal, with a loss on what is removed that is closest to theirs."""
    n, task, parameters = len(session.rows), session.task, session.parameters
    b = (_summed_gradient(session, before) - _summed_gradient(session, after)) / n
    if not b.any():
        return {"damping": 0.0, "residual": 0.0, "products": 0}
    solutions = _solve(session, b, how)
    if not solutions:
        raise RunFailed(
            f"not solved to {how.tolerance:g}: try a larger --damping, or --curvature gauss-newton, whose curvature is "
            "never negative"
        )
    trained, gaps = influence.flat(parameters).detach().clone(), {}
    unseen, asked = task.encode(session.data.validation), task.encode(before)
    for damping, solution in solutions.items():
        influence.assign(parameters, trained + solution.x)
        with torch.no_grad():
            gaps[damping] = task.losses(session.tail, unseen).mean().item()
            if not after:  # a removed row should be to the adapter what a row is that it has never seen
                gaps[damping] = abs(gaps[damping] - task.losses(session.tail, asked).mean().item())
    best = min(gaps, key=gaps.get)
    influence.assign(parameters, trained + solutions[best].x)
    spent = max if how.solver == "cg" else sum  # conjugate gradients share their products, the paper's way starts again
    return {
        "damping": best,
        "residual": solutions[best].residual,
        "products": spent(solution.products for solution in solutions.values()),
    }


def _summed_gradient(session: Session, rows: Rows) -> torch.Tensor:
    """The sum of G over rows, float32 (p,)."""
    total = torch.zeros_like(influence.flat(session.parameters))
    for batch in batches(session, rows):
        total += influence.gradient(session.task.losses(session.tail, batch).sum(), session.parameters)
    return total


def _solve(session, b, how):
    """Damping to influence.Solution for the session's H, of those dampings that can be solved."""
    n, task, parameters = len(session.rows), session.task, session.parameters
    dampings = DAMPINGS if how.damping is None else (how.damping,)

    def product(batches, count):
        if how.curvature == "hessian":
            return influence.hessian_product(objective(session, batches, count), batches, parameters)

        def logits_of(batch):
            return task.logits(session.tail, batch), task.weights(batch) / count

        flat = influence.gauss_newton_product(logits_of, batches, parameters)
        return lambda v: flat(v) + session.decay * v

    if how.solver == "cg":
        whole = product(batches(session, session.rows), n)
        return influence.conjugate_gradients(whole, b, dampings, how.tolerance)
    rows = batches(session, session.rows, MINI)
    sizes = [len(batch.targets) for batch in rows]
    scale = n / sum(sizes)  # rows may be gone, but n is what it was
    return {
        damping: influence.stochastic(
            lambda batch: product([batch], len(batch.targets) * scale), rows, sizes, b, damping, tolerance=how.tolerance
        )
        for damping in dampings
    }


def gradient_ascent(
    session: Session, before: Rows, after: Rows, how: How, steps: int = 10, lr: float = 1e-3
) -> dict[str, Any]:
    """Climb the loss on the rows to be forgotten: the baseline that needs neither Hessian nor retained rows."""
    optimizer = torch.optim.Adam(session.parameters, lr=lr, maximize=True)
    rows = batches(session, before)
    for _ in range(steps):
        optimizer.zero_grad()
        losses: Any = sum(session.task.losses(session.tail, batch).sum() for batch in rows)
        losses.div(len(before)).backward()
        optimizer.step()
    return {}


def train_further(session: Session, before: Rows, after: Rows, how: How, evaluations: int = 20) -> dict[str, Any]:
    """Fine-tuning on the rows as they should have been, from where the adapter is."""
    train_adapter(session, evaluations)
    return {}


def retrain(session: Session, before: Rows, after: Rows, how: How) -> dict[str, Any]:
    """The exact answer. The session's adapter is at the start that the first training had."""
    train_adapter(session, how.evaluations)
    return {}


STEPS: dict[str, Callable[[Session, Rows, Rows, How], dict[str, Any]]] = {
    "influence": unlearn,
    "gradascent": gradient_ascent,
    "finetune": train_further,
    "retrain": retrain,
}


def finetune(args: argparse.Namespace, command: str, place: Place) -> Path:
    """Train a new adapter on a task's rows, edited if --edits says so, and write its folder."""
    record = {key: getattr(args, key) for key in ("base", "task", "rank", "alpha", "targets", "blocks", "decay", "seed")}
    record |= {"sizes": args.sizes, "evaluations": args.evaluations, "edits": [], "ledger": []}
    trainer = Parser()
    _add_training_flags(trainer)
    own, data = trainer.non_default(args), place.rows(args.task, args.sizes)
    record["fingerprint"] = data.fingerprint
    if args.edits:
        record["edits"] = check_edits(read_edits(args.edits), None, data.train, data.answers)
        own["--edits"] = _digest(record["edits"])
    folder = args.output or args.weights / f"{Path(args.task).stem}_finetune{names.suffix(own)}_s{args.seed}"
    with to_make(folder, partial(_is_finished, folder, record, args.overwrite)) as wanted:
        if not wanted:
            return folder
        with session_of(record, place) as session:
            batches(session, session.rows)  # the frozen part's output is kept for everyone: not the training's time
            cost, (loss, count) = _metered(lambda: train_adapter(session, args.evaluations), place.compute)
            found = {"cost": cost | {"evaluations": count}, "loss": loss, **_provenance(command, place.compute)}
            write_adapter(session.peft_model, folder, session.record | found)
    print(f"{folder}  ({cost['seconds']:.1f} s, {count} evaluations, objective {loss:.4f})")
    return folder


def answer(args: argparse.Namespace, command: str, place: Place) -> Path:
    """Answer a request by one of STEPS and write the new adapter's folder; the old one stays as it is."""
    record = read_record(args.adapter)
    data = place.rows(record["task"], record["sizes"])
    rows = rows_of(record, data, args.adapter)
    asked = [{"id": i} for i in args.ids or []] + (read_edits(args.request) if args.request else [])
    edits = check_edits(asked, args.action, rows, data.answers)
    changed = edited(rows, edits)
    before, after = [rows[edit["id"]] for edit in edits], [changed[edit["id"]] for edit in edits if not edit.get("remove")]
    flags = {key: getattr(args, key) for key in ("method", "solver", "curvature", "damping", "tolerance")}
    how = How(**flags, evaluations=record["evaluations"])
    own = {f"--{key}": written(value) for key, value in flags.items() if key != "method" and value != getattr(How(), key)}
    folder = args.output or Path(f"{args.adapter}_{args.action}-{_digest(edits)}_{args.method}{names.suffix(own)}")
    if folder.resolve() == args.adapter.resolve():
        raise UserError(f"--output {folder} is the adapter that is answered from: it isn't replaced")
    new = record | {"edits": record["edits"] + edits}
    with to_make(folder, partial(_is_finished, folder, new, args.overwrite, flags)) as wanted:
        if not wanted:
            return folder
        if not place.compute.quiet:
            say(in_words(args.action, edits, rows))
        with session_of(record, place, None if how.method == "retrain" else args.adapter) as session:
            batches(session, before + after + session.data.validation)
            now = session if how.method == "influence" else replace(session, rows=changed)
            cost, found = _metered(lambda: STEPS[how.method](now, before, after, how), place.compute)
            request = {"action": args.action, "edits": edits, "before": before, "after": after} | flags
            entry = request | found | {"asked": flags, "cost": cost, **_provenance(command, place.compute)}
            new = session.record | {"edits": new["edits"], "ledger": [*record["ledger"], entry]}
            write_adapter(session.peft_model, folder, new)
    print(f"{folder}  ({cost['seconds']:.1f} s" + "".join(f", {k} {v:.3g}" for k, v in found.items()) + ")")
    return folder


def _digest(edits: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(edits).encode()).hexdigest()[:8]


def _is_finished(folder: Path, record: dict[str, Any], overwrite: bool, asked: dict[str, Any] | None = None) -> bool:
    """True if the folder is there with the same data, edits and flags of the request, and isn't to be made again.

    Raises UserError for other ones, and where what is there isn't an adapter of this project alone.
    """
    if not folder.exists():
        return False
    old = read_record(folder)
    if overwrite:
        if odd := {path.name for path in folder.iterdir()} - FILES:
            raise UserError(f"{folder} holds {min(odd)}, which is no part of an adapter: move it, or give another --output")
        return False
    keys = ["base", "task", "sizes", "rank", "alpha", "targets", "blocks", "decay", "seed", "evaluations", "edits"]
    keys += [key for key in ("base_sha256", "fingerprint") if key in record]  # finetune doesn't load the base to look
    before = old["ledger"][-1].get("asked", asked) if old["ledger"] else None  # earlier versions didn't store it
    if any(old[key] != record[key] for key in keys) or before != asked:
        raise UserError(f"{folder} was made with other settings; --overwrite computes it again")
    say(f"there already: {folder}")
    return True


def _metered(work: Callable[[], Any], compute: Compute) -> tuple[dict[str, float], Any]:
    """What work() costs and returns: ({"seconds", "memory_mib"}, result)."""
    reset_peak_memory(compute.device)
    started = clock(compute.device)
    result = work()
    return {"seconds": clock(compute.device) - started, "memory_mib": peak_memory_mib(compute.device)}, result


def _provenance(command: str, compute: Compute) -> dict[str, Any]:
    return provenance(command, device_name(compute.device))


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    actions = parser.add_subparsers(dest="action", required=True, help="train an adapter, answer a request, score")
    trainer: Parser = actions.add_parser("finetune", help="train an adapter on a task")
    _add_training_flags(trainer)
    writers = [trainer]
    for kind, what in (
        ("remove", "unlearn rows"),
        ("modify", "unlearn rows' queries for others"),
        ("correct", "unlearn rows' responses for others"),
    ):
        writers.append(actions.add_parser(kind, help=what))
        _add_request_flags(writers[-1], kind)
    for action in writers:
        action.add_argument("--output", type=output_folder, help="folder to write (default: a telling name)")
        action.add_argument("--overwrite", action="store_true", help="compute again what exists")
    scorer: Parser = actions.add_parser("evaluate", help="score adapters on test rows and on what was asked")
    scorer.add_argument("adapters", type=folder, nargs="+", help="folders of adapters")
    scorer.add_argument("--retrain", type=folder, help="the adapter to measure distances from")
    for action in (*writers, scorer):
        action.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
        action.add_argument("--weights", type=folder, default=Path("model_weights"), help="folder of adapters")
        action.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
        action.add_argument("--quiet", action="store_true", help=QUIET)
    return parser


def _add_training_flags(trainer: Parser) -> None:
    flag, tasks = trainer.add_argument, ", ".join(movielens.TASKS)
    flag(
        "--task",
        type=name_or_path,
        default="genre",
        identity="name",
        help=f"{tasks} or a file of queries and responses (default: genre)",
    )
    flag("--base", type=name_or_path, default=SMOLLM2, help=f"Hugging Face name or folder (default: {SMOLLM2})")
    flag(
        "--sizes",
        type=POSITIVE_INT,
        nargs=3,
        default=[1000, 300, 700],
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="rows to train on, to choose by, to test on (default: 1000 300 700)",
    )
    flag(
        "--edits", type=input_file, metavar="FILE", identity="edits", help="train on rows edited so (one JSON object a line)"
    )
    flag("--rank", type=LORA_RANK, default=8, help="rank of LoRA (default: 8, the paper's)")
    flag("--alpha", type=POSITIVE_INT, default=16, help="LoRA's alpha (default: 16, the paper's)")
    flag("--targets", nargs="+", default=["down_proj"], help="modules to adapt (default: down_proj)")
    flag("--blocks", type=POSITIVE_INT, default=1, help="of how many of the last blocks (default: 1)")
    flag("--decay", type=POSITIVE_FLOAT, default=0.03, help="weight of |Theta|^2 / 2 (default: 0.03)")
    text = "of the objective, at most (default: 400; it stops at rest)"
    flag("--evaluations", type=POSITIVE_INT, default=400, help=text)
    flag("--seed", type=SEED, default=0, identity="seed", help="seed of the adapter's start (default: 0)")


def _add_request_flags(action: Parser, kind: str) -> None:
    flag = action.add_argument
    flag("adapter", type=folder, help="folder of an adapter of finetune, or of an earlier request")
    if kind == "remove":
        flag("--ids", type=NOT_NEGATIVE, nargs="+", metavar="ID", help="rows by number, from 0")
    flag("--request", type=input_file, metavar="FILE", help="edits, one JSON object a line")
    flag("--method", choices=METHODS, default="influence", help="default: influence; others compare")
    flag("--solver", choices=("cg", "adam"), default="cg", help="adam: the paper's way (default: cg)")
    flag("--curvature", choices=("hessian", "gauss-newton"), default="hessian", help="default: hessian")
    flag("--damping", type=NOT_NEGATIVE_FLOAT, help="added to H's diagonal (default: chosen on validation rows)")
    flag("--tolerance", type=POSITIVE_FLOAT, default=1e-4, help="relative residual (default: 1e-4)")
    action.set_defaults(ids=None)


def run(args: argparse.Namespace, command: str, shared: Workspace | None = None) -> Path | None:
    """Carry out the command line's action; of those that write an adapter the folder is returned."""
    place = Place(args.data_dir, args.weights, Compute.from_flags(args), shared or Workspace())
    if args.action == "evaluate":
        print(scores.table(args.adapters, args.retrain, place))
        return None
    return (finetune if args.action == "finetune" else answer)(args, command, place)


if __name__ == "__main__":
    main(run, parser())
