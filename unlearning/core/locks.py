"""One process at a time writes a file or a folder: the others wait, and say for whom."""

import contextlib
import fnmatch
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from unlearning.core import distributed
from unlearning.core.errors import UserError
from unlearning.core.files import being_replaced, recover, writing
from unlearning.core.words import say

LOCK = ".unlearning-lock"  # the end of its name


@contextlib.contextmanager
def locked(path: Path, also: Sequence[Path] = ()) -> Iterator[None]:
    """Hold the lock on `path`, which is to be written, and clear up what killed processes have left of it.

    also: what is written along with it. Waits, with a line that names the holder, as long as another process has it; of
    several processes of one run the first holds it for all, and doesn't wait, for the others don't know. Raises RunFailed
    where nothing can be written there, and UserError where it is held and several processes run, and as `check_place`.
    """
    if not distributed.is_main():
        yield
        return
    from filelock import FileLock, Timeout

    check_place(path)
    place = _place(path)
    with writing(path):
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            line = f"{path} is being written by {_holder(place)}"
            if distributed.count() > 1:
                raise UserError(line) from None
            say(f"{line}: waiting for it")
            lock.acquire()
    try:
        with contextlib.suppress(OSError):
            place.write_text(_own_name(), encoding="utf-8", errors="backslashreplace")
        recover(path)
        for each in also:
            _recover_unheld(each)
        yield
    finally:
        with contextlib.suppress(OSError):  # where an open file can't be removed, it stays
            place.unlink()
        lock.release()


def recover_within(folder: Path, *names: str) -> None:
    """`recover` for what has one of these names, or patterns of names, in a folder on which the lock is held, unless a live
    process has it: one of this machine by its number, one of another by its lock on that file."""
    for path in being_replaced(folder):
        if any(fnmatch.fnmatchcase(path.name, name) for name in names):
            _recover_unheld(path)


def _recover_unheld(path: Path) -> None:
    """`recover` for what is written along with the thing on which the lock is held, and may be another process's own."""
    if not is_locked_now(path):
        recover(path, spare_live=True)


@contextlib.contextmanager
def to_make(path: Path, is_there: Callable[[], bool], also: Sequence[Path] = ()) -> Iterator[bool]:
    """Hold the lock on `path` unless it is there already: whether it is to be made.

    is_there: asked again once the lock is held, for another process may have made it meanwhile. also: as of `locked`, whose
    errors it raises.
    """
    if not is_held(path) and is_there():
        yield False
        return
    with locked(path, also):
        yield not is_there()


def settle(path: Path) -> None:
    """Wait for the process that writes `path`, and clear up what one that was killed has left of it; raises as `locked`.

    For who reads what others may write: `to_make` and `locked` do it themselves.
    """
    if is_held(path):
        with locked(path):
            pass


def check_place(path: Path) -> None:
    """Raise UserError where something else lies in the place of the lock on `path`: a link, a folder, a pipe."""
    place = _place(path)
    if os.path.lexists(place) and (place.is_symlink() or not place.is_file()):
        raise UserError(f"{place} is a link, or no file, where the lock on {path.name} is to be: move it")


def is_held(path: Path) -> bool:
    """True where a process holds the lock on `path`, or died while it did: `locked` tells, and clears up."""
    return os.path.lexists(_place(path))


def is_locked_now(path: Path) -> bool:
    """True while another process holds the lock on `path`."""
    from filelock import FileLock, Timeout

    place = _place(path)
    if not place.exists():
        return False
    try:
        with FileLock(place).acquire(timeout=0), contextlib.suppress(OSError):
            place.unlink()
    except (Timeout, OSError):
        return True
    return False


def _place(path: Path) -> Path:
    return path.with_name(f".{path.name}{LOCK}")


def _own_name() -> str:
    return f"process {os.getpid()} on {platform.node()}, since {time.strftime('%H:%M')} ({shlex.join(sys.argv)})"


def _holder(place: Path) -> str:
    """What the holder of a lock has written into its file; it may not have come to that yet."""
    try:
        text = place.read_text(encoding="utf-8", errors="replace")[:300]
    except OSError:
        text = ""
    return "".join(sign for sign in text if sign.isprintable()) or "another process"
