"""Pictures in files of their own: `folder:PATH`, a folder for each class, and `csv:FILE`, a table of files and labels."""

import csv
import io
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import torch

from unlearning.core.content import NAME
from unlearning.core.errors import UserError
from unlearning.core.memory import check
from unlearning.core.paths import check_regular
from unlearning.core.words import Say, first_line, listed, say
from unlearning.images.pictures import read_images, suffixes
from unlearning.images.splits import Contents, ImageFiles, Split

RESIDENT = 8 * 2**30  # bytes of a folder's images that are held in memory; one number for all machines, for fingerprints
TEST = ("test", "val", "valid", "validation")  # names of a test split; the first that is there is taken
FILE_COLUMNS, LABEL_COLUMNS = ("file", "filename", "path", "image"), ("label", "class", "target")
NO_TEST = "give --validation SHARE, which scores on training images that are held out"
Files = list[tuple[str, str]]  # of pictures: path and class name


class NoTest(UserError):
    """Data without test images, where these are needed."""


def read_folder(
    path: Path,
    img_size: int,
    validation: bool = False,
    say: Say = say,
    classes: Sequence[str] = (),
    were_there: Collection[str] = (),
) -> Contents:
    """Read `train|test/<class>/*` below `path`; classes are numbered as `in_order` says.

    validation: test images are held out of the training images, so that a folder needs no others. say: takes lines about
    what is skipped and resized. classes: those that were there once, where the training images of some may be deleted.
    were_there: names of training files that may be deleted.
    """
    name, skipped = f"folder:{path}", _Skipped()
    if not (path / "train").is_dir():
        what = f"{name} needs train/<class>/ with images in each: there is no folder {path / 'train'}"
        raise UserError(what + _way_to_train(path, validation))
    there = [part for part in TEST if (path / part).is_dir()]
    train = _tree(path / "train", skipped)
    test = _tree(path / there[0], skipped) if there else []
    _check_apart(train, test)
    if not train:
        raise UserError(f"{name} needs train/<class>/ with images in each: {path / 'train'} has no class folder with images")
    if not test and not validation:
        what = f"{path / there[0]} has no class folder with images" if there else "it has no test/ and no val/"
        raise NoTest(f"{name}: {what}; {NO_TEST}")
    skipped.report(name, say)
    if not validation and there != ["test"]:
        unused = f", and {there[1]}/ isn't used" if there[1:] else ""
        say(f"{name}: {there[0]}/ is the test split{unused}")
    names = [Path(file).relative_to(path / "train").as_posix() for file, _ in train]
    return _read(name, train, test, names, img_size, validation, say, classes, len(were_there))


def read_csv(
    path: Path,
    img_size: int,
    validation: bool = False,
    say: Say = say,
    classes: Sequence[str] = (),
    were_there: Collection[str] = (),
) -> Contents:
    """Read the pictures that a table names, a row for each, with columns of FILE_COLUMNS and LABEL_COLUMNS, and `split` with
    train, test or val. Files lie relative to the table's folder. Arguments as of `read_folder`."""
    name = f"csv:{path}"
    parts: dict[str, Files] = {part: [] for part in ("train", *TEST)}
    seen: dict[str, int] = {}
    names: dict[str, str] = {}
    for line, (file, label, part) in _rows(path, name):
        if part not in parts:
            raise UserError(f"{name}, line {line}: its split is {part!r}, neither train nor test nor val")
        place = os.path.normpath(path.parent / file)
        if (real := os.path.realpath(place)) in seen:
            where = f"lines {seen[real]} and {line} name the same file {file}"
            raise UserError(f"{name}: {where}: to forget one of them would leave it in training")
        seen[real] = line
        parts[part].append((place, label))
        names[place] = _name(file, place, path.parent, were_there)
    parts["train"] = [pair for pair in parts["train"] if os.path.isfile(pair[0]) or names[pair[0]] not in were_there]
    if missing := [file for part in parts.values() for file, _ in part if not os.path.isfile(file)]:
        raise UserError(f"{name}: {len(missing):,} of {len(seen):,} files aren't there: {listed(missing)}")
    there = [part for part in TEST if parts[part]]
    test = parts[there[0]] if there else []
    if not parts["train"]:
        raise UserError(f"{name} has no training images")
    if not test and not validation:
        raise NoTest(f"{name} has no rows of split test or val; {NO_TEST}")
    if not validation and there != ["test"]:
        unused = f", and those of {there[1]} aren't used" if there[1:] else ""
        say(f"{name}: rows of {there[0]} are the test split{unused}")
    called = [names[file] for file, _ in parts["train"]]
    return _read(name, parts["train"], test, called, img_size, validation, say, classes, len(were_there))


