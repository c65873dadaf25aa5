"""Data sets as uint8 tensors in memory, and batched augmentation.

Files are looked for in `data_dir`, then fetched by torchvision with its checksums; Fashion-MNIST comes from Debian's
package `dataset-fashion-mnist` where torchvision's mirror is out of reach. No worker process and no per-image Python
after loading: a batch is one index into a tensor. Only a folder of more than 8 GiB is read while it is used.
unlearning/images/ reads the files, and finds the images that a request names.
"""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.images import forgetting
from unlearning.images.catalogue import Catalogue
from unlearning.images.folders import read_folder
from unlearning.images.readers import READERS
from unlearning.images.splits import ImageFiles, Split

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FLAGS = ("dataset", "subset", "test_subset", "validation", "img_size")  # the settings that name images
NAMES = ("digits", "fashion-mnist", "mnist", "cifar10", "cifar100", "svhn", "folder:PATH")
SIZES = {  # training and test images
    "digits": (1433, 364),
    "fashion-mnist": (60_000, 10_000),
    "mnist": (60_000, 10_000),
    "cifar10": (50_000, 10_000),
    "cifar100": (50_000, 10_000),
    "svhn": (73_257, 26_032),
}
UPRIGHT = ("digits", "mnist", "svhn")  # a mirrored digit is another sign
# Published mean and standard deviation of each channel, pixels from 0 to 1. They are constants because statistics of the
# images at hand would carry what is to be forgotten into Retrain.
NORMALISATION = {
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}
NEUTRAL = (0.5, 0.5)  # for any other images: -1 to 1


@dataclass(frozen=True)
class Dataset:
    """A training and a test split; `tag` names them in file names, `fingerprint` is a SHA-256 of every byte of both.

    normalisation: mean and standard deviation of each channel for networks that start afresh, pixels from 0 to 1.
    catalogue: the full training set, of which `train` may be a part.
    """

    tag: str
    train: Split
    test: Split
    classes: tuple
    flip: bool
    fingerprint: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    catalogue: Catalogue | None = None

    @property
    def whole(self) -> Catalogue:
        """The catalogue; where none is known, that of the training images."""
        return self.catalogue or Catalogue.of_labels(self.train.labels)

    def forgotten(self, request: forgetting.ForgetRequest) -> forgetting.Forgotten:
        """The forget set of a request. Raises UserError as `ForgetRequest.resolve` does."""
        return request.resolve(self.train, self.whole)

    def in_words(self, forget: torch.Tensor, tag: str) -> str:
        """A forget set as `forgetting.in_words` says it."""
        return forgetting.in_words(self.train.labels, self.classes, forget, tag)

    @property
    def is_cifar10(self) -> bool:
        """True for CIFAR-10's ten classes (the official files or an image tree of them)."""
        return self.classes == CIFAR10_CLASSES


@dataclass(frozen=True)
class Source:
    """What the data flags name: the arguments of `load`. quiet makes no other source."""

    dataset: str
    data_dir: Path
    subset: int | None = None
    validation: float = 0.0
    img_size: int = 32
    test_subset: int | None = None
    quiet: bool = field(default=False, compare=False)

    def load(self) -> Dataset:
        """Read the data set."""
        return load(**{each.name: getattr(self, each.name) for each in fields(self)})

    def described(self, dataset: Dataset) -> dict[str, Any]:
        """What a file says of the data that it was made with."""
        own = {name: value for name, value in asdict(self).items() if name not in ("data_dir", "quiet")}
        return own | {"tag": dataset.tag, "fingerprint": dataset.fingerprint}

    @classmethod
    def of(cls, spec: dict[str, Any], data_dir: Path, quiet: bool = False) -> "Source":
        """The source that `described` has written; files of earlier versions don't know --test-subset."""
        return cls(data_dir=data_dir, quiet=quiet, **{name: spec[name] for name in FLAGS if name in spec})


