"""Data sets as uint8 tensors in memory, forget sets as index tensors, and batched augmentation.

Files are looked for in `data_dir`, then fetched by torchvision with its checksums; Fashion-MNIST comes from Debian's
package `dataset-fashion-mnist` where torchvision's mirror is out of reach. No worker process and no per-image Python
after loading: a batch is one index into a tensor. Only a folder of more than 8 GiB is read while it is used.
"""

import gzip
import hashlib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unlearning.core.errors import UserError
from unlearning.core.fetch import announce, bars_of_libraries, debian_package

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
RESIDENT = 8 * 2**30  # bytes of a folder's images that are held in memory; one number for all machines, for fingerprints
NAMED = 5  # classes that are named one by one


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), a tensor or ImageFiles, and labels int64 (N,).

    Labels are float32 (N, classes) where probabilities are to be learned.

    origin: the images that these were taken from, and their positions there, int64 (N,); None where these are all.
    """

    images: "torch.Tensor | ImageFiles"
    labels: torch.Tensor
    origin: "tuple[torch.Tensor | ImageFiles, torch.Tensor] | None" = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: "torch.Tensor | slice") -> "Split":
        """The rows that `index` names: int64 positions or a boolean mask (N,)."""
        images, rows = self.source
        own = self.images.take(index) if isinstance(self.images, ImageFiles) else self.images[index]
        return Split(own, self.labels[index], (images, rows[index]))

    @property
    def source(self) -> "tuple[torch.Tensor | ImageFiles, torch.Tensor]":
        """As `origin`, never None."""
        return self.origin or (self.images, torch.arange(len(self)))


class ImageFiles:
    """Image files in the place of a tensor uint8 (N, 3, side, side): an index reads those images, several at a time."""

    device = torch.device("cpu")

    def __init__(self, paths: Sequence[str | Path] | np.ndarray, side: int) -> None:
        self.paths, self.shape = np.asarray(paths), (len(paths), 3, side, side)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: "torch.Tensor | slice") -> torch.Tensor:
        """The images at int64 positions, a slice or a boolean mask. Raises UserError for a file that holds no image."""
        paths = self.take(index).paths
        images = torch.empty(len(paths), *self.shape[1:], dtype=torch.uint8)

        def read(row):
            images[row] = _read_image(paths[row], self.shape[-1])

        with ThreadPoolExecutor(os.cpu_count()) as readers:  # decoding leaves Python's lock to the others
            list(readers.map(read, range(len(paths))))
        return images

    def take(self, index: "torch.Tensor | slice") -> "ImageFiles":
        """ImageFiles of those at `index`, unread."""
        return ImageFiles(self.paths[index.numpy() if isinstance(index, torch.Tensor) else index], self.shape[-1])

    def to(self, device: object) -> "ImageFiles":
        """No-op: batches are moved to the device when they are read."""
        return self


@dataclass(frozen=True)
class Dataset:
    """A training and a test split; `tag` names them in file names, `fingerprint` is a SHA-256 of every byte of both.

    normalisation: mean and standard deviation of each channel for networks that start afresh, pixels from 0 to 1.
    """

    tag: str
    train: Split
    test: Split
    classes: tuple
    flip: bool
    fingerprint: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]

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


@dataclass(frozen=True)
class ForgetRequest:
    """One of the three ways to name a forget set, as `forget_indices` takes them."""

    classes: tuple[int, ...] = ()
    share: float | None = None
    file: Path | None = None

    def positions(self, train: Split) -> tuple[torch.Tensor, str]:
        """The forget set as sorted int64 positions in `train`, and its tag for file names."""
        return forget_indices(train, self.classes, self.share, self.file)


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
        train, test, classes = _folder(Path(name.removeprefix("folder:")), img_size)
    elif name in READERS:
        train, test, classes = READERS[name](root, quiet)
    else:
        raise UserError(f"unknown data set {name!r}; there are {', '.join(NAMES)}")
    if not 0 <= validation < 1:
        raise UserError(f"--validation {validation} is not a share between 0 and 1")
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
    train, test = (Split(split.images, split.labels) for split in (train, test))  # what wasn't taken is never asked for
    known = "cifar10" if tuple(classes) == CIFAR10_CLASSES else name
    mean, std = ((value,) * train.images.shape[1] for value in NEUTRAL)
    constants = NORMALISATION.get(known, (mean, std))
    return Dataset(tag, train, test, tuple(classes), name not in UPRIGHT, _fingerprint(train, test), constants)


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


def concatenate(images: Any, others: Any) -> "torch.Tensor | ImageFiles":
    """All of two splits' images; both are tensors, or both are ImageFiles."""
    if isinstance(images, ImageFiles):
        return ImageFiles(np.concatenate([images.paths, others.paths]), images.shape[-1])
    return torch.cat([images, others])


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


