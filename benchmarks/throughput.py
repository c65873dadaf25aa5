"""How close train.fit comes to a bare loop, and which precision is faster: results/benchmarks/throughput.json.

The bare loop runs forward, backward and step on one batch that stays in place; nothing can train faster with this network.
Both take turns, so that a slower machine slows both. Run it on a quiet machine:

    python -m benchmarks.throughput
"""

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core.device import Compute, autocast, best_precision, clock, memory_format, resolve_device, to_float
from unlearning.core.flags import POSITIVE_FLOAT, POSITIVE_INT, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results
from unlearning.vision.train import fit

ABOUT = "How close the training loop comes to a bare loop, and which precision is faster."

ROOT = Path(__file__).parent.parent
NETWORKS = ["resnet8", "resnet20", "resnet18", "resnet50", "tf_efficientnet_lite0", "vit_micro", "vit_small"]


def bare_loop(model: nn.Module, split: data.Split, precision: str, device: torch.device, steps: int | None = None) -> float:
    """Images a second of forward, backward and step on one resident batch of 128, for `steps` or as many as fit takes."""
    layout = memory_format(model)
    model.to(device).to(memory_format=layout).train()
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    x = to_float(split.images[:128].to(device), layout)
    y = split.labels[:128].to(device)
    steps = steps or len(split) // 128
    started = clock(device)
    for _ in range(steps):
        with autocast(device, precision):
            logits = model(x)
        loss = nn.functional.cross_entropy(logits.float(), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return steps * len(x) / (clock(device) - started)


def ours(model: nn.Module, split: data.Split, precision: str, device: torch.device) -> float:
    """Images a second of one epoch of train.fit with the same optimiser and batch size."""
    compute = Compute(str(device), precision, ROOT / "model_weights", quiet=True)
    cost = fit(
        model, split, torch.optim.Adam(model.parameters(), lr=1e-3), epochs=1, batch_size=128, seed=0, compute=compute
    )
    return len(split) / cost["seconds"]


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--model", nargs="+", default=NETWORKS, help=f"networks (default: {' '.join(NETWORKS)})")
    flag("--seconds", type=POSITIVE_FLOAT, default=5, help="about as long lasts an epoch of Fashion-MNIST (default: 5)")
    flag("--rounds", type=POSITIVE_INT, default=5, help="turns of each (default: 5)")
    flag("--device", type=resolve_device, default="auto", help="auto, cpu or cuda (default: auto)")
    flag(
        "--output",
        type=results.Output("throughput"),
        default=str(ROOT / "results" / "benchmarks" / "throughput.json"),
        help="JSON file to write",
    )
    return parser


def measure(name: str, precision: str, dataset: data.Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """The row of a network in one precision."""
    device = torch.device(args.device)
    model, _ = models.create_for(name, dataset)
    for steps in (1, 2):  # the first is a warm-up
        rate = bare_loop(model, dataset.train, precision, device, steps)
    split = dataset.train.take(slice(128 * math.ceil(rate * args.seconds / 128)))
    both = (bare_loop, ours)
    turns = [[way(model, split, precision, device) for way in both] for _ in range(args.rounds)]
    ratios = [100 * fit / bare for bare, fit in turns]
    return {
        "model": name,
        "precision": precision,
        "default": precision == best_precision(model, device),
        "bare_images_per_s": statistics.median(bare for bare, _ in turns),
        "images_per_s": statistics.median(fit for _, fit in turns),
        "of_bare_loop": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure all networks in both precisions and write the file."""
    dataset, rows = data.load("fashion-mnist", ROOT / "data"), []
    for name in args.model:
        for precision in ("fp32", "bf16"):
            row = measure(name, precision, dataset, args)
            rows.append(row)
            share = row["of_bare_loop"]
            print(
                f"{name:21} {precision}  bare {row['bare_images_per_s']:7,.0f}  fit {row['images_per_s']:7,.0f} images/s"
                f"  {share['median']:5.1f} % ({share['min']:.1f} to {share['max']:.1f})"
                f"{'  default' if row['default'] else ''}",
                flush=True,
            )
    result = {"table": "throughput", "about": ABOUT, **provenance(command, device_name(args.device)), "rows": rows}
    results.write(args.output, result)


if __name__ == "__main__":
    main(measure_all, parser())
