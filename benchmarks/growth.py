"""How seconds and memory grow: with images, epochs, seeds and the width of a network. results/benchmarks/growth.{json,png}.

One thing is varied at a time, doubling, the others stay. Fine-tuning trains every weight of resnet8 or of a ViT; LoRA trains
the tail above kept outputs; scoring is a pass over all images. A straight line through the logarithms gives the exponent: 1
is linear.

    python -m benchmarks.growth
"""

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

import data
import models
from unlearning.core.device import Compute, peak_memory_mib, reset_peak_memory
from unlearning.core.flags import CACHE_MIB, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results
from unlearning.reports.style import LOOK, WIDTH, legend, save, series
from unlearning.vision import adapters
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.predict import predict
from unlearning.vision.train import fit

ABOUT = "How seconds and memory grow with images, epochs, seeds and the width of a network."

ROOT = Path(__file__).parent.parent
BASE = {"images": 2000, "epochs": 2, "seeds": 1, "width": 64}
VARIED = {"images": (1000, 2000, 4000, 8000), "epochs": (1, 2, 4, 8), "seeds": (1, 2, 4), "width": (32, 64, 128, 256)}


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
    compute, features = Compute("cpu", "fp32", ROOT / "model_weights", quiet=True), FeatureCache(CACHE_MIB)
    reset_peak_memory("cpu")
    before = peak_memory_mib("cpu")
    dataset = data.load("fashion-mnist", ROOT / "data", subset=sizes["images"])
    split = dataset.train
    started = time.perf_counter()
    for seed in range(sizes["seeds"]):
        model = network(kind, sizes["width"], dataset)
        if work == "scoring":
            predict(model, split, compute, features)
            continue
        if work == "LoRA":
            model = adapters.attach(model, adapters.last_and_head(model), 16, 32)
        optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
        how = {"epochs": sizes["epochs"], "batch_size": 128, "seed": seed, "features": features}
        fit(model, split, optimizer, compute=compute, **how)
    return time.perf_counter() - started, peak_memory_mib("cpu") - before


WHAT = {
    "fine-tuning, resnet8": ("resnet8", "fine-tuning"),
    "fine-tuning, ViT": ("vit", "fine-tuning"),
    "LoRA, ViT": ("vit", "LoRA"),
    "scoring, resnet8": ("resnet8", "scoring"),
    "scoring, ViT": ("vit", "scoring"),
}


def possible(name: str, what: tuple[str, str]) -> bool:
    """True if a quantity means anything to a kind of work."""
    return not (name == "width" and what[0] == "resnet8") and not (name in ("epochs", "seeds") and what[1] == "scoring")


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
        type=results.output,
        default=ROOT / "results" / "benchmarks" / "growth.json",
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
                }
            )
            print(f"{label:22} {name:7} seconds ~ {name}^{exponents[0]:.2f}, memory ~ {name}^{exponents[1]:.2f}", flush=True)
    result = {"table": "growth", "about": ABOUT, **provenance(command, device_name("cpu"))}
    result |= {"base": BASE, "rows": rows}
    results.write(args.output, result)
    draw_growth(rows, args.output.with_suffix(".png"))


if __name__ == "__main__":
    main(measure_all, parser())
