"""The published way against this project's, side by side: seconds and accuracies of unlearning with evaluation.

Both start from the same original and take turns, on the same images, for as many epochs, with the same settings. A round
begins with nothing kept, so its first LoRA pays for the frozen part, and the next methods find it. The floor is a bare loop:
forward, backward and step of the same network on one batch that stays in place. Memory is the peak of an epoch with its
scoring, above what the process held before, each in a process of its own. Run it on a quiet machine; several networks go
into one file, results/benchmarks/speed.json, one after the other, where each stands for one data set and all of its methods:

    python -m benchmarks.compare --model vit_micro --images 4000
    python -m benchmarks.compare --model vit_small --dataset cifar10 --images 1000 --methods lora loraprune
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import data
import finetune
import lora
import loraprune
import models
import pretrain
import pruneft
from benchmarks import published_way
from benchmarks.throughput import bare_loop
from unlearning.core.device import Compute, peak_memory_mib, reset_peak_memory, resolve_device
from unlearning.core.errors import UserError
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.images import forgetting
from unlearning.metrics import predictions, statistics
from unlearning.reports import figures, results, tables
from unlearning.vision import adapters
from unlearning.vision.predict import predict
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared

ABOUT = "The published way of unlearning and scoring against this project's, side by side."

ROOT = Path(__file__).parent.parent
SCRIPTS = {"finetune": finetune, "pruneft": pruneft, "lora": lora, "loraprune": loraprune}
TOGETHER = "all of them"
WAYS = {"published": 1, "here": 0}  # and their places in a turn


def flags_of(args: argparse.Namespace, model: str, seed: int, folder: Path) -> list[str]:
    """The flags that say on what all scripts work."""
    sizes = ["--subset", str(args.images), "--test-subset", str(args.test_images)]
    place = ["--data-dir", str(ROOT / "data"), "--weights", str(folder), "--device", args.device, "--quiet"]
    return ["--dataset", args.dataset, "--model", model, "--seed", str(seed), *sizes, *place]


def run(script: Any, arguments: list[str], shared: Shared) -> tuple[Path, Settings, Compute]:
    """A script's own run: its checkpoint, the settings in it, and where it computed."""
    args = script.parser().parse_args(arguments)
    path = script.run(args, f"python {script.__name__}.py", shared)
    settings = Settings(models.load_checkpoint(path)["config"])
    return path, settings, replace(Compute.from_flags(args), precision=settings.precision)


def ours(
    method: str, flags: list[str], dataset: data.Dataset, forget: torch.Tensor, epochs: int, shared: Shared
) -> tuple[float, list[float], float, Settings, Compute]:
    """Unlearn with the script and score its checkpoint: (seconds, accuracies, seconds of unlearning, settings, compute)."""
    started = time.perf_counter()
    pruned = ["--regrow"] if "prune" in method else []  # as published
    asked = [*flags, "--forget-class", "3", "--epochs", str(epochs), *pruned]
    path, settings, compute = run(SCRIPTS[method], asked, shared)
    unlearned = time.perf_counter()  # a checkpoint is written, so a GPU has finished too
    model = models.build(models.load_checkpoint(path))
    train, test = (predict(model, split, compute, shared.features) for split in (dataset.train, dataset.test))
    kept, seen = forgetting.retain_indices(len(train), forget), dataset.test.labels != 3
    accuracies = [
        predictions.accuracy(train[forget], dataset.train.labels[forget]),
        predictions.accuracy(train[kept], dataset.train.labels[kept]),
        predictions.accuracy(test[seen], dataset.test.labels[seen]),
    ]
    return time.perf_counter() - started, accuracies, unlearned - started, settings, compute


def theirs(
    method: str, original: Path, dataset: data.Dataset, forget: torch.Tensor, epochs: int, settings: Settings, device: str
) -> tuple[float, list[float]]:
    """The same in the published way: (seconds, accuracies). settings: those of our run."""
    model = models.build(models.load_checkpoint(original)).to(device)
    started = time.perf_counter()
    retain = dataset.train.take(forgetting.retain_indices(len(dataset.train), forget))
    torch.manual_seed(settings.seed)
    lora = settings.get("rank", 0), settings.get("alpha", 0)
    model = published_way.unlearn(model, method, retain, epochs, settings.lr, *lora)
    test = dataset.test.take(dataset.test.labels != 3)
    accuracies = published_way.evaluate(model, dataset.train.take(forget), retain, test)
    return time.perf_counter() - started, accuracies


