"""Data sets as uint8 tensors in memory, and batched augmentation.

Files are looked for in `data_dir`, then fetched by torchvision with its checksums; Fashion-MNIST comes from Debian's
package `dataset-fashion-mnist` where torchvision's mirror is out of reach. No worker process and no per-image Python
after loading: a batch is one index into a tensor. Only a folder of more than 8 GiB is read while it is used.
unlearning/images/ reads the files, and finds the images that a request names.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.flags import on_one_line
from unlearning.core.words import NAMED, Say, listed, say, silent
from unlearning.images import forgetting
from unlearning.images.arrays import read_npz
from unlearning.images.catalogue import Catalogue
from unlearning.images.folders import NoTest, read_csv, read_folder
from unlearning.images.named import NAMED_SETS, constants
from unlearning.images.readers import READERS
from unlearning.images.records import Files, Known, completed, fingerprint
from unlearning.images.splits import Absent, Contents, ImageFiles, Split
from unlearning.images.twins import twins

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FLAGS = ("dataset", "subset", "test_subset", "validation", "img_size")  # the settings that name images
OWN = ("folder", "csv", "npz")  # what names of a user's own images begin with, before a colon and a path
NAMES = (*NAMED_SETS, "folder:PATH", "csv:FILE", "npz:FILE")
TRAITS = {"train": "training images", "test": "test images", "side": "pixels a side"}  # of `_traits`, in words


@dataclass(frozen=True)
class Dataset:
    """A training and a test split; `tag` names them in file names, `fingerprint` is a SHA-256 of every byte of both.

    normalisation: mean and standard deviation of each channel for networks that start afresh, pixels from 0 to 1. files: of
    a user's own data. missing: int64 positions of the training images whose files aren't there any more. catalogue: the full
    training set, of which `train` may be a part.
    """

    tag: str
    train: Split
    test: Split
    classes: tuple
    flip: bool
    fingerprint: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    files: Files | None = None
    missing: torch.Tensor = field(default_factory=partial(torch.empty, 0, dtype=torch.int64))
    catalogue: Catalogue | None = None

    def part(self, rows: torch.Tensor) -> Split:
        """The training images at int64 positions `rows`; where some are missing, labels and the number of images alone."""
        taken = self.train.take(rows)
        if torch.isin(self.missing, rows).any():
            nothing: Any = Absent((len(rows), *self.train.images.shape[1:]))
            return Split(nothing, taken.labels)
        return taken

    def check_missing(self, forget: torch.Tensor, tag: str, among: torch.Tensor | None = None) -> None:
        """Raise UserError where other images than those at the int64 positions `forget` are missing. among: positions of
        those that are looked at, None for all."""
        lost = self.missing[~torch.isin(self.missing, forget)]
        if len(lost := lost if among is None else lost[torch.isin(lost, among)]):
            what = f"{len(lost):,} training images, {listed(self.whole.called(lost))}, are missing"
            raise UserError(f"{self.tag}: {what}, which are not among those to be forgotten ({tag})")

    @property
    def whole(self) -> Catalogue:
        """The catalogue; where none is known, that of the training images."""
        return self.catalogue or Catalogue.of_labels(self.train.labels)

    def forgotten(self, request: forgetting.ForgetRequest) -> forgetting.Forgotten:
        """The forget set of a request. Raises UserError as `ForgetRequest.resolve` does."""
        return request.resolve(self.train, self.whole)

    def retained(self, forget: torch.Tensor, count: int | None = None) -> torch.Tensor:
        """Positions of the images that stay, or of `count` of them, int64 (N,). Raises UserError if there are fewer."""
        stay = forgetting.retain_indices(len(self.train), forget)
        complaint = f"--retain-subset {count}: of the images that stay"
        return thinned(stay, self.train.labels, count, complaint) if count else stay

    def left_twins(self, forget: torch.Tensor, gone: torch.Tensor | None = None) -> list[str]:
        """A line where images that stay are the same as some at the int64 positions `forget`, else none. gone: positions of
        images that don't stay though they aren't among these."""
        stay = torch.ones(len(self.train), dtype=torch.bool)
        for rows in (forget, self.missing, *([] if gone is None else [gone])):
            stay[rows] = False
        there = forget[~torch.isin(forget, self.missing)]
        named, others = twins(self.train.images, there, stay.nonzero().squeeze(1))
        if not len(others):
            return []
        names = ", ".join(self.whole.called(others[:NAMED])) + (f" and {len(others) - NAMED:,} more" * (len(others) > NAMED))
        what = f"{len(named):,} of the {len(forget):,} images to forget have the same pixels as others that stay"
        return [f"{what}, {names}: name these too"]

    def in_words(self, forget: torch.Tensor, tag: str, file: str | None = None) -> str:
        """A forget set as `forgetting.in_words` says it."""
        return forgetting.in_words(self.train.labels, self.classes, forget, tag, file, self.whole.subclasses)

    @property
    def is_cifar10(self) -> bool:
        """True for CIFAR-10's ten classes (the official files or an image tree of them)."""
        return self.classes == CIFAR10_CLASSES


