"""How long the README's first commands take, one after another, each as a user gives it.

Writes results/benchmarks/first_minutes.json: wall-clock seconds of whole processes, imports included, in a folder that holds
the data set and nothing else. Run it on a quiet machine, after the installation:

    python -m benchmarks.first_minutes
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import data
from unlearning.core.errors import RunFailed
from unlearning.core.flags import Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results

ABOUT = "How long the README's first commands take, imports included."
ROOT = Path(__file__).parent.parent


def first_commands() -> list[str]:
    """The command of `make table`, then those of the README's section "By hand"."""
    table = re.search(r"bin/(python reproduce.+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    by_hand = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## By hand\n")[1].split("\n## ")[0]
    return [table[1] if table else "", *re.findall(r"^    (python .+)$", by_hand, re.MULTILINE)]


def seconds_of(command: str, folder: Path, *options: str) -> float:
    """Wall-clock seconds of a command in a folder. options: of Python itself. Raises RunFailed with its last line if it
    fails."""
    python = shlex.join([sys.executable, *options])
    words = re.sub(r"^python (\w+\.py)", rf"{python} {ROOT}/\1", command)
    words = re.sub(r"^python ", f"{python} ", words)
    started = time.perf_counter()
    place = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, shell=True, cwd=folder, env=place, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RunFailed(f"{command}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return time.perf_counter() - started


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    output = ROOT / "results" / "benchmarks" / "first_minutes.json"
    parser.add_argument("--output", type=results.Output("first_minutes"), default=str(output), help="JSON file to write")
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Time every command and write the file."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        data.load("fashion-mnist", Path(folder) / "data")  # how long a download takes is the network's affair
        for step, line in enumerate(first_commands()):
            rows.append({"step": step, "command": line, "seconds": seconds_of(line, Path(folder))})
            print(f"{rows[-1]['seconds']:6.1f} s  {line}", flush=True)
    result = {"table": "first_minutes", "about": ABOUT, **provenance(command, device_name("cpu")), "rows": rows}
    results.write(args.output, result)


if __name__ == "__main__":
    main(measure_all, parser())
