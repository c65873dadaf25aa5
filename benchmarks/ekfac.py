"""What EK-FAC costs beside Retrain, and how well it predicts what removing a few rows does to the test loss.

Trains an adapter on q_proj and v_proj of the last blocks on the first rows of a task. Then, each in a process of its own:
the same training again without a group of rows (Retrain), the factors, and later requests to remove a group, which find them
there. Their seconds leave out loading the base and its frozen part; memory is the peak of the process, with both. At last
the change of the mean test loss by one step is set against that of training on from where the adapter is without each group
in turn, less training on with all rows, for several dampings. Writes results/benchmarks/ekfac.json.

    python -m benchmarks.ekfac --blocks 8 --rows 500
"""

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import llmeraser
from unlearning.core.device import Compute, clock, peak_memory_mib, reset_peak_memory
from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.core.flags import LORA_RANK, NOT_NEGATIVE_FLOAT, POSITIVE_FLOAT, POSITIVE_INT, Parser, main
from unlearning.core.paths import folder, name_or_path
from unlearning.core.provenance import device_name, provenance
from unlearning.language import ekfac, influence
from unlearning.language.adapters import read_record
from unlearning.language.base import SMOLLM2
from unlearning.language.command import How
from unlearning.language.session import Place, Row, Session, Workspace, session_of
from unlearning.language.tasks import TASKS, task_files
from unlearning.language.training import train_adapter
from unlearning.reports import results

ABOUT = "What EK-FAC costs beside Retrain, and how well it predicts what removing a few rows does to the test loss."
DAMPINGS = [0.001, 0.01, 0.1, 1.0]  # added to EK-FAC's eigenvalues
TRAINING = {"lbfgs": ("evaluations",), "adamw": ("epochs", "lr", "batch_size")}


def finetuned(args: argparse.Namespace) -> Path:
    """The adapter, trained where it isn't there yet, on the first rows of the task."""
    given = task_files(args.task, args.data_dir)
    lines = given["train"].read_text(encoding="utf-8").split("\n")[: args.rows]
    if len(lines) < args.rows or not lines[-1]:
        raise UserError(f"--rows {args.rows}: {args.task} has fewer training rows")
    file = args.weights / f"ekfac_{args.task}_{args.rows}.jsonl"
    write_text(file, "".join(line + "\n" for line in lines))
    words = ["finetune", "--train", file, "--test", given["test"], "--base", args.base, "--targets", *args.targets]
    words += ["--blocks", args.blocks, "--rank", args.rank, "--decay", args.decay, "--optimizer", args.optimizer]
    for key in TRAINING[args.optimizer]:
        words += [f"--{key.replace('_', '-')}", getattr(args, key)]
    words += ["--data-dir", args.data_dir, "--weights", args.weights, "--device", args.device]
    found = llmeraser.run(llmeraser.parser().parse_args(list(map(str, words))), "python llmeraser.py")
    assert found is not None
    return found


def opened(args: argparse.Namespace, adapter: Path, afresh: bool = False) -> Any:
    """A context with a Session on the adapter, or on its start; its rows' frozen part is kept."""
    compute = Compute.from_flags(args)
    record: Any = read_record(adapter)
    return session_of(record, Place(args.data_dir, args.weights, compute, Workspace()), adapter, afresh)


