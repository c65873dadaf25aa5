"""Regenerate a paper's table: train what is missing, unlearn, evaluate, write results/<table>/ and draw it.

    python reproduce.py prunelora --preset first --results mine       a first table: two cores, some minutes
    python reproduce.py prunelora                                     the quick table: two cores, some hours
    python reproduce.py prunelora --epochs 3 --dry-run                its commands, ready for a shell, and nothing else
    python reproduce.py prunelora --preset paper --dataset cifar10 --model resnet50 vit_small --seeds 3
    python reproduce.py prunelora --preset paper --dataset cifar10 --original resnet10.pth basevit10.tar
    python reproduce.py random --share 0.1                            the same methods, a tenth of the images to forget
    python reproduce.py prunelora --forget-file list.txt              PruneLoRA's methods, these images to forget
    python reproduce.py sequence                                      five requests, each on what the one before has left
    python reproduce.py rfau                                          RFAU and its baselines: a class, a tenth of all images
    python reproduce.py rfau --preset paper --dry-run                 its commands at full size, and about how many hours
    python reproduce.py lmeraser                                      what a deletion costs, over numbers of clusters
    python reproduce.py llmeraser                                     a language model: rows removed, modified, corrected
    python reproduce.py audit                                         16 networks of each kind: U-LiRA, KLOM, epsilon
    python reproduce.py audit --seeds 512 --ray                       with 512 of each, on all cores at once
    python reproduce.py tune                                          every method at 8 points, on validation images
    python reproduce.py prunelora --tuned results/tune-quick          the table again, each row at the point that this chose
    python reproduce.py lmeraser-tune                                 LMEraser's learning rates
    python reproduce.py draw results/prunelora-quick                  tables and pictures again, from its result.json alone
    python reproduce.py pages                                         the numbers in README.md and docs/ again

A killed run continues where it stopped, in training as in scoring; rows of networks and forget sets not asked for stay.
Presets, of prunelora (others are in docs/reproduce.md): first (a resnet8 that comes with the project; tune trains one
without a tenth of its images), quick (small networks on a subset of Fashion-MNIST), small (resnet20 and vit_micro, full
data), full (resnet8 and resnet20, trained as long as pays, full data), gpu (the paper's networks, fewer epochs), paper (the
paper's everything, as far as it is known). Those with a table's name are tune's alone.
"""

import argparse
import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import data
from unlearning.core.errors import UserError
from unlearning.core.files import check_writable
from unlearning.core.flags import FRACTION, PIXELS, POSITIVE_INT, Number, Parser, main
from unlearning.core.locks import check_place
from unlearning.core.paths import folder, input_file, input_path, name_or_path, output_folder
from unlearning.core.provenance import commit
from unlearning.core.words import say
from unlearning.evaluation.flags import add_scoring_flags
from unlearning.experiments import plan as commands
from unlearning.experiments import resolve
from unlearning.experiments.methods import ALWAYS, METHODS, row_of
from unlearning.experiments.request import DATASET, Request, Run, Table
from unlearning.reports import folders, pages, results, tables
from unlearning.vision.flags import add_elsewhere_flags

# Where each table is: module and name. They are imported when they are made, for they bring slow libraries with them.
TABLES = {
    "prunelora": ("prunelora", "TABLE"),
    "random": ("random_share", "TABLE"),
    "sequence": ("sequence", "TABLE"),
    "audit": ("audit", "TABLE"),
    "rfau": ("rfau", "TABLE"),
    "lmeraser": ("lmeraser", "TABLE"),
    "llmeraser": ("llmeraser", "TABLE"),
    "tune": ("tune", "TABLE"),
    "lmeraser-tune": ("lmeraser", "TUNE"),
}
PRESETS = ("first", "quick", "small", "full", "gpu", "paper")
OF_TUNE = (  # presets of tune alone
    *("random-quick", "rfau-quick", "rfau-small", "rfau-gpu", "rfau-paper"),
    *("audit-quick", "audit-small", "sequence-first"),
)


def table_of(name: str) -> Table:
    """The table of this name."""
    module, attribute = TABLES[name]
    return getattr(importlib.import_module(f"unlearning.experiments.{module}"), attribute)