@dataclass(frozen=True)
class Source:
    """What the data flags name: the arguments of `load`. quiet makes no other source.

    known: what a checkpoint says of these data, by which they are known again though images to be forgotten are deleted.
    listing: they are only counted, so that they need no test images.
    """

    dataset: str
    data_dir: Path
    subset: int | None = None
    validation: float = 0.0
    img_size: int = 32
    test_subset: int | None = None
    quiet: bool = field(default=False, compare=False)
    known: Known | None = None
    listing: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "dataset", one_spelling(self.dataset))

    def load(self, say: Say = say) -> Dataset:
        """Read the data set. say: as of `load`."""
        return load(**{each.name: getattr(self, each.name) for each in fields(self)}, say=say)

    def described(self, dataset: Dataset) -> dict[str, Any]:
        """What a file says of the data that it was made with."""
        own = {name: getattr(self, name) for name in FLAGS} | {"tag": dataset.tag, "fingerprint": dataset.fingerprint}
        kept = {"files": vars(dataset.files), "test_fingerprint": fingerprint(dataset.test)} if dataset.files else {}
        return own | _traits(dataset) | kept

    @property
    def is_there(self) -> bool:
        """False for a user's own data that aren't where their name says."""
        return not is_own(self.dataset) or Path(self.dataset.partition(":")[2]).exists()

    def at(self, place: str | None) -> "Source":
        """The same where it lies by now, `place`, if it and that are a user's own data."""
        return replace(self, dataset=place) if place and is_own(place) and is_own(self.dataset) else self

    @classmethod
    def of(cls, spec: dict[str, Any], data_dir: Path, quiet: bool = False) -> "Source":
        """The source that `described` has written; files of earlier versions don't know --test-subset."""
        own = {name: spec[name] for name in FLAGS if name in spec}
        if "dataset" not in own:
            raise UserError("a file doesn't say on which data set it was trained: it is damaged")
        return cls(data_dir=data_dir, quiet=quiet, known=Known.of(spec), **own)


def load(
    dataset: str,
    data_dir: str | Path = "data",
    subset: int | None = None,
    validation: float = 0.0,
    img_size: int = 32,
    test_subset: int | None = None,
    quiet: bool = False,
    known: Known | None = None,
    listing: bool = False,
    say: Say = say,
) -> Dataset:
    """Load a data set by name (one of NAMES).

    subset: keep this many training images, the same share of every class, drawn with a fixed seed.
    validation: hold this share of the training images out and put it in the test split's place, for choosing
        hyper-parameters without looking at test images.
    img_size: side in pixels to which images of `folder:PATH` and `csv:FILE` are resized; ignored elsewhere.
    test_subset: as `subset`, of the test images (of the held-out ones, where there are such).
    quiet: no progress bar where files are downloaded, and no word about what is skipped and resized; else `say` is called
        with lines about that.
    known: what a checkpoint says of these data; if nothing but files of training images has gone since, they are the same.
    listing: where there are no test images the test split is empty, in the place of an error.
    Raises UserError when the name is unknown, or a file can't be had or read.
    """
    if not 0 <= validation < 1:
        raise UserError(f"--validation {validation} is not a share between 0 and 1")
    name, say = one_spelling(dataset), silent if quiet else say
    try:
        whole = _read(name, Path(data_dir), validation > 0, img_size, quiet, known, say)
    except NoTest:
        if not listing:
            raise
        whole = _read(name, Path(data_dir), True, img_size, quiet, known, say)
        whole = whole._replace(test=whole.train.take(slice(0)))
    files, gone = Files.of(whole) if whole.files else None, torch.zeros(len(whole.train), dtype=torch.bool)
    if known and files:
        whole, files, gone = completed(whole, files, known)
    train, test = _chosen(whole, name, subset, validation, test_subset, say)
    positions = train.source[1]
    missing = gone[positions].nonzero().squeeze(1)
    train, test = (replace(split, origin=None) for split in (train, test))  # what wasn't taken is never asked for
    digest = fingerprint(train, test)
    if known and len(missing) and fingerprint(test) == known.says["test_fingerprint"]:
        wanted = {"subset": subset, "validation": validation, "img_size": img_size, "test_subset": test_subset}
        digest = known.fingerprint if all(known.says[flag] == value for flag, value in wanted.items()) else digest
    tag = short_name(name) + (f"-{digest[:6]}" if is_own(name) else "")
    tag += f"-{img_size}px" if name.startswith(("folder:", "csv:")) and img_size != 32 else ""
    tag += (f"-{subset}" if subset else "") + (f"-val{validation:g}" if validation else "")
    tag += f"-test{test_subset}" if test_subset else ""
    normalisation = constants("cifar10" if tuple(whole.classes) == CIFAR10_CLASSES else name, train.images.shape[1])
    flip = name not in NAMED_SETS or NAMED_SETS[name].mirrored
    classes = tuple(whole.classes)
    files_of, kinds = _named_files(whole, name), tuple(whole.subclasses)
    part = {"subset": subset, "validation": validation, "test_subset": test_subset}
    catalogue = Catalogue(len(whole.train), positions, classes, *files_of, name, digest, kinds, part)
    return Dataset(tag, train, test, classes, flip, digest, normalisation, files, missing, catalogue)


