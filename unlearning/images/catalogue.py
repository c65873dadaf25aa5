"""What the numbers and names of a request mean: all training images, of which a run may have loaded a part."""

import os
import posixpath
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.words import listed


@dataclass(frozen=True)
class Catalogue:
    """The full training set of a data set, whatever --validation and --subset leave of it.

    count: of its images. positions: int64 (N,), ascending: where each image that was loaded stands in it. classes: names by
    number. files: of each of its images the file's path below `root`, with forward slashes; None where images have no files
    of their own. dataset: the data set's name. fingerprint: of what was loaded. subclasses: their names by number, where
    classes have such. flags: those that say which part was loaded, with their values.
    """

    count: int
    positions: torch.Tensor
    classes: tuple[str, ...]
    files: tuple[str, ...] | None = None
    root: Path | None = None
    dataset: str = ""
    fingerprint: str = ""
    subclasses: tuple[str, ...] = ()
    flags: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of_labels(cls, labels: torch.Tensor) -> "Catalogue":
        """That of images of which no more is known than int64 (N,) labels."""
        count = int(labels.max()) + 1 if len(labels) else 0
        return cls(len(labels), torch.arange(len(labels)), tuple(map(str, range(count))))

    def loaded(self, numbers: torch.Tensor) -> torch.Tensor:
        """Of images by their int64 numbers in the full set those that were loaded: ascending int64 positions among these."""
        return torch.isin(self.positions, numbers).nonzero().squeeze(1)

    def called(self, positions: torch.Tensor) -> list[str]:
        """What a user calls the loaded images at int64 positions: their files' names, or else their numbers."""
        numbers = self.positions[positions].tolist()
        return [self.files[i] if self.files else str(i) for i in numbers]

    def recorded(self, forget: torch.Tensor) -> dict[str, Any]:
        """What a checkpoint says of a forget set, int64 positions among the loaded images, for other ways to load them."""
        numbers = self.positions[forget]
        names = {"forget_names": [self.files[i] for i in numbers.tolist()]} if self.files else {}
        return {"forget_images": numbers} | names

    def numbers_of(self, words: Iterable[int | str], what: str) -> list[int]:
        """The numbers in the full set of the images that words name, in their order, doubles kept.

        words: numbers, names of files or patterns of these. what: errors begin with it. Raises UserError for what is
        unknown, all of it in one line.
        """
        found: list[int] = []
        wrong: list[int] = []
        names: list[str] = []
        for word in words:
            if isinstance(word, str):
                names.append(word)
            elif 0 <= word < self.count:
                found.append(word)
            else:
                wrong.append(word)
        complaints = [f"no image {listed(wrong)}; image numbers run from 0 to {self.count - 1}"] if wrong else []
        if names and self.files is None:
            which = f"images of {self.dataset or 'these data'} have no file names; numbers run from 0 to {self.count - 1}"
            complaints.append(f"no image {listed(map(repr, names))}: {which}")
        elif names:
            by_name, unknown = self._numbers_of_names(names)
            found += by_name
            complaints += unknown
        if complaints:
            raise UserError(f"{what}: {'; '.join(complaints)}")
        return found

    def _numbers_of_names(self, names: Sequence[str]) -> tuple[list[int], list[str]]:
        """The images of these names, and complaints about names that are unknown or those of several."""
        index = _Index(self.files or (), self.root)
        found: list[int] = []
        unknown: list[str] = []
        several: list[str] = []
        empty: list[str] = []
        for name in names:
            numbers, pattern = index.find(name)
            if not numbers:
                (empty if pattern else unknown).append(name)
            elif len(numbers) > 1 and not pattern:
                several.append(f"{name} ({listed(index.files[i] for i in numbers)})")
            found += numbers
        complaints = [f"no training image is called {listed(unknown)}"] if unknown else []
        complaints += [f"no training image matches {listed(empty)}"] if empty else []
        complaints += [f"several images are called {listed(several)}"] if several else []
        return found, complaints


class _Index:
    """Files by their paths and by the last parts of these."""

    def __init__(self, files: Sequence[str], root: Path | None) -> None:
        self.files = files
        self.by_path = {file: number for number, file in enumerate(files)}
        self.by_last: dict[str, list[int]] = {}
        for number, file in enumerate(files):
            self.by_last.setdefault(posixpath.basename(file), []).append(number)
        places = {os.path.abspath(root), os.path.realpath(root)} if root else set()
        self.roots = [place.replace("\\", "/").rstrip("/") + "/" for place in places]
        self.outside = any(file.startswith("../") for file in files)  # as a table may name some

    def find(self, name: str) -> tuple[list[int], bool]:
        """The numbers of the files that a name or a pattern means, [] for none; and whether it was read as a pattern.

        A path below the root, or its last parts; or a path from here, or from the system's root, that leads below it. A
        pattern has * ? or [, or ** for any number of folders.
        """
        ways = [name, *self._below(name)]
        for way in ways:
            if way in self.by_path:
                return [self.by_path[way]], False
        for way in ways:
            ending = "/" + way
            if found := [i for i in self.by_last.get(posixpath.basename(way), ()) if f"/{self.files[i]}".endswith(ending)]:
                return found, False
        if not re.search(r"[*?[]", name):
            return [], False
        for way in ways:
            pattern = ("**", *way.split("/"))
            if found := [i for i, file in enumerate(self.files) if _matches(file.split("/"), pattern)]:
                return found, True
        return [], True

    def _below(self, name: str) -> list[str]:
        """A path in other words: below the root, or from there."""
        path = name.replace("\\", "/")
        ways = [posixpath.normpath(path)]
        full = path if re.match(r"/|[A-Za-z]:/", path) else posixpath.join(os.getcwd().replace("\\", "/"), path)
        ends = {posixpath.normpath(full), os.path.realpath(full).replace("\\", "/")}
        ways += [end.removeprefix(root) for end in ends for root in self.roots if end.startswith(root)]
        return ways + [posixpath.relpath(end, root) for end in ends for root in self.roots if self.outside]


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """True if the parts of a path fit those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
