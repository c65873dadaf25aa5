"""Named data sets, from their files in `data_dir`, torchvision's downloads, Debian's packages, or scikit-learn."""

import contextlib
import gzip
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearning.core.errors import RunFailed, UserError
from unlearning.core.fetch import announce, bars_of_libraries, debian_package
from unlearning.core.locks import locked
from unlearning.core.words import first_line
from unlearning.images.named import GTSRB_SIDE, NAMED_SETS
from unlearning.images.pictures import read_images
from unlearning.images.splits import Contents, Split

GTSRB_CLASSES = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing by lorries"),
    *("priority at the next crossing", "priority road", "give way", "stop", "no vehicles", "no lorries", "no entry"),
    *("danger", "bend to the left", "bend to the right", "double bend", "uneven road", "slippery road", "road narrows"),
    *("road works", "traffic lights", "pedestrians", "children", "cyclists", "snow or ice", "wild animals"),
    *("end of all limits", "turn right", "turn left", "straight on", "straight on or right", "straight on or left"),
    *("keep right", "keep left", "roundabout", "end of no passing", "end of no passing by lorries"),
)


def _digits(root, quiet):
    """scikit-learn's 1,797 images of 8x8, every fifth of each class (in file order) to the test split."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy((bunch.images * (255 / 16)).round().astype(np.uint8)).unsqueeze(1)
    both = Split(images, torch.from_numpy(bunch.target.astype(np.int64)))
    test = torch.zeros(len(both), dtype=torch.bool)
    for label in range(10):
        test[(both.labels == label).nonzero().squeeze(1)[::5]] = True
    return Contents(both.take(~test), both.take(test), [str(c) for c in range(10)])


Reader = Callable[[Path, bool], Contents]  # of the folder of files and of `quiet`
# What torchvision raises where files are missing, out of reach or damaged.
DAMAGED = (OSError, RuntimeError, ValueError, AssertionError, EOFError, LookupError, TypeError)


def _torchvision(name: str, megabytes: float, splits: tuple[dict, dict], folder: str = "") -> Reader:
    """A reader for torchvision's data set class of this name.

    megabytes: the size of its files as they are downloaded.
    """

    def read(root, quiet):
        from torchvision import datasets

        kind, where = getattr(datasets, name), root / folder if folder else root
        parts = _read_or_fetch(kind, where, splits, megabytes, quiet)
        labels = [part.labels if hasattr(part, "labels") else part.targets for part in parts]
        images = [torch.as_tensor(part.data) for part in parts]
        if images[0].ndim == 3:  # MNIST's format has no channel axis
            images = [x.unsqueeze(1) for x in images]
        elif images[0].shape[-1] == 3:
            images = [x.permute(0, 3, 1, 2).contiguous() for x in images]
        classes = getattr(parts[0], "classes", [str(c) for c in range(10)])
        pairs = zip(images, labels, strict=True)
        train, test = (Split(x, torch.as_tensor(np.asarray(y), dtype=torch.int64)) for x, y in pairs)
        return Contents(train, test, classes)

    return read


def _cifar100_by_superclass(root, quiet):
    """CIFAR-100 with its 20 superclasses as classes and its 100 classes as their subclasses.

    torchvision checks the files and leaves `coarse_labels` out, which are read after it.
    """
    whole = READERS["cifar100"](root, quiet)
    from torchvision.datasets import CIFAR100

    folder = root / CIFAR100.base_folder
    train, test = (
        replace(split, labels=torch.tensor(_unpickled(folder / file)["coarse_labels"]), subclasses=split.labels)
        for split, [[file, _]] in ((whole.train, CIFAR100.train_list), (whole.test, CIFAR100.test_list))
    )
    names = _unpickled(folder / CIFAR100.meta["filename"])["coarse_label_names"]
    return Contents(train, test, names, subclasses=whole.classes)


def _unpickled(file: Path) -> dict[str, Any]:
    """The content of a pickle of Python 2, which runs what it says: of files whose checksums are known alone."""
    with open(file, "rb") as opened:
        return pickle.load(opened, encoding="latin1")


def _gtsrb(root, quiet):
    """The German Traffic Sign Recognition Benchmark: PPM files of many sizes, resized to GTSRB_SIDE."""
    from torchvision.datasets import GTSRB

    parts = _read_or_fetch(GTSRB, root, ({"split": "train"}, {"split": "test"}), 276.6, quiet)
    counts = tuple(map(len, parts))
    if counts != (sizes := NAMED_SETS["gtsrb"].sizes):  # torchvision unpacks nothing again where there is a folder
        there, right = (f"{train:,} training and {test:,} test images" for train, test in (counts, sizes))
        place = root / "gtsrb" / "GTSRB"
        raise UserError(f"{place} holds {there}, not {right}: delete it, and it is unpacked anew")
    train, test = map(_resized, parts)
    return Contents(train, test, GTSRB_CLASSES)


def _resized(part):
    """torchvision's GTSRB as a split. It names its files in `_samples` alone; its own way reads one at a time, unnamed."""
    files, labels = zip(*part._samples, strict=True)
    return Split(read_images(files, GTSRB_SIDE)[0], torch.tensor(labels, dtype=torch.int64))


