"""Do two rows of a committed table come out again? They are made anew, one seed, and set against the interval of its seeds.

One more run lies, with 95 % probability, within t s sqrt(1 + 1/n) of the mean of n seeds with standard deviation s, and no
interval is taken as narrower than a point to either side: other machines round otherwise. A metric outside ends this with
exit code 1.

    python -m benchmarks.check_rows
    python -m benchmarks.check_rows results/random-quick --methods lora
"""

import argparse
import itertools
import math
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.first_minutes import ROOT, seconds_of
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import Parser, main
from unlearning.core.paths import folder
from unlearning.metrics.statistics import mean_ci95
from unlearning.reports import folders, results

METRICS = ("UA", "RA", "TA", "MIA", "gap")
METHODS = ("finetune", "loraprune")
LEAST = 1.0  # percentage points: how narrow an interval may be to either side
# Flags that are given anew, or say where and how often it was computed.
OWN = {"--results", "--methods", "--seeds", "--data-dir", "--overwrite", "--quiet", "--ray", "--cores", "--device"}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half-width) of where one more run lies with 95 % probability. values: one for each of at least two seeds."""
    mean, half = mean_ci95(values)  # t s / sqrt(n)
    assert half is not None  # there are two seeds or more
    return mean, max(LEAST, half * math.sqrt(len(values) + 1))


def again(command: str, methods: Sequence[str], data_dir: Path) -> str:
    """A table's command for these rows and one seed, to be given in any folder."""
    kept, own = ["python", "reproduce.py"], False
    for word in itertools.chain(
        *(part.split("=", 1) if part.startswith("--") else [part] for part in shlex.split(command)[2:])
    ):
        own = word in OWN or (own and not word.startswith("--"))
        kept += [] if own else [_from_anywhere(word)]
    return shlex.join([*kept, "--methods", *methods, "--seeds", "1", "--data-dir", str(data_dir), "--quiet"])


def _from_anywhere(word: str) -> str:
    """A word of a command, a path or `folder:` and one, whole where there is such a file in the project's folder."""
    kind, colon, path = word.rpartition(":")
    there = not word.startswith("--") and ("/" in path or colon) and (ROOT / path).exists()
    return f"{kind}{colon}{ROOT / path}" if there else word


def compared(before: dict[str, Any], after: dict[str, Any]) -> list[tuple[str, str, float, float, float]]:
    """(row, metric, mean, half-width, new value) of each metric that a row of both results has. Raises UserError where a row
    has one seed, which has no interval."""
    found = []
    identity = ("dataset", "model", "forget", "method", "epochs")
    new = {tuple(row[key] for key in identity): row["metrics"] for row in after["rows"]}
    for row in before["rows"]:
        if row["method"] in ("original", "retrain") or (metrics := new.get(tuple(row[key] for key in identity))) is None:
            continue
        if row["n"] < 2:
            raise UserError(f"{row['method']} has one seed: there is no interval to compare with")
        for name in METRICS:
            if "values" in row["metrics"].get(name, {}) and "mean" in metrics.get(name, {}):
                label = f"{row['model']}, {row['forget']}, {row['method']}"
                found.append((label, name, *interval(row["metrics"][name]["values"]), metrics[name]["mean"]))
    return found


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    text = "folder of the table (default: results/prunelora-first)"
    parser.add_argument("table", type=folder, nargs="?", default=Path("results/prunelora-first"), help=text)
    text = f"rows of it (default: {' '.join(METHODS)})"
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="ROW", help=text)
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Make the rows again and compare; one line a metric."""
    before = results.read(args.table / folders.FILES["json"])
    with tempfile.TemporaryDirectory() as place:
        seconds_of(again(before["command"], args.methods, args.data_dir.resolve()), Path(place))
        made = next(Path(place).glob(f"results/*/{folders.FILES['json']}"), None)
        if made is None:
            raise RunFailed(f"{before['command']}: it made no table")
        found = compared(before, results.read(made))
    if not found:
        raise UserError(f"{args.table} has no row of {', '.join(args.methods)} to compare with")
    outside = [line for line in found if abs(line[4] - line[2]) > line[3]]
    for label, name, mean, half, value in found:
        print(f"{label}: {name} {value:.2f}, {mean:.2f} ± {half:.2f} for one more run")
    if outside:
        lines = "; ".join(f"{label}: {name} {value:.2f}" for label, name, _, _, value in outside)
        raise RunFailed(f"outside their intervals: {lines}")
    print(f"{len(found)} metrics lie in their intervals")


if __name__ == "__main__":
    main(measure_all, parser())
