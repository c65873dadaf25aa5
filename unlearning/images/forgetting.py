"""Forget sets: which training images a request names, and what files and people call that."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.words import NAMED, portions
from unlearning.images.catalogue import Catalogue
from unlearning.images.classes import class_name, class_numbers
from unlearning.images.request_files import read_file
from unlearning.images.splits import Split


@dataclass(frozen=True)
class Forgotten:
    """A forget set: sorted int64 positions among the loaded training images, and its tag for file names.

    draw: what makes it where it was drawn at random, for `identity`. notes: lines about the request that a user has to see.
    """

    positions: torch.Tensor
    tag: str
    draw: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForgetRequest:
    """One of the five ways to name a forget set.

    classes: words as `classes.class_numbers` reads them. share: 0..1 of the images; count: so many of them; both are drawn
    with a fixed seed, so that every training seed forgets the same. of: draw from these classes only. file: as
    `request_files.read_file` reads it. subclasses: words as of classes.
    """

    classes: tuple[int | str, ...] = ()
    share: float | None = None
    file: Path | None = None
    count: int | None = None
    of: tuple[int | str, ...] = ()
    subclasses: tuple[int | str, ...] = ()

    def resolve(self, train: Split, catalogue: Catalogue | None = None) -> Forgotten:
        """The forget set among the training images that were loaded.

        Raises UserError for an unknown class or image, an empty set, or one that leaves nothing to retain.
        """
        catalogue = catalogue or Catalogue.of_labels(train.labels)
        if self.of and self.share is None and self.count is None:
            raise UserError("--of-class says of which classes --forget-count or --forget-random draws: give one of these")
        if self.file is not None:
            found = read_file(self.file, catalogue, "--forget-file")
            forgotten = Forgotten(found.positions, found.tag or tag_of_ids(found.positions), found.draw, found.notes)
        elif self.share is not None or self.count is not None:
            forgotten = self._drawn(train.labels, catalogue.classes)
        elif self.classes:
            numbers = class_numbers(self.classes, catalogue.classes, train.labels.unique().tolist(), "--forget-class")
            forgotten = Forgotten(_of_classes(train.labels, numbers), tag_of_classes(numbers))
        elif self.subclasses:
            forgotten = self._of_subclasses(train, catalogue)
        else:
            raise UserError("nothing to forget: give --forget-class, --forget-random, --forget-count or --forget-file")
        count = len(forgotten.positions)
        if not 0 < count < len(train):
            raise UserError(f"the forget set has {count} of {len(train)} training images; it needs some, not all")
        return forgotten

    def positions(self, train: Split) -> tuple[torch.Tensor, str]:
        """The forget set as sorted int64 positions in `train`, and its tag, where no more than labels is known."""
        forgotten = self.resolve(train)
        return forgotten.positions, forgotten.tag

    def _of_subclasses(self, train: Split, catalogue: Catalogue) -> Forgotten:
        """All images of some subclasses."""
        if train.subclasses is None:
            raise UserError("--forget-subclass: these classes have no subclasses; those of cifar100-coarse have")
        known = train.subclasses.unique().tolist()
        numbers = class_numbers(self.subclasses, catalogue.subclasses, known, "--forget-subclass")
        positions = _of_classes(train.subclasses, numbers)
        return Forgotten(positions, tag_of(train, positions))

    def _drawn(self, labels: torch.Tensor, classes: Sequence[str]) -> Forgotten:
        """A draw of so many images or of a share of them, of all or of some classes."""
        of = class_numbers(self.of, classes, labels.unique().tolist(), "--of-class") if self.of else []
        pool = _of_classes(labels, of) if of else torch.arange(len(labels))
        where = {"of": of} if of else {}
        if self.share is not None:
            if not 0 < self.share < 1:
                raise UserError(f"--forget-random {self.share} is not a share between 0 and 1")
            count, tag, how = round(self.share * len(pool)), tag_of_share(self.share), {"random": self.share, **where}
        else:
            count, tag, how = self.count or 0, f"count{self.count}", {"count": self.count, **where}
            if not 0 < count <= len(pool):
                whose = f"class {', '.join(class_name(classes, c) for c in of)}" if of else "the training set"
                raise UserError(f"--forget-count {count}: {whose} has {len(pool):,} images")
        order = torch.randperm(len(pool), generator=torch.Generator().manual_seed(0))
        positions = pool[order[:count]].sort().values
        return Forgotten(positions, tag + ("-of" + "-".join(map(str, of)) if of else ""), how | {"seed": 0})


def forget_indices(
    train: Split, classes: Sequence[int | str] | None = None, share: float | None = None, file: str | Path | None = None
) -> tuple[torch.Tensor, str]:
    """What `ForgetRequest.positions` returns, for one of these."""
    return ForgetRequest(tuple(classes or ()), share, Path(file) if file else None).positions(train)


def _of_classes(labels: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """Ascending int64 positions of the images of these classes."""
    return torch.isin(labels, torch.tensor(numbers, dtype=torch.int64)).nonzero().squeeze(1)


def forgotten_classes(labels: torch.Tensor, forget: torch.Tensor) -> list[int]:
    """The classes (list of int) that lie wholly in the forget set; empty for sample forgetting.

    Only when the forget set is made of whole classes is it class forgetting.
    """
    whole = whole_classes(labels, forget)
    return whole if torch.isin(labels[forget], torch.tensor(whole, dtype=torch.int64)).all() else []


def whole_classes(labels: torch.Tensor, forget: torch.Tensor) -> list[int]:
    """The classes (list of int) that lie wholly in the forget set, whatever else it holds. labels: int64 (N,)."""
    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[forget] = True
    return [c for c in labels.unique().tolist() if inside[labels == c].all()]


def of_whole_classes(train: Split, test: Split, forget: torch.Tensor) -> torch.Tensor:
    """Which test images, bool (M,), are of the classes, or subclasses, that lie wholly in the forget set. forget: int64
    positions in the training images."""
    return torch.isin(test.finest, torch.tensor(whole_classes(train.finest, forget), dtype=torch.int64))


def in_words(
    labels: torch.Tensor,
    classes: Sequence[str],
    forget: torch.Tensor,
    tag: str,
    file: str | None = None,
    subclasses: Sequence[str] = (),
) -> str:
    """A forget set as people call it: "class 3 (Dress)", "random share 0.1", "100 random images", "files.txt, 12 images".

    forget: int64 positions in the training images; tag: its name in files; file: the name of the file that named it, where
    that is known. Classes of a set made of whole classes are named, and subclasses by their names `subclasses`.
    """
    whole, kind, names = forgotten_classes(labels, forget), "class", classes
    if not whole and re.fullmatch(r"subclass[\d-]+", tag):
        whole, kind, names = [int(c) for c in tag.removeprefix("subclass").split("-")], "subclass", subclasses
    if whole:
        some = [class_name(names, c) for c in whole[:NAMED]]
        more = f" and {len(whole) - NAMED} more" if len(whole) > NAMED else ""
        return f"{kind}{'es' if len(whole) > 1 else ''} {', '.join(some)}{more}"
    drawn = re.fullmatch(r"(?:random(?P<share>[^-]+(?:-\d+)?)|count(?P<count>\d+))(?:-of(?P<of>[\d-]+))?", tag)
    if drawn:
        of = [class_name(classes, int(c)) for c in (drawn["of"] or "").split("-") if c]
        where = f" of class{'es' if len(of) > 1 else ''} {', '.join(of)}" if of else ""
        return (f"random share {drawn['share']}" if drawn["share"] else f"{drawn['count']} random images") + where
    count = f", {len(forget):,} image{'s' * (len(forget) != 1)}" if tag.startswith("file") else ""
    return (file or re.sub(r"^file", "list ", tag)) + count


def by_class(labels: torch.Tensor, classes: Sequence[str], forget: torch.Tensor, verb: str, kind: str = "") -> str:
    """A request in a line: "forgets 320 of 10,000 images: all 200 of class 3 (Dress), 120 of class 5 (Sandal)".

    labels: int64 (N,) of the images that it is about. forget: int64 positions among them. verb: what happens; kind: what
    these images are, before the word.
    """
    names = [f"class {class_name(classes, c)}" for c in range(len(classes))]
    counts = [torch.bincount(some, minlength=len(names)).tolist() for some in (labels[forget], labels)]
    inside, every = (dict(zip(names, count, strict=False)) for count in counts)
    return f"{verb} {len(forget):,} of {len(labels):,} {kind}images: {portions(inside, every, 'classes')}"


def retain_indices(count: int, forget: torch.Tensor) -> torch.Tensor:
    """Sorted positions (int64) of the training images that are not in `forget`."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[forget] = False
    return kept.nonzero().squeeze(1)


def tag_of_classes(classes: Iterable[int]) -> str:
    """A forget set's name in files and tables, for class numbers."""
    return "class" + "-".join(str(c) for c in sorted(set(classes)))


def whole_tag(images: Split, index: torch.Tensor) -> str | None:
    """The name of a set of positions among images, int64: of its classes where it is made of whole ones, else of its
    subclasses where it is made of these; else None."""
    if classes := forgotten_classes(images.labels, index):
        return tag_of_classes(classes)
    if images.subclasses is not None and (kinds := forgotten_classes(images.subclasses, index)):
        return f"sub{tag_of_classes(kinds)}"
    return None


def tag_of(images: Split, index: torch.Tensor) -> str:
    """The name of a set of positions, ascending int64: as `whole_tag`, or its digest's."""
    return whole_tag(images, index) or tag_of_ids(index)


def tag_of_share(share: float) -> str:
    """A forget set's name for a share of all images, between 0 and 1."""
    return f"random{share:g}"


def tag_of_ids(index: torch.Tensor) -> str:
    """A name for a set of positions, ascending int64."""
    return "file" + hashlib.sha256(index.numpy().tobytes()).hexdigest()[:8]
