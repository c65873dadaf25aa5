"""What the networks that come with this project are: file, SHA-256, how it was made, and how it scores on all images.

RA and TA: accuracy in percent on the training images that it was to keep, and on the test images of their classes. UA: the
error on the training images that a Retrain never saw. Writes results/benchmarks/shipped.json, from which
`python reproduce.py pages` draws the table of model_weights/README.md.

    python -m benchmarks.shipped
"""

import argparse
from pathlib import Path
from typing import Any

import data
import models
from unlearning.core.device import Compute
from unlearning.core.flags import Parser, add_device_flags, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.evaluation.network import four_sets
from unlearning.metrics.predictions import accuracy
from unlearning.reports import results
from unlearning.vision import shipped
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

ABOUT = "The networks that come with this project, and how they score."


def measure(name: str, digest: str, compute: Compute, data_dir: Path, shared: Shared) -> dict[str, Any]:
    """A row: the file of this name, with its SHA-256, command, cost and scores."""
    path = shipped.FOLDER / name
    checkpoint = models.load_checkpoint(path)
    dataset = shared.load(data.Source.of(checkpoint["data"], data_dir))
    model, forget = models.build(checkpoint, path), checkpoint["forget"]
    compute, sets = compute.placed(model), four_sets(dataset, forget)
    train, test = (predict(model, split, compute) for split in (dataset.train, dataset.test))
    return {
        "file": name,
        "sha256": digest,
        "kib": round(path.stat().st_size / 1024),
        "UA": 100 - accuracy(train[forget], dataset.train.labels[forget]) if len(forget) else None,
        "RA": accuracy(train[sets.retain], dataset.train.labels[sets.retain]),
        "TA": accuracy(test[sets.retain_test], dataset.test.labels[sets.retain_test]),
        "minutes": checkpoint["cost"]["seconds"] / 60,
        **{key: checkpoint[key] for key in ("command", "date", "device")},
    }


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add_device_flags(parser)
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    output = Path("results/benchmarks/shipped.json")
    parser.add_argument("--output", type=results.Output("shipped"), default=str(output), help="JSON file to write")
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Score every file and write the JSON."""
    args.weights = shipped.FOLDER
    compute, shared = Compute.from_flags(args), Shared()
    rows = []
    for name, digest in shipped.listed().items():
        rows.append(measure(name, digest, compute, args.data_dir, shared))
        print({key: rows[-1][key] for key in ("file", "UA", "RA", "TA")}, flush=True)
    results.write(
        args.output, {"table": "shipped", "about": ABOUT, **provenance(command, device_name(compute.device)), "rows": rows}
    )


if __name__ == "__main__":
    main(measure_all, parser())