def floor(method: str, original: Path, dataset: data.Dataset, settings: Settings, device: str) -> float:
    """Seconds an image of forward, backward and step on one resident batch."""
    model = models.build(models.load_checkpoint(original))
    if "lora" in method:
        model = adapters.attach(model, adapters.last_and_head(model), settings.rank, settings.alpha, settings.dropout)
    for steps in (1, 4):  # the first is a warm-up
        rate = bare_loop(model, dataset.train, settings.precision, torch.device(device), steps)
    return 1 / rate


def memory(
    way: str, method: str, flags: list[str], original: Path, source: data.Source, settings: Settings, device: str
) -> float:
    """Peak MiB of an epoch and its scoring above Python, its libraries and the images. Call it in a new process.

    settings: those of our run. The published way's workers are not counted.
    """
    shared = Shared()
    dataset = shared.load(source)
    forget, _ = forgetting.forget_indices(dataset.train, [3])
    reset_peak_memory(device)
    before = peak_memory_mib(device)
    if way == "here":
        ours(method, [*flags, "--overwrite"], dataset, forget, 1, shared)
    else:
        theirs(method, original, dataset, forget, 1, settings, device)
    return peak_memory_mib(device) - before


def source_of(args: argparse.Namespace) -> data.Source:
    """The images of all rounds."""
    return data.Source(args.dataset, ROOT / "data", args.images, test_subset=args.test_images)


