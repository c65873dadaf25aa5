"""Files of records with fields: JSON (an array), JSONL or a table with named columns (CSV, TSV), seen from their content.

A record's name is the line on which it begins, in a JSON array its place; both count from 1. What the fields say is read in
`rows` and `requests`.
"""

import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unlearning.core import memory
from unlearning.core.content import Misfit, parse_json, plain, shown
from unlearning.core.errors import UserError
from unlearning.core.paths import check_regular
from unlearning.core.words import listed

LARGEST = 2**30  # bytes of a file of rows
EXPANSION = 6  # bytes of memory that a byte of a file takes while it is read, about
LONGEST = 1_000_000  # characters of a row
PAIRS = {
    "instruction": "output",
    "prompt": "completion",
    "query": "response",
    "question": "answer",
}  # what is asked: answered
FORMS = {"messages": ("messages",), **{f"{ask}/{answer}": (ask, answer) for ask, answer in PAIRS.items()}}
EXTRA = ("id", "choices", "image")
KNOWN = {*EXTRA, "input", *(field for form in FORMS.values() for field in form)}
DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons"}
AS_JSON = ("messages", "choices")  # columns of a table whose cells are JSON
SPACE = re.compile(r"[ \t\r\n]*")  # JSON's


class Record(NamedTuple):
    """What a file says of a row. name: its line or place; where: the same in words; value: what stands there."""

    name: str
    where: str
    value: Any


def read_text(file: Path, flag: str) -> str:
    """The text of a file in UTF-8, without a byte order mark, its line ends as they are. Raises UserError for anything else,
    a file of more than LARGEST bytes among that."""
    what = f"{flag} {file}"
    check_regular(file)
    if file.is_dir():
        inside = sorted(path.name for path in file.iterdir() if path.is_file())
        raise UserError(f"{what} is a folder: name a file of rows{f', such as {listed(inside)}' if inside else ''}")
    try:
        size = file.stat().st_size
        if size > LARGEST:
            raise UserError(f"{what} has {size:,} bytes, and may have {LARGEST:,}")
        memory.check(EXPANSION * size, what)
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{what} cannot be read ({error.strerror or error})") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{what}, line 1: it is UTF-16: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{what}, line {line}: its byte {content[error.start]:#x} is no UTF-8: save it as UTF-8") from None


def parse(text: str, what: str, names: bool = False) -> tuple[str, list[Record]]:
    """(how the text is laid out, in a word; its records, whose values are dictionaries).

    what: names the file. names: a bare text or whole number in a JSON array stands for {"id": ...}. Raises UserError, which
    names the line, for what is neither JSON, JSONL nor a table.
    """
    layout, records = _records(text, what)
    if names:
        bare = [isinstance(record.value, (str, int)) for record in records]
        records = [
            one._replace(value={"id": one.value}) if is_bare else one for one, is_bare in zip(records, bare, strict=True)
        ]
    for record in records:
        if not isinstance(record.value, dict):
            raise UserError(f"{what}, {record.where}: it is {shown(record.value)}, not an object with fields")
    return layout, list(records)


