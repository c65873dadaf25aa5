"""LLMEraser: unlearn instances of an instruction-tuned language model by one step of its adapter's parameters.

Ding, Wu, Yuan et al., "Unified Parameter-Efficient Unlearning for LLMs" (ICLR 2025, arXiv 2412.00383). With G(x, y) the
gradient of a row's loss at the trained adapter, H the Hessian of the mean loss on what it was trained on, and n its rows:

    remove   Theta + 1/n H^-1 sum G(x, y)                 modify   Theta + 1/n H^-1 sum [G(x, y) - G(x', y)]
    correct  Theta + 1/n H^-1 sum [G(x, y) - G(x, y')]

H^-1 b comes from Hessian-vector products alone: by conjugate gradients, or, as in the paper, by stochastic steps on the
quadratic that it minimises. This project's own: the training objective has (decay / 2) |Theta|^2, and so has H; damping is
chosen on validation rows; answers are chosen among the task's (llm.py).

    python llmeraser.py finetune --task genre
    python llmeraser.py remove model_weights/genre_finetune_s0 --ids 3 17
    python llmeraser.py correct model_weights/genre_finetune_s0 --request right.jsonl --method retrain
    python llmeraser.py evaluate model_weights/genre_finetune_s0 model_weights/genre_finetune_s0_remove*
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

import torch

from unlearning.core.device import clock, peak_memory_mib, reset_peak_memory, resolve_device
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import main, positive_float, positive_int
from unlearning.core.provenance import device_name, provenance
from unlearning.language import influence, movielens, scores
from unlearning.language.base import SMOLLM2
from unlearning.language.rows import check_edits, edited, load_rows, read_edits, read_record, write_adapter
from unlearning.language.session import batches, objective, session_of, train_adapter

DAMPINGS = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)  # one is chosen on validation rows


METHODS = ("influence", "gradascent", "finetune", "retrain")


MINI = 100  # rows of a mini-batch of the stochastic solver


def unlearn(session, before, after, config):
    """The paper's step, from the rows `before`, which have been trained on, to `after`, which should have been: a dictionary
    of damping, residual and products. Of the dampings whose system was solved one is chosen by validation rows: the one with
    the least loss on them, or, for removal, with a loss on what is removed that is closest to theirs."""
    n, task, parameters = len(session.rows), session.task, session.parameters
    b = (_summed_gradient(session, before) - _summed_gradient(session, after)) / n
    if not b.any():
        return {"damping": 0.0, "residual": 0.0, "products": 0}
    solutions = _solve(session, b, config)
    if not solutions:
        raise RunFailed(
            f"not solved to {config.tolerance:g}: try a larger --damping, or --curvature gauss-newton, whose curvature is "
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
    return {"damping": best, "residual": solutions[best].residual, "products": max(s.products for s in solutions.values())}


def _summed_gradient(session, rows):
    """The sum of G over rows, float32 (p,)."""
    total = torch.zeros_like(influence.flat(session.parameters))
    for batch in batches(session, rows):
        total += influence.gradient(session.task.losses(session.tail, batch).sum(), session.parameters)
    return total


def _solve(session, b, config):
    """Damping to influence.Solution for the session's H, of those dampings that can be solved."""
    n, task, parameters = len(session.rows), session.task, session.parameters
    dampings = DAMPINGS if config.damping is None else (config.damping,)

    def product(batches, count):
        if config.curvature == "hessian":
            return influence.hessian_product(objective(session, batches, count), batches, parameters)

        def logits_of(batch):
            return task.logits(session.tail, batch), task.weights(batch) / count

        flat = influence.gauss_newton_product(logits_of, batches, parameters)
        return lambda v: flat(v) + session.decay * v

    if config.solver == "cg":
        whole = product(batches(session, session.rows), n)
        return influence.conjugate_gradients(whole, b, dampings, config.tolerance)
    rows = batches(session, session.rows, MINI)
    scale = n / sum(len(batch.targets) for batch in rows)  # rows may be gone, but n is what it was
    return {
        damping: influence.stochastic(
            lambda batch: product([batch], len(batch.targets) * scale), rows, b, damping, tolerance=config.tolerance
        )
        for damping in dampings
    }