def metered(session: Session, work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """What work() costs, and returns."""
    device = session.forward.device
    reset_peak_memory(device)
    held, started = peak_memory_mib(device), clock(device)
    result = work()
    return {"seconds": clock(device) - started, "memory_mib": peak_memory_mib(device), "held_mib": held}, result


def groups_of(args: argparse.Namespace) -> list[list[int]]:
    """Groups of rows by their places, without a row in common."""
    order = torch.randperm(args.rows, generator=torch.Generator().manual_seed(0))
    return order[: args.groups * args.group_rows].view(args.groups, args.group_rows).tolist()


def without(session: Session, group: list[int]) -> Session:
    """The session with a group of its rows removed."""
    rows: list[Row | None] = [None if place in group else row for place, row in enumerate(session.rows)]
    return replace(session, rows=rows)


def retrain(args: argparse.Namespace, adapter: Path) -> dict[str, Any]:
    """The cost of training again without the first group."""
    with opened(args, adapter, afresh=True) as session:
        session.batches(session.rows)
        cost, (objective, passes) = metered(session, lambda: train_adapter(without(session, groups_of(args)[0])))
        return cost | {"objective": objective, "passes": passes}


def factors(args: argparse.Namespace, adapter: Path) -> dict[str, Any]:
    """The cost of the factors, which are put beside the adapter."""
    with opened(args, adapter) as session:
        session.batches(session.rows)
        file = ekfac.file_of(session)
        assert file is not None
        file.unlink(missing_ok=True)
        cost, _ = metered(session, lambda: ekfac.factors_of(session))
        sizes = {"parameters": sum(parameter.numel() for parameter in session.parameters), "way": session.forward.way}
        return cost | sizes | {"file_mib": file.stat().st_size / 2**20}


def requests(args: argparse.Namespace, adapter: Path) -> dict[str, Any]:
    """The mean cost of a later request, each from the adapter as it is."""
    costs = []
    with opened(args, adapter) as session:
        session.batches(session.rows)
        for group in groups_of(args)[: args.requests]:
            work = partial(stepped, session, group, args, args.dampings[0])
            costs.append(metered(session, work)[0])
    mean = {key: sum(cost[key] for cost in costs) / len(costs) for key in ("seconds", "memory_mib", "held_mib")}
    return mean | {"each_seconds": [cost["seconds"] for cost in costs]}


def stepped(session: Session, group: list[int], args: argparse.Namespace, damping: float) -> torch.Tensor:
    """Remove a group by one step of EK-FAC, and take it back: the step, float32 (p,)."""
    trained = influence.flat(session.parameters).detach().clone()
    how = How(solver="ekfac", curvature="gauss-newton", damping=damping, length=args.length)
    rows = [row for place in group if (row := session.rows[place])]
    llmeraser.unlearn(replace(session, validation=[]), rows, [], how)  # nothing is chosen on validation rows
    step = influence.flat(session.parameters).detach() - trained
    influence.assign(session.parameters, trained)
    return step


def predictions(args: argparse.Namespace, adapter: Path) -> dict[str, Any]:
    """Predicted and actual changes of the mean test loss, a row for each damping and group.

    predicted: at the step's end. linear: the test loss's gradient times the step.
    """
    found = []
    with opened(args, adapter) as session:
        trained = influence.flat(session.parameters).detach().clone()
        session = replace(session, test=session.test[: args.test_rows])

        def loss() -> float:
            return session.losses_of(session.test).double().mean().item()

        def further(some: Session) -> float:
            train_adapter(some, args.further)
            reached = loss()
            influence.assign(session.parameters, trained)
            return reached

        uphill = sum(
            influence.gradient(session.losses(batch).sum() / len(session.test), session.parameters)
            for batch in session.batches(session.test)
        )
        start, on = loss(), further(session)
        for group in groups_of(args):
            actual = further(without(session, group)) - on
            for damping in args.dampings:
                step = stepped(session, group, args, damping)
                influence.assign(session.parameters, trained + step)
                row = {"damping": damping, "predicted": loss() - start, "linear": float(uphill @ step), "actual": actual}
                influence.assign(session.parameters, trained)
                found.append(row)
                print(row, flush=True)
    return {"groups": found, "test_loss": start, "test_loss_after_further_training": on}


def agreements(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """For each damping how predicted and actual changes go together over the groups."""
    from scipy import stats

    found = []
    for damping in dict.fromkeys(row["damping"] for row in rows):
        some = [row for row in rows if row["damping"] == damping]
        actual = [row["actual"] for row in some]
        one = {"damping": damping}
        for kind in ("predicted", "linear"):
            values = [row[kind] for row in some]
            one[f"{kind}_pearson"] = float(stats.pearsonr(values, actual).statistic)
            one[f"{kind}_spearman"] = float(stats.spearmanr(values, actual).statistic)
            one[f"{kind}_slope"] = float(stats.linregress(values, actual).slope)
        found.append(one)
    return found


def alone(stage: Callable[[argparse.Namespace, Path], dict[str, Any]], args: argparse.Namespace, adapter: Path) -> Any:
    """What a stage finds in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        found = process.submit(stage, args, adapter).result()
    print(stage.__name__, {key: value for key, value in found.items() if key != "groups"}, flush=True)
    return found


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the file."""
    if args.groups * args.group_rows > args.rows or args.groups < 2:
        raise UserError(f"--groups {args.groups} of --group-rows {args.group_rows}: at least 2, and no more than --rows")
    ekfac.check_library()
    adapter = finetuned(args)
    costs = {stage.__name__: alone(stage, args, adapter) for stage in (retrain, factors, requests)}
    full = costs["retrain"]["seconds"]
    rows = [{"stage": name, **cost, "cheaper": full / cost["seconds"]} for name, cost in costs.items()]
    found = alone(predictions, args, adapter)
    rows += [{"stage": "predictions", **row} for row in agreements(found["groups"])]
    result = {
        "table": "ekfac",
        "about": ABOUT,
        **provenance(command, device_name(Compute.from_flags(args).device)),
        "settings": {key: value for key, value in vars(args).items() if not isinstance(value, Path)},
        "rows": rows,
        **found,
    }
    print(*rows, sep="\n")
    results.write(args.output, result)


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    flag, told = parser.add_argument, " ".join(map(str, DAMPINGS))
    flag("--base", type=name_or_path, default=SMOLLM2, help=f"Hugging Face name or folder (default: {SMOLLM2})")
    flag("--task", choices=TASKS, default="genre", help="whose rows to train on (default: genre)")
    flag("--rows", type=POSITIVE_INT, default=500, help="training rows (default: 500)")
    flag("--test-rows", type=POSITIVE_INT, default=200, help="test rows, at most (default: 200)")
    flag("--targets", nargs="+", default=["q_proj", "v_proj"], help="linear layers to adapt (default: q_proj v_proj)")
    flag("--blocks", type=POSITIVE_INT, default=4, help="of how many of the last blocks (default: 4)")
    flag("--rank", type=LORA_RANK, default=8, help="rank of LoRA (default: 8)")
    flag("--decay", type=POSITIVE_FLOAT, default=0.05, help="weight of |Theta|^2 / 2 (default: 0.05)")
    flag("--optimizer", choices=TRAINING, default="lbfgs", help="of the training (default: lbfgs)")
    flag("--evaluations", type=POSITIVE_INT, default=100, help="of lbfgs, passes at most (default: 100)")
    flag("--epochs", type=POSITIVE_INT, default=3, help="of adamw (default: 3)")
    flag("--lr", type=POSITIVE_FLOAT, default=1e-3, help="of adamw (default: 0.001)")
    flag("--batch-size", type=POSITIVE_INT, default=8, help="of adamw, rows (default: 8)")
    flag("--requests", type=POSITIVE_INT, default=5, help="requests whose cost is measured (default: 5)")
    flag("--groups", type=POSITIVE_INT, default=16, help="groups of rows that are removed in turn (default: 16)")
    flag("--group-rows", type=POSITIVE_INT, default=8, help="rows of a group (default: 8)")
    flag("--further", type=POSITIVE_INT, default=20, help="passes of training on without a group (default: 20)")
    flag("--dampings", type=NOT_NEGATIVE_FLOAT, nargs="+", default=DAMPINGS, help=f"to predict with (default: {told})")
    flag("--length", type=POSITIVE_FLOAT, default=1.0, help="of the step, times the formula's (default: 1)")
    flag("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    flag("--weights", type=folder, default=Path("model_weights"), help="folder of adapters (default: model_weights)")
    flag("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
    flag("--quiet", action="store_true", help="no progress bars")
    output = "results/benchmarks/ekfac.json"
    flag("--output", type=results.Output("ekfac"), default=output, help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
