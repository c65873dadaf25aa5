"""Files that are replaced in one step: the old content or the new, never a part, and what belongs together at once."""

import argparse
import contextlib
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import save

from unlearning.core.errors import RunFailed, UserError
from unlearning.core.memory import check_archive
from unlearning.core.paths import check_regular
from unlearning.core.words import encoded, first_line

DIRECTORY = 0x10  # of a zip member's external attributes, as DOS has them
UNREADABLE = "is not a readable checkpoint: damaged, cut off, or another kind of file"
# Endings of what is written aside, of what is replaced, of the list of both, and of that list while it is written: nobody
# else's files end so, for `recover` removes what does.
PART, OLD, MOVES, LIST = (f"unlearning-{ending}" for ending in ("tmp", "old", "moves", "list"))
IN_TURN = (MOVES, OLD, PART, LIST)  # as `recover` goes through them
ASIDE = rf"\d+\.(?:{'|'.join(IN_TURN)})"  # how all of these end: the process and what it is


class Staged:
    """Files and folders that are written aside and then take their places together, in the folder of the main one.

    While they do, the main one is missing rather than there with what belongs to another; a list of the moves lies beside
    it, from which `recover` completes what a kill has interrupted.
    """

    def __init__(self, main: Path) -> None:
        self.main = main
        self.parts: dict[Path, Path] = {}
        self.gone: list[Path] = []
        self.finished: dict[Path, Path] = {}
        self.there: set[Path] = set()
        self.expected: set[Path] = set()

    def expect(self, *paths: Path) -> None:
        """Look now at what lies where parts may come: of these `part` says what it says of the moment of its call."""
        self.expected |= {*paths}
        self.there |= {path for path in paths if os.path.lexists(path)}

    def part(self, path: Path) -> Path:
        """Where to write what will be `path`. What lies there by now will be replaced, and nothing that comes later."""
        if path not in self.parts and path not in self.expected and os.path.lexists(path):
            self.there.add(path)
        return self.parts.setdefault(path, _aside(path, os.getpid(), PART))

    def take(self, path: Path, finished: Path) -> None:
        """Have what is written already, at `finished` in the same folder, become `path`; until then it stays where it is."""
        self.part(path)
        self.finished[path] = finished

    def without(self, path: Path) -> None:
        """Remove `path` when the others take their places."""
        self.gone.append(path)

    def commit(self) -> None:
        """Put all parts in their places."""
        if not self.parts:
            return
        if came := [path for path in self.parts if os.path.lexists(path) and path not in self.there]:
            raise RunFailed(f"{came[0]} has come while this was at work: move it, and give the same command again")
        if [*self.parts] == [self.main] and not self.main.is_dir() and not self.gone:
            os.replace(self.finished.get(self.main, self.parts[self.main]), self.main)
            return
        moves = _aside(self.main, os.getpid(), MOVES)
        new = [path.name for path in self.parts if path != self.main] + [self.main.name]  # the main one last
        listed = _aside(self.main, os.getpid(), LIST)
        try:
            listed.write_text(json.dumps({"new": new, "gone": [path.name for path in self.gone]}), encoding="utf-8")
            os.replace(listed, moves)
        finally:
            _remove(listed)
        self._fetch()
        try:
            _complete(self.main, os.getpid())
        except OSError:
            _undo(self.main, os.getpid())
            self._give_back()
            raise
        except BaseException:  # an interrupt: nothing keeps the rest from following
            _complete(self.main, os.getpid())
            raise

    def _fetch(self) -> None:
        """Have what was written elsewhere as parts: after the list, so that a kill leaves it in one of the two places."""
        try:
            for path, finished in self.finished.items():
                finished.rename(self.parts[path])
        except OSError:
            self._give_back()
            _aside(self.main, os.getpid(), MOVES).unlink()
            raise

    def _give_back(self) -> None:
        for path, finished in self.finished.items():
            if self.parts[path].exists():
                self.parts[path].rename(finished)

    def discard(self) -> None:
        """Remove the parts that took no place, unless they are still to take it."""
        if not _aside(self.main, os.getpid(), MOVES).exists():
            for part in self.parts.values():
                _remove(part)


