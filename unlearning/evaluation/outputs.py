"""The files that evaluate.py reads and writes, as its command line names them."""

import argparse
import glob
from pathlib import Path

from unlearning.core.errors import UserError
from unlearning.reports import answers


def matching(pattern: Path) -> list[Path]:
    """The files that a pattern stands for, where the shell hasn't put them in its place."""
    if pattern.exists() or not glob.has_magic(str(pattern)):
        return [pattern]
    if not (found := sorted(map(Path, glob.glob(str(pattern))))):
        raise UserError(f"no file is like {pattern}; pretrain.py makes an original, and a method's script the others")
    return found


def picture_files(args: argparse.Namespace) -> dict[Path, tuple[Path, Path]]:
    """Where the pictures of each checkpoint's answers go; {} where nobody asked for them."""
    paths = {path.resolve() for path in args.checkpoints if args.pictures and args.plots}
    return {path: answers.picture_files(args.plots, path) for path in paths}


def check(args: argparse.Namespace, texts: list[Path], pictures: dict[Path, tuple[Path, Path]]) -> None:
    """Raise UserError where a file that is to be written is named twice, or there already."""
    if args.pictures and not (args.html or args.plots):
        raise UserError("--pictures shows images in --html FILE or --plots FOLDER: give one of them")
    if args.plots and args.plots.is_file():
        raise UserError(f"{args.plots} is a file; --plots names a folder")
    if args.plots and any(args.plots.glob("*.png")) and not args.overwrite:
        raise UserError(f"{args.plots} holds pictures; --overwrite replaces those of the same names")
    plots = [path.resolve() for pair in pictures.values() for path in pair]
    given = {path.resolve() for path in args.checkpoints}
    written = [*(path.resolve() for path in (*texts, *([args.html] if args.html else []))), *plots]
    for path in written:
        if path in given or written.count(path) > 1:
            raise UserError(f"{path} would be written twice, or over a checkpoint")
        if args.plots and path.suffix == ".png" and path.parent == args.plots.resolve() and path not in plots:
            raise UserError(f"{path} lies in the folder of --plots, whose pictures may have that name")
        if path.is_dir():
            raise UserError(f"{path} is a folder, not a file to write")
        if path.exists() and not args.overwrite:
            raise UserError(f"{path} exists; --overwrite replaces it")