def in_order(names: Iterable[str]) -> list[str]:
    """Class names once each: in numeric order where all are whole numbers, else as text."""
    every = sorted(set(names))
    return sorted(every, key=int) if all(name.isdecimal() for name in every) else every


def _way_to_train(path: Path, validation: bool) -> str:
    """What to do about a folder without train/, where that is plain: "; ..." or nothing."""
    known, whole = suffixes(), Path(os.path.abspath(path))
    try:
        inside = [place for place in sorted(path.iterdir()) if place.is_dir() and place.name not in TEST]
        classes = [place.name for place in inside if next(_pictures(place, place.name[0] == ".", known, _Skipped()), None)]
    except OSError:  # which the line in front says
        return ""
    if whole.name in ("train", *TEST) and (whole.parent / "train").is_dir():
        return f"; give the folder above it: folder:{path.parent if path.name else whole.parent}"
    if not classes:
        return ""
    test = any((path / part).is_dir() for part in TEST)
    share = "" if test or validation else ", and as there is no test/ and no val/, give --validation SHARE"
    be, these = ("is", "it") if len(classes) == 1 else ("are", "them")
    return f"; {listed(classes)} {be} in the folder itself: move {these} into {path / 'train'}{share}"


class _Skipped:
    """Counts what lies in a folder and isn't read."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.folders: list[str] = []

    def report(self, name: str, say: Say) -> None:
        """Say it in one line, if there is anything."""
        parts = [f"class folders that are hidden or hold no images ({listed(self.folders)})"] if self.folders else []
        if self.files:
            kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.files.items()))
            parts.insert(0, f"{sum(self.files.values()):,} files that are no pictures of a class ({kinds})")
        if parts:
            say(f"{name}: skipped {' and '.join(parts)}")


def _tree(root: Path, skipped: _Skipped) -> Files:
    """The pictures below root/<class>/, class by class; within one in the order of torchvision's ImageFolder."""
    known, found = suffixes(), []
    try:
        entries = sorted(os.scandir(root), key=lambda entry: entry.name)
        skipped.files.update(_kind(entry.name) for entry in entries if not entry.is_dir())
        for label in in_order(entry.name for entry in entries if entry.is_dir()):
            own = list(_pictures(root / label, label.startswith("."), known, skipped))
            found += [(file, label) for file in own]
            skipped.folders += [] if own else [f"{root.name}/{label}"]
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from None
    places: dict[str, str] = {}
    for file, _ in found:
        if (other := places.setdefault(os.path.realpath(file), file)) != file:
            raise UserError(f"{other} and {file} are one file: to forget one of them would leave it in training")
    return found


def _check_apart(train: Files, test: Files) -> None:
    """Raise UserError where a training image is a test image too."""
    places = {os.path.realpath(file): file for file, _ in train}
    for file, _ in test:
        if other := places.get(os.path.realpath(file)):
            raise UserError(f"{other} and {file} are one file: a test image may not be a training image")


def _pictures(top, hidden, known, skipped):
    """The paths of the pictures of one class. hidden: its folder is."""

    def stop(error):
        raise error

    places: dict[str, str] = {}
    folders = []
    for folder, _, names in os.walk(top, onerror=stop, followlinks=True):
        if (other := places.setdefault(os.path.realpath(folder), folder)) != folder:  # it would go on and on
            raise UserError(f"{folder} leads to {other}: remove one of them")
        folders.append((folder, names))
    for folder, names in sorted(folders):
        inside = hidden or any(part.startswith(".") for part in Path(folder).relative_to(top).parts)
        for file in sorted(names):
            if inside or file.startswith(".") or os.path.splitext(file)[1].lower() not in known:
                skipped.files["hidden" if inside else _kind(file)] += 1
            else:
                yield os.path.join(folder, file)


def _kind(file):
    """What the line about skipped files calls one."""
    if file.startswith("."):
        return "hidden"
    return os.path.splitext(file)[1].lower() or "without a suffix"


