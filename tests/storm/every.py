"""Damaged files of every kind, each read by every command that takes it: refused in one line, or taken."""

import contextlib
import io
import itertools
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.storm import sound
from unlearning.core.device import peak_memory_mib
from unlearning.vision.shared import Shared

LONGEST = 60  # seconds after which a command hangs


class Read(NamedTuple):
    """What came of a damaged file. case: its kind, field and fault. wrong: what it ended in but for a refusal, else None."""

    case: tuple[str, str, str]
    refused: bool
    hung: bool
    wrong: str | None


def damaged(step: int, minutes: float) -> dict[str, Any]:
    """The damaged files, and what came of them."""
    found = list(read_all(step, time.time() + 60 * minutes))
    wrong = [one for one in found if one.wrong]
    return {
        "part": "damaged files",
        "kinds": len({one.case[0] for one in found}),
        "cases": len({one.case for one in found}),
        "refused": sum(one.refused for one in found),
        "tracebacks": len([one for one in wrong if not one.hung and "is written" not in str(one.wrong)]),
        "hangs": sum(one.hung for one in found),
        "files_touched": len([one for one in wrong if "is written" in str(one.wrong)]),
        "peak_mib": round(peak_memory_mib("cpu")),
        "failures": [f"{'.'.join(one.case)}: {one.wrong}" for one in wrong],
    }


def into(pipe: Any, step: int, minutes: float) -> None:
    """Send what `damaged` gives."""
    pipe.send(damaged(step, minutes))


def read_all(step: int, until: float) -> Iterator[Read]:
    """Read every `step`-th damaged file of each kind, until the clock says `until`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sound"
        folder.mkdir()
        sound.build(folder)
        sound.build_slow(folder)
        every = [sound.all_cases(kind, folder) for kind in sound.KINDS]
        shared = Shared(64)
        in_turn = itertools.zip_longest(*(cases[::step] for cases in every))  # time may run out
        for case in (case for some in in_turn for case in some if case):
            if time.time() > until:
                return
            yield _read(case, folder, Path(place) / "x", shared)


def _read(case: sound.Case, folder: Path, place: Path, shared: Shared) -> Read:
    assert sys.platform != "win32", "the storm needs fork and alarm"
    refused, hung, wrong = False, False, None
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            refused = sound.survives(case, folder, place, shared)
    except AssertionError as error:
        wrong, hung = str(error)[:300], isinstance(error.__cause__, TimeoutError)
    finally:
        signal.alarm(0)
    return Read(case[:3], refused, hung, wrong)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"it takes more than {LONGEST} s")