def _read_or_fetch(dataset, where, splits, megabytes, quiet):
    """The splits of torchvision's data set class `dataset`, fetched unless they are there, by one process at a time.

    Raises UserError, which says what to put where, when they are out of reach.
    """
    with contextlib.suppress(*DAMAGED):
        return [dataset(where, **split) for split in splits]
    try:
        with locked(where / dataset.__name__):
            return _fetched(dataset, where, splits, megabytes, quiet)
    except (*DAMAGED, RunFailed) as error:
        raise UserError(_what_to_put_where(dataset, where, error)) from None


def _fetched(dataset, where, splits, megabytes, quiet):
    """As `_read_or_fetch`, by torchvision, whose errors it raises, or else of Fashion-MNIST as a Debian package."""
    try:
        return _read_or_download(dataset, where, splits, megabytes, quiet)
    except DAMAGED:
        if dataset.__name__ != "FashionMNIST" or not _fashion_mnist_from_debian(where, quiet):
            raise
        return [dataset(where, **split) for split in splits]


def _read_or_download(dataset, where, splits, megabytes, quiet):
    """As `_fetched`, by torchvision alone."""
    try:
        return [dataset(where, **split) for split in splits]
    except RuntimeError:  # torchvision's word for "not there, or not intact"
        announce(dataset.__name__, megabytes, _host(dataset), where)
        with bars_of_libraries(quiet):
            return [dataset(where, download=True, **split) for split in splits]


def _host(dataset):
    """Where torchvision downloads a data set from."""
    if hasattr(dataset, "mirrors"):
        return dataset.mirrors[0].split("/")[2]
    if hasattr(dataset, "url"):
        return dataset.url.split("/")[2]
    return next(iter(dataset.split_list.values()))[0].split("/")[2] if hasattr(dataset, "split_list") else "sid.erda.dk"


def _what_to_put_where(dataset, where, error):
    if hasattr(dataset, "resources"):
        target = where / dataset.__name__ / "raw"
        files = [name for name, _ in dataset.resources]
    elif hasattr(dataset, "filename"):
        target, files = where, [dataset.filename]
    elif not hasattr(dataset, "split_list"):  # GTSRB's archives are named in the middle of its code
        target, files = where / "gtsrb", ["the contents of its three archives"]
    else:
        target, files = where, [entry[1] for entry in dataset.split_list.values() if "extra" not in entry[1]]
    reason = first_line(error)
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
    shutil.rmtree(files.parent)
    return True


_TRAIN_TEST = ({"train": True}, {"train": False})
READERS = {
    "digits": _digits,
    "fashion-mnist": _torchvision("FashionMNIST", 30.9, _TRAIN_TEST),
    "mnist": _torchvision("MNIST", 11.6, _TRAIN_TEST),
    "cifar10": _torchvision("CIFAR10", 170.5, _TRAIN_TEST),
    "cifar100": _torchvision("CIFAR100", 169.0, _TRAIN_TEST),
    "cifar100-coarse": _cifar100_by_superclass,
    "svhn": _torchvision("SVHN", 246.3, ({"split": "train"}, {"split": "test"}), "svhn"),
    "gtsrb": _gtsrb,
}
