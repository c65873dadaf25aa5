"""What does scoring a checkpoint cost beyond looking at the images once?

Times one forward pass over training and test images and, apart, each thing that evaluate.py does with a checkpoint: the
scores of its answers (attacks included), the distances from Retrain, probe and features, the relearning curve.
Writes results/benchmarks/scoring.json.

    python -m benchmarks.scoring model_weights/prunelora-quick/*_class3_finetune5_s0.pth
"""

import argparse
import time
from pathlib import Path
from typing import Any

import data
import models
from unlearning.core.device import Compute
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.paths import input_path
from unlearning.core.provenance import device_name, provenance
from unlearning.evaluation import network
from unlearning.images import forgetting
from unlearning.metrics import predictions
from unlearning.reports import results
from unlearning.vision.predict import penultimate, predict, relearn

ABOUT = "What scoring a checkpoint costs beyond one pass over the images."


def measure(path: Path, subset: int | None, rounds: int) -> dict[str, Any]:
    """Median seconds of each part, over the rounds, for the network in `path` on `subset` images (None: all)."""
    checkpoint = models.load_checkpoint(path)
    model = models.build(checkpoint, path)
    compute = Compute("cpu", None, path.parent, quiet=True).placed(model)
    dataset = data.load(checkpoint["data"]["dataset"], subset=subset)
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3])
    sets, train = network.four_sets(dataset, forget), dataset.train
    sample = data.stratified(train.labels, min(network.PROBE_LIMIT, len(train)))
    gone = dataset.test.take(sets.forget_test)
    predict(model, train.take(slice(2000)), compute)  # warm-up
    parts = {name: [] for name in ("forward", "scores", "distances", "probe", "relearning")}
    for _ in range(rounds):
        clock = [time.perf_counter()]
        logits = [predict(model, split, compute) for split in (train, dataset.test)]
        clock.append(time.perf_counter())
        network.score(logits, dataset, forget, "svc")
        clock.append(time.perf_counter())
        network.distances(logits[0], logits[0].flip(1), forget)
        clock.append(time.perf_counter())
        features = penultimate(model, train.take(sample), compute)
        predictions.linear_probe(features, train.labels[sample], penultimate(model, gone, compute), gone.labels)
        clock.append(time.perf_counter())
        some = gone.take(slice(network.RELEARN_LIMIT))
        relearn(model, train.take(forget), some, compute, network.RELEARN_STEPS)
        clock.append(time.perf_counter())
        for name, start, end in zip(parts, clock, clock[1:], strict=False):
            parts[name].append(end - start)
    seconds = {name: sorted(values)[len(values) // 2] for name, values in parts.items()}
    extra = sum(seconds.values()) - seconds["probe"]
    return {
        "model": checkpoint["network"]["name"],
        "images": len(train) + len(dataset.test),
        "seconds": seconds,
        "ratio_without_probe": extra / seconds["forward"],
        "ratio_without_probe_and_relearning": (extra - seconds["relearning"]) / seconds["forward"],
    }


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the file."""
    rows = [measure(path, subset, args.rounds) for path in args.checkpoints for subset in (10_000, None)]
    for row in rows:
        print(row, flush=True)
    result = {
        "table": "scoring",
        "about": ABOUT,
        **provenance(command, device_name("cpu")),
        "rows": rows,
    }
    results.write(args.output, result)


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=input_path, help="checkpoints of this project")
    parser.add_argument("--rounds", type=POSITIVE_INT, default=3, help="rounds; the median counts (default: 3)")
    output = "results/benchmarks/scoring.json"
    parser.add_argument("--output", type=results.Output("scoring"), default=output, help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