@contextlib.contextmanager
def staging(main: str | Path) -> Iterator[Staged]:
    """Parts of `main` and of what belongs to it, which take their places when the context ends well.

    Else they are removed and everything stays as it was. Raises RunFailed where they can't take their places.
    """
    staged = Staged(Path(main))
    try:
        with writing(main):
            staged.main.parent.mkdir(parents=True, exist_ok=True)
        yield staged
        with writing(main):
            staged.commit()
    finally:
        staged.discard()


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Raises RunFailed, with the name of what was to be written, where the disk is full or the place can't be written."""
    try:
        yield
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror or error}") from None
    except SafetensorError as error:  # its own word for a disk that is full
        raise RunFailed(f"cannot write {path}: {first_line(error)}") from None


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside `path` at which to write a file or a folder; it takes the place of `path` when the context ends well.

    Else what was written is removed and `path` stays as it was. Raises RunFailed where the disk is full.
    """
    with writing(path), staging(path) as staged:
        yield staged.part(staged.main)


def recover(path: Path, spare_live: bool = False) -> None:
    """Complete what a killed process was doing when it replaced `path`, and remove what it had written aside.

    For who holds the lock on `path`: another process's parts would go. spare_live: for others, who leave what a process of
    this machine that is alive has put aside.
    """
    for match in sorted(_aside_of(path), key=lambda match: IN_TURN.index(match[2])):
        place, process = path.with_name(match[0]), int(match[1])
        if spare_live and process != os.getpid() and _is_alive(process):
            continue
        if match[2] == MOVES:
            _complete(path, process)
        else:
            _remove(place)


def being_replaced(folder: Path) -> list[Path]:
    """The files and folders in a folder for which processes, live or dead, have put something aside."""
    pattern = re.compile(rf"\.(.+)\.{ASIDE}")
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted({folder / match[1] for each in names if (match := pattern.fullmatch(each))})


def _is_alive(process: int) -> bool:
    """True for the number of a process of this machine."""
    if sys.platform == "win32":
        import psutil  # there the standard library's way ends it

        return psutil.pid_exists(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):  # no number of a process is so large
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def is_interrupted(path: Path) -> bool:
    """True where `path` is being replaced, or its process was killed while it did that."""
    return any(match[2] == MOVES for match in _aside_of(path))


def _aside_of(path: Path) -> list[re.Match[str]]:
    """The names of what processes have put aside to replace `path`: (whole name, process, ending)."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.(\d+)\.({'|'.join(IN_TURN)})")
    names = os.listdir(path.parent) if path.parent.is_dir() else []
    return [match for name in names if (match := pattern.fullmatch(name))]


def _complete(main: Path, process: int) -> None:
    """Carry out the moves that are listed beside `main`, from wherever they have been interrupted."""
    if not _aside(main, process, MOVES).exists():  # all is done
        return
    new, gone = _listed(main, process)
    if _aside(main, process, PART).exists():
        _put_aside(main, process)
    for path in gone:
        _put_aside(path, process)
    for path in new:
        part = _aside(path, process, PART)
        if part.exists():
            _put_aside(path, process)
            part.rename(path)
    for path in (*new, *gone):
        _remove(_aside(path, process, OLD))
    _aside(main, process, MOVES).unlink()


def _undo(main: Path, process: int) -> None:
    """Take back the moves that are listed beside `main`, as far as they were carried out."""
    new, gone = _listed(main, process)
    for path in (*new, *gone):
        part, old = _aside(path, process, PART), _aside(path, process, OLD)
        if path in new and path.exists() and not part.exists():
            path.rename(part)
        if old.exists():
            old.rename(path)
    _aside(main, process, MOVES).unlink()


def _listed(main: Path, process: int) -> tuple[list[Path], list[Path]]:
    """What takes its place beside `main`, the main one last, and what goes."""
    moves = _aside(main, process, MOVES)
    try:
        listed = json.loads(moves.read_text(encoding="utf-8"))
        new, gone = ([main.with_name(Path(name).name) for name in listed[key]] for key in ("new", "gone"))
    except (ValueError, LookupError, TypeError):
        raise UserError(f"{moves} is damaged: delete it") from None
    return new, gone


