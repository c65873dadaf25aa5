"""Files that name images to forget: text, tables, arrays, JSON, and checkpoints that have forgotten them."""

import csv
import errno
import io
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearning.core import seals
from unlearning.core.content import parse_json
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch
from unlearning.core.memory import UNREADABLE, check_archive
from unlearning.core.paths import check_regular
from unlearning.core.words import first_line, listed
from unlearning.images import checkpoints
from unlearning.images.catalogue import Catalogue

NUMBERS = ("index", "id", "position", "number")  # names of a table's column of image numbers
FILES = ("file", "filename", "path", "image", "name")
KEY = "forget"  # of JSON, of a dictionary of tensors and of several arrays
LARGEST = 64  # MiB of a list; names of all of ImageNet's images take 45
ENTRY = r"[+-]?[0-9]{1,18}"  # an image number
BETWEEN = r"[\s,;]+"
SYSTEM = "system.pth"  # in the folder of a system of parts


@dataclass(frozen=True)
class Named:
    """The images of a request: positions among those that were loaded, ascending int64, and what is to be said of it.

    tag, draw: of a checkpoint of these very images, what it calls its forget set, and what makes it where it was drawn at
    random, so that a Retrain of the same images is found to be that.
    """

    positions: torch.Tensor
    notes: tuple[str, ...] = ()
    tag: str | None = None
    draw: dict[str, Any] | None = None


def read_file(file: Path, catalogue: Catalogue, flag: str) -> Named:
    """The loaded images that a file names, by number in the full training set, by name, by pattern or by a boolean mask.

    Text has one a line; a table (.csv, .tsv) a column of NUMBERS or FILES; .npy, .npz, .pt and .json a list or a mask as
    long as the full training set; a checkpoint of this project, or the folder of a system, what it has forgotten. Lists have
    at most LARGEST MiB. flag: what errors begin with. Raises UserError for a file that names nothing, or something unknown.
    """
    what = f"{flag} {file}"
    path = file / SYSTEM if (file / SYSTEM).exists() else file
    check_regular(path)
    try:
        if path.suffix.lower() not in CHECKPOINTS and path.stat().st_size > LARGEST * 2**20:
            raise ValueError(f"it has {path.stat().st_size / 2**20:,.0f} MiB, and a list of images at most {LARGEST}")
        read = _READERS.get(path.suffix.lower(), _read_text)(path, catalogue)
        words = checkpoints.words_of(read, catalogue) if isinstance(read, dict) else read
        called = checkpoints.called(read, catalogue) if isinstance(read, dict) else {}
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror or first_line(error)})") from None
    except (ValueError, csv.Error) as error:  # with a message of this module, or of csv
        raise UserError(f"{what}: {error}") from None
    return replace(named(words, catalogue, what), **called)


def check_there(file: Path | None, flag: str) -> None:
    """Raise UserError, as `read_file` does, where nothing is there: before anything is read for its sake."""
    if file is not None and not file.exists():
        raise UserError(f"{flag} {file} cannot be read ({os.strerror(errno.ENOENT)})")


def named(words: Sequence[int | str], catalogue: Catalogue, what: str) -> Named:
    """The loaded images of numbers in the full training set and of names. what: errors and notes begin with it.

    Raises UserError for none, for unknown ones, and where --subset or --validation has left out all of them.
    """
    if not words:
        raise UserError(f"{what}: it names no image")
    if len(words) == catalogue.count > 2 and set(words) <= {0, 1}:
        way = "as a mask give booleans, as image numbers leave out the doubles"
        raise UserError(f"{what}: {len(words):,} numbers, all 0 or 1, are as many as there are training images; {way}")
    every = catalogue.numbers_of(words, what)
    numbers = torch.tensor(sorted(set(every)), dtype=torch.int64)
    positions, notes = catalogue.loaded(numbers), []
    if doubles := len(every) - len(numbers):
        notes.append(f"{what}: {_images(doubles)} named more than once, counted once")
    if not len(positions):
        raise UserError(f"{what}: --subset or --validation has left out {_all_of(len(numbers))}")
    if missing := len(numbers) - len(positions):
        left = f"{missing:,} of {len(numbers):,} images left out by --subset or --validation"
        notes.append(f"{what}: {left}, {len(positions):,} remain")
    return Named(positions, tuple(notes))


def as_words(text: str) -> list[int | str]:
    """Numbers with commas or blanks between them, or the one name of a file."""
    parts = [part for part in re.split(BETWEEN, text) if part]
    return [int(part) for part in parts] if parts and all(map(_is_number, parts)) else [text]


def _is_number(text: str) -> bool:
    return re.fullmatch(ENTRY, text) is not None


def _images(count: int) -> str:
    return f"{count:,} image{'s' if count > 1 else ''}"


def _all_of(count: int) -> str:
    return "its only image" if count == 1 else f"all of its {count:,} images"


def _decoded(file: Path) -> str:
    """A file's text: UTF-8, or what the mark of its first bytes says, as editors and shells of Windows write it."""
    raw = file.read_bytes()
    if b"\0" in raw and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is not a text file; known endings are " + ", ".join(_READERS))
    try:
        return raw.decode("utf-16" if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"its text is not UTF-8 ({error.reason} at byte {error.start})") from None


