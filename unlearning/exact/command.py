"""The command line of a kind of system: train, delete, show."""

import argparse
from pathlib import Path
from typing import Any

import torch

import models
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.flags import (
    PIXELS,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    QUIET,
    SYSTEM_SEED,
    Number,
    Parser,
    add_device_flags,
    mark,
    on_one_line,
)
from unlearning.core.paths import folder, input_path, name_or_path, output_folder
from unlearning.core.words import listed
from unlearning.exact import ridge
from unlearning.exact.learning import Work
from unlearning.exact.reading import read_system
from unlearning.exact.selection import ImageRequest
from unlearning.exact.system import NewSystem, Split, delete_images, train_system
from unlearning.images.records import Known
from unlearning.images.request_files import check_there
from unlearning.vision.flags import add_data_flags, add_flip_flag, add_output_flags, class_table, source_of
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared


def show(folder: Path, images: bool = False) -> None:
    """Print what a system consists of and what has been deleted from it; with `images` also which images each part holds."""
    state = read_system(folder)
    sizes = state["part"][state["part"] >= 0].bincount()
    sizes = sizes[sizes > 0]
    span = f"{sizes.min()} to {sizes.max()}" if len(sizes) else "no"
    print(f"{state['method']}: {len(sizes)} parts of {span} images on {state['backbone']['file']}")
    private = torch.isin(state["anchors"], state["private"]).any()
    kind = (
        "private: they can be deleted, and all parts are then trained again" if private else "public: they can't be deleted"
    )
    kind += "" if private else "; with --anchors-from private they could"
    counts = f"{len(state['private'])} private images, {len(state['deleted'])} deleted"
    print(f"{counts}; {len(state['anchors'])} anchors, {kind}")
    for line in parts_in_words(state) if images else ():
        print(line)
    for entry in state["ledger"]:
        line = f"{entry['date']}  {len(entry['ids'])} images"
        if spent := entry["sample_epochs"]:
            ratio = entry["full_sample_epochs"] / spent
            line += f", {len(entry['parts'])} parts hit: what is left of them trained again in {spent:,} sample-epochs "
            print(f"{line}({ratio:.1f} times fewer than all), {entry['seconds']:.1f} s")
        else:
            print(f"{line}, all of their parts: nothing was left to train again, {entry['seconds']:.1f} s")


def parts_in_words(state: dict[str, Any]) -> list[str]:
    """A line for each part of a system: how many private images it holds, and the names of some of them, or their numbers in
    the full training set. Systems of earlier versions that hold a subset say neither."""
    known, part = state["data"], state["part"]
    numbers = state.get("numbers", None if known.get("subset") or known.get("validation") else torch.arange(len(part)))
    record = Known.of(known)
    names = record.files.names if record else ()
    lines = []
    for k in part[part >= 0].unique().tolist():
        members = (part == k).nonzero().squeeze(1)
        inside = [] if numbers is None else numbers[members].tolist()
        called = listed(on_one_line(names[i]) if i < len(names) else i for i in inside)
        lines.append(f"part {k}: {len(members):,} image{'s' * (len(members) > 1)}" + (f": {called}" if called else ""))
    return lines


def system_parser(doc: str | None, *, parts: int, split_help: str) -> tuple[Parser, Parser]:
    """The whole command line, and the part of it that trains, for flags of the system's own.

    parts: the default number; split_help: what they are.
    """
    parser = Parser(doc)
    actions = parser.add_subparsers(dest="action", required=True, help="train a system, delete from it, show it")
    trainer: Parser = actions.add_parser("train", help="train a system into a folder")
    _add_training_flags(trainer, parts, split_help)
    _add_id_flags(trainer, "leave out, as if never there,")
    deleter: Parser = actions.add_parser("delete", help="delete images from a system")
    deleter.add_argument("folder", type=folder, help="the system")
    deleter.add_argument(
        "--dataset", type=name_or_path, metavar="NAME:PATH", help="where images of your own are by now, if they have moved"
    )
    deleter.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    deleter.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
    deleter.add_argument("--quiet", action="store_true", help=QUIET)
    _add_id_flags(deleter, "delete")
    for action in (trainer, deleter):
        text = "parts trained at a time, in processes of one thread, where that is faster (default: the CPUs; on a GPU 1)"
        action.add_argument("--jobs", type=Number(int, 1, 256), identity=False, help=text)
    shower = actions.add_parser("show", help="print a system's parts, the images in each, and its ledger")
    shower.add_argument("folder", type=folder, help="the system")
    return parser, trainer


