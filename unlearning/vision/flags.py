"""The flags of every method: data, forget set, original, epochs and rates, device and files."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import data
import models
from unlearning.core.errors import UserError
from unlearning.core.flags import (
    BELOW_ONE,
    FRACTION,
    PIXELS,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    QUIET,
    SEED,
    SHARE,
    Parser,
    PerModel,
    add_cache_flag,
    add_device_flags,
    mark,
)
from unlearning.core.paths import folder, input_file, input_path, name_or_path, output_file
from unlearning.images import forgetting
from unlearning.images.named import NAMED_SETS
from unlearning.images.request_files import check_there
from unlearning.vision.shared import Shared

SIDE = 32  # pixels of folder: and csv: images, unless --img-size says otherwise
HEAD = "layers that give the logits (default: what the network says, or those found)"


def method_parser(
    doc: str | None,
    *,
    epochs: int | PerModel,
    lr: float | PerModel,
    batch_size: int | PerModel = 128,
    forget: bool = True,
    original: bool = True,
) -> Parser:
    """A Parser with the flags that all methods share.

    doc: the script's docstring. forget: whether there is anything to forget. original: whether the method starts from one,
    or else from scratch.
    """
    parser = Parser(doc)
    parser.several = True
    flag = parser.add_argument
    add_data_flags(parser)
    fresh = "resnet20, or what --data-of holds" if forget else "resnet20"
    add_model_flag(parser, "resnet20, or what --original holds" if original else fresh, folders=not original)
    if original:
        text = "checkpoint to start from, or a network from elsewhere: a file or a folder (default: by name in --weights)"
        flag("--original", type=input_path, identity=False, help=text)
        add_elsewhere_flags(parser)
        text = "learn from this many of the images that stay, all classes alike (default: from all of them)"
        flag("--retain-subset", type=POSITIVE_INT, off=None, metavar="N", help=text)
    else:
        parser.instead["--original"] = "it starts afresh: --model names the network"
        parser.instead["--original"] += ", or --data-of a checkpoint that was made from that original" if forget else ""
        flag("--pretrained", action="store_true", help="start from ImageNet weights (a timm name)")
        flag("--input-size", type=PIXELS, help="the network resizes images to this side in pixels")
        text = "of each channel, pixels from 0 to 1 (default: published ones of the data set or of --pretrained, else 0.5)"
        flag("--mean", type=SHARE, nargs="+", metavar="MEAN", help=f"mean {text}")
        flag("--std", type=POSITIVE_FLOAT, nargs="+", metavar="STD", help=f"standard deviation {text}")
        flag("--head", nargs="+", off=None, metavar="LAYER", help=HEAD)
        add_flip_flag(parser)
    if forget and not original:
        text = (
            "checkpoint that says network, constants and data; without --forget-... it forgets what that has forgotten, or "
        )
        text += "of a folder or table the images that are missing since"
        flag("--data-of", type=input_file, identity=False, metavar="FILE", help=text)
    if forget:
        add_forget_flags(parser)
    flag("--epochs", type=POSITIVE_INT, default=epochs, help=f"passes over the images (default: {epochs})")
    flag("--batch-size", type=POSITIVE_INT, default=batch_size, help=f"images a step (default: {batch_size})")
    flag("--lr", type=POSITIVE_FLOAT, default=lr, help=f"learning rate (default: {lr})")
    flag("--seed", type=SEED, default=0, identity="seed", help="seed of weights, batches and dropout (default: 0)")
    add_device_flags(parser)
    add_cache_flag(parser)
    add_output_flags(parser)
    text = (
        "also write UA, RA and TA after each epoch, scored on up to 1,000 images each, beside the checkpoint: NAME_curve.csv"
    )
    flag("--curve", action="store_true", identity=False, help=text)
    return parser


def add_model_flag(parser: Parser, default: str, folders: bool = False) -> None:
    """--model. default: in words. folders: a folder of timm or Hugging Face names one, too."""
    kinds = [*models.NAMES, "timm:NAME (or NAME alone, if it is none of these)", "torchvision:NAME"]
    kinds += ["a /FOLDER of timm or Hugging Face"] * folders
    text = f"{', '.join(kinds)}, or your own FILE.py:FUNCTION (default: {default})"
    parser.add_argument("--model", type=name_or_path, help=text)


def add_elsewhere_flags(parser: Parser) -> None:
    """The flags that say what a network from elsewhere doesn't say itself."""
    flag, text = (
        parser.add_argument,
        "of each channel, or one for all, pixels from 0 to 1, for a network from elsewhere that doesn't say",
    )
    flag("--mean", type=SHARE, nargs="+", off=None, metavar="MEAN", help=f"mean {text}")
    flag("--std", type=POSITIVE_FLOAT, nargs="+", off=None, metavar="STD", help=f"standard deviation {text}")
    flag("--input-size", type=PIXELS, off=None, help="a network from elsewhere resizes images to this side in pixels")
    flag("--head", nargs="+", off=None, metavar="LAYER", help=HEAD)
    flag("--entry", off=None, metavar="KEY", help="key of the state dict in a file from elsewhere (default: found)")


def add_targets_flag(parser: Parser, kind: str, what: str) -> None:
    """--lora-targets or --prune-targets, by `kind`. what: is done to these layers."""
    text = f"layers that {what}: names, ends of names, or patterns (default: by the kind of network)"
    parser.add_argument(f"--{kind}-targets", nargs="+", off=None, metavar="LAYER", help=text)


