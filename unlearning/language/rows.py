"""Rows of instruction data, in the forms that people have them in, with the names that their file gives them.

A file is JSON (an array), JSONL or a table with named columns (CSV, TSV); which one is seen from its content. A row has one
of these forms: `instruction input output` (Alpaca), `messages` (role and content), `prompt completion` (texts, or lists of
messages as in TRL), `query response`, `question answer`. Beside these it may have `id`, `choices` and `image`. A row's name
is its `id`, else the line on which it begins, in a JSON array its place; both count from 1.
"""

import contextlib
import csv
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from unlearning.core import flags, memory
from unlearning.core.content import NAME, Misfit, parse_json, plain, shown
from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.core.paths import check_regular
from unlearning.core.words import Say, listed, say

LARGEST = 2**30  # bytes of a file of rows
EXPANSION = 6  # bytes of memory that a byte of a file takes while it is read, about
LONGEST = 1_000_000  # characters of a row
NAMED = 5  # names of rows that a message has at most
ROLES = ("system", "user", "assistant")
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

Messages = tuple[tuple[str, str], ...]  # (role, content)


@dataclass(frozen=True)
class Row:
    """One row: what is asked, and what is answered.

    name: its own `id`, else its line in its file (JSON array: its place), from 1. messages: (role, content), roles
    system, user and assistant; the last is the user's. response: the answer. input: Alpaca's `input`, the user's
    content being the instruction then; else "". choices: candidates, one of which is the response; else (). image:
    path of an image relative to the rows' file, else "". raw: what completes the prompt follows it as it stands, as
    in TRL's plain prompts. folder: that of the file.
    """

    name: str
    messages: Messages
    response: str
    input: str = ""
    choices: tuple[str, ...] = ()
    image: str = ""
    raw: bool = field(default=False, compare=False)
    folder: str = field(default="", compare=False)

    @property
    def query(self) -> str:
        """The last user's content, and the input on a line of its own if there is one."""
        return "\n".join(part for part in (self.messages[-1][1], self.input) if part)


class Record(NamedTuple):
    """What a file says of a row. name: its line or place; where: the same in words; value: what stands there."""

    name: str
    where: str
    value: Any


class Told(NamedTuple):
    """The parts of a row that a record says; None where it doesn't say one."""

    messages: Messages | None
    input: str | None
    response: str | None