def _named_files(whole: Contents, name: str) -> tuple[tuple[str, ...] | None, Path | None]:
    """The files of all training images below a folder, and that folder; None where they have no files of their own."""
    kind, _, path = name.partition(":")
    if not whole.files:
        return None, None
    if kind == "folder":
        return tuple(f"train/{file}" for file in whole.files), Path(path)
    return tuple(whole.files), Path(path).parent


def _chosen(
    whole: Contents, name: str, subset: int | None, validation: float, test_subset: int | None, say: Say
) -> tuple[Split, Split]:
    """The training and the test images that the arguments of `load` choose of a whole data set."""
    train, test, classes, title = whole.train, whole.test, whole.classes, short_name(name)
    if validation:
        train, test = _held_out(train, validation, classes, say)
    assert test is not None  # readers refuse what has no test images
    if subset:
        train = _thinned(train, subset, classes, f"--subset {subset}: of the training images of {title}")
    if test_subset:
        test = _thinned(test, test_subset, classes, f"--test-subset {test_subset}: of the test images of {title}")
    return train, test


def _read(name: str, root: Path, validation: bool, img_size: int, quiet: bool, known: Known | None, say: Say) -> Contents:
    """What the data set's reader finds. root: folder of files that a name stands for; validation: True where test images
    aren't needed."""
    kind, _, path = name.partition(":")
    if name in READERS:
        found = READERS[name](root, quiet)
        for split, words in ((found.train, "training"), (found.test, "test")):
            _check_labels(split, found.classes, f"{name}: its {words} images", root)
        return found._replace(train=replace(found.train, origin=None))
    if not is_own(name):
        place = Path(name)
        own = "folder" if place.is_dir() else {".csv": "csv", ".npz": "npz"}.get(place.suffix) if place.exists() else None
        way = f"; {name} itself is {own}:{name}" if own else ""
        raise UserError(f"unknown data set {name!r}; there are {', '.join(NAMES)}{way}")
    if kind == "npz":
        return read_npz(Path(path), validation, say)
    read = read_folder if kind == "folder" else read_csv
    classes, once = known.says["classes"] if known else (), set(known.files.names if known else ())
    return read(Path(path), img_size, validation, say, classes, once)


def _check_labels(split: Split, classes: Sequence[str], what: str, root: Path) -> None:
    """Raise UserError where a data set's files have another number of labels than of images, or labels of no class."""
    images, labels = split.images, split.labels
    if len(images) != len(labels) or not len(labels):
        raise UserError(f"{what} are {len(images):,}, with {len(labels):,} labels: the files in {root} are damaged")
    if labels.ndim != 1 or labels.min() < 0 or labels.max() >= len(classes):
        strange = int(labels.max() if labels.min() >= 0 else labels.min())
        known = f"classes are 0 to {len(classes) - 1}"
        raise UserError(f"{what} have a label {strange}, and {known}: the files in {root} are damaged")


