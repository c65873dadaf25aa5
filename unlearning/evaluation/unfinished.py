"""What a command that scores has done when it is killed: scores, and which of its outputs it has begun to write.

Both lie in a hidden folder, `.scores.<outputs>.<command>.partial`, until the command has ended well. A score is found again
by everything that makes it, and by commands with other flags but the same outputs as well. A command without outputs has a
folder of its own.
"""

import argparse
import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearning.core import provenance
from unlearning.core.device import Compute
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import check_writable, read_torch, remove_whole, sha256, write_bytes, write_torch
from unlearning.core.locks import LOCK, is_locked_now, locked
from unlearning.core.words import say

BEGUN = "outputs.json"  # {output: SHA-256 of what was to be written there, or "" for a folder}
CIRCUMSTANCES = ("overwrite", "quiet", "wide", "dry_run", "ray", "cores")  # flags that change no number
ARRAY = "an array"  # a key that marks an array of NumPy's, which is kept as a tensor


class Unfinished:
    """Scores that are kept, and outputs that were begun. folder: where they are kept; None keeps nothing."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._code: str | None = None

    def once(self, key: Mapping[str, Any], make: Callable[[], Any]) -> Any:
        """What `make` gives, or gave when the command was run before: tensors, arrays, numbers and texts, in lists and
        dictionaries. key: everything that it depends on but code, versions and number of threads."""
        found = self.find(key)
        return self.keep(key, make()) if found is None else found

    def find(self, key: Mapping[str, Any]) -> Any:
        """What was kept under `key`; None where nothing was, or what was is damaged."""
        for path in sorted(self._alike(f"/{self._name(key)}")) if self.folder else ():
            with contextlib.suppress(UserError, LookupError, TypeError):
                return _unpacked(read_torch(path)["value"])
        return None

    def keep(self, key: Mapping[str, Any], value: Any) -> Any:
        """Keep `value` under `key`: the value as `find` gives it. Where the disk is full it is computed again next time."""
        packed = _packed(value)
        if self.folder:
            with contextlib.suppress(RunFailed):
                write_torch(self.folder / self._name(key), {"value": packed})
        return _unpacked(packed)

    def write(self, path: Path, content: bytes) -> None:
        """Write an output as `files.write_bytes` does, which this command may replace when it is given again."""
        self.begin(path, hashlib.sha256(content).hexdigest())
        write_bytes(path, content)

    def begin(self, path: Path, digest: str = "") -> None:
        """Note that an output is about to be written. digest: SHA-256 of its content; "" for a folder."""
        if not self.folder:
            return
        part = self.folder / f".{BEGUN}.{os.getpid()}"
        with contextlib.suppress(OSError):  # of a full disk, which the output itself will say; it can't be flushed there
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(self._begun() | {str(path.resolve()): digest}), encoding="utf-8")
            os.replace(part, self.folder / BEGUN)

    def has_begun(self, path: Path) -> bool:
        """True where an output is what this command has written before it was killed: a file that nobody has changed, or a
        folder."""
        digest = self._begun().get(str(path.resolve()))
        return digest == "" or (digest is not None and path.is_file() and sha256(path) == digest)

    def _begun(self) -> dict[str, str]:
        with contextlib.suppress(OSError, ValueError):
            if self.folder:
                return dict(json.loads((self.folder / BEGUN).read_text(encoding="utf-8")))
        return {}

    def _alike(self, name: str = "") -> list[Path]:
        """What has this name in the folders of all commands with these outputs; "": these folders themselves."""
        assert self.folder
        group = self.folder.name.split(".")[2]
        return list(self.folder.parent.glob(f".scores.{group}.*.partial{name}"))

    def _name(self, key: Mapping[str, Any]) -> str:
        self._code = self._code or provenance.code_digest()
        made_by = {"code": self._code, "versions": provenance.versions(), "threads": torch.get_num_threads()}
        return f"{_digest({**key, **made_by})}.pt"

    def remove(self) -> None:
        """Remove what was kept, and what dead commands with the same outputs have left."""
        if not self.folder:
            return
        group = self.folder.name.split(".")[2]
        locks = self.folder.parent.glob(f"..scores.{group}.*.partial{LOCK}")  # of those that were killed at their beginning
        for folder in {*self._alike(), *(lock.with_name(lock.name[1:].removesuffix(LOCK)) for lock in locks)}:
            if folder == self.folder or not is_locked_now(folder):
                remove_whole(folder)


@contextlib.contextmanager
def keeping(place: Path, outputs: Sequence[Path], args: argparse.Namespace) -> Iterator[Unfinished]:
    """An Unfinished in the folder `place`, of the command with the flags `args`, while the context lasts.

    It is removed when the context ends well, and else is there for the same command. Of two commands with the same flags the
    second waits. Where nothing can be written in `place`, nothing is kept, and a line says so.
    """
    flags = {name: str(value) for name, value in vars(args).items() if name not in CIRCUMSTANCES}
    command, named = _digest([str(Path.cwd()), flags]), [str(path.resolve()) for path in outputs]
    group = _digest(named) if named else command  # without outputs what is asked tells commands apart
    folder = place / f".scores.{group[:12]}.{command[:12]}.partial"
    try:
        check_writable(place)
    except UserError as error:
        say(f"{error}: should this command be killed, it begins again")
        yield Unfinished()
        return
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir()):
        raise UserError(f"{folder} is a link, or no folder, where scores are kept: move it")
    with removed_if_empty([place]), locked(folder):
        kept = Unfinished(folder)
        yield kept
        kept.remove()


@contextlib.contextmanager
def removed_if_empty(folders: Sequence[Path]) -> Iterator[None]:
    """Remove those folders again, and those that they lie in, that are made while the context lasts and stay empty."""
    every = {parent for folder in folders for parent in (folder.absolute(), *folder.absolute().parents)}
    new = [folder for folder in every if not folder.exists()]
    try:
        yield
    finally:
        for folder in sorted(new, key=lambda folder: -len(folder.parts)):
            with contextlib.suppress(OSError):
                folder.rmdir()


def circumstances(compute: Compute) -> dict[str, Any]:
    """Of where something is computed what its last bits depend on."""
    return {"hardware": provenance.device_name(compute.device), "device": compute.device, "precision": compute.precision}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()


def _packed(value: Any) -> Any:
    """The same in tensors and plain values, which are read without running code."""
    if isinstance(value, dict):
        return {key: _packed(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_packed, value))
    if isinstance(value, np.ndarray):
        return {ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    return value.item() if isinstance(value, np.generic) else value


def _unpacked(value: Any) -> Any:
    """What `_packed` was given."""
    if isinstance(value, dict):
        return value[ARRAY].numpy() if ARRAY in value else {key: _unpacked(inner) for key, inner in value.items()}
    return type(value)(map(_unpacked, value)) if isinstance(value, (list, tuple)) else value
