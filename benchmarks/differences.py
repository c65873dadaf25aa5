"""Differences between rows of the first table, paired by seed, and how its measures order the methods: what its page says.

From results/prunelora-first alone, whose seeds are few: an interval is Student's t over them. Writes
results/benchmarks/differences.json.

    python -m benchmarks.differences
"""

import argparse
import itertools
from pathlib import Path
from typing import Any

from unlearning.core.flags import Parser, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.metrics.statistics import mean_ci95
from unlearning.reports import folders, orders, results

ABOUT = "Differences between rows of the first table, paired by seed, and how its measures order the methods."
PAIRS = (  # row, row that it is compared with, metric
    *((row, "mask", "gap") for row in ("delete", "bias")),
    *(
        (row, "mask", "probe")
        for row in ("regun", "neglora --bound 5", "delete", "finetune", "pruneft", "lora", "loraprune", "scrub", "negate")
    ),
    *(("loraprune", row, "TA") for row in ("lora", "finetune", "pruneft")),
    ("loraprune", "lora", "UA"),
    *((f"loraprune --forget-loss {loss}", "loraprune", "ncc_gap") for loss in ("bounded", "delete", "residual")),
)


def difference(rows: list[Any], row: str, other: str, metric: str) -> dict[str, Any]:
    """A metric of one row less that of another, seed by seed: mean and half-width of its 95 % interval."""
    one, two = (next(r for r in rows if r["method"] == name)["metrics"][metric]["values"] for name in (row, other))
    mean, half = mean_ci95([a - b for a, b in zip(one, two, strict=True)])
    return {"row": row, "than": other, "metric": metric, "difference": mean, "interval": half}


def measured(rows: list[Any]) -> list[dict[str, Any]]:
    """Every pair of PAIRS, every two measures, and how many pairs of methods each measure tells apart."""
    far = orders.distances(rows)
    found = [difference(rows, *pair) for pair in PAIRS]
    found += [{"measure": a, "other": b, "tau": orders.tau(far[a], far[b])} for a, b in itertools.combinations(far, 2)]
    return found + [{"apart": name, "share": orders.told_apart(far[name])} for name in far]


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    text = "folder of the table (default: results/prunelora-first)"
    parser.add_argument("table", type=folder, nargs="?", default=Path("results/prunelora-first"), help=text)
    output = Path("results/benchmarks/differences.json")
    parser.add_argument("--output", type=results.output, default=output, help="JSON file to write")
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Compute and write the JSON."""
    rows = measured(results.read(args.table / folders.FILES["json"])["rows"])
    about = {"table": "differences", "about": ABOUT, **provenance(command, device_name("cpu"))}
    results.write(args.output, about | {"rows": rows})


if __name__ == "__main__":
    main(measure_all, parser())