def _put_aside(path: Path, process: int) -> None:
    if path.exists():
        path.rename(_aside(path, process, OLD))


def _aside(path: Path, process: int, ending: str) -> Path:
    """The name beside `path` that a process uses while it replaces it."""
    return path.with_name(f".{path.name}.{process}.{ending}")


def check_writable(folder: Path) -> None:
    """Raise UserError where files can't be written into a folder, which is made after long work; nothing is left there."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from None


def write_torch(path: str | Path, payload: object) -> None:
    """`torch.save` to `path`, as `write_bytes` writes."""
    write_bytes(path, _as_bytes(payload))


def save_torch(part: Path, payload: object) -> None:
    """`torch.save` to a part that takes its place later, flushed to disk. Raises OSError where the disk is full."""
    save_bytes(part, _as_bytes(payload))


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Replace the file `path` in one step, flushed to disk.

    Raises UserError where that is a folder, which nothing replaces by a file, and RunFailed where the disk is full.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, not a file to write")
    with replacing(path) as part:
        save_bytes(part, content)


def _as_bytes(payload: object) -> memoryview:
    buffer = io.BytesIO()  # torch.save into memory: a full disk is then an ordinary OSError of our own write
    torch.save(payload, buffer)
    return buffer.getbuffer()


def save_tensors(part: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str]) -> None:
    """Write tensors as a safetensors file, to a part that takes its place later, flushed to disk: the same bytes each time,
    which the library's own header, of a dictionary without order, isn't; and with the rights of any new file. about: what
    the file says of itself. Raises OSError where the disk is full."""
    content = save(dict(tensors), dict(about))
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8 bytes
    save_bytes(part, len(text).to_bytes(8, "little") + text + content[8 + size :])


def save_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file, such as a part that takes its place later, flushed to disk. Raises OSError where the disk is full."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_torch(path: str | Path) -> Any:
    """The dictionary in a file that `torch.save` wrote, tensors on the CPU. Raises UserError if it isn't one, or too large.

    Beside tensors and plain values it may hold an argparse.Namespace, in which training scripts keep their flags.
    """
    return read_and_digest(path, digest=False)[0]


def read_and_digest(path: str | Path, digest: bool = True) -> tuple[Any, str]:
    """(What `read_torch` gives, the file's SHA-256, or "" unless it is asked for), of a file that is opened once."""
    check_regular(path)
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest() if digest else ""
            check_archive(file, path)
            _check_bytes(file)
            file.seek(0)
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(file, map_location="cpu", weights_only=True), found
    except UserError:
        raise
    except FileNotFoundError:
        if is_interrupted(Path(path)):
            way = "the command that was writing it completes it"
            raise UserError(f"{path} was being replaced when its process was killed: {way}") from None
        raise UserError(f"no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise UserError(f"{path} {UNREADABLE}") from None
        raise UserError(f"{path} holds objects that only running code could read: save the state_dict() alone") from None
    except Exception:  # foreign bytes make the reader fail in many ways, and its texts are about itself
        raise UserError(f"{path} {UNREADABLE}") from None


def _check_bytes(file: BinaryIO) -> None:
    """Raise BadZipFile where a file that `torch.save` wrote is not what it was, by its own checksums, which torch.load
    doesn't look at: other weights would be read without a word. Files in torch's format before 1.6 have none."""
    file.seek(0)
    if file.read(2) != b"PK":
        return
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) < len(members):
            raise zipfile.BadZipFile("two members have one name, and the checksum of one isn't looked at")
        for member in members:
            if member.is_dir() or member.external_attr & DIRECTORY:
                raise zipfile.BadZipFile(f"{member.filename} is a folder: torch.load would leave its memory unwritten")
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(damaged)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: str | Path, text: str) -> None:
    """Replace the text file `path` in one step, in UTF-8; bytes of a file's name that are no text as escapes."""
    write_bytes(path, encoded(text))


def remove_whole(folder: Path) -> None:
    """Remove a folder with all that is in it: after a kill it is there as it was, or `recover` removes the rest."""
    old = _aside(folder, os.getpid(), OLD)
    with contextlib.suppress(OSError):
        folder.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():  # of a link the link alone
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # of a place that can't be written, which has been said
            path.unlink()
