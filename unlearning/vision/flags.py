"""TODO unlearning.vision.flags."""

import functools
from pathlib import Path

import data
from unlearning.core.flags import positive_int

# Flags that say where and how loudly to compute; all others make a run what it is.
_CIRCUMSTANCES = {"data_dir", "device", "cache", "weights", "original", "output", "overwrite", "reuse", "plot"}
_CIRCUMSTANCES |= {"command", "quiet", "jobs"}


def add_data_flags(parser):
    """--dataset and what selects images from it."""
    parser.add_argument("--dataset", default="fashion-mnist", help=f"{', '.join(data.NAMES)} (default: fashion-mnist)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--subset", type=positive_int, help="keep this many training images, all classes alike")
    parser.add_argument("--test-subset", type=positive_int, help="keep this many test images, all classes alike")
    parser.add_argument(
        "--validation", type=float, default=0.0, help="share of the training images to score on in the test set's place"
    )
    parser.add_argument("--img-size", type=positive_int, default=32, help="side of folder: images in pixels (default: 32)")


def add_forget_flags(parser):
    """The three ways to name a forget set."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--forget-class", type=int, nargs="+", metavar="CLASS", help="forget these classes, by number")
    group.add_argument("--forget-random", type=float, metavar="SHARE", help="forget this share (0 to 1) of the images")
    group.add_argument("--forget-file", type=Path, metavar="FILE", help="forget the images numbered in FILE, one a line")


@functools.lru_cache(maxsize=1)
def load_data_by(*arguments):
    """`data.load`, the last set kept, so that several runs in one process read it once."""
    return data.load(*arguments)


def load_data(config):
    """The data set that the flags name."""
    return load_data_by(
        config.dataset, config.data_dir, config.subset, config.validation, config.img_size, config.test_subset
    )


def settings_of(config):
    """The flags that make a run what it is, as plain values."""
    return {key: _plain(value) for key, value in vars(config).items() if key not in _CIRCUMSTANCES}


def data_of(config, dataset):
    """What a file says of the data that it was made with."""
    flags = ("dataset", "subset", "validation", "img_size", "test_subset")
    return {flag: getattr(config, flag) for flag in flags} | {"tag": dataset.tag, "fingerprint": dataset.fingerprint}


def data_arguments(spec, data_dir):
    """The arguments of `load_data_by` for what `data_of` has written."""
    flags = ("subset", "validation", "img_size", "test_subset")  # the last is unknown to files of earlier versions
    return spec["dataset"], data_dir, *(spec.get(flag) for flag in flags)


def _plain(value):
    return str(value) if isinstance(value, Path) else value
