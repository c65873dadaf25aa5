"""Score checkpoints: forgetting, retained accuracy and membership attacks.

Each network sees the training and the test images once, without gradients; a linear probe and a relearning curve then ask
what is left beneath the head. docs/metrics.md defines every column. Seeds of one identity (method, settings, data, forget
set, origin) are put together: mean and 95 % confidence interval; other settings are other rows. The Original that a file
comes from and the Retrain of its network, forget set and seed are scored along when they lie in --weights: gaps and
distances are from that Retrain.

Files of the published LoRA-Unlearn are scored too; they don't say what they forgot, so give --dataset and --forget-class.

    python evaluate.py --list                                             what lies in model_weights/
    python evaluate.py model_weights/mnist_resnet8_class3_*.pth           one forget set, every method and seed
    python evaluate.py model_weights/mnist_resnet8_class3_*.pth --html page.html      one page for whoever asked

A killed command continues where it stopped: the scores of each file are kept until it has finished.
"""

import argparse
import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import data
from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.paths import folder, input_file, input_path, output_file, output_folder
from unlearning.core.words import encoded, say
from unlearning.evaluation import outputs
from unlearning.evaluation.flags import Scoring, add_scoring_flags
from unlearning.evaluation.unfinished import Unfinished, keeping
from unlearning.reports import answers, tables
from unlearning.vision import foreign
from unlearning.vision.flags import add_data_flags, add_elsewhere_flags, add_forget_flags, add_model_flag, class_table
from unlearning.vision.originals import Told
from unlearning.vision.shared import Shared


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    text = (
        "checkpoints of this project or of LoRA-Unlearn; other files from elsewhere with --dataset, and --model where they "
    )
    text += "don't say which network they hold"
    parser.add_argument("checkpoints", nargs="*", default=[], type=input_path, help=text)
    parser.add_argument("--weights", type=folder, default=Path("model_weights"), help="folder of Originals and Retrains")
    parser.add_argument("--list", action="store_true", help="show what lies in --weights, and score nothing")
    add_data_flags(parser, default=None)
    add_forget_flags(parser)
    add_model_flag(parser, "what each file says")
    add_elsewhere_flags(parser)
    add_scoring_flags(parser)
    text = "score on N training and N test images at most, all classes alike (default: on all)"
    parser.add_argument("--images", type=POSITIVE_INT, metavar="N", help=text)
    parser.add_argument(
        "--references",
        nargs="+",
        default=[],
        type=input_file,
        metavar="FILE",
        help="networks of retrain.py, best four or more of other seeds, for the membership attack RMIA: each counts for the "
        "images that it forgot",
    )
    for form in tables.FORMS:
        parser.add_argument(f"--{form}", type=output_file, metavar="FILE", help=f"also write the table as {form} to FILE")
    parser.add_argument(
        "--html", type=output_file, metavar="FILE", help="also write one page that says it all, without images"
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="also show images of the forget set, which are private, in --html and --plots",
    )
    parser.add_argument("--plots", type=output_folder, metavar="FOLDER", help="also draw pictures into FOLDER")
    parser.add_argument("--wide", action="store_true", help="print every column, not seven")
    replaced = "replace those files, where they are as this project wrote them"
    parser.add_argument("--overwrite", action="store_true", help=replaced)
    return parser


def run(args: argparse.Namespace, command: str, shared: Shared | None = None) -> None:
    """Carry out the command line."""
    from unlearning.evaluation import collect, listing

    if args.list:
        print(listing.listing(args.weights), end="")
        return
    if args.list_classes:
        return print(class_table(args, shared or Shared()))
    if not args.checkpoints:
        raise UserError("name the checkpoints to score; --list shows what lies in --weights")
    args.checkpoints = [path for pattern in args.checkpoints for path in outputs.matching(pattern)]
    shared = shared or Shared(args.cache)
    _check_told(args, shared)
    texts = [(path, form) for form in tables.FORMS if (path := getattr(args, form))]
    pictures = outputs.picture_files(args)
    keep: Any = "pictures" if args.pictures else "answers" if args.html else None
    with keeping(args.weights, outputs.named(args), args) as kept:
        outputs.check(args, pictures, kept)
        with outputs.held(args):
            outputs.check(args, pictures, kept)  # again: they may have been written while this waited
            scoring = replace(Scoring.from_flags(args), kept=kept)
            rows = collect.score_files(args.checkpoints, scoring, shared, keep=keep)
            accounts = [row.pop("account") for row in rows if keep]
            table = collect.result("evaluate", command, rows, args.mia)
            try:
                _write(args, table, texts, accounts, pictures, kept)
            finally:  # last, for nothing is lost where the output is read no further, or a disk is full
                print(tables.terminal(table, brief=not args.wide), end="")
    if written := [str(path) for path in (*(path for path, _ in texts), args.html, args.plots) if path]:
        print(f"written: {', '.join(written)}")


def _check_told(args: argparse.Namespace, shared: Shared) -> None:
    """Raise UserError for a flag that says something of networks from elsewhere, or which images these are scored on, where
    no file is one and what a file says itself is something else: it would have no effect. --model also says what makes a
    network of the user's own."""
    usual, told = parser(), Told.from_flags(args, args.model)
    flags = told.as_flags()
    named = (name for name in data.FLAGS if name != "dataset")  # which also says where images are by now
    given = {name: value for name in named if (value := getattr(args, name)) != usual.get_default(name)}
    if not (given or flags or told.model):
        return
    from unlearning.evaluation import entries

    read = {}
    for path in args.checkpoints:
        with contextlib.suppress(entries.NotScored):  # which is left out and named later
            read[path] = entries.read(path, shared)[0]
    if any(content is None for content in read.values()):
        return
    networks = {path: network for path, content in read.items() if isinstance(network := content.get("network"), dict)}
    if networks and not any(foreign.is_called(told.model, network.get("name")) for network in networks.values()):
        path, network = next(iter(networks.items()))
        raise UserError(f"{path} holds a {network.get('name')}, not a {args.model}")
    for path, content in read.items():
        known = content["data"] if isinstance(content.get("data"), dict) else {}
        flags += [f"--{name.replace('_', '-')}" for name, value in given.items() if known.get(name) != value]
        if flags:
            raise UserError(f"{flags[0]} is for networks from elsewhere; {path} says its own")


def _write(
    args: argparse.Namespace,
    table: dict[str, Any],
    texts: list[tuple[Path, str]],
    accounts: list[answers.Account],
    pictures: dict[Path, tuple[Path, Path]],
    kept: Unfinished,
) -> None:
    """Write the files that the flags ask for: texts first, which hold the numbers, pictures last."""
    for path, form in texts:
        kept.write(path, seals.sealed(encoded(tables.FORMS[form](table)), form))
    if args.html:
        from unlearning.reports import page  # jinja2

        kept.write(args.html, seals.sealed(encoded(page.html(table, accounts)), "html"))
    if args.plots:
        from unlearning.reports import figures  # matplotlib

        kept.begin(args.plots)
        figures.draw(table["rows"], args.plots)
        if args.pictures:
            answers.draw(zip(table["rows"], accounts, strict=True), pictures)
        elif any(args.plots.glob("*-images.png")):
            say(f"{args.plots} still shows images of an earlier forget set: *-images.png")


if __name__ == "__main__":
    main(run, parser())
