"""Forget sets: which training images a request names, and what files and people call that."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from unlearning.core.errors import UserError
from unlearning.images.splits import Split

NAMED = 5  # classes that are named one by one


@dataclass(frozen=True)
class ForgetRequest:
    """One of the three ways to name a forget set, as `forget_indices` takes them."""

    classes: tuple[int, ...] = ()
    share: float | None = None
    file: Path | None = None

    def positions(self, train: Split) -> tuple[torch.Tensor, str]:
        """The forget set as sorted int64 positions in `train`, and its tag for file names."""
        return forget_indices(train, self.classes, self.share, self.file)


def forget_indices(
    train: Split, classes: Sequence[int] | None = None, share: float | None = None, file: str | Path | None = None
) -> tuple[torch.Tensor, str]:
    """The forget set as sorted int64 positions in the training split, and its tag for file names.

    Exactly one of: classes (list of class numbers), share (0..1 of all images, drawn with a fixed seed so that every
    training seed forgets the same images), file (text, one position a line). Raises UserError for an unknown class, an
    empty set, or one that leaves nothing to retain.
    """
    if file is not None:
        index, tag = _read_ids(Path(file), len(train))
    elif share is not None:
        if not 0 < share < 1:
            raise UserError(f"--forget-random {share} is not a share between 0 and 1")
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
        index, tag = order[: round(share * len(train))], tag_of_share(share)
    elif classes:
        known = train.labels.unique().tolist()
        wrong = [c for c in classes if c not in known]
        if wrong:
            raise UserError(f"--forget-class {wrong[0]}: the classes are {known[0]} to {known[-1]}")
        index = torch.isin(train.labels, torch.tensor(classes)).nonzero().squeeze(1)
        tag = tag_of_classes(classes)
    else:
        raise UserError("nothing to forget: give --forget-class, --forget-random or --forget-file")
    if not 0 < len(index) < len(train):
        raise UserError(f"the forget set has {len(index)} of {len(train)} training images; it needs some, not all")
    return index.sort().values, tag


def forgotten_classes(labels: torch.Tensor, forget: torch.Tensor) -> list[int]:
    """The classes (list of int) that lie wholly in the forget set; empty for sample forgetting.

    Only when the forget set is made of whole classes is it class forgetting.
    """
    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[forget] = True
    whole = [c for c in labels.unique().tolist() if inside[labels == c].all()]
    return whole if torch.isin(labels[forget], torch.tensor(whole, dtype=torch.int64)).all() else []


def in_words(labels: torch.Tensor, classes: Sequence[str], forget: torch.Tensor, tag: str) -> str:
    """A forget set as people call it: "class 3 (Dress)", "random share 0.1", "list 1a2b3c4d".

    forget: int64 positions in the training images; tag: its name in files. Classes of a set made of whole classes are named.
    """
    whole = forgotten_classes(labels, forget)
    if whole:
        some = [class_name(classes, c) for c in whole[:NAMED]]
        more = f" and {len(whole) - NAMED} more" if len(whole) > NAMED else ""
        return f"class{'es' if len(whole) > 1 else ''} {', '.join(some)}{more}"
    return re.sub(r"^(random|file)", lambda found: {"random": "random share ", "file": "list "}[found[1]], tag)


def class_name(classes: Sequence[str], number: int) -> str:
    """A class by its number and, where it has one, its name: "3 (Dress)"."""
    return str(number) if classes[number] == str(number) else f"{number} ({classes[number]})"


def retain_indices(count: int, forget: torch.Tensor) -> torch.Tensor:
    """Sorted positions (int64) of the training images that are not in `forget`."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[forget] = False
    return kept.nonzero().squeeze(1)


def tag_of_classes(classes: Iterable[int]) -> str:
    """A forget set's name in files and tables, for class numbers."""
    return "class" + "-".join(str(c) for c in sorted(set(classes)))


def tag_of(labels: torch.Tensor, index: torch.Tensor) -> str:
    """The name of a set of positions, ascending int64: of its classes where it is made of whole ones. labels: int64 (N,)."""
    classes = forgotten_classes(labels, index)
    return tag_of_classes(classes) if classes else tag_of_ids(index)


def tag_of_share(share: float) -> str:
    """A forget set's name for a share of all images, between 0 and 1."""
    return f"random{share:g}"


def tag_of_ids(index: torch.Tensor) -> str:
    """A name for a set of positions, ascending int64."""
    return "file" + hashlib.sha256(index.numpy().tobytes()).hexdigest()[:8]


def _read_ids(path, count):
    try:
        text = path.read_text(encoding="utf-8-sig").split()  # editors of Windows begin with a mark
        index = torch.tensor(sorted({int(word) for word in text}), dtype=torch.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"--forget-file {path}: not a list of image numbers, one a line ({error})") from None
    if len(index) and not 0 <= index[0] <= index[-1] < count:
        raise UserError(f"--forget-file {path}: image numbers run from 0 to {count - 1}")
    return index, tag_of_ids(index)
