"""The storm: kills before every operation on files of every script that writes, and damaged files of every kind.

    python -m tests.storm                        make storm: in under half an hour on two cores
    python -m tests.storm --kills 3 --files 100   a part

Of commands whose every kill would take longer than their share of --minutes, as many kills are made as there is time for,
spread evenly.

Exit code 1 unless every kill is survived, with the bits of a run that was never killed and nothing left behind, and no
damaged file ends in a traceback, a hang, or a file that is written before it is refused.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a process that has started threads can't be copied

from tests.storm import every, kills, watch
from unlearning.core.flags import typed_command
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results

NEVER = ("tracebacks", "hangs", "files_touched")


def killed(most: int | None, minutes: float) -> dict[str, Any]:
    """The kills, and what came of them."""
    found = kills.main(most, minutes)
    operations = {outcome.command: outcome.of for outcome in found}
    wrong = [outcome for outcome in found if outcome.wrong]
    left = [outcome for outcome in wrong if (outcome.wrong or "").endswith("is left")]
    return {
        "part": "kills",
        "commands": len({outcome.command for outcome in found}),
        "operations": sum(operations.values()),
        "cases": len(found),
        "survived": len(found) - len(wrong),
        "leftovers": len(left),
        "failures": [f"{one.command}, operation {one.operation}: {one.wrong}" for one in wrong],
    }


def main() -> int:
    """Carry out the command line: the exit code."""
    parser = argparse.ArgumentParser(
        "python -m tests.storm", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--kills", type=int, help="kills of each command at most, spread evenly (default: one before each operation)"
    )
    parser.add_argument("--files", type=int, default=3, help="every so manieth damaged file (default: 3)")
    parser.add_argument("--minutes", type=float, default=22, help="for the kills, and beside them the files (default: 22)")
    parser.add_argument("--json", type=results.Output("storm"), help="write the figures there")
    args = parser.parse_args()
    if not watch.is_watched():
        return watch.watched([sys.executable, "-m", "tests.storm", *sys.argv[1:]])
    started = time.time()
    kills.prepare()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    arguments = theirs, args.files, args.minutes
    reader = multiprocessing.get_context("spawn").Process(target=every.into, args=arguments, daemon=True)
    reader.start()
    theirs.close()  # else nothing would say that the reader has died
    rows = [killed(args.kills, args.minutes)]
    try:
        rows.append(ours.recv())
    except EOFError:
        reader.join()
        print(f"the reader of damaged files has died, with exit code {reader.exitcode}")
        return 1
    reader.join()
    for line in [line for row in rows for line in row.pop("failures")]:
        print(line)
    result = {"minutes": round((time.time() - started) / 60, 1), "rows": rows}
    print(json.dumps(result, indent=1))
    if args.json:
        about = {"table": "storm", "about": "Kills before operations on files, and damaged files: what came of them."}
        results.write(args.json, provenance(typed_command(), device_name("cpu")) | about | result)
    killed_well, read_well = rows[0]["survived"] == rows[0]["cases"], not any(rows[1][key] for key in NEVER)
    return 0 if killed_well and read_well else 1


if __name__ == "__main__":
    sys.exit(main())
