"""How close training.fit comes to a bare loop, and which precision is faster: results/throughput.json.

The bare loop runs forward, backward and step on one batch that stays in place; nothing can train faster with this network.
Both take turns, so that a slower machine slows both. Run it on a quiet machine:

    python -m benchmarks.throughput
"""

import argparse
import math
import statistics
import sys
from pathlib import Path

import torch
from torch import nn

import data
import models
from unlearning.core.device import autocast, best_precision, clock, memory_format, resolve_device, to_float
from unlearning.core.files import write_text
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results
from unlearning.vision.train import fit

ROOT = Path(__file__).parent.parent
NETWORKS = ["resnet8", "resnet20", "resnet18", "resnet50", "tf_efficientnet_lite0", "vit_micro", "vit_small"]


def bare_loop(model, split, precision, device, steps=None):
    """Images a second of forward, backward and step on one resident batch of 128, for `steps` or as many as fit takes."""
    layout = memory_format(model)
    model.to(device, memory_format=layout).train()
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


def ours(model, split, precision, device):
    """Images a second of one epoch of training.fit with the same optimiser and batch size."""
    config = argparse.Namespace(
        epochs=1,
        batch_size=128,
        seed=0,
        device=str(device),
        precision=precision,
        quiet=True,
        snapshot=None,
        cost={},
        cache=0,
    )
    fit(model, split, torch.optim.Adam(model.parameters(), lr=1e-3), config)
    return len(split) / config.cost["seconds"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=NETWORKS, help=f"networks (default: {' '.join(NETWORKS)})")
    parser.add_argument(
        "--seconds", type=float, default=5, help="about as long lasts an epoch of Fashion-MNIST (default: 5)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "throughput.json", help="JSON file to write")
    config = parser.parse_args()
    device = torch.device(resolve_device(config.device))
    dataset = data.load("fashion-mnist", ROOT / "data")
    rows = []
    for name in config.model:
        model, _ = models.create_for(name, dataset)
        for precision in ("fp32", "bf16"):
            for steps in (1, 2):  # the first is a warm-up
                rate = bare_loop(model, dataset.train, precision, device, steps)
            split = dataset.train.take(slice(128 * math.ceil(rate * config.seconds / 128)))
            turns = [
                (bare_loop(model, split, precision, device), ours(model, split, precision, device))
                for _ in range(config.rounds)
            ]
            ratios = [100 * fit / bare for bare, fit in turns]
            row = {
                "model": name,
                "precision": precision,
                "default": precision == best_precision(model, device),
                "bare_images_per_s": statistics.median(bare for bare, _ in turns),
                "images_per_s": statistics.median(fit for _, fit in turns),
                "of_bare_loop": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            }
            rows.append(row)
            print(
                f"{name:21} {precision}  bare {row['bare_images_per_s']:7,.0f}  fit {row['images_per_s']:7,.0f} images/s"
                f"  {row['of_bare_loop']['median']:5.1f} % ({min(ratios):.1f} to {max(ratios):.1f})"
                f"{'  default' if row['default'] else ''}",
                flush=True,
            )
    result = {
        "table": "throughput",
        **provenance(" ".join(["python -m benchmarks.throughput", *sys.argv[1:]]), device_name(device)),
        "rows": rows,
    }
    write_text(config.output, results.dump(result))


if __name__ == "__main__":
    main()
