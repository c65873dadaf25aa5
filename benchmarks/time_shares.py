"""Where the time of `make table` goes: its command as a whole process, under Python's own profiler.

Shares are of the process's seconds. What a part calls counts to it, so that parts overlap: an attack's share holds the
import of scikit-learn, training's the tracing of a network. Writes results/benchmarks/time_shares.json. Run it on a quiet
machine:

    python -m benchmarks.time_shares
"""

import argparse
import pstats
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.first_minutes import ROOT, first_commands, seconds_of
from unlearning.core.errors import RunFailed
from unlearning.core.flags import Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results

ABOUT = "Where the time of `make table` goes."
# Functions by the end of their file's path and their name. None of a part calls another of the same part.
PARTS = {
    "imports": (("<frozen importlib._bootstrap>", "_find_and_load"),),
    "training": (("vision/train.py", "fit"),),
    "tracing": (("vision/graph_cut.py", "cut_at"),),
    "answers": (("vision/predict.py", "predict"),),
    "attacks": (("evaluation/network.py", "_efficacy"), ("evaluation/network.py", "_told_apart")),
    "probe": (("metrics/predictions.py", "linear_probe"),),
    "nearest centre": (("metrics/predictions.py", "nearest_centre"),),
    "relearning": (("vision/predict.py", "relearn"),),
    "pictures and pages": (("reports/folders.py", "write"),),
}


def profiled(command: str, folder: Path) -> tuple[float, dict[str, tuple[int, float]]]:
    """(seconds of a command in a folder, {part: (calls, seconds)}). Raises RunFailed if it trains nothing."""
    file = folder / "profile"
    seconds = seconds_of(command, folder, "-m", "cProfile", "-o", str(file))
    known: Any = pstats.Stats(str(file))
    found = {part: _spent(known.stats, functions) for part, functions in PARTS.items()}
    if not found["training"][0]:  # the profiler keeps a command's exit code to itself
        raise RunFailed(f"{command}: nothing was trained")
    return seconds, found


def _spent(known: dict[tuple[str, int, str], tuple], functions: tuple[tuple[str, str], ...]) -> tuple[int, float]:
    """(calls of some functions, seconds until they returned), of the entries of a profile as pstats has them."""
    found = [
        values
        for (path, _, name), values in known.items()
        if any(name == wanted and path.replace("\\", "/").endswith(file) for file, wanted in functions)
    ]
    return sum(values[1] for values in found), sum(values[3] for values in found)


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Profile the command and write the file."""
    profile = first_commands()[0]
    with tempfile.TemporaryDirectory() as folder:
        seconds, parts = profiled(profile, Path(folder))
    rows = [
        {"part": part, "calls": calls, "seconds": spent, "share": 100 * spent / seconds}
        for part, (calls, spent) in sorted(parts.items(), key=lambda item: -item[1][1])
    ]
    for row in rows:
        print(f"{row['share']:5.1f} %  {row['seconds']:6.1f} s  {row['part']}", flush=True)
    whole = {"part": "whole process", "seconds": seconds, "share": 100.0, "profiled": profile}
    about = {"table": "time_shares", "about": ABOUT, **provenance(command, device_name("cpu"))}
    results.write(args.output, about | {"rows": [whole, *rows]})


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    output = ROOT / "results" / "benchmarks" / "time_shares.json"
    parser.add_argument("--output", type=results.Output("time_shares"), default=str(output), help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