def in_words(dataset: Dataset, forget: torch.Tensor, tag: str) -> str:
    """A forget set as people call it: "class 3 (Dress)", "random share 0.1", "list 1a2b3c4d".

    forget: int64 positions in the training images; tag: its name in files. Classes of a set made of whole classes are named.
    """
    classes = forgotten_classes(dataset.train.labels, forget)
    if classes:
        some = [class_name(dataset.classes, c) for c in classes[:NAMED]]
        more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
        return f"class{'es' if len(classes) > 1 else ''} {', '.join(some)}{more}"
    return re.sub(r"^(random|file)", lambda found: {"random": "random share ", "file": "list "}[found[1]], tag)


def class_name(classes: Sequence[str], number: int) -> str:
    """A class by its number and, where it has one, its name: "3 (Dress)"."""
    return str(number) if classes[number] == str(number) else f"{number} ({classes[number]})"


def retain_indices(count: int, forget: torch.Tensor) -> torch.Tensor:
    """Sorted positions (int64) of the training images that are not in `forget`."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[forget] = False
    return kept.nonzero().squeeze(1)


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


def _read_ids(path, count):
    try:
        text = path.read_text(encoding="utf-8-sig").split()  # editors of Windows begin with a mark
        index = torch.tensor(sorted({int(word) for word in text}), dtype=torch.int64)
    except (OSError, ValueError) as error:
        raise UserError(f"--forget-file {path}: not a list of image numbers, one a line ({error})") from None
    if len(index) and not 0 <= index[0] <= index[-1] < count:
        raise UserError(f"--forget-file {path}: image numbers run from 0 to {count - 1}")
    return index, tag_of_ids(index)


def tag_of_classes(classes: Iterable[int]) -> str:
    """A forget set's name in files and tables, for class numbers."""
    return "class" + "-".join(str(c) for c in sorted(set(classes)))


def tag_of_share(share: float) -> str:
    """A forget set's name for a share of all images, between 0 and 1."""
    return f"random{share:g}"


def tag_of_ids(index: torch.Tensor) -> str:
    """A name for a set of positions, ascending int64."""
    return "file" + hashlib.sha256(index.numpy().tobytes()).hexdigest()[:8]


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


def _digits(root, quiet):
    """scikit-learn's 1,797 images of 8x8, every fifth of each class (in file order) to the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    both = Split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    test = torch.zeros(len(both), dtype=torch.bool)
    for label in range(10):
        test[(both.labels == label).nonzero().squeeze(1)[::5]] = True
    return both.take(~test), both.take(test), [str(c) for c in range(10)]


def _torchvision(name: str, megabytes: float, splits: tuple[dict, dict], folder: str = "") -> Callable[[Path, bool], tuple]:
    """A reader for torchvision's data set class of this name: (root, quiet) to (train, test, class names).

    megabytes: the size of its files as they are downloaded.
    """

    def read(root, quiet):
        from torchvision import datasets

        kind, where = getattr(datasets, name), root / folder if folder else root
        try:
            parts = _read_or_download(kind, where, splits, megabytes, quiet)
        except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
            if name != "FashionMNIST" or not _fashion_mnist_from_debian(root, quiet):
                raise UserError(_what_to_put_where(kind, where, error)) from None
            parts = [kind(where, **split) for split in splits]
        labels = [part.labels if hasattr(part, "labels") else part.targets for part in parts]
        images = [torch.as_tensor(part.data) for part in parts]
        if images[0].ndim == 3:  # MNIST's format has no channel axis
            images = [x.unsqueeze(1) for x in images]
        elif images[0].shape[-1] == 3:
            images = [x.permute(0, 3, 1, 2).contiguous() for x in images]
        classes = getattr(parts[0], "classes", [str(c) for c in range(10)])
        pairs = zip(images, labels, strict=True)
        train, test = (Split(x, torch.as_tensor(np.asarray(y), dtype=torch.int64)) for x, y in pairs)
        return train, test, classes

    return read


def _read_or_download(dataset, where, splits, megabytes, quiet):
    """The splits of torchvision's data set class `dataset`, downloaded unless they are there."""
    try:
        return [dataset(where, **split) for split in splits]
    except RuntimeError:  # torchvision's word for "not there, or not intact"
        address = dataset.mirrors[0] if hasattr(dataset, "mirrors") else getattr(dataset, "url", None)
        address = address or next(iter(dataset.split_list.values()))[0]
        announce(dataset.__name__, megabytes, address.split("/")[2], where)
        with bars_of_libraries(quiet):
            return [dataset(where, download=True, **split) for split in splits]


