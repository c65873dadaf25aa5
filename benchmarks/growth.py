"""How seconds and memory grow: with images, epochs, seeds, checkpoints and the width of a network.

One thing is varied at a time, doubling, the others stay. Fine-tuning trains every weight of resnet8 or of a ViT; LoRA trains
the tail above kept outputs; a pass answers all images. evaluate.py scores checkpoints of resnet8, reproduce.py makes
a table of Original, Retrain and finetune: whole commands. All libraries were loaded before. A straight line through the
logarithms gives the exponent: 1 is linear. Four times as many images, epochs, seeds or checkpoints are to cost at most GOAL
times as much, in seconds and in MiB. Writes results/benchmarks/growth.{json,png}.

    python -m benchmarks.growth
"""

import argparse
import contextlib
import io
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import data
import evaluate
import models
import pretrain
import reproduce
from unlearning.core.device import Compute, peak_memory_mib, reset_peak_memory
from unlearning.core.flags import CACHE_MIB, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results
from unlearning.reports.style import LOOK, WIDTH, legend, save, series
from unlearning.vision import adapters
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.predict import predict
from unlearning.vision.train import fit

ABOUT = "How seconds and memory grow with images, epochs, seeds, checkpoints and the width of a network."

ROOT = Path(__file__).parent.parent
BASE = {"images": 2000, "epochs": 2, "seeds": 1, "checkpoints": 2, "width": 64}
VARIED: dict[str, tuple[int, ...]] = {
    "images": (1000, 2000, 4000, 8000),
    "epochs": (1, 2, 4, 8),
    "seeds": (1, 2, 4),
    "checkpoints": (2, 4, 8, 16),
    "width": (32, 64, 128, 256),
}
VARIES = {  # in each kind of work
    **dict.fromkeys(("fine-tuning", "LoRA"), ("images", "epochs", "seeds", "width")),
    "scoring": ("images", "width"),
    "evaluate.py": ("images", "checkpoints"),
    "reproduce.py": ("seeds",),
}
GOAL = 4.8  # what four times as much may cost, in costs of the fourth