def ascend(session, before, after, config, steps=10, lr=1e-3):
    """Gradient ascent on the rows to be forgotten: the baseline that needs neither Hessian nor retained rows."""
    optimizer = torch.optim.Adam(session.parameters, lr=lr, maximize=True)
    rows = batches(session, before)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(session.task.losses(session.tail, batch).sum() for batch in rows).div(len(before)).backward()
        optimizer.step()
    return {}


def go_on(session, before, after, config, evaluations=20):
    """Fine-tuning further on the rows as they should have been."""
    train_adapter(session, evaluations)
    return {}


def start_again(session, before, after, config):
    """Retrain: the exact answer. The session's adapter is at the start that the first training had."""
    train_adapter(session, config.evaluations)
    return {}


STEPS = dict(zip(METHODS, (unlearn, ascend, go_on, start_again), strict=True))


def finetune(config):
    """Train a new adapter on a task's rows, edited if --edits says so, and write its folder."""
    record = {key: getattr(config, key) for key in ("base", "task", "rank", "alpha", "targets", "blocks", "decay", "seed")}
    record |= {"sizes": config.sizes, "evaluations": config.evaluations, "edits": [], "ledger": []}
    name = Path(config.task).stem
    folder = config.output or config.weights / f"{name}_finetune_s{config.seed}"
    if config.edits:
        data = load_rows(config.task, config.data_dir, config.sizes)
        record["edits"] = check_edits(read_edits(config.edits), None, data.train, data.answers)
    if _there(folder, record, config):
        return folder
    with session_of(record, config) as session:
        batches(session, session.rows)  # the frozen part's output is kept for everyone: not the training's time
        cost, (loss, count) = _metered(lambda: train_adapter(session, config.evaluations), config)
        record |= {"cost": cost | {"evaluations": count}, "loss": loss, **_circumstances(config)}
        write_adapter(session.peft_model, folder, record)
    _say(f"{folder}  ({cost['seconds']:.1f} s, {count} evaluations, objective {loss:.4f})", config)
    return folder


def answer(config):
    """Answer a request by one of STEPS and write the new adapter's folder; the old one stays as it is."""
    record = read_record(config.adapter)
    data = load_rows(record["task"], config.data_dir, record["sizes"])
    rows = edited(data.train, record["edits"])
    asked = [{"id": i} for i in config.ids or []] + (read_edits(config.request) if config.request else [])
    edits = check_edits(asked, config.action, rows, data.answers)
    changed = edited(rows, edits)
    before, after = [rows[edit["id"]] for edit in edits], [changed[edit["id"]] for edit in edits if not edit.get("remove")]
    tag = hashlib.sha256(json.dumps(edits).encode()).hexdigest()[:8]
    folder = config.output or Path(f"{config.adapter}_{config.action}-{tag}_{config.method}")
    how = {key: getattr(config, key) for key in ("method", "solver", "curvature", "damping", "tolerance")}
    request = {"action": config.action, "edits": edits, "before": before, "after": after} | how
    if _there(folder, record | {"edits": record["edits"] + edits}, config):
        return folder
    config.evaluations = record["evaluations"]
    source = None if config.method == "retrain" else config.adapter
    with session_of(record, config, source) as session:
        batches(session, before + after + session.data.validation)
        now = session if config.method == "influence" else session._replace(rows=changed)
        cost, found = _metered(lambda: STEPS[config.method](now, before, after, config), config)
        entry = request | found | {"cost": cost, **_circumstances(config)}
        new = record | {"edits": record["edits"] + edits, "ledger": [*record["ledger"], entry]}
        write_adapter(session.peft_model, folder, new)
    _say(f"{folder}  ({cost['seconds']:.1f} s" + "".join(f", {k} {v:.3g}" for k, v in found.items()) + ")", config)
    return folder


def _there(folder, record, config):
    """Whether the folder is there with the same data and edits and may be taken as it is; UserError if it is in the way."""
    if not folder.exists() or config.overwrite:
        return False
    old = read_record(folder) if getattr(config, "reuse", False) else None
    keys = ("base", "task", "sizes", "rank", "alpha", "targets", "blocks", "decay", "seed", "edits")
    if old and all(old[key] == record[key] for key in keys):
        print(f"skipped, there already: {folder}", file=sys.stderr, flush=True)
        return True
    raise UserError(f"{folder} exists; --overwrite computes it again")


