"""What lies in a system's folder: files of parts, those of unfinished work, and what killed processes have left.

A file of a part is called by its part and by its generation: 0 as trained, n as trained again by the nth deletion. What
system.pth doesn't name is of an earlier generation, which has seen what is deleted by now and goes, or of the next one,
which a killed deletion has begun and the same deletion takes up.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.files import ASIDE, read_torch, recover, writing
from unlearning.core.words import say
from unlearning.vision.identity import digest, key
from unlearning.vision.snapshots import Snapshot

SYSTEM = "system.pth"
PARTIAL = ".partial"
PART = re.compile(r"part_(\d{4,})_(\d{4,})\.pth")
PART_ASIDE = re.compile(rf"\.((?:part_\d{{4,}}_\d{{4,}}|system)\.pth(?:{re.escape(PARTIAL)})?)\.{ASIDE}")


@dataclass(frozen=True)
class PartSnapshot(Snapshot):
    """The unfinished training of a part: written once in `pause` seconds at most, by a process whose parent still lives.

    pause: in seconds of training. parent: the process that trains the system, by number: once that is gone another command
    may be at work.
    """

    pause: float = field(kw_only=True)
    parent: int = field(default_factory=os.getpid)

    def write(self, model: Any, optimizer: Any, scheduler: Any, epoch: int, seconds: float) -> None:
        """As Snapshot's own, after the epochs in which another pause is over."""
        if self.parent not in (os.getpid(), os.getppid()):
            os._exit(1)
        before = seconds * (epoch - 1) / epoch
        if seconds // self.pause > before // self.pause:
            super().write(model, optimizer, scheduler, epoch, seconds)


@dataclass(frozen=True)
class PartFile:
    """A file of a part, or of its unfinished training, and what it holds."""

    path: Path
    number: int
    generation: int
    content: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """True for a trained part."""
        return self.path.suffix == ".pth"

    def is_of(self, state: Mapping[str, Any]) -> bool:
        """True for a part of the system `state`, of whatever images; files of earlier versions say less."""
        if not self.finished:
            return self.content["key"].startswith(_owner(state))
        return all(self.content.get(name, value) == value for name, value in known(state).items())

    def is_trained_on(self, members: torch.Tensor, state: Mapping[str, Any]) -> bool:
        """True for a part of the system whose images are `members`, ascending int64 positions."""
        if not self.finished:
            return self.content["key"] == key_of(state, self.number, members)
        made = all(self.content.get(name) == value for name, value in known(state).items())
        return made and torch.equal(self.content["members"], members)


def part_file(number: int, generation: int) -> str:
    """The name of a part's file."""
    return f"part_{number:04d}_{generation:04d}.pth"


def made_from(state: Mapping[str, Any]) -> dict[str, str]:
    """What a system was trained from beside its settings: the SHA-256 of the backbone's file, the data's fingerprint."""
    return {"backbone": state["backbone"]["sha256"], "data": state["data"]["fingerprint"]}


def known(state: Mapping[str, Any]) -> dict[str, Any]:
    """What the file of a part says of its system."""
    return made_from(state) | {"config": state["config"]}


def key_of(state: Mapping[str, Any], number: int, members: torch.Tensor) -> str:
    """The key of a part's unfinished training: it begins with the system's."""
    return f"{_owner(state)}-{key({'part': number, 'members': digest(members)})}"


def _owner(state: Mapping[str, Any]) -> str:
    return key(known(state))


def parts_in(folder: Path, state: Mapping[str, Any]) -> tuple[list[PartFile], list[Path]]:
    """The files of parts, of this system or another, that `state` doesn't name, and files called alike that are none."""
    parts, others = [], []
    for path in sorted(folder.glob("part_*")):
        if path.name not in state["files"]:
            found = _part_in(path)
            if found:
                parts.append(found)
            else:
                others.append(path)
    return parts, others


def _part_in(path: Path) -> PartFile | None:
    """What is in a file with the name of a part, None if that isn't one."""
    stem = path.name.removesuffix(PARTIAL)
    match = PART.fullmatch(stem)
    if not match or path.is_symlink() or not path.is_file():
        return None
    number, generation = map(int, match.groups())
    try:
        content = read_torch(path)
    except UserError:
        return None
    if not isinstance(content, dict) or part_file(number, generation) != stem:
        return None
    if stem != path.name:
        ours = isinstance(content.get("key"), str) and {"epoch", "seconds", "model"} <= content.keys()
    else:
        ours = content.get("part") == number and {"prompt", "weight", "bias"} <= content.keys()
        ours = ours and isinstance(content.get("members"), torch.Tensor)
    return PartFile(path, number, generation, content) if ours else None


def sweep(folder: Path, state: Mapping[str, Any], quiet: bool = False) -> None:
    """Remove what the system has left of earlier generations, and files that a killed process was writing.

    For who holds the lock. Files called like parts that are none of this system stay, and unless quiet are said.
    """
    clear_aside(folder)
    parts, others = parts_in(folder, state)
    others += [part.path for part in parts if not part.is_of(state)]
    remove(part.path for part in parts if part.is_of(state) and part.generation != len(state["ledger"]) + 1)
    if others and not quiet:
        names = ", ".join(sorted(path.name for path in others))
        say(f"left in {folder}, for they aren't files of this system: {names}")


