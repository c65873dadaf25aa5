"""argparse types for paths: what can't be read or written is refused before anything is computed.

A file to read that isn't there is left to whoever reads it, who can say what it would be and how to make it.
"""

import argparse
import os
import stat
from pathlib import Path

from unlearning.core.errors import UserError
from unlearning.core.flags import shown

NAME = 255  # bytes that file systems have room for in one name
# Of these for what is added to a name while its files are written: ".", "_confidence.csv", ".1234567.unlearning-moves".
BESIDE = 42


def stamp(path: Path) -> tuple[int, ...]:
    """By which a file is known to be as it was: when it was last changed, its bytes, which one it is. () where none is."""
    if not path.is_file():
        return ()
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def named(path: Path) -> Path:
    """The path; one without a name, as "." and "..", by that of what it means: beside it by its name lies its lock."""
    return path if path.name not in ("", "..") else path.resolve()


def input_path(text: str) -> Path:
    """A file or a folder to read."""
    found = _status(text)
    if found and not stat.S_ISDIR(found.st_mode):
        _check_file(text, found, os.R_OK)
    elif found:
        _check_rights(text, os.R_OK | os.X_OK)
    return named(Path(text))


def input_file(text: str) -> Path:
    """A file to read."""
    if found := _status(text):
        _check_file(text, found, os.R_OK)
    return Path(text)


def output_file(text: str) -> Path:
    """A file to write, which may be there; its folder is made where it isn't."""
    found = _status(text, BESIDE)
    if found:
        _check_file(text, found, os.F_OK)
    _check_rights(_there(Path(os.path.abspath(text)).parent), os.W_OK | os.X_OK)
    return Path(text)


def folder(text: str) -> Path:
    """A folder to read or to write into, which is made where it isn't there."""
    found = _status(text, BESIDE)
    if found and not stat.S_ISDIR(found.st_mode):
        raise argparse.ArgumentTypeError(f"{shown(text)} is a file, not a folder")
    return named(Path(text))


def output_folder(text: str) -> Path:
    """As `folder`, of which everything is written."""
    path = folder(text)
    if not path.name:
        raise argparse.ArgumentTypeError(f"{shown(text)} is the root of all folders: name one in it")
    _check_rights(_there(path.absolute()), os.W_OK | os.X_OK)
    return path


def name_or_path(text: str) -> str:
    """A name in which a path may stand: resnet8, folder:PATH, FILE.py:FUNCTION, an address. It is returned as it is."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty: a name or a path is wanted")
    for part in (text, text.partition(":")[2], text.rpartition(":")[0]):
        found = _status(part) if part else None
        if found and not stat.S_ISDIR(found.st_mode):
            _check_file(part, found, os.R_OK)
    return text


def check_regular(path: str | Path) -> None:
    """Raise UserError for a pipe, a device or a socket, on which a reader would wait, or never come to an end."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # which whoever opens it will say
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is no file: a pipe, a device or a socket")


def _status(text: str, beside: int = 0) -> os.stat_result | None:
    """What the system says of a path; None where nothing is there. beside: bytes of its last name that have to stay free.

    Raises ArgumentTypeError for a path that can't be, or leads nowhere.
    """
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)} is no path")
    try:
        raw = text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{shown(text)}: a path has to be text in UTF-8") from None
    if len(os.path.basename(raw)) > NAME - beside:
        raise argparse.ArgumentTypeError(f"{shown(text)}: its name is longer than {NAME - beside} bytes")
    try:
        return os.stat(text)
    except FileNotFoundError:
        if os.path.islink(text):
            raise argparse.ArgumentTypeError(f"{shown(text)} is a link to what isn't there") from None
        there = _there(Path(os.path.abspath(text)))
        if os.path.islink(there) or not there.is_dir():
            raise argparse.ArgumentTypeError(f"{shown(text)}: {there} is no folder") from None
        return None
    except OSError as error:  # too long, a file where a folder has to be, links in a circle, no rights
        raise argparse.ArgumentTypeError(f"{shown(text)}: {error.strerror}") from None


def _there(path: Path) -> Path:
    """The path itself or the nearest folder above it that is there, or the link or the file that is in its way."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _check_file(text: str, found: os.stat_result, rights: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise argparse.ArgumentTypeError(f"{shown(text)} is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise argparse.ArgumentTypeError(f"{shown(text)} is no file: a pipe, a device or a socket")
    _check_rights(text, rights)


def _check_rights(path: str | Path, rights: int) -> None:
    if not os.access(path, rights):
        verb = "written" if rights & os.W_OK else "read"
        raise argparse.ArgumentTypeError(f"{shown(str(path))} can't be {verb}: you have no right to")