def _rows(path, name):
    """The table's rows as (line number, (file, label, split)), a split that isn't given being train."""
    check_regular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # tables of Windows begin with a mark
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{name} is not a text in UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count), strict=True)
    try:
        columns = [column.strip().lower() for column in next(reader, [])]
        places = [_column(columns, wanted, name) for wanted in (FILE_COLUMNS, LABEL_COLUMNS)]
        split = columns.index("split") if "split" in columns else None
        for row in reader:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if len(cells) != len(columns):
                raise UserError(f"{name}, line {reader.line_num}: {len(cells)} cells for {len(columns)} columns")
            file, label = (cells[place] for place in places)
            if not file or not label:
                raise UserError(f"{name}, line {reader.line_num}: an empty cell where a file and a label are needed")
            if "\0" in file + label or len(label) > NAME:
                what = "a NUL" if "\0" in file + label else f"a label of {len(label):,} characters, more than {NAME:,}"
                raise UserError(f"{name}, line {reader.line_num}: {what}")
            yield reader.line_num, (file, label, "train" if split is None else _split(cells[split]))
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: {first_line(error)}") from None


def _split(cell):
    word = cell.lower()
    return "train" if word == "training" else word


def _column(columns: Sequence[str], wanted: Sequence[str], name: str) -> int:
    """The place of the one column that has one of the wanted names."""
    found = [place for place, column in enumerate(columns) if column in wanted]
    if len(found) != 1:
        has = " and ".join(columns[place] for place in found) or f"none among {', '.join(columns) or 'no columns'}"
        raise UserError(f"{name} needs one column named {' or '.join(wanted)}; it has {has}")
    return found[0]


def _name(file, place, root, were_there):
    """What a record calls a table's `file`, which lies at `place`: its path from the table's folder `root`, from wherever a
    command is given; an absolute one keeps its own where it doesn't lie in that. Names of an earlier version's record
    `were_there`, which depend on that for files outside, are kept."""
    before = Path(place).relative_to(root).as_posix() if Path(place).is_relative_to(root) else place
    outside = os.path.isabs(file) and not Path(place).is_relative_to(os.path.abspath(root))
    now = place if outside else Path(os.path.relpath(place, root)).as_posix()
    return before if before in were_there and now not in were_there else now


def _read(name, train, test, names, img_size, validation, say, expected, once):
    """The Contents of files. test: read only where no validation images stand in for them. names: what a record calls the
    training files. expected: classes of which there may be no training images any more. once: how many of these there have
    been, which says how they are read, whatever is deleted since."""
    classes = in_order(label for _, label in train)
    classes = list(expected) if set(classes) < set(expected) else classes
    needed = (max(len(train), once) + len(test)) * 3 * img_size**2
    test = [] if validation else test
    if test:
        _check_classes(name, *({label for _, label in part} for part in (train, test)), set(expected))
    files = ImageFiles([file for file, _ in [*train, *test]], img_size)
    images: ImageFiles | torch.Tensor = files
    if needed > RESIDENT:
        say(f"{name}: {needed / 2**30:,.0f} GiB of images stay in their files")
    else:
        check(needed, f"{name}, in {img_size} x {img_size} pixels,", ": give a smaller --img-size")
        images, sizes = read_images(files.paths, img_size)
        _report_sizes(name, sizes, img_size, say)
    number = {label: place for place, label in enumerate(classes)}
    labels = torch.tensor([number[label] for _, label in [*train, *test]], dtype=torch.int64)
    splits = [Split(images[: len(train)], labels[: len(train)]), Split(images[len(train) :], labels[len(train) :])]
    if isinstance(images, ImageFiles):
        splits = [Split(images.take(rows), labels[rows]) for rows in (slice(len(train)), slice(len(train), None))]
    return Contents(splits[0], splits[1] if test else None, classes, names)


def _check_classes(name, train, test, expected):
    """Raise UserError unless the sets of class names train and test, of what is there, are the same; in train those of
    `expected` may be missing, whose training images may be deleted."""
    known = train | (expected if train < expected else set())
    if not (strange := sorted(known ^ test)):
        return
    if known - test - train:
        way = "only training images may be missing. Put these test images back, or train afresh with pretrain.py"
        raise UserError(f"{name}: of class {listed(sorted(known - test - train))} no test image is there any more: {way}")
    deleted = (
        "" if train - test else "; if its training images are deleted, name what was trained on them: --original FILE, "
    )
    deleted += "of retrain.py --data-of FILE" if deleted else ""
    raise UserError(f"{name}: train and test don't hold the same classes: {listed(strange)} only in one of them{deleted}")


def _report_sizes(name, sizes, side, say):
    """Say that images were resized, if any was."""
    if any(size != (side, side) for size in sizes):
        width, height = max(sizes, key=lambda size: size[0] * size[1])
        what = f"images are resized to {side} x {side} pixels without keeping their aspect ratio"
        say(f"{name}: {what}; the largest is {width} x {height}")