def _add_training_flags(trainer: Parser, parts: int, split_help: str) -> None:
    flag = trainer.add_argument
    add_data_flags(trainer)
    add_flip_flag(trainer)
    text = f"a network's name, for its ImageNet weights, or a checkpoint of retrain.py (default: {models.EFFICIENTNET})"
    flag("--backbone", type=name_or_path, default=models.EFFICIENTNET, identity="parent", help=text)
    flag("--input-size", type=PIXELS, default=48, help="side in pixels it resizes images to (default: 48)")
    flag("--parts", type=POSITIVE_INT, default=parts, help=f"{split_help} (default: {parts})")
    flag("--anchors", type=POSITIVE_INT, default=1000, help="images that make the centres (default: 1000)")
    text = "public: anchors can't be deleted; private: they can, and all parts are then trained again (default: public)"
    flag("--anchors-from", choices=("public", "private"), default="public", help=text)
    text = "what each part starts from: random, or public: a learner of the public anchors (default: random)"
    flag("--start", choices=("random", "public"), default="random", off="random", help=text)
    text = "sgd: trained with a prompt; ridge: in closed form from --start public, without prompt, epochs and rates"
    flag("--head", choices=("sgd", "ridge"), default="sgd", off="sgd", help=f"{text} (default: sgd)")
    flag("--epochs", type=POSITIVE_INT, default=10, help="passes over a part's images (default: 10)")
    flag("--batch-size", type=POSITIVE_INT, default=32, help="images a step (default: 32)")
    flag("--lr", type=POSITIVE_FLOAT, default=0.5, help="learning rate of the prompt (default: 0.5)")
    flag("--head-lr", type=POSITIVE_FLOAT, default=0.01, help="learning rate of the head (default: 0.01)")
    flag("--seed", type=SYSTEM_SEED, default=0, identity="seed", help="seed of the start and of all batches (default: 0)")
    add_device_flags(trainer, "fp32")
    add_output_flags(trainer, output_folder)


def _add_id_flags(parser: Parser, what: str) -> None:
    numbers = "numbers from 0 in the full training set, names of files, or patterns of these; all at once"
    files = "text, .csv, .json, .npy, .npz, .pt, or a checkpoint that has forgotten them"
    for flag in (
        parser.add_argument("--ids", nargs="+", metavar="ID", help=f"{what} these images: {numbers}"),
        parser.add_argument(
            "--ids-file", type=input_path, metavar="FILE", help=f"{what} the images that FILE names: {files}"
        ),
        parser.add_argument(
            "--class", nargs="+", dest="forget_class", metavar="CLASS", help=f"{what} all images of these classes"
        ),
    ):
        mark(flag, identity="forget")


def _settled(args: argparse.Namespace, trainer: Parser) -> argparse.Namespace:
    """The flags of a training: one in closed form sees its images once. Raises UserError for those that exclude another."""
    if Path(args.backbone).suffix == ".pth" and args.input_size != trainer.get_default("input_size"):
        raise UserError(f"--input-size: {args.backbone} says itself which side its images have")
    if args.start == "public" and args.anchors_from == "private":
        raise UserError(
            "--start public: anchors that can be deleted can't have a say in it: leave out --anchors-from private"
        )
    if args.head == "ridge" and args.start != "public":
        raise UserError("--head ridge: it is found from what public anchors say: give --start public")
    if args.head != "ridge":
        return args
    if odd := [name for name in ridge.WITHOUT if getattr(args, name) != trainer.get_default(name)]:
        flag = odd[0].replace("_", "-")
        raise UserError(f"--head ridge: a head in closed form isn't trained: --{flag} has no effect on it")
    return argparse.Namespace(**vars(args) | {"epochs": 1})


def run_system(
    method: str, split: Split, trainer: Parser, args: argparse.Namespace, command: str, shared: Shared | None = None
) -> Path | None:
    """Carry out one of the command line's actions and return the system's folder; None if --list-classes."""
    shared = shared or Shared()
    if args.action == "show":
        show(args.folder, images=True)
        return args.folder
    if args.action == "train" and args.list_classes:
        return print(class_table(args, shared))
    check_there(args.ids_file, "--ids-file")
    request = ImageRequest(tuple(args.ids or ()), args.ids_file, tuple(args.forget_class or ()))
    if args.action == "delete":
        compute = Compute.from_flags(args, scratch=args.folder)
        folder, further = args.folder, (command, shared, args.jobs, args.dataset)
        delete_images(folder, method, split, request, compute, args.data_dir, *further)
    else:
        args = _settled(args, trainer)
        work = Work(Settings(trainer.settings(args)), Compute.from_flags(args), args.jobs)
        flags = trainer.non_default(args)
        named = {name: value for name, value in flags.items() if name != "--parts"}
        named |= trainer.unusual_epochs(args) if args.head == "sgd" else {}
        made = (trainer.settings(args), trainer.own_settings(args), flags, named)
        where = (args.weights, args.output, args.overwrite)
        folder = train_system(NewSystem(method, source_of(args), *made, request, work, *where, command), split, shared)
    if not args.quiet:
        show(folder)
    print(folder)
    return folder