def _read_text(file: Path, catalogue: Catalogue) -> Sequence[int | str]:
    """One number or name a line, or several numbers; # begins a comment at a line's start and after a blank."""
    text = _decoded(file).strip()
    if re.fullmatch(rf"(?:{ENTRY}{BETWEEN})*+(?:{ENTRY})?", text):  # ten times as fast as line by line
        return list(map(int, re.sub(BETWEEN, " ", text).split()))
    found: list[int | str] = []
    for line in filter(None, (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())):
        found += as_words(line)
    return found


def _read_table(file: Path, catalogue: Catalogue) -> Sequence[int | str]:
    """The one column of a table that names images; comments stand above its header, for a cell may begin with a #."""
    lines = [line for line in _decoded(file).splitlines() if line.strip()]
    lines = list(itertools.dropwhile(lambda line: line.lstrip().startswith("#"), lines))
    if not lines:
        return []
    reader = csv.reader(io.StringIO("\n".join(lines)), delimiter=max(",;\t", key=lines[0].count))
    columns = [name.strip().casefold() for name in next(reader)]
    if seals.is_column(columns[-1]):  # of a table that was written here, and has no cell there
        columns.pop()
    wanted = FILES if catalogue.files and set(columns) & set(FILES) else NUMBERS
    if len(columns) != len(set(columns)):
        raise ValueError("two of its columns have one name")
    known = [name for name in columns if name in wanted]
    if len(known) != 1:
        there = f"it has {listed(known)}; keep one" if known else f"its first line has {listed(columns) or 'none'}"
        raise ValueError(f"it needs a column called {listed(NUMBERS)} or, where images are files, {listed(FILES)}; {there}")
    place = columns.index(known[0])
    rows = [row for row in reader if row]
    kind = "an image number" if wanted is NUMBERS else "a file's name"
    for line, row in enumerate(rows, 1):
        if len(row) < len(columns) or any(cell.strip() for cell in row[len(columns) :]):
            raise ValueError(f"row {line} has {len(row)} cells, and its first line {len(columns)}")
    cells = [row[place].strip() for row in rows]
    for line, cell in enumerate(cells, 1):
        if not cell or (wanted is NUMBERS and not _is_number(cell)):
            raise ValueError(f"{cell!r} in row {line} of column {known[0]} is not {kind}")
    return cells if wanted is FILES else list(map(int, cells))


def _read_json(file: Path, catalogue: Catalogue) -> Sequence[int | str]:
    text = _decoded(file)
    try:
        return _of_values(parse_json(text), catalogue) if text.strip() else []
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from None


def _read_array(file: Path, catalogue: Catalogue) -> Sequence[int | str]:
    check_archive(file)
    array, names = None, []
    try:
        read = np.load(file, allow_pickle=False)
        if isinstance(read, np.ndarray):
            array = read
        else:
            with read:
                names = read.files
                if KEY in names or len(names) == 1:
                    array = read[KEY if KEY in names else names[0]]
    except UNREADABLE:
        raise ValueError("it is no array, or one that can't be read without running code") from None
    if array is None:
        raise ValueError(f"it needs one array, or one called {KEY}; it has {listed(names) or 'none'}")
    return _of_array(array, catalogue)


def _read_tensor(file: Path, catalogue: Catalogue) -> Sequence[int | str] | dict[str, Any]:
    """What a file of PyTorch's names; of a checkpoint its content."""
    content = read_torch(file)
    return content if checkpoints.is_one(content) else _of_values(content, catalogue)


def _of_values(values: Any, catalogue: Catalogue) -> Sequence[int | str]:
    """What a file's content names: a list, a tensor or a dictionary with one as KEY."""
    if isinstance(values, dict):
        if KEY not in values:
            raise ValueError(f"it needs a list called {KEY}; it has {listed(values) or 'none'}")
        values = values[KEY]
    if isinstance(values, torch.Tensor):
        if values.layout != torch.strided or values.is_quantized or values.is_meta or values.is_floating_point():
            raise ValueError(f"it needs whole numbers, names or booleans, not a tensor of {values.dtype}, {values.layout}")
        return _of_array(values.numpy(force=True), catalogue)
    if not isinstance(values, (list, tuple)):
        raise ValueError(f"it needs a list of numbers, names or booleans, not {type(values).__name__}")
    if values and all(isinstance(value, bool) for value in values):
        return _of_array(np.array(values), catalogue)
    if wrong := [value for value in values if isinstance(value, bool) or not isinstance(value, (int, str))]:
        raise ValueError(f"{wrong[0]!r} is neither the number nor the name of an image")
    return list(values)


def _of_array(values: np.ndarray, catalogue: Catalogue) -> Sequence[int | str]:
    """What an array names: booleans as long as the full training set, whole numbers, or text."""
    if values.size != max((1, *values.shape)) and values.size:
        raise ValueError(f"it needs one dimension, and has the shape {values.shape}")
    values = values.reshape(-1)
    if values.dtype.kind == "b":
        if len(values) != catalogue.count:
            raise ValueError(f"its mask has {len(values):,} values, and the full training set {catalogue.count:,} images")
        return values.nonzero()[0].tolist()
    if values.dtype.kind not in "iuU" and values.size:
        raise ValueError(f"it needs whole numbers, names or booleans, not {values.dtype}")
    return values.tolist()


CHECKPOINTS = (".pt", ".pth")  # of which there are large ones
_READERS = {
    ".csv": _read_table,
    ".tsv": _read_table,
    ".json": _read_json,
    ".npy": _read_array,
    ".npz": _read_array,
    ".pt": _read_tensor,
    ".pth": _read_tensor,
}
