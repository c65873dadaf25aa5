"""Files that are replaced in one step: the old content or the new, never a part."""

import argparse
import contextlib
import hashlib
import io
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from unlearning.core.errors import RunFailed, UserError
from unlearning.core.memory import check_archive
from unlearning.core.paths import check_regular

UNREADABLE = "is not a readable checkpoint: damaged, cut off, or another kind of file"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A name beside `path` at which to write a file or a folder; it takes the place of `path` when the context ends well.

    Else what was written is removed and `path` stays as it was. Raises RunFailed where the disk is full.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        try:
            if path.is_dir():  # a folder can't be renamed onto another
                path.rename(old)
            os.replace(part, path)
        except BaseException:  # an interrupt too
            if old.exists() and not path.exists():
                old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror or error}") from None
    except SafetensorError as error:  # its own word for a disk that is full
        raise RunFailed(f"cannot write {path}: {first_line(error)}") from None
    finally:
        _remove(part)


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
    buffer = io.BytesIO()  # torch.save into memory: a full disk is then an ordinary OSError of our own write
    torch.save(payload, buffer)
    write_bytes(path, buffer.getbuffer())


def write_bytes(path: str | Path, content: bytes | memoryview) -> None:
    """Replace the file `path` in one step, flushed to disk.

    Raises UserError where that is a folder, which nothing replaces by a file, and RunFailed where the disk is full.
    """
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder, not a file to write")
    with replacing(path) as part, open(part, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_torch(path: str | Path) -> Any:
    """The dictionary in a file that `torch.save` wrote, tensors on the CPU. Raises UserError if it isn't one, or too large.

    Beside tensors and plain values it may hold an argparse.Namespace, in which training scripts keep their flags.
    """
    check_regular(path)
    check_archive(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise UserError(f"{path} {UNREADABLE}") from None
        raise UserError(f"{path} holds objects that only running code could read: save the state_dict() alone") from None
    except Exception:  # foreign bytes make the reader fail in many ways, and its texts are about itself
        raise UserError(f"{path} {UNREADABLE}") from None


def sha256(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's text, at most 160 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def write_text(path: str | Path, text: str) -> None:
    """Replace the text file `path` in one step, in UTF-8; bytes of a file's name that are no text as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # of a place that can't be written, which has been said
            path.unlink()
