"""Checkpoints that come with this project, in its model_weights/: known by their names and their SHA-256."""

from pathlib import Path

import models
from unlearning.core.errors import UserError
from unlearning.core.files import sha256, write_bytes

FOLDER = Path(models.__file__).resolve().parent / "model_weights"
SUMS = "SHA256SUMS"  # as `sha256sum -c` reads it


def listed() -> dict[str, str]:
    """The SHA-256 of each, by name. Raises UserError where the list is damaged."""
    file = FOLDER / SUMS
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.exists() else []
    pairs = [line.split() for line in lines if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise UserError(f"{file} is damaged: git checkout {file} restores it")
    return {name.removeprefix("*"): digest for digest, name in pairs}


def is_one(path: Path) -> bool:
    """True for a file with the name and the content of one that was shipped, wherever it lies."""
    digest = listed().get(path.name)
    return digest is not None and path.is_file() and digest == sha256(path)


def missed(name: str) -> str | None:
    """A line for a checkpoint that isn't there as it came with the project; None where none of this name came."""
    if name not in listed():
        return None
    file = FOLDER / name
    what = "has been changed" if file.exists() else "is missing"
    return f"{file}, which comes with this project, {what}: another is trained; git checkout {file} restores it"


def copy(output: Path) -> None:
    """Put the shipped checkpoint of this name into its place, in one step. Raises RunFailed where the disk is full."""
    write_bytes(output, (FOLDER / output.name).read_bytes())