def compare(name: str, args: argparse.Namespace, command: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of one network."""
    found: dict[str, list[Any]] = {method: [] for method in args.methods}
    peaks: dict[tuple[str, str], float] = {}
    source = source_of(args)
    for seed in range(args.rounds):
        shared = Shared()  # a round begins with nothing kept
        flags = flags_of(args, name, seed, folder)
        original, *_ = run(
            pretrain, [*flags, "--epochs", str(args.pretrain), "--output", str(folder / f"{seed}.pth")], shared
        )
        flags += ["--original", str(original)]
        dataset = shared.load(source)
        forget, _ = forgetting.forget_indices(dataset.train, [3])
        for method in args.methods:
            mine = ours(method, flags, dataset, forget, args.epochs, shared)
            other = theirs(method, original, dataset, forget, args.epochs, mine[3], args.device)
            images = args.epochs * (len(dataset.train) - len(forget))
            bare = 100 * floor(method, original, dataset, mine[3], args.device) * images / mine[2]
            found[method].append((mine, other, bare))
            for way in WAYS if not seed else ():
                with ProcessPoolExecutor(1, fresh_processes(args.device)) as process:
                    asked = (way, method, flags, original, source, mine[3], args.device)
                    peaks[method, way] = process.submit(memory, *asked).result()
            print(
                f"{name} {method} seed {seed}: published {other[0]:.1f} s, here {mine[0]:.1f} s,"
                f" {other[0] / mine[0]:.2f} times; TA {other[1][2]:.1f} and {mine[1][2]:.1f}; {bare:.0f} % of the bare loop",
                flush=True,
            )
    rows = [row_of(name, method, turns, peaks, args, command, dataset) for method, turns in found.items()]
    if len(rows) > 1:
        ratios = [
            sum(turns[seed][1][0] for turns in found.values()) / sum(turns[seed][0][0] for turns in found.values())
            for seed in range(args.rounds)
        ]
        rows.append(rows[0] | {"method": TOGETHER, "metrics": {"ratio": statistics.over_seeds(ratios)}})
    return rows


def fresh_processes(device: str) -> Any:
    """A way to start processes that have imported the libraries, and nothing else."""
    if torch.device(device).type != "cpu" or sys.platform == "win32":
        return multiprocessing.get_context("spawn")  # what has touched a GPU can't be forked, and Windows forks nothing
    fresh = multiprocessing.get_context("forkserver")
    fresh.set_forkserver_preload(["torch_pruning", "timm", "peft", "onnxruntime", "sklearn.svm", "matplotlib.figure"])
    return fresh


def row_of(
    name: str,
    method: str,
    turns: list[Any],
    peaks: dict[tuple[str, str], float],
    args: argparse.Namespace,
    command: str,
    dataset: data.Dataset,
) -> dict[str, Any]:
    """The row of a method's turns, and of its peaks of memory."""
    values: dict[str, list[float]] = {
        "ratio": [other[0] / mine[0] for mine, other, _ in turns],
        "of_bare_loop": [bare for *_, bare in turns],
    }
    for way, place in WAYS.items():
        values[f"{way}_mib"] = [peaks[method, way]]
        values[f"{way}_seconds"] = [turn[place][0] for turn in turns]
        for i, key in enumerate(("UA", "RA", "TA")):
            accuracies = [turn[place][1][i] for turn in turns]
            values[f"{way}_{key}"] = [100 - a for a in accuracies] if key == "UA" else accuracies
    return row(name, method, dataset, args, command, values, f", {turns[0][0][3].precision}")


def row(
    name: str,
    method: str,
    dataset: data.Dataset,
    args: argparse.Namespace,
    command: str,
    values: dict[str, list[float]],
    how: str = "",
) -> dict[str, Any]:
    """A row of a table. values: for each metric a list with one for each seed; how: more of the device."""
    return {
        "dataset": dataset.tag,
        "model": name,
        "forget": "class3",
        "method": method,
        "epochs": args.epochs,
        "n": len(next(iter(values.values()))),
        "command": command,
        "device": device_name(args.device) + how,
        "metrics": {key: statistics.over_seeds(series) for key, series in values.items()},
    }


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--model", default="vit_micro", help="network (default: vit_micro)")
    flag("--dataset", default="fashion-mnist", help="as for the scripts (default: fashion-mnist)")
    flag("--methods", nargs="+", choices=tuple(SCRIPTS), default=list(SCRIPTS), help="(default: all)")
    flag("--images", type=POSITIVE_INT, default=2000, help="training images (default: 2000)")
    flag("--test-images", type=POSITIVE_INT, default=400, help="test images (default: 400)")
    flag("--pretrain", type=POSITIVE_INT, default=2, help="epochs of the original (default: 2)")
    flag("--epochs", type=POSITIVE_INT, default=5, help="epochs of unlearning (default: 5)")
    flag("--rounds", type=POSITIVE_INT, default=3, help="seeds, a round each (default: 3)")
    flag("--device", type=resolve_device, default="auto", help="auto, cpu or cuda (default: auto)")
    flag(
        "--output",
        type=results.Output("speed"),
        default=str(ROOT / "results" / "benchmarks" / "speed.json"),
        help="JSON file to write, its picture beside it",
    )
    flag("--overwrite", action="store_true", help="lose rows of this network that aren't measured again")
    return parser


def check_nothing_is_lost(args: argparse.Namespace) -> None:
    """Raise UserError if the file to write holds rows of this network on other images, or of other methods, which go."""
    if args.overwrite or not args.output.exists():
        return
    made, tag = (*args.methods, TOGETHER), Shared().load(source_of(args)).tag
    for row in results.read(args.output)["rows"]:
        if row["model"] == args.model and not (row["dataset"] == tag and row["method"] in made):
            what = f"{row['method']} ({row['model']}, {row['dataset']})"
            raise UserError(f"{args.output} holds {what}; this would lose it: --overwrite, or --output elsewhere")


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure one network, and put its rows beside those of others."""
    check_nothing_is_lost(args)
    folder = Path(tempfile.mkdtemp())
    try:
        rows = compare(args.model, args, command, folder)
    finally:
        shutil.rmtree(folder)
    result = {"table": "speed", "about": ABOUT, **provenance(command, device_name(args.device)), "rows": rows}
    result = results.joined(result, args.output)
    results.write(args.output, result)
    named = figures.pictures(result["rows"]).items()  # speed.png, or several where there are many rows
    figures.write({args.output.with_name(name.replace("speed", args.output.stem, 1)): content for name, content in named})
    print(tables.terminal(result))


if __name__ == "__main__":
    main(measure_all, parser())