def network(kind: str, width: int, dataset: data.Dataset) -> torch.nn.Module:
    """A fresh network on the CPU: resnet8, or a ViT of four blocks of the given width."""
    torch.manual_seed(0)
    model, arguments = models.create_for("resnet8" if kind == "resnet8" else "vit_micro", dataset)
    if kind != "resnet8":
        size = arguments["img_size"]
        model.net = models.simple_vit(arguments["in_chans"], 10, size, size // 4, width, depth=4, heads=4)
    return model


def cost(what: tuple[str, str], sizes: dict[str, int]) -> tuple[float, float]:
    """(seconds, MiB above those of Python and its libraries) of one of WHAT at the given sizes."""
    kind, work = what
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if work == "evaluate.py":
            for seed in range(sizes["checkpoints"]):
                call(pretrain, folder, *flags_of(sizes), "--test-subset", sizes["images"], "--epochs", 1, "--seed", seed)
        few = BASE | {"images": 200, "epochs": 1}
        if work in ("evaluate.py", "reproduce.py"):
            call(pretrain, folder / "few", *flags_of(few), "--test-subset", 200, "--epochs", 1)
            call(evaluate, folder / "few", *(folder / "few").glob("model_weights/*.pth"), "--forget-class", 3)
        else:
            trained_or_scored(kind, work, few, folder)
        reset_peak_memory("cpu")
        before, started = peak_memory_mib("cpu"), time.perf_counter()
        if work == "evaluate.py":
            call(evaluate, folder, *folder.glob("model_weights/*.pth"), "--forget-class", 3)
        elif work == "reproduce.py":
            table_of(sizes, folder)
        else:
            trained_or_scored(kind, work, sizes, folder)
        return time.perf_counter() - started, peak_memory_mib("cpu") - before


def table_of(sizes: dict[str, int], folder: Path) -> None:
    """Make a table of three rows."""
    rows = ("--methods", "original", "retrain", "finetune", "--seeds", sizes["seeds"], "--epochs", sizes["epochs"])
    call(reproduce, folder, "prunelora", *flags_of(sizes), *rows)


def trained_or_scored(kind: str, work: str, sizes: dict[str, int], scratch: Path) -> None:
    """Train or score one fresh network a seed, of a kind and of the given sizes."""
    compute, features = Compute("cpu", "fp32", scratch, quiet=True), FeatureCache(CACHE_MIB)
    dataset = data.load("fashion-mnist", ROOT / "data", subset=sizes["images"])
    for seed in range(sizes["seeds"]):
        model = network(kind, sizes["width"], dataset)
        if work == "scoring":
            predict(model, dataset.train, compute, features)
            continue
        if work == "LoRA":
            model = adapters.attach(model, adapters.last_and_head(model), 16, 32)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
        how = {"epochs": sizes["epochs"], "batch_size": 128, "seed": seed, "features": features}
        fit(model, dataset.train, optimizer, compute=compute, **how)


def call(script: ModuleType, folder: Path, *words: object) -> None:
    """Carry out a script's command line on the CPU, in `folder`, silently unless it is a wrong one."""
    args = [*words, "--data-dir", ROOT / "data", "--device", "cpu", "--precision", "fp32", "--quiet"]
    parsed = script.parser().parse_args([str(word) for word in args])
    folder.mkdir(exist_ok=True)
    silent = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with contextlib.chdir(folder), silent[0], silent[1]:
        script.run(parsed, f"python {script.__name__}.py")


def flags_of(sizes: dict[str, int]) -> tuple[object, ...]:
    """The flags that name a network and its images."""
    return ("--dataset", "fashion-mnist", "--model", "resnet8", "--subset", sizes["images"])


WHAT = {
    "fine-tuning of resnet8": ("resnet8", "fine-tuning"),
    "fine-tuning of a ViT": ("vit", "fine-tuning"),
    "LoRA on a ViT": ("vit", "LoRA"),
    "passes of resnet8": ("resnet8", "scoring"),
    "passes of a ViT": ("vit", "scoring"),
    "evaluate.py": ("resnet8", "evaluate.py"),
    "reproduce.py": ("resnet8", "reproduce.py"),
}


def possible(name: str, what: tuple[str, str]) -> bool:
    """True if a quantity is varied in a kind of work."""
    return name in VARIES[what[1]] and not (name == "width" and what[0] == "resnet8")


def times_four(values: Sequence[int], costs: Sequence[float]) -> float:
    """The most that four of `values` cost, in costs of one: over all pairs of which one is four times the other."""
    known = dict(zip(values, costs, strict=True))
    return max(known[4 * value] / known[value] for value in values if 4 * value in known)


def draw_growth(rows: list[dict[str, Any]], file: str) -> None:
    """Seconds, and MiB, over each quantity that is varied, one legend for all panels; into `file`."""
    quantities = list(dict.fromkeys(row["varied"] for row in rows))
    labels = list(dict.fromkeys(row["what"] for row in rows))
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(WIDTH, 5), layout="constrained")
        axes = figure.subplots(2, len(quantities), sharex="col", sharey="row")
        for axis_of, key, unit in zip(axes, ("seconds", "mib"), ("seconds", "MiB"), strict=True):
            for axis, name in zip(axis_of, quantities, strict=True):
                for row in (row for row in rows if row["varied"] == name):
                    place = labels.index(row["what"])
                    axis.plot(row["values"], row[key], markersize=4, label=row["what"], **series(place))
                axis.set_xscale("log", base=2)
                axis.set_yscale("log")
                axis.set_xticks(row["values"], map(str, row["values"]))
                axis.minorticks_off()
                if key == "mib":
                    axis.set_xlabel(name)
            axis_of[0].set_ylabel(unit)
        legend(figure, axes.flat)
    save(figure, file)


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--output",
        type=results.Output("growth"),
        default=str(ROOT / "results" / "benchmarks" / "growth.json"),
        help="JSON file to write, its picture beside it",
    )
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the files."""
    fresh = multiprocessing.get_context("spawn")  # a process for each measurement, for memory that one has had stays with it
    rows = []
    for label, what in WHAT.items():
        for name, values in VARIED.items():
            if not possible(name, what):
                continue
            with fresh.Pool(1, maxtasksperchild=1) as pool:
                found = pool.starmap(cost, [(what, BASE | {name: value}) for value in values], chunksize=1)
            seconds, memory = zip(*found, strict=True)
            exponents = [float(np.polyfit(np.log(values), np.log(series), 1)[0]) for series in (seconds, memory)]
            rows.append(
                {
                    "what": label,
                    "varied": name,
                    "values": list(values),
                    "seconds": list(seconds),
                    "mib": list(memory),
                    "exponent_seconds": exponents[0],
                    "exponent_mib": exponents[1],
                    "times_four_seconds": (longer := times_four(values, seconds)),
                    "times_four_mib": (larger := times_four(values, memory)),
                    "met": "" if name == "width" else "yes" if max(longer, larger) <= GOAL else "no",
                }
            )
            print(f"{label:22} {name:7} seconds ~ {name}^{exponents[0]:.2f}, memory ~ {name}^{exponents[1]:.2f}", flush=True)
    result = {"table": "growth", "about": ABOUT, **provenance(command, device_name("cpu"))}
    result |= {"base": BASE, "goal": GOAL, "rows": rows}
    results.write(args.output, result)
    draw_growth(rows, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main(measure_all, parser())
