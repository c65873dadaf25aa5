"""TODO unlearning.exact.command."""

import argparse
from pathlib import Path

import models
from unlearning.core.flags import add_device_flags, positive_float, positive_int
from unlearning.exact.system import delete_images, read_system, train_system
from unlearning.vision.flags import add_data_flags


def show(folder):
    """Print what a system consists of and what has been deleted from it."""
    state = read_system(folder)
    sizes = state["part"][state["part"] >= 0].bincount()
    sizes = sizes[sizes > 0]
    print(f"{state['method']}: {len(sizes)} parts of {sizes.min()} to {sizes.max()} images on {state['backbone']['file']}")
    print(f"{len(state['private'])} private images, {len(state['deleted'])} deleted; {len(state['anchors'])} anchors")
    for entry in state["ledger"]:
        ratio = entry["full_sample_epochs"] / max(1, entry["sample_epochs"])
        print(
            f"{entry['date']}  {len(entry['ids'])} images, {len(entry['parts'])} parts trained again: "
            f"{entry['sample_epochs']:,} sample-epochs ({ratio:.1f} times fewer than all), {entry['seconds']:.1f} s"
        )


def system_parser(doc, *, parts, split_help):
    """The command line of a kind of system, which trains, deletes and shows, and the part of it that trains, for flags of
    the system's own. parts: the default number; split_help: what they are."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    actions = parser.add_subparsers(dest="action", required=True, help="train a system, delete from it, show it")
    trainer = actions.add_parser("train", help="train a system into a folder")
    add_data_flags(trainer)
    trainer.add_argument(
        "--backbone",
        default=models.EFFICIENTNET,
        help=f"a network's name, for its ImageNet weights, or a checkpoint of retrain.py (default: {models.EFFICIENTNET})",
    )
    trainer.add_argument("--input-size", type=positive_int, default=48, help="side in pixels it resizes images to")
    trainer.add_argument("--parts", type=positive_int, default=parts, help=f"{split_help} (default: {parts})")
    trainer.add_argument("--anchors", type=positive_int, default=1000, help="images that make the centres")
    trainer.add_argument(
        "--anchors-from",
        choices=("public", "private"),
        default="public",
        help="private: anchors can be deleted, and all parts are then trained again (default: public)",
    )
    trainer.add_argument("--epochs", type=positive_int, default=10, help="passes over a part's images (default: 10)")
    trainer.add_argument("--batch-size", type=positive_int, default=32, help="images a step (default: 32)")
    trainer.add_argument("--lr", type=positive_float, default=0.5, help="learning rate of the prompt (default: 0.5)")
    trainer.add_argument("--head-lr", type=positive_float, default=0.01, help="learning rate of the head (default: 0.01)")
    trainer.add_argument("--seed", type=int, default=0, help="seed of the start and of all batches (default: 0)")
    trainer.add_argument("--weights", type=Path, default=Path("model_weights"), help="folder of systems and backbones")
    trainer.add_argument("--output", type=Path, help="folder to write (default: a telling name in --weights)")
    trainer.add_argument("--overwrite", action="store_true", help="compute again what exists")
    _add_id_flags(trainer, "leave out, as if never there,")
    deleter = actions.add_parser("delete", help="delete images from a system")
    deleter.add_argument("folder", type=Path, help="the system")
    deleter.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    _add_id_flags(deleter, "delete")
    add_device_flags(trainer)
    deleter.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
    for action in (trainer, deleter):
        action.add_argument(
            "--jobs",
            type=positive_int,
            help="parts trained at a time, in processes of one thread, where that is faster (default: the CPUs; on a GPU 1)",
        )
        action.add_argument("--quiet", action="store_true", help="no progress")
    shower = actions.add_parser("show", help="print a system's parts and its ledger")
    shower.add_argument("folder", type=Path, help="the system")
    return parser, trainer


def _add_id_flags(parser, what):
    parser.add_argument("--ids", type=int, nargs="+", metavar="ID", help=f"{what} these training images, by number from 0")
    parser.add_argument("--ids-file", type=Path, metavar="FILE", help=f"{what} the images numbered in FILE, one a line")
    parser.add_argument("--class", type=int, dest="forget_class", metavar="CLASS", help=f"{what} all images of this class")


def run_system(method, split, config):
    """Carry out one of the command line's actions and return the system's folder."""
    folder = train_system(method, split, config) if config.action == "train" else config.folder
    if config.action == "delete":
        delete_images(folder, split, config)
    if config.action == "show" or not config.quiet:
        show(folder)
    if config.action == "train" and not config.quiet:
        print(folder)
    return folder
