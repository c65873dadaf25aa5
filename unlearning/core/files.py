"""TODO unlearning.core.files."""

import hashlib
import io
import os
from pathlib import Path

import torch

from unlearning.core.errors import RunFailed, UserError


def write_torch(path, payload):
    """`torch.save` to `path`, as `write_bytes` writes."""
    buffer = io.BytesIO()  # torch.save into memory: a full disk is then an ordinary OSError of our own write
    torch.save(payload, buffer)
    write_bytes(path, buffer.getbuffer())


def write_bytes(path, content):
    """Write to a temporary file beside `path`, flush to disk, rename: the old file or the new, never a part. RunFailed on a
    full disk."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFailed(f"cannot write {path}: {error.strerror}") from None


def read_torch(path):
    """The dictionary in a file that `torch.save` wrote, tensors on the CPU. Raises UserError if it isn't one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except Exception as error:  # foreign bytes make the reader fail in many ways; none of them may show a traceback
        raise UserError(f"{path} is not a readable checkpoint ({first_line(error)})") from None


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def write_text(path, text):
    """Replace the text file `path` in one step."""
    write_bytes(path, text.encode())