def check_positions(path: str | Path, positions: torch.Tensor | None, dataset: Dataset) -> None:
    """Raise UserError where ascending int64 positions that the file `path` says reach beyond the training images."""
    if positions is not None and len(positions) and positions[-1] >= len(dataset.train):
        what = f"it names image {int(positions[-1])}, and there are {len(dataset.train)} training images"
        raise UserError(f"{path}: {what}: it is damaged")


def _held_out(train: Split, share: float, classes: Sequence[str], say: Say) -> tuple[Split, Split]:
    """The training images without a share of them, and that share. Of each class one image at least is on either side, where
    there are enough; a class of which none is held out is named."""
    count = round(share * len(train))
    if not 0 < count < len(train):
        raise UserError(f"--validation {share:g}: it would hold {count} of {len(train)} training images out")
    held_out = stratified(train.labels, count, left=1)
    kept = torch.ones(len(train), dtype=torch.bool)
    kept[held_out] = False
    train, test = train.take(kept), train.take(held_out)
    for where, split in (("is held out", test), ("stays for training", train)):
        lost = [forgetting.class_name(classes, c) for c in range(len(classes)) if c not in split.labels]
        if lost:
            say(f"--validation {share:g}: no image {where} of class {listed(lost)}")
    return train, test


def is_own(name: str) -> bool:
    """True for a data set that is a user's own, which lies where its name says."""
    return name.partition(":")[0] in OWN and ":" in name


def one_spelling(name: str) -> str:
    """A data set's name, of a path one spelling: relative to the current folder where it lies in it, else absolute."""
    if not is_own(name):
        return name
    kind, _, path = name.partition(":")
    place = Path(os.path.abspath(os.path.expanduser(path)))
    return f"{kind}:{place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place}"


def short_name(name: str) -> str:
    """A data set's name in those of files: folder:../many/ is many, csv:list.csv is list."""
    if not is_own(name):
        return name
    kind, _, path = name.partition(":")
    place = Path(os.path.abspath(os.path.expanduser(path)))
    return place.name if kind == "folder" else place.stem


def check_same(path: str | Path, known: Mapping[str, Any], dataset: Dataset) -> None:
    """Raise UserError, which says what differs, unless `dataset` is what the file `path` was made with. known: what
    `Source.described` wrote into it; files of earlier versions say less."""
    if known["fingerprint"] == dataset.fingerprint:
        return
    own = _traits(dataset)
    differing = [
        f"{known[trait]} {words}, not {own[trait]}"
        for trait, words in TRAITS.items()
        if known.get(trait, own[trait]) != own[trait]
    ]
    theirs = known.get("classes", own["classes"])
    if theirs != own["classes"]:
        gone, new = ([name for name in a if name not in b] for a, b in ((theirs, own["classes"]), (own["classes"], theirs)))
        parts = [f"{word} {listed(names)}" for word, names in (("without", gone), ("with", new)) if names]
        differing.append(f"its classes {' and '.join(parts) or 'in another order'}")
    if dataset.files and known.get("side") == own["side"] and (record := Known.of(known)):
        differing += record.files.differing(dataset.files)
        differing += ["only training images may be missing"] if own["test"] < known.get("test", 0) else []
    alike = (
        "as many images of the same classes, but other pixels or labels"
        if "classes" in known
        else "their fingerprints differ"
    )
    what = "; ".join(differing) or alike
    raise UserError(f"{path} was trained on {known.get('tag', 'other data')}, not on this {dataset.tag}: {what}")


def _traits(dataset: Dataset) -> dict[str, Any]:
    """What tells data sets apart in words."""
    counts = {"train": len(dataset.train), "test": len(dataset.test)}
    return {**counts, "side": dataset.train.images.shape[-1], "classes": list(dataset.classes)}


def class_table(dataset: Dataset) -> str:
    """Number, name and numbers of training and test images of each class, and its subclasses, a line for each."""
    from tabulate import tabulate

    counts = (split.labels.bincount(minlength=len(dataset.classes)).tolist() for split in (dataset.train, dataset.test))
    rows = [[place, *row] for place, row in enumerate(zip(map(on_one_line, dataset.classes), *counts, strict=True))]
    header = ["number", "class", "training images", "test images"]
    if names := dataset.whole.subclasses:
        header.append("subclasses")
        for place, row in enumerate(rows):
            kinds = dataset.train.finest[dataset.train.labels == place].unique().tolist()
            row.append(", ".join(forgetting.class_name(names, kind) for kind in kinds))
    return tabulate(rows, header, "plain", disable_numparse=[1]) + "\n"