@contextlib.contextmanager
def naming(record: Record, what: str) -> Iterator[None]:
    """Turn what is wrong with a record, a ValueError, into a UserError that names the file and the record."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{what}, {record.where}: {error}") from None


def _records(text: str, what: str) -> tuple[str, Sequence[Record]]:
    first = text[(at := _after(text, 0)) : at + 1]
    if not first:
        raise UserError(f"{what}: it is empty")
    if first == "[":
        return "a JSON array", _array(text, what)
    if first == "{":
        return "JSONL", _lines(text, what)
    with _long_cells():
        return _table(text, what)


def _array(text: str, what: str) -> list[Record]:
    """The elements of a JSON array, each read by itself, so that a complaint can name it."""
    found: list[Record] = []
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _after(text, text.index("[") + 1)
    while not text.startswith("]", at) or found:
        line, counted = line + text.count("\n", counted, at), at
        where = f"row {len(found) + 1} (line {line})"
        with naming(Record("", where, None), what):
            try:
                end = decoder.raw_decode(text, at)[1]
            except json.JSONDecodeError as error:
                raise ValueError(f"it is no JSON ({error.msg} at line {error.lineno}, column {error.colno})") from None
            except RecursionError:
                raise ValueError("its lists lie too deep in each other") from None
            found.append(Record(str(len(found) + 1), where, parse_json(text[at:end])))
            at = _after(text, end)
            if text.startswith("]", at):
                break
            if not text.startswith(",", at):
                raise ValueError("after it comes neither a comma nor the end of the array")
            at = _after(text, at + 1)
    if _after(text, at + 1) < len(text):
        line += text.count("\n", counted, _after(text, at + 1))
        raise UserError(f"{what}, line {line}: more text after the end of the array")
    return found


def _after(text: str, at: int) -> int:
    """Where the space that begins at a place ends."""
    return SPACE.match(text, at).end()  # type: ignore[union-attr]


def _lines(text: str, what: str) -> list[Record]:
    """The lines of JSONL that aren't blank. They are split at line feeds alone: other line ends may lie within a text."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        record = Record(str(number), f"line {number}", None)
        with naming(record, what):
            try:
                value = parse_json(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"it is no JSON ({error.msg} at column {error.colno})") from None
        found.append(record._replace(value=value))
    return found


def _table(text: str, what: str) -> tuple[str, list[Record]]:
    """(its kind, the rows of a table)."""
    sign = delimiter(text)
    if not sign:
        forms = ", ".join(FORMS)
        raise UserError(f"{what}, line 1: it is neither JSON nor the names of columns, of which a row needs {forms}")
    names: list[str] = []
    found = []
    for number, cells in _cells(text, sign, what):
        record = Record(str(number), f"line {number}", None)
        with naming(record, what):
            if not names:
                names = _names(cells)
            elif len(cells) != len(names):
                raise ValueError(f"it has {len(cells)} cells, and the first line has {len(names)}")
            else:
                found.append(record._replace(value=_from_cells(names, cells)))
    return DELIMITERS[sign], found


def _cells(text: str, sign: str, what: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it begins, cells) of each row of a table that isn't blank, the first with the columns' names."""
    reader = csv.reader(io.StringIO(text, newline="\n"), delimiter=sign, strict=True)
    begins = 1
    try:
        for cells in reader:
            if cells:
                yield begins, cells
            begins = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{what}, line {begins}: {error}") from None


def delimiter(text: str) -> str:
    """The delimiter by which the first line of a table has the most known names; "" where it has none."""
    names = {sign: KNOWN & _header(text[:LONGEST], sign) for sign in DELIMITERS}
    best = max(names, key=lambda sign: len(names[sign]))
    return best if names[best] else ""


def _header(text: str, sign: str) -> set[str]:
    """What would be the columns' names with this delimiter; none where the first line can't be read so."""
    try:
        return {name.strip().lower() for name in next(_cells(text, sign, ""))[1]}
    except (UserError, StopIteration):
        return set()


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Have csv read cells of as many characters as a row may have, while the context lasts."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _names(cells: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    if twice := [name for name in names if name and names.count(name) > 1]:
        raise ValueError(f"two columns are named {shown(twice[0])}")
    return names


def _from_cells(names: Sequence[str], cells: Sequence[str]) -> dict[str, Any]:
    """The fields of a table's row. Columns without a name, such as a data frame's index, are left out."""
    value: dict[str, Any] = {name: cell for name, cell in zip(names, cells, strict=True) if name}
    for name in AS_JSON:
        if value.get(name, "").strip():
            try:
                value[name] = parse_json(value[name])
            except ValueError as error:
                raise ValueError(f"its {name} are no JSON ({error})") from None
        else:
            value.pop(name, None)
    try:
        plain(value)
    except Misfit as misfit:
        raise ValueError(f"its {misfit.place} {misfit.what}") from None
    return value
