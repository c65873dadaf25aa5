"""The files that evaluate.py reads and writes, as its command line names them."""

import argparse
import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.locks import locked, recover_within
from unlearning.evaluation.unfinished import Unfinished, removed_if_empty
from unlearning.reports import answers, folders, tables


def matching(pattern: Path) -> list[Path]:
    """The files that a pattern stands for, where the shell hasn't put them in its place."""
    if pattern.exists() or not glob.has_magic(str(pattern)):
        return [pattern]
    if not (found := sorted(map(Path, glob.glob(str(pattern))))):
        raise UserError(f"no file is like {pattern}; pretrain.py makes an original, and a method's script the others")
    for path in found:
        try:
            path.stat()
        except OSError as error:  # links that lead nowhere, or to themselves
            raise UserError(f"{path} can't be read: {error.strerror}") from None
    return found


def picture_files(args: argparse.Namespace) -> dict[Path, tuple[Path, Path]]:
    """Where the pictures of each checkpoint's answers go; {} where nobody asked for them."""
    paths = {path.resolve() for path in args.checkpoints if args.pictures and args.plots}
    return {path: answers.picture_files(args.plots, path) for path in paths}


def named(args: argparse.Namespace) -> list[Path]:
    """The files and the folder that the flags name to be written."""
    return [path for name in (*tables.FORMS, "html", "plots") if (path := getattr(args, name))]


@contextlib.contextmanager
def held(args: argparse.Namespace) -> Iterator[None]:
    """Hold the locks on what is to be written, after `check`, in one order for all commands; folders that are made for them
    and stay empty go."""
    paths = sorted({path.resolve(): path for path in named(args)}.items())
    with removed_if_empty([path.parent for path in named(args)]), contextlib.ExitStack() as locks:
        for _, path in paths:
            locks.enter_context(locked(path))
        if args.plots:
            recover_within(args.plots, "*.png")
        yield


def check(args: argparse.Namespace, pictures: dict[Path, tuple[Path, Path]], kept: Unfinished) -> None:
    """Raise UserError where a file that is to be written is named twice, is read, or may not be replaced.

    pictures: what `picture_files` says. kept: of this command, which knows the outputs that it has begun before a kill.
    """
    if args.pictures and not (args.html or args.plots):
        raise UserError("--pictures shows images in --html FILE or --plots FOLDER: give one of them")
    plots = [path.resolve() for pair in pictures.values() for path in pair]
    if args.plots:
        _check_folder(args.plots, args.overwrite or kept.has_begun(args.plots), plots)
    texts = [path.resolve() for name in (*tables.FORMS, "html") if (path := getattr(args, name))]
    written, read = [path.resolve() for path in named(args)] + plots, _read(args)
    for path in written:
        if path in read or written.count(path) > 1:
            raise UserError(f"{path} would be written twice, or over what is read")
        if args.plots and path.suffix == ".png" and path.parent == args.plots.resolve() and path not in plots:
            raise UserError(f"{path} lies in the folder of --plots, whose pictures may have that name")
    for path in texts:
        if os.path.lexists(path) and not (path.is_file() and kept.has_begun(path)):
            _check_text(path, args.overwrite)


def _check_folder(folder: Path, replace: bool, plots: list[Path]) -> None:
    """Raise UserError where pictures can't go into a folder, or replace what lies there. replace: whether they may, if that
    was drawn here. plots: those of answers, which go there."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; --plots names a folder")
    if any(folder.glob("*.png")) and not replace:
        raise UserError(f"{folder} holds pictures; --overwrite replaces those of the same names that were drawn here")
    seals.check_own([*folders.strange_pictures(folder), *plots])


def _check_text(path: Path, replace: bool) -> None:
    """Raise UserError where a text can't take the place of `path`, where there is something. replace: whether it may, if
    that was written here."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file to write")
    if not replace:
        raise UserError(f"{path} exists; --overwrite replaces it")
    seals.check_own([path])


def _read(args: argparse.Namespace) -> set[Path]:
    """The files that the other flags name, all of which may be read; a word may have a kind before its file's name, or a
    function after it."""
    outputs = (*tables.FORMS, "html", "plots")
    values: list[Any] = [value for name, value in vars(args).items() if name not in outputs]
    words = [str(word) for value in values for word in (value if isinstance(value, list) else [value])]
    parts = {part for word in words for part in (word, word.partition(":")[2], word.rpartition(":")[0]) if part}
    return {Path(part).resolve() for part in parts if _exists(part)}


def _exists(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a word that can't be a name
        return False