def batches(images: "torch.Tensor | ImageFiles", order: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
    """The images at each of the positions in `order`, a sequence of int64 (B,), one batch after the other; of ImageFiles the
    next batch is read while the last is worked on."""
    if not isinstance(images, ImageFiles):
        yield from (images[rows.to(images.device)] for rows in order)
        return
    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for rows in order:
            ready, ahead = ahead, reader.submit(images.__getitem__, rows)
            if ready:
                yield ready.result()
        if ahead:
            yield ahead.result()


def in_batches(order: torch.Tensor, size: int) -> list[torch.Tensor]:
    """Positions int64 (N,) in batches of `size`.

    A last batch of a single image joins the one before it: a batch norm on maps of one pixel needs two values.
    """
    batches = list(order.split(size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def shuffled(count: int, size: int) -> list[torch.Tensor]:
    """The batches of an epoch over `count` images: all positions in random order, as `in_batches` splits them."""
    return in_batches(torch.randperm(count), size)


def steps_of(count: int, size: int) -> int:
    """The optimiser steps of an epoch over `count` images in batches of `size`."""
    return max(1, math.ceil((count - 1) / size)) if size > 1 else count


def _thinned(split, count, classes, complaint):
    """`count` images of `split`, all classes alike. Raises UserError, beginning with `complaint`, if it can't be."""
    check_count(count, len(classes), len(split), complaint)
    return split.take(stratified(split.labels, count))


def thinned(rows: torch.Tensor, labels: torch.Tensor, count: int, complaint: str) -> torch.Tensor:
    """`count` of the int64 positions `rows`, all classes alike, ascending. labels: of all images.

    Raises UserError, beginning with `complaint`, if it can't be.
    """
    check_count(count, len(labels[rows].unique()), len(rows), complaint)
    return rows[stratified(labels[rows], count)]


def check_count(count: int, classes: int, most: int, complaint: str) -> None:
    """Raise UserError, beginning with `complaint`, where `count` images aren't one of each class to all."""
    if not classes <= count <= most:
        raise UserError(f"{complaint} {classes}, one of each class, to {most} can be kept")


def stratified(labels: torch.Tensor, count: int, left: int = 0) -> torch.Tensor:
    """Sorted int64 positions of `count` images, spread over the classes as evenly as their sizes allow.

    Where `count` is enough, each class gives at least one image; `left` of each class are never drawn. The draw has a fixed
    seed of its own, so that every training seed sees the same images.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    rank = torch.empty(len(labels), dtype=torch.float64)
    first, last = [], []
    for label in labels.unique():  # a member's place within its class, as a share of that class
        members = order[labels[order] == label]
        rank[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
        first += members[: 1 if len(members) > left else 0].tolist()
        last += members[len(members) - left :].tolist()
    if len(first) <= count <= len(labels) - len(last):
        rank[first], rank[last] = -1.0, 2.0  # before and behind all others; no draw changes that was so anyway
    return rank.argsort(stable=True)[:count].sort().values


def first_of_each(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Sorted int64 positions of the first `count` images, as many of each class as can be, in whatever order they come."""
    rank = torch.empty_like(labels)
    for label in labels.unique():  # an image's place among those of its class
        members = labels == label
        rank[members] = torch.arange(int(members.sum()))
    return rank.argsort(stable=True)[:count].sort().values


def random_crop(images: torch.Tensor) -> torch.Tensor:
    """Shift each image by its own offset of up to an eighth of its side (4 of 32 pixels, as usual for CIFAR), zeros moving
    in: uint8 (B, C, H, W) to the same."""
    count, channels, height, width = images.shape
    pad = round(height / 8)
    device = images.device
    padded = torch.nn.functional.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1)).to(device)
    rows = (top + torch.arange(height, device=device))[:, None, :, None]
    columns = (left + torch.arange(width, device=device))[:, None, None, :]
    batch = torch.arange(count, device=device)[:, None, None, None]
    return padded[batch, torch.arange(channels, device=device)[None, :, None, None], rows, columns]


def random_flip(images: torch.Tensor) -> torch.Tensor:
    """Mirror each image with probability one half: (B, C, H, W) to the same."""
    return mirror(images, torch.rand(len(images)) < 0.5)


def mirror(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Mirror the images (B, C, H, W) of which `which`, bool (B,), is true."""
    return torch.where(which.to(images.device)[:, None, None, None], images.flip(-1), images)


def crop_and_flip(images: torch.Tensor) -> torch.Tensor:
    """`random_crop`, then `random_flip`."""
    return random_flip(random_crop(images))