def traces(folder: Path, named: Sequence[str | None]) -> bool:
    """True where there may be something in a folder, or beside it, that a killed process has left of a system.

    named: the files that system.pth names; empty where it isn't there.
    """
    beside = os.listdir(folder.parent) if folder.parent.is_dir() else []
    if any(name.startswith(f".{folder.name}.") for name in beside):
        return True
    inside = os.listdir(folder) if named else []
    return any(PART_ASIDE.fullmatch(name) or (name.startswith("part_") and name not in named) for name in inside)


def clear_aside(folder: Path) -> None:
    """Remove the files that killed processes were writing in a folder. For who holds the lock on it."""
    for match in filter(None, map(PART_ASIDE.fullmatch, os.listdir(folder))):
        recover(folder / match[1])


def remove(files: Iterable[Path]) -> None:
    """Remove files. Raises RunFailed where that can't be done."""
    for path in files:
        with writing(path):
            path.unlink()


def stranger(folder: Path, state: Mapping[str, Any]) -> Path | None:
    """Something in the folder that neither system.pth names nor the system has left; None if there is no such thing."""
    parts, _ = parts_in(folder, state)
    own = {SYSTEM, *filter(None, state["files"]), *(part.path.name for part in parts if part.is_of(state))}
    for path in sorted(folder.iterdir()):
        if not path.is_file() or path.is_symlink() or not (path.name in own or PART_ASIDE.fullmatch(path.name)):
            return path
    return None


def take_up(
    folder: Path, state: Mapping[str, Any], generation: int, members: Mapping[str, torch.Tensor], again: bool
) -> tuple[dict[str, Mapping[str, Any]], float]:
    """What a killed process has left of these parts: contents of finished files by name, and seconds of the unfinished one
    that has been trained longest, for several were trained side by side.

    members: of each file that is to be written, ascending int64 positions. Others of this generation are removed; of a
    training that is begun (generation 0) only `again`, else they are refused. Raises UserError then, and where something
    else is in a file's place.
    """
    done: dict[str, Mapping[str, Any]] = {}
    begun: dict[str, PartFile] = {}
    stale: list[PartFile] = []
    parts, others = parts_in(folder, {"files": ()})
    for part in parts:
        name = part.path.name.removesuffix(PARTIAL)
        if name in members and part.is_trained_on(members[name], state):
            done |= {name: part.content} if part.finished else {}
            begun |= {} if part.finished else {name: part}
        elif not generation or part.is_of(state):
            stale += [part] if part.generation == generation else []
        else:
            others.append(part.path)
    for path in others:
        if path.name.removesuffix(PARTIAL) in members:
            raise UserError(f"{path} is in the way and no part of this system: move it")
    if stale and not (generation or again):
        what = "is of an unfinished training with other settings or images"
        raise UserError(f"{stale[0].path} {what}; delete {folder} or give --overwrite")
    over = [part for name, part in begun.items() if name in done]
    remove(part.path for part in stale + over)
    return done, max((part.content["seconds"] for part in begun.values() if part not in over), default=0.0)


def partial(folder: Path) -> Path:
    """The folder in which the system is trained that will become `folder`."""
    return folder.with_name(f".{folder.name}{PARTIAL}")


def begin(folder: Path) -> Path:
    """Make the folder of `partial`, or clear up what is there. Raises UserError where something else lies there or in it,
    which would become part of the system, and RunFailed where none can be made."""
    part = partial(folder)
    if os.path.lexists(part):
        _check_partial(part)
    with writing(folder):
        part.mkdir(parents=True, exist_ok=True)
    clear_aside(part)
    return part


def _check_partial(part: Path) -> None:
    if part.is_symlink() or not part.is_dir():
        raise UserError(f"{part} is a link, or no folder, where a system is trained: move it")
    own = {each.path.name for each in parts_in(part, {"files": ()})[0]}
    for path in sorted(part.iterdir()):
        known = path.name in own or PART_ASIDE.fullmatch(path.name) or (path.name == SYSTEM and _is_state(path))
        if not known:
            raise UserError(f"{path} is in the way and no part of this system: move it")


def _is_state(path: Path) -> bool:
    """True for a system.pth that this project has written."""
    try:
        content = read_torch(path) if path.is_file() and not path.is_symlink() else None
    except UserError:
        return False
    return isinstance(content, dict) and {"ledger", "files", "private"} <= content.keys()


def drop_partial(folder: Path) -> None:
    """Remove an unfinished training that was to replace the system in `folder`: it may have seen what is deleted now."""
    part = partial(folder)
    if not part.is_dir() or part.is_symlink():
        return
    say(f"removes {part}, an unfinished training that may have seen these images")
    clear_aside(part)
    remove(each.path for each in parts_in(part, {"files": ()})[0])
    remove(path for path in [part / SYSTEM] if _is_state(path))
    with contextlib.suppress(OSError):  # something else lies there
        part.rmdir()