def load(
    dataset: str,
    data_dir: str | Path = "data",
    subset: int | None = None,
    validation: float = 0.0,
    img_size: int = 32,
    test_subset: int | None = None,
    quiet: bool = False,
) -> Dataset:
    """Load a data set by name (one of NAMES).

    subset: keep this many training images, the same share of every class, drawn with a fixed seed.
    validation: hold this share of the training images out and put it in the test split's place, for choosing
        hyper-parameters without looking at test images.
    img_size: side in pixels to which `folder:PATH` images are resized; ignored elsewhere.
    test_subset: as `subset`, of the test images (of the held-out ones, where there are such).
    quiet: no progress bar where files are downloaded.
    Raises UserError when the name is unknown or a file can't be had.
    """
    root, name = Path(data_dir), dataset
    if name.startswith("folder:"):
        train, test, classes = read_folder(Path(name.removeprefix("folder:")), img_size)
    elif name in READERS:
        train, test, classes = READERS[name](root, quiet)
    else:
        raise UserError(f"unknown data set {name!r}; there are {', '.join(NAMES)}")
    if not 0 <= validation < 1:
        raise UserError(f"--validation {validation} is not a share between 0 and 1")
    count, files = len(train), train.names
    train = Split(train.images, train.labels)  # a reader may have taken it from something larger
    tag = short_name(name) + (f"-{img_size}px" if name.startswith("folder:") and img_size != 32 else "")
    if validation:
        held_out = stratified(train.labels, round(validation * len(train)))
        kept = torch.ones(len(train), dtype=torch.bool)
        kept[held_out] = False
        train, test = train.take(kept), train.take(held_out)
    if subset:
        train = _thinned(train, subset, classes, f"--subset {subset}: of the training images of {tag}")
    if test_subset:
        test = _thinned(test, test_subset, classes, f"--test-subset {test_subset}: of the test images of {tag}")
    tag += (f"-{subset}" if subset else "") + (f"-val{validation:g}" if validation else "")
    tag += f"-test{test_subset}" if test_subset else ""
    positions = train.source[1]
    train, test = (Split(split.images, split.labels) for split in (train, test))  # what wasn't taken is never asked for
    known = "cifar10" if tuple(classes) == CIFAR10_CLASSES else name
    mean, std = ((value,) * train.images.shape[1] for value in NEUTRAL)
    constants = NORMALISATION.get(known, (mean, std))
    fingerprint, folder = _fingerprint(train, test), Path(name.removeprefix("folder:")) if files else None
    catalogue = Catalogue(count, positions, tuple(classes), files, folder, name, fingerprint)
    return Dataset(tag, train, test, tuple(classes), name not in UPRIGHT, fingerprint, constants, catalogue)


def short_name(name: str) -> str:
    """A data set's name in those of files: folder:../many/ is many."""
    return Path(os.path.abspath(name.removeprefix("folder:"))).name if name.startswith("folder:") else name


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


def steps_of(count: int, size: int) -> int:
    """The optimiser steps of an epoch over `count` images in batches of `size`."""
    return max(1, math.ceil((count - 1) / size)) if size > 1 else count


def _thinned(split, count, classes, complaint):
    """`count` images of `split`, all classes alike. Raises UserError, beginning with `complaint`, if it can't be."""
    if not len(classes) <= count <= len(split):
        raise UserError(f"{complaint} {len(classes)}, one of each class, to {len(split)} can be kept")
    return split.take(stratified(split.labels, count))


def stratified(labels: torch.Tensor, count: int) -> torch.Tensor:
    """Sorted int64 positions of `count` images, spread over the classes as evenly as their sizes allow.

    The draw has a fixed seed of its own, so that every training seed sees the same images.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(labels), generator=generator)
    rank = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():  # a member's place within its class, as a share of that class
        members = order[labels[order] == label]
        rank[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
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
    coin = torch.rand(len(images)).to(images.device) < 0.5
    return torch.where(coin[:, None, None, None], images.flip(-1), images)


def crop_and_flip(images: torch.Tensor) -> torch.Tensor:
    """`random_crop`, then `random_flip`."""
    return random_flip(random_crop(images))


def _fingerprint(*splits):
    digest = hashlib.sha256()
    for split in splits:
        for part in (split.images, split.labels):
            digest.update(str(tuple(part.shape)).encode())
            if isinstance(part, ImageFiles):  # their bytes would take as long as an epoch
                digest.update("".join(f"{Path(path).name} {os.path.getsize(path)}\n" for path in part.paths).encode())
            else:
                digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()