def digest(row: Row) -> str:
    """16 hexadecimal digits, part of a SHA-256, of what a model is given of a row: not of its name, nor of `raw`, which only
    says how rows are put to a model where nobody else does."""
    content = [row.messages, row.response, row.input, row.choices, row.image]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_rows(file: Path, flag: str = "--train", tell: Say = say) -> list[Row]:
    """The rows of a file, without those whose query or response is blank.

    flag: by which the user named the file. tell: takes one line, which says how many rows of which form there are, which
    were skipped, and which have the content of an earlier one. Raises UserError, which names file and line, for what isn't
    rows of one form, for two rows of one name, and for a file without rows.
    """
    what = f"{flag} {file}"
    layout, records = parse(read_text(file, flag), what)
    form = _form_of_all(records, what)
    rows: list[Row] = []
    empty: list[str] = []
    places: dict[str, str] = {}
    for record in records:
        with naming(record, what):
            row = replace(_row(record, form), folder=str(Path(file).parent.resolve()))
        if row.name in places:
            raise UserError(f"{what}: {places[row.name]} and {record.where} both have the name {said(row.name)}")
        places[row.name] = record.where
        if row.query.strip() and row.response.strip():
            rows.append(row)
        else:
            empty.append(row.name)
    if not rows:
        raise UserError(f"{what}: {'no row has a query and a response' if empty else 'it has no rows'}")
    unread = sorted({name for record in records for name in record.value} - {*EXTRA, *_fields(form)})
    tell(flags.on_one_line(f"{what}: {_in_words(rows, empty, unread, form, layout)}"))
    return rows


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write rows, one JSON object a line, as `read_rows` reads them. Raises RunFailed on a full disk."""
    write_text(file, "".join(json.dumps(_as_fields(row), ensure_ascii=False) + "\n" for row in rows))


def _as_fields(row: Row) -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in row.messages]
    told: dict[str, Any] = {"messages": [*messages, {"role": "assistant", "content": row.response}]}
    if row.input or len(row.messages) == 1:
        told = {"instruction": row.messages[-1][1], "input": row.input, "output": row.response}
    extra = {"choices": list(row.choices), "image": row.image}
    return {"id": row.name} | told | {name: value for name, value in extra.items() if value}


def as_recorded(
    recorded: Mapping[str, str], rows: Sequence[Row], what: str = "--train", tell: Say = say
) -> tuple[list[Row], list[Row]]:
    """(rows that are recorded, in the order of the record; rows that came later).

    recorded: `digest` by name of the rows that an adapter was trained on. what: names the file. tell: takes a line about
    rows that came later. Raises UserError, which names them, for rows whose content has changed, and for rows that are gone.
    """
    there = {row.name: row for row in rows}
    gone = [name for name in recorded if name not in there]
    changed = [name for name in recorded if name in there and digest(there[name]) != recorded[name]]
    if gone or changed:
        parts = [f"{verb} {few(names)}" for verb, names in (("changed:", changed), ("gone:", gone)) if names]
        now = {digest(row): row.name for row in rows}
        moved = sum(now.get(recorded[name], name) != name for name in (*gone, *changed))
        why = f"; {moved:,} of them have other lines or names now" if moved else ""
        raise UserError(f"{what}: not the rows that the adapter was trained on; {', '.join(parts)}{why}")
    later = [row for row in rows if row.name not in recorded]
    if later:
        tell(
            flags.on_one_line(
                f"{what}: {len(later):,} rows are new since the adapter was trained: {few(row.name for row in later)}"
            )
        )
    return [there[name] for name in recorded], later


def said(name: str) -> str:
    """A row's name as a message says it: in quotes where it isn't a plain word."""
    return name if re.fullmatch(r"[\w.:/#-]{1,60}", name) else flags.shown(name)


def few(names: Iterable[str]) -> str:
    """Names with commas between them, the first NAMED and how many more."""
    every = [said(name) for name in names]
    return ", ".join(every[:NAMED]) + (f" and {len(every) - NAMED:,} more" if len(every) > NAMED else "")


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


def told(fields: Mapping[str, Any], ask: str | None, answer: str | None) -> Told:
    """What fields of these two names say, each of them None where there is none. Raises ValueError, which names the field.

    ask: "messages", which may end with the answer, or a key of PAIRS. answer: a value of PAIRS.
    """
    messages: Messages | None = _messages(fields[ask], ask) if ask else None
    response = _answer(fields[answer], answer) if answer else None
    if ask == "messages" and messages and messages[-1][0] == "assistant":
        response = messages[-1][1]
        messages = messages[:-1] or None
    if messages is not None and (not messages or messages[-1][0] != "user"):
        last = f"a message of the {messages[-1][0]}" if messages else "nothing"
        raise ValueError(f"before its response its {ask} end with {last}, not of the user")
    given = _text(fields["input"], "input") if "input" in fields and ask in (None, "instruction") else None
    return Told(messages, given, response)


def name_of(fields: Mapping[str, Any], default: str = "") -> str:
    """The `id` of a record as a text, without space around it; `default` where it has none. Raises ValueError."""
    own = fields.get("id")
    if own is None or own == "":
        return default
    if isinstance(own, bool) or not isinstance(own, (str, int)):
        raise ValueError(f"its id is {shown(own)}, neither a text nor a whole number")
    name = _text(str(own).strip(), "id")
    if not 0 < len(name) <= NAME:
        raise ValueError(f"its id has {len(name):,} characters, and may have 1 to {NAME:,}")
    return name


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


def _form_of_all(records: Sequence[Record], what: str) -> str:
    """The form that all records have. Raises UserError where one has none, two or another one."""
    first = ""
    for record in records:
        with naming(record, what):
            forms = [name for name, needed in FORMS.items() if all(field in record.value for field in needed)]
            if len(forms) > 1:
                raise ValueError(f"it has the fields of two forms, {forms[0]} and {forms[1]}: keep one")
            if first and forms != [first]:
                has = listed(map(shown, record.value)) or "none"
                raise ValueError(f"its fields are {has}, while {records[0].where} has {first}: a file has rows of one form")
            if not forms:
                has = listed(map(shown, record.value)) or "none"
                raise ValueError(f"its fields are {has}; a row needs {', '.join(FORMS)}")
            first = forms[0]
    return first


def _fields(form: str) -> tuple[str, ...]:
    return (*FORMS[form], "input") if form.startswith("instruction") else FORMS[form]


def _row(record: Record, form: str) -> Row:
    """A Row with what a record says, blank or not. Raises ValueError."""
    fields = record.value
    ask, answer = FORMS[form] if len(FORMS[form]) > 1 else (*FORMS[form], None)
    messages, given, response = told(fields, ask, answer)
    if messages is None or response is None:
        raise ValueError("its last two messages aren't the user's and the assistant's, which answers")
    choices = _choices(fields.get("choices"))
    if choices and response not in choices:
        raise ValueError(f"its response {shown(response)} is none of its choices")
    image = _text(fields.get("image"), "image")
    raw = ask == "prompt" and isinstance(fields["prompt"], str)
    row = Row(name_of(fields, record.name), messages, response, given or "", choices, image, raw)
    length = sum(len(content) for _, content in messages) + sum(map(len, (response, row.input, *choices)))
    if length > LONGEST:
        raise ValueError(f"it has {length:,} characters, and may have {LONGEST:,}")
    return row


def _text(value: Any, field: str) -> str:
    """A field as a text: numbers and truth values as JSON writes them, null as nothing. Raises ValueError for all else."""
    if value is None:
        return ""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if not isinstance(value, str):
        raise ValueError(f"its {field} is {shown(value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"its {field} holds half a surrogate pair, which is no text") from None
    return value


def _choices(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"its choices are {shown(value)}, not a list")
    choices = tuple(_text(choice, "choices") for choice in value)
    if len(set(choices)) < len(choices) or not all(choice.strip() for choice in choices):
        raise ValueError("of its choices two are the same, or one is blank")
    return choices


def _messages(value: Any, field: str) -> Messages:
    """A list of messages, or a text, which is the user's."""
    if not isinstance(value, list):
        if field == "messages":
            raise ValueError(f"its messages are {shown(value)}, not a list")
        return (("user", _text(value, field)),)
    messages = []
    for place, message in enumerate(value, 1):
        at = f"{field} {place}"
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise ValueError(f"its {at} has no role and content")
        if message["role"] not in ROLES:
            raise ValueError(f"the role of its {at} is {shown(message['role'])}, none of {', '.join(ROLES)}")
        messages.append((message["role"], _content(message["content"], at)))
    return tuple(messages)


