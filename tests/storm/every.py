"""Every damaged file of every kind, or of those named: `python -m tests.storm.every result part`. A traceback: exit code 1.

--every N reads each N-th alone.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

from tests.storm import sound
from unlearning.vision.shared import Shared


def failures(kind: str, folder: Path, step: int = 1) -> list[str]:
    """What damaged files of a kind end in, but for refusals. folder: with sound files."""
    found, shared = [], Shared(64)
    with tempfile.TemporaryDirectory() as place:
        for case in sound.all_cases(kind, folder)[::step]:
            try:
                with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                    sound.survives(case, folder, Path(place) / "x", shared)
            except AssertionError as error:
                found.append(str(error))
    return found


def main() -> None:
    """Carry out the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*sound.KINDS, []], default=[])
    parser.add_argument("--every", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        sound.build(Path(place))
        every = [line for kind in args.kinds or sound.KINDS for line in failures(kind, Path(place), args.every)]
    print(*every, f"{len(every)} tracebacks", sep="\n")
    sys.exit(bool(every))


if __name__ == "__main__":
    main()
