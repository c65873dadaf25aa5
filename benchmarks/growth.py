"""How seconds and memory grow: with images, epochs, seeds and the width of a network. results/growth.{json,png}.

One thing is varied at a time, doubling, the others stay. Fine-tuning trains every weight of resnet8 or of a ViT; LoRA trains
the tail above kept outputs; scoring is a pass over all images. A straight line through the logarithms gives the exponent: 1
is linear.

    python benchmarks/growth.py
"""

import argparse
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import adapters  # noqa: E402
import cli  # noqa: E402
import data  # noqa: E402
import devices  # noqa: E402
import models  # noqa: E402
import pictures  # noqa: E402
import report  # noqa: E402
import training  # noqa: E402

BASE = {"images": 2000, "epochs": 2, "seeds": 1, "width": 64}
VARIED = {"images": (1000, 2000, 4000, 8000), "epochs": (1, 2, 4, 8), "seeds": (1, 2, 4), "width": (32, 64, 128, 256)}


def network(kind, width, dataset):
    """A fresh network on the CPU: resnet8, or a ViT of four blocks of the given width."""
    torch.manual_seed(0)
    model, arguments = models.create_for("resnet8" if kind == "resnet8" else "vit_micro", dataset)
    if kind != "resnet8":
        size = arguments["img_size"]
        model.net = models.simple_vit(arguments["in_chans"], 10, size, size // 4, width, depth=4, heads=4)
    return model


def cost(what, sizes):
    """(seconds, MiB above those of Python and its libraries) of one of WHAT at the given sizes."""
    kind, work = what
    cpu = torch.device("cpu")
    devices.reset_peak_memory(cpu)
    before = devices.peak_memory_mib(cpu)
    dataset = data.load("fashion-mnist", ROOT / "data", subset=sizes["images"])
    split = dataset.train
    config = argparse.Namespace(
        epochs=sizes["epochs"], batch_size=128, device="cpu", precision="fp32", quiet=True, snapshot=None, cost={}
    )
    config.cache, config.weights = 4096, ROOT / "model_weights"
    started = time.perf_counter()
    for config.seed in range(sizes["seeds"]):
        model = network(kind, sizes["width"], dataset)
        if work == "scoring":
            training.predict(model, split, config)
            continue
        if work == "LoRA":
            model = adapters.attach(model, adapters.last_and_head(model), 16, 32)
        training.fit(model, split, torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3), config)
    return time.perf_counter() - started, devices.peak_memory_mib(cpu) - before


WHAT = {
    "fine-tuning, resnet8": ("resnet8", "fine-tuning"),
    "fine-tuning, ViT": ("vit", "fine-tuning"),
    "LoRA, ViT": ("vit", "LoRA"),
    "scoring, resnet8": ("resnet8", "scoring"),
    "scoring, ViT": ("vit", "scoring"),
}


def possible(name, what):
    """Whether a quantity means anything to a kind of work."""
    return not (name == "width" and what[0] == "resnet8") and not (name in ("epochs", "seeds") and what[1] == "scoring")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "growth", help="STEM of the files to write")
    config = parser.parse_args()
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
    result = {"table": "growth", **cli.provenance("python benchmarks/growth.py", cli.device_name("cpu"))}
    result |= {"base": BASE, "rows": rows}
    report.write(f"{config.output}.json", report.dump(result))
    pictures.growth(rows, f"{config.output}.png")


if __name__ == "__main__":
    main()