def _what_to_put_where(dataset, where, error):
    if hasattr(dataset, "resources"):
        target = where / dataset.__name__ / "raw"
        files = [name for name, _ in dataset.resources]
    elif hasattr(dataset, "filename"):
        target, files = where, [dataset.filename]
    else:
        target, files = where, [entry[1] for entry in dataset.split_list.values() if "extra" not in entry[1]]
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"no {dataset.__name__} files and no download ({reason}); put {', '.join(files)} into {target}"


def _fashion_mnist_from_debian(root, quiet):
    """Fetch Fashion-MNIST's files as a Debian package; whether that worked."""
    files = debian_package("dataset-fashion-mnist", root, quiet)
    if files is None:
        return False
    from torchvision.datasets import FashionMNIST

    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name, _ in FashionMNIST.resources:
        packed = files / "usr/share/datasets/fashion-mnist" / name
        whole = raw / Path(name).stem
        with gzip.open(packed) as source, open(whole.with_suffix(".part"), "wb") as target:
            shutil.copyfileobj(source, target)
        whole.with_suffix(".part").replace(whole)
    shutil.rmtree(root / "debian")
    return True


def _folder(path, img_size):
    """Read `train|test/<class>/*` below `path`; classes are numbered alphabetically."""
    from torchvision.datasets import ImageFolder

    trees = []
    for part in ("train", "test"):
        try:
            trees.append(ImageFolder(path / part))
        except (FileNotFoundError, OSError) as error:
            raise UserError(f"folder:{path} needs {part}/<class>/ with images in each ({error})") from None
    train, test = trees
    if train.classes != test.classes:
        raise UserError(f"folder:{path}: train and test don't hold the same classes")
    files = [ImageFiles([file for file, _ in tree.samples], img_size) for tree in trees]
    needed = sum(len(images) for images in files) * 3 * img_size**2
    if needed > RESIDENT:
        print(f"folder:{path}: {needed / 2**30:,.0f} GiB of images stay in their files", file=sys.stderr, flush=True)
    else:
        files = [images[:] for images in files]
    splits = [Split(x, torch.tensor(tree.targets, dtype=torch.int64)) for x, tree in zip(files, trees, strict=True)]
    return *splits, train.classes


def _read_image(file, side):
    """The image in `file`, resized unless it has this side: uint8 (3, side, side)."""
    try:
        with Image.open(file) as image:
            image = image.convert("RGB")
            pixels = np.array(image if image.size == (side, side) else image.resize((side, side)))
    except OSError as error:
        raise UserError(f"{file} is not a readable image ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)


_TRAIN_TEST = ({"train": True}, {"train": False})
READERS = {
    "digits": _digits,
    "fashion-mnist": _torchvision("FashionMNIST", 30.9, _TRAIN_TEST),
    "mnist": _torchvision("MNIST", 11.6, _TRAIN_TEST),
    "cifar10": _torchvision("CIFAR10", 170.5, _TRAIN_TEST),
    "cifar100": _torchvision("CIFAR100", 169.0, _TRAIN_TEST),
    "svhn": _torchvision("SVHN", 246.3, ({"split": "train"}, {"split": "test"}), "svhn"),
}
