"""The flags of every method: data, forget set, original, epochs and rates, device and files."""

import argparse
from pathlib import Path

import data
import models
from unlearning.core.flags import (
    Parser,
    PerModel,
    add_cache_flag,
    add_device_flags,
    below_one,
    mark,
    positive_float,
    positive_int,
    seed_number,
    share,
)
from unlearning.images import forgetting


def method_parser(
    doc: str | None,
    *,
    epochs: int | PerModel,
    lr: float | PerModel,
    batch_size: int = 128,
    forget: bool = True,
    original: bool = True,
) -> Parser:
    """A Parser with the flags that all methods share.

    doc: the script's docstring. forget: whether there is anything to forget. original: whether the method starts from one,
    or else from scratch.
    """
    parser = Parser(doc)
    flag = parser.add_argument
    add_data_flags(parser)
    flag("--model", help=f"{', '.join(models.NAMES)} or a timm name (default: resnet20, or what --original holds)")
    if original:
        text = "checkpoint to start from (default: by name in --weights)"
        flag("--original", type=Path, identity=False, help=text)
    else:
        flag("--pretrained", action="store_true", help="start from ImageNet weights (a timm name)")
        flag("--input-size", type=positive_int, help="the network resizes images to this side in pixels")
        text = "of each channel, pixels from 0 to 1 (default: published ones of the data set or of --pretrained, else 0.5)"
        flag("--mean", type=share, nargs="+", metavar="MEAN", help=f"mean {text}")
        flag("--std", type=positive_float, nargs="+", metavar="STD", help=f"standard deviation {text}")
    if forget:
        add_forget_flags(parser)
    flag("--epochs", type=positive_int, default=epochs, help=f"passes over the images (default: {epochs})")
    flag("--batch-size", type=positive_int, default=batch_size, help=f"images a step (default: {batch_size})")
    flag("--lr", type=positive_float, default=lr, help=f"learning rate (default: {lr})")
    flag("--seed", type=seed_number, default=0, identity="seed", help="seed of weights, batches and dropout (default: 0)")
    add_device_flags(parser)
    add_cache_flag(parser)
    add_output_flags(parser)
    return parser


def add_output_flags(parser: Parser) -> None:
    """--weights, --output, --overwrite and --quiet."""
    flag, default = parser.add_argument, Path("model_weights")
    flag("--weights", type=Path, default=default, identity=False, help="folder of checkpoints (default: model_weights)")
    flag("--output", type=Path, identity=False, help="checkpoint to write (default: a telling name in --weights)")
    flag("--overwrite", action="store_true", identity=False, help="compute again what exists")
    flag("--quiet", action="store_true", identity=False, help="no progress")


def add_data_flags(parser: Parser) -> None:
    """--dataset and what selects images from it."""
    flag = parser.add_argument
    names = ", ".join(data.NAMES)
    flag("--dataset", default="fashion-mnist", identity="data", help=f"{names} (default: fashion-mnist)")
    flag("--data-dir", type=Path, default=Path("data"), identity=False, help="folder of data files (default: data)")
    flag("--subset", type=positive_int, identity="data", help="keep this many training images, all classes alike")
    flag("--test-subset", type=positive_int, identity="data", help="keep this many test images, all classes alike")
    flag(
        "--validation",
        type=below_one,
        default=0.0,
        identity="data",
        help="share of the training images to score on in the test set's place",
    )
    flag(
        "--img-size",
        type=positive_int,
        default=32,
        identity="data",
        help="side of folder: images in pixels (default: 32)",
    )


def add_forget_flags(parser: Parser) -> None:
    """The four ways to name a forget set."""
    group = parser.add_mutually_exclusive_group()
    names = "by name or number (id:3 is always a number, super:fish a superclass of cifar100)"
    files = "text, .csv, .json, .npy, .npz, .pt, or a checkpoint that has forgotten them"
    for flag in (
        group.add_argument("--forget-class", nargs="+", metavar="CLASS", help=f"forget these classes, {names}"),
        group.add_argument("--forget-random", type=float, metavar="SHARE", help="forget this share (0 to 1) of the images"),
        group.add_argument("--forget-file", type=Path, metavar="FILE", help=f"forget the images that FILE names: {files}"),
    ):
        mark(flag, identity="forget")
    text, of = "forget N images, the same for every seed", "draw --forget-count or --forget-random from"
    for flag in (
        group.add_argument("--forget-count", type=positive_int, metavar="N", help=text),
        parser.add_argument("--of-class", nargs="+", metavar="CLASS", help=f"{of} these classes alone"),
    ):
        mark(flag, identity="forget", off=None)


def source_of(args: argparse.Namespace) -> data.Source:
    """The data set that the flags name."""
    return data.Source(
        args.dataset, args.data_dir, args.subset, args.validation, args.img_size, args.test_subset, args.quiet
    )


def forget_request(args: argparse.Namespace) -> forgetting.ForgetRequest | None:
    """The forget set that the flags name; None where they name none."""
    request = forgetting.ForgetRequest(
        tuple(args.forget_class or ()), args.forget_random, args.forget_file, args.forget_count, tuple(args.of_class or ())
    )
    return None if request == forgetting.ForgetRequest() else request