def _metered(work, config):
    """What work() costs and returns: ({"seconds", "memory_mib"}, result)."""
    device = torch.device(resolve_device(config.device))
    reset_peak_memory(device)
    started = clock(device)
    result = work()
    return {"seconds": clock(device) - started, "memory_mib": peak_memory_mib(device)}, result


def _circumstances(config):
    device = device_name(resolve_device(config.device))
    return provenance(config.command, device)


def _say(text, config):
    if not config.quiet:
        print(text)


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True)
    trainer = actions.add_parser("finetune", help="train an adapter on a task")
    tasks = ", ".join(movielens.TASKS)
    trainer.add_argument("--task", default="genre", help=f"{tasks} or a file of queries and responses (default: genre)")
    trainer.add_argument("--base", default=SMOLLM2, help=f"Hugging Face name or folder (default: {SMOLLM2})")
    trainer.add_argument(
        "--sizes",
        type=positive_int,
        nargs=3,
        default=[1000, 300, 700],
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="rows to train on, to choose by, to test on (default: 1000 300 700)",
    )
    trainer.add_argument("--edits", type=Path, metavar="FILE", help="train on rows edited so (one JSON object a line)")
    trainer.add_argument("--rank", type=positive_int, default=8, help="rank of LoRA (default: 8, the paper's)")
    trainer.add_argument("--alpha", type=positive_int, default=16, help="LoRA's alpha (default: 16, the paper's)")
    trainer.add_argument("--targets", nargs="+", default=["down_proj"], help="modules to adapt (default: down_proj)")
    trainer.add_argument("--blocks", type=positive_int, default=1, help="of how many of the last blocks (default: 1)")
    trainer.add_argument("--decay", type=positive_float, default=0.03, help="weight of |Theta|^2 / 2 (default: 0.03)")
    trainer.add_argument(
        "--evaluations",
        type=positive_int,
        default=400,
        help="of the objective, at most (default: 400; it stops at rest)",
    )
    trainer.add_argument("--seed", type=int, default=0, help="seed of the adapter's start (default: 0)")
    for kind, what in (
        ("remove", "unlearn rows"),
        ("modify", "unlearn rows' queries for others"),
        ("correct", "unlearn rows' responses for others"),
    ):
        action = actions.add_parser(kind, help=what)
        action.add_argument("adapter", type=Path, help="folder of an adapter of finetune, or of an earlier request")
        if kind == "remove":
            action.add_argument("--ids", type=int, nargs="+", metavar="ID", help="rows by number, from 0")
        action.add_argument("--request", type=Path, metavar="FILE", help="edits, one JSON object a line")
        action.add_argument("--method", choices=METHODS, default="influence", help="default: influence; others compare")
        action.add_argument("--solver", choices=("cg", "adam"), default="cg", help="adam: the paper's way (default: cg)")
        action.add_argument("--curvature", choices=("hessian", "gauss-newton"), default="hessian", help="default: hessian")
        action.add_argument("--damping", type=float, help="added to H's diagonal (default: chosen on validation rows)")
        action.add_argument("--tolerance", type=positive_float, default=1e-4, help="relative residual (default: 1e-4)")
        action.set_defaults(ids=None)
    scorer = actions.add_parser("evaluate", help="score adapters on test rows and on what was asked")
    scorer.add_argument("adapters", type=Path, nargs="+", help="folders of adapters")
    scorer.add_argument("--retrain", type=Path, help="the adapter to measure distances from")
    for action in actions.choices.values():
        action.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
        action.add_argument("--weights", type=Path, default=Path("model_weights"), help="folder of adapters")
        action.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
        action.add_argument("--quiet", action="store_true", help="no progress")
    for action in list(actions.choices.values())[:-1]:
        action.add_argument("--output", type=Path, help="folder to write (default: a telling name)")
        action.add_argument("--overwrite", action="store_true", help="compute again what exists")
    return parser


def run(config):
    """Carry out the command line's action; of those that write an adapter the folder is returned."""
    if config.action == "evaluate":
        print(scores.table(config))
        return None
    return finetune(config) if config.action == "finetune" else answer(config)


if __name__ == "__main__":
    main(run, parser())