def _content(value: Any, at: str) -> str:
    """The content of a message: a text, or a list of parts that are texts."""
    if not isinstance(value, list):
        return _text(value, f"{at}'s content")
    for part in value:
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            kind = part.get("type") if isinstance(part, dict) else part
            raise ValueError(f"its {at} has a part {shown(kind)}, not a text; an image's path goes into a field `image`")
    return "".join(_text(part["text"], f"{at}'s content") for part in value)


def _answer(value: Any, field: str) -> str:
    """A response: a text, or a list of one message, the assistant's."""
    if not isinstance(value, list):
        return _text(value, field)
    messages = _messages(value, field)
    if [role for role, _ in messages] != ["assistant"]:
        raise ValueError(f"its {field} is a list of {len(messages)} messages, not of one of the assistant's")
    return messages[0][1]


def _in_words(rows: Sequence[Row], empty: Sequence[str], unread: Sequence[str], form: str, layout: str) -> str:
    """What a file holds, in a line: "498 rows of instruction/input/output in JSONL; 2 skipped as empty: 7, 12"."""
    parts = [
        f"{len(rows):,} rows of {'/'.join(_fields(form)) if form != 'instruction/output' else 'instruction/input/output'}"
    ]
    parts[0] += f" in {layout}"
    if empty:
        parts.append(f"{len(empty):,} skipped as empty: {few(empty)}")
    seen: dict[str, str] = {}
    doubles = [row.name for row in rows if seen.setdefault(digest(row), row.name) != row.name]
    if doubles:
        parts.append(f"{len(doubles):,} with the content of an earlier row: {few(doubles)}")
    if unread:
        parts.append(f"fields that aren't read: {listed(unread)}")
    return "; ".join(parts)