def run(args: argparse.Namespace, command: str, shared: Any = None) -> Path | None:
    """Make the table that the flags ask for, or draw results or pages again: the path of the result."""
    if bool(args.files) != (args.table == "draw"):
        raise UserError(
            "folders of results come after draw, and after nothing else: python reproduce.py draw results/prunelora-quick"
        )
    if args.table in ("draw", "pages"):
        refuse_odd(args, [name for name in vars(args) if name not in ("table", "files", *["overwrite"] * bool(args.files))])
        drawn = [folders.redraw(path, args.overwrite) for path in args.files] or pages.refresh(Path(__file__).parent)
        print(*(f"drawn: {path}" for path in drawn), sep="\n")
        return None
    return make(table_of(args.table), args, command, shared)


def refuse_odd(args: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise UserError where a flag of these, given by their attributes, isn't as it is by default."""
    usual = parser()
    if odd := [name for name in names if getattr(args, name) != usual.get_default(name)]:
        raise UserError(f"{args.table} has no --{odd[0].replace('_', '-')}: it says nothing to it")


def make(table: Table, args: argparse.Namespace, command: str, shared: Any) -> Path | None:
    """Train, unlearn, score and draw what the flags ask of a table: the path of the result, None after --dry-run."""
    from unlearning.evaluation import collect
    from unlearning.evaluation.unfinished import keeping
    from unlearning.experiments.stages import in_shell

    run_all = runner(args)
    refuse_odd(args, table.none_of)
    request = Request.from_flags(args, table)
    if request.seeds < table.fewest:
        raise UserError(f"{args.table} compares {table.fewest} networks of each kind or more: --seeds {table.fewest}")
    shared = shared or table.shared(request)
    request = resolve.resolved(resolve.fitted(request, shared), shared)
    plan = table.plan(request)
    for line in commands.notes(request):
        say(line)
    if args.dry_run:
        print(*in_shell(plan.runs), *table.estimated(request, plan), sep="\n")
        return None
    path = request.folder / folders.FILES["json"]
    folders.check_ours(request.folder)
    check_place(request.results / folders.PAGE)
    tag = shared.load(request.source).tag if data.is_own(request.source.dataset) else ""
    commands.check_nothing_is_lost(path, request, plan, tag)
    check_writable(request.folder)
    if not request.quiet and (line := request.in_words(shared)):
        say(line)
    made_by = commit()  # of the code as it is now, whatever is pulled meanwhile
    with keeping(request.weights, [request.folder], args) as kept:
        rows = table.score(
            run_all(plan.runs, shared, request.quiet, table.diverging), replace(request, kept=kept), plan, shared
        )
        if table.published:
            table.published(rows, shared.load(request.source))
        result = collect.result(request.name, command, rows, request.attack) | {"commit": made_by}
        with folders.held(request.folder):
            commands.check_nothing_is_lost(path, request, plan, tag)  # again: another run may have written it meanwhile
            result |= {"about": request.about(table.about), "pictures": table.pictures}
            if request.add:
                result = results.added(result, path, row_of, ALWAYS)
            else:
                result = results.joined(result, path, request.overwrite)
            folders.write(result, request.folder)
    print(
        tables.terminal(result, brief=True)
        + f"written: {request.folder}: README.md (every column), result.json, rows.csv, tables.tex, figures/"
    )
    pages.write_index(request.results)
    if request.preset == "first":
        print(f"a larger table: python reproduce.py {args.table}")
    return path


def runner(args: argparse.Namespace) -> Callable[[Sequence[Run], Any, bool, bool], list[Path]]:
    """What carries out a table's runs: this process, one after the other, or Ray. Raises UserError where that is missing."""
    if args.ray is None:
        from unlearning.experiments.running import run_all

        if args.cores:
            raise UserError("--cores is for --ray: OMP_NUM_THREADS says how many threads this process has")
        return run_all
    from unlearning.experiments import cluster

    cluster.library()
    how = (args.ray, args.cores or 1, args.device)
    return lambda runs, shared, quiet, diverging: cluster.run_all(runs, *how, quiet, diverging)


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("table", choices=(*TABLES, "draw", "pages"), help="the table to make; draw: from results; pages: README, docs")
    flag(
        "files",
        nargs="*",
        default=[],
        type=input_path,
        metavar="RESULT",
        help="with draw: folders of results, or JSON files",
    )
    flag("--preset", choices=(*PRESETS, *OF_TUNE), default="quick", help="size of the experiment (default: quick)")
    flag(
        "--dataset",
        type=name_or_path,
        help=f"as for the scripts; of llmeraser a task (default: the preset's, mostly {DATASET})",
    )
    flag("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    flag("--img-size", type=PIXELS, default=32, help="side of folder: and csv: images (default: 32)")
    flag("--model", type=name_or_path, nargs="+", help="networks, as for the scripts (default: the preset's)")
    text = "files to start from, one for each network; Retrain is then made only if --methods names it"
    flag("--original", nargs="+", type=input_path, metavar="FILE", help=text)
    rows = f"the table's rows, of: {', '.join(METHODS)}; llmeraser has rows of its own (default: all)"
    add_elsewhere_flags(parser)
    _add_size_flags(parser)
    flag("--methods", nargs="+", metavar="ROW", help=rows)
    flag("--forget-class", nargs="+", metavar="CLASS", help="classes to forget, by name or number (default: 3)")
    images = parser.add_mutually_exclusive_group()
    images.add_argument(
        "--share", type=FRACTION, default=0.1, help="share of images to forget where images are (default: 0.1)"
    )
    text = "forget the images that FILE names, as for the scripts; prunelora then forgets no class"
    images.add_argument("--forget-file", type=input_file, metavar="FILE", help=text)
    images.add_argument("--forget-count", type=POSITIVE_INT, metavar="N", help="forget N images, drawn at random; so too")
    text = "forget these subclasses of cifar100-coarse; so too"
    images.add_argument("--forget-subclass", nargs="+", metavar="SUBCLASS", help=text)
    flag("--of-class", nargs="+", metavar="CLASS", help="draw --forget-count from these classes alone")
    flag("--only", choices=("class", "images"), help="of a table that forgets both, one (audit, rfau, tune)")
    text = "train with seeds 0 to N-1 (default: 3; lmeraser-tune and --preset first 1, of tune 3; audit 16, small 32)"
    flag("--seeds", type=Number(int, 1, 1000), help=text)
    text = "folder or JSON file of a tuning: rows that it has are run as it chose, not with their defaults"
    flag("--tuned", type=input_path, metavar="RESULT", help=text)
    flag("--results", type=output_folder, default=Path("results"), help="folder of result files (default: results)")
    text = "print the commands by stages, within which they may run at once, for a shell or a cluster, and train nothing"
    flag("--dry-run", action="store_true", help=text)
    text = (
        "train and unlearn in parallel, by Ray: on its cluster at ADDRESS, whose machines share this folder, or without one "
    )
    flag("--ray", nargs="?", const="", metavar="ADDRESS", help=text + "on this machine's cores")
    text = "of each run with --ray, which also has a GPU where there are any, unless --device cpu (default: 1)"
    flag("--cores", type=POSITIVE_INT, help=text)
    text = "to the table that is there add the rows of --methods, or put them in the place of theirs; its other rows stay"
    flag("--add", action="store_true", help=text)
    flag(
        "--overwrite", action="store_true", help="replace results that hold more of these networks; never files of one's own"
    )
    add_scoring_flags(parser)
    return parser


def _add_size_flags(parser: Parser) -> None:
    """Flags that replace a preset's sizes."""
    flag = parser.add_argument
    flag("--subset", type=POSITIVE_INT, help="training images, all classes alike (default: the preset's)")
    text = "methods learn from this many of the images that stay, all classes alike (default: the preset's, mostly all)"
    flag("--retain-subset", type=POSITIVE_INT, metavar="N", help=text)
    text = "score on N training and N test images at most, all classes alike (default: the preset's, mostly all)"
    flag("--images", type=POSITIVE_INT, metavar="N", help=text)
    flag("--epochs", type=POSITIVE_INT, nargs="+", help="epochs of unlearning, each a row (default: the preset's)")


if __name__ == "__main__":
    main(run, parser())
