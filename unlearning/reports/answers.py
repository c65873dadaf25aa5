"""What networks answered: what a page and its pictures say of a row beside its numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlearning.core.words import say
from unlearning.metrics import statistics
from unlearning.reports.columns import method_name

PICTURED = 12  # images of a forget set that are shown


@dataclass(frozen=True)
class File:
    """A scored file, or folder of a system, as it says of itself.

    method: "original", "retrain", "lora" ..., without flags. sha256: of a folder that of its `sha256sum` lines. holds_list:
    true where the file holds its forget set as positions in the training images. exact: true for a system from which the
    images were deleted, and whose parts are what they would be without them.
    """

    path: Path
    method: str
    sha256: str
    seed: int
    command: str
    device: str
    date: str | None
    is_folder: bool
    holds_list: bool
    exact: bool = False


@dataclass(frozen=True, eq=False)
class Answers:
    """What one network answered.

    test, forgotten: how many test images, and how many images of the forget set, of each true class (row) were answered with
    each class (column), int64 (C, C). examples: class name and probability for each of `Asked.images`. votes: true where the
    probability is a softmax of votes.
    """

    file: File
    test: np.ndarray
    forgotten: np.ndarray
    examples: list[tuple[str, float]]
    votes: bool


@dataclass(frozen=True, eq=False)
class Asked:
    """What was to be forgotten.

    count, total: images of the forget set, and training images. per_class: name, forgotten and training images of each class
    that has images in the forget set. digest: SHA-256 of the positions, ascending, as 64-bit little-endian integers.
    fingerprint: SHA-256 of the data. classes: names of all classes. whole: numbers of the classes that are forgotten as a
    whole. images: uint8 (N, H, W, C), at most PICTURED of the forget set, true classes in `truth`; none where nobody asked
    for pictures. private: true where a system was scored on its private images alone. names: of the images' files,
    ascending; none where they have no files of their own.
    """

    count: int
    total: int
    per_class: list[tuple[str, int, int]]
    digest: str
    fingerprint: str
    classes: list[str]
    whole: list[int]
    images: np.ndarray
    truth: list[str]
    private: bool
    names: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Account:
    """Of a row: its request, its first seed's answers, every seed's file.

    before, retrained: the answers of the original that the first seed came from, and of the Retrain of that seed.
    """

    asked: Asked
    before: Answers | None
    after: Answers
    retrained: Answers | None
    files: tuple[File, ...]

    @property
    def method(self) -> str:
        """The method, without flags."""
        return self.files[0].method


Reported = tuple[dict[str, Any], Account]  # a row of a result, and its account


def unlearned(reported: Iterable[Reported]) -> list[Reported]:
    """Of one forget set's rows those to be set against the original; Retrain only where there is no other."""
    others = [(row, account) for row, account in reported if account.method != "original"]
    return [(row, account) for row, account in others if account.method != "retrain"] or others


def picture_files(folder: Path, path: Path) -> tuple[Path, Path]:
    """The files in `folder` for the confusion matrices and the images of the checkpoint `path`."""
    return folder / f"{path.stem}-confusion.png", folder / f"{path.stem}-images.png"


def draw(reported: Iterable[Reported], files: Mapping[Path, tuple[Path, Path]]) -> None:
    """Write the pictures of each unlearned row whose first seed's path, resolved, is a key of `files`, before and after."""
    from unlearning.reports import answer_figures, style  # matplotlib

    groups = statistics.grouped(reported, lambda pair: tuple(pair[0][key] for key in ("dataset", "model", "forget")))
    for row, account in (pair for group in groups.values() for pair in unlearned(group)):
        asked, before, after = account.asked, account.before, account.after
        if after.file.path.resolve() not in files:
            continue
        if before is None:
            say(f"no picture of {after.file.path.name}: its original isn't there")
            continue
        confusion, images = files[after.file.path.resolve()]
        title = f"{method_name(row)}: {row['dataset']}, {row['model']}, {row.get('forgotten', row['forget'])}"
        figure = answer_figures.confusion(before.test, after.test, asked.classes, title, asked.whole)
        style.save(figure, confusion)
        figure = answer_figures.before_and_after(asked.images, asked.truth, before.examples, after.examples, title)
        style.save(figure, images)