def add_pruning_flags(parser: Parser) -> Parser:
    """The flags that pruneft and loraprune share."""
    parser.add_argument("--amount", type=FRACTION, default=0.5, help="share of rows to prune (default: 0.5)")
    add_targets_flag(parser, "prune", "are pruned")
    parser.add_argument("--regrow", action="store_true", help="prune weights alone and drop the masks, as published")
    parser.add_argument(
        "--compact",
        nargs="?",
        const="after",
        choices=("first", "after"),
        help="make the network smaller by taking silent channels out, before or after it unlearns (default: after)",
    )
    parser.add_argument("--prune-head", action="store_true", help="also zero rows of the head, free to regrow (paper)")
    return parser


def add_output_flags(parser: Parser, output: Callable[[str], Path] = output_file) -> None:
    """--weights, --output, --overwrite and --quiet. output: what --output names, a file or a folder."""
    flag, default = parser.add_argument, Path("model_weights")
    flag("--weights", type=folder, default=default, identity=False, help="folder of checkpoints (default: model_weights)")
    flag("--output", type=output, identity=False, help="checkpoint to write (default: a telling name in --weights)")
    flag("--overwrite", action="store_true", identity=False, help="compute again what exists")
    flag("--quiet", action="store_true", identity=False, help=QUIET)


def add_data_flags(parser: Parser, default: str | None = "fashion-mnist") -> None:
    """--dataset and what selects images from it. default: the data set; None where files say it."""
    flag = parser.add_argument
    names = ", ".join(data.NAMES)
    text = "print the classes with their numbers and counts of images, and do nothing else"
    usual = default or "what each file says, which those from elsewhere don't"
    flag("--dataset", type=name_or_path, default=default, identity="data", help=f"{names} (default: {usual})")
    flag("--data-dir", type=folder, default=Path("data"), identity=False, help="folder of data files (default: data)")
    flag("--subset", type=POSITIVE_INT, identity="data", help="keep this many training images, all classes alike")
    flag("--test-subset", type=POSITIVE_INT, identity="data", help="keep this many test images, all classes alike")
    flag(
        "--validation",
        type=BELOW_ONE,
        default=0.0,
        identity="data",
        help="share of the training images to score on in the test set's place",
    )
    flag(
        "--img-size",
        type=PIXELS,
        default=SIDE,
        identity="data",
        help=f"side of folder: and csv: images in pixels (default: {SIDE})",
    )
    flag("--list-classes", action="store_true", identity=False, help=text)


def add_flip_flag(parser: Parser) -> None:
    """--no-flip, of what is trained on mirrored images."""
    text = "never mirror images in training (digits, mnist, svhn and gtsrb never are)"
    parser.add_argument("--no-flip", action="store_true", off=False, help=text)


def add_forget_flags(parser: Parser) -> None:
    """The five ways to name a forget set."""
    group = parser.add_mutually_exclusive_group()
    names = "by name or number (id:3 is always a number, super:fish a superclass of cifar100)"
    files = "text, .csv, .json, .npy, .npz, .pt, or a checkpoint that has forgotten them"
    for flag in (
        group.add_argument("--forget-class", nargs="+", metavar="CLASS", help=f"forget these classes, {names}"),
        group.add_argument("--forget-random", type=FRACTION, metavar="SHARE", help="forget this share of the images"),
        group.add_argument(
            "--forget-file", type=input_path, metavar="FILE", help=f"forget the images that FILE names: {files}"
        ),
    ):
        mark(flag, identity="forget")
    text, of = "forget N images, the same for every seed", "draw --forget-count or --forget-random from"
    kinds = "forget these subclasses, by name or number: classes of cifar100 within those of cifar100-coarse"
    for flag in (
        group.add_argument("--forget-subclass", nargs="+", metavar="SUBCLASS", help=kinds),
        group.add_argument("--forget-count", type=POSITIVE_INT, metavar="N", help=text),
        parser.add_argument("--of-class", nargs="+", metavar="CLASS", help=f"{of} these classes alone"),
    ):
        mark(flag, identity="forget", off=None)


def source_of(args: argparse.Namespace) -> data.Source:
    """The data set that the flags name. Raises UserError where --img-size says nothing to it."""
    name, thinned = args.dataset or "fashion-mnist", (args.subset, args.validation, args.img_size, args.test_subset)
    check_side(name, args.img_size)
    return data.Source(name, args.data_dir, *thinned, args.quiet)


def check_side(dataset: str, side: int) -> None:
    """Raise UserError for a --img-size of images that have a side of their own. What is no data set `data.load` refuses."""
    if side != SIDE and (dataset in NAMED_SETS or dataset.startswith("npz:")):
        raise UserError(f"--img-size is of folder: and csv: images: it says nothing to {dataset}")


def class_table(args: argparse.Namespace, shared: Shared) -> str:
    """What --list-classes prints: number, name and counts of images of each class."""
    return data.class_table(shared.load(replace(source_of(args), listing=True))).rstrip("\n")


def forget_request(args: argparse.Namespace) -> forgetting.ForgetRequest | None:
    """The forget set that the flags name; None where they name none. Raises UserError for a file that isn't there."""
    check_there(args.forget_file, "--forget-file")
    request = forgetting.ForgetRequest(
        tuple(args.forget_class or ()),
        args.forget_random,
        args.forget_file,
        args.forget_count,
        tuple(args.of_class or ()),
        tuple(args.forget_subclass or ()),
    )
    return None if request == forgetting.ForgetRequest() else request
