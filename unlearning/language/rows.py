"""Rows of instruction data, in the forms that people have them in, with the names that their file gives them.

A file is JSON (an array), JSONL or a table with named columns (CSV, TSV); which one is seen from its content. A row has one
of these forms: `instruction input output` (Alpaca), `messages` (role and content), `prompt completion` (texts, or lists of
messages as in TRL), `query response`, `question answer`. Beside these it may have `id`, `choices` and `image`. A row's name
is its `id`, else the line on which it begins, in a JSON array its place; both count from 1.
"""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from unlearning.core import flags, paths
from unlearning.core.content import NAME, shown
from unlearning.core.errors import UserError
from unlearning.core.files import sha256, write_text
from unlearning.core.words import Say, listed, say
from unlearning.language.layouts import EXTRA, FORMS, LONGEST, Record, naming, parse, read_text

PATH = 4_096  # bytes of a path, at most, as Linux has them
NAMED = 5  # names of rows that a message has at most
ROLES = ("system", "user", "assistant")

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


class Told(NamedTuple):
    """The parts of a row that a record says; None where it doesn't say one."""

    messages: Messages | None
    input: str | None
    response: str | None


def digest(row: Row) -> str:
    """16 hexadecimal digits, part of a SHA-256, of what a model is given of a row, with its image's file: not of its name,
    nor of `raw`, which only says how rows are put to a model where nobody else does."""
    image = Path(row.folder, row.image)
    try:
        shown = [sha256(image)] if row.image and image.is_file() else []
    except OSError as error:
        raise UserError(f"row {said(row.name)}: its image {image} cannot be read ({error.strerror or error})") from None
    content = [row.messages, row.response, row.input, row.choices, row.image, *shown]
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
    messages = (value for record in records for value in record.value.values() if isinstance(value, list))
    inside = {name for some in messages for one in some if isinstance(one, dict) and "role" in one for name in one}
    unread += [f"{name} of messages" for name in sorted(inside - {"role", "content"})]
    tell(flags.on_one_line(f"{what}: {_in_words(rows, empty, unread, form, layout)}"))
    return rows


def write_rows(file: Path, rows: Sequence[Row]) -> None:
    """Write rows, one JSON object a line, as `read_rows` reads them: all in one form, which holds each of them. Raises
    UserError where none does: an `input` belongs to rows of one message. Raises RunFailed on a full disk."""
    form = "instruction"
    if any(row.raw or len(row.messages) > 1 for row in rows):
        form = "prompt" if any(row.raw for row in rows) else "messages"
        if given := [row.name for row in rows if row.input]:
            raise UserError(f"{file}: no form holds rows of several messages, or of TRL's plain prompts, and {few(given)}")
    write_text(file, "".join(json.dumps(_as_fields(row, form), ensure_ascii=False) + "\n" for row in rows))


def _as_fields(row: Row, form: str) -> dict[str, Any]:
    """A row as an object. form: "instruction", "messages", or "prompt", TRL's, whose prompts are texts or messages."""
    messages = [{"role": role, "content": content} for role, content in row.messages]
    answer = {"role": "assistant", "content": row.response}
    told: dict[str, Any] = {"messages": [*messages, answer]}
    if form == "instruction":
        told = {"instruction": row.messages[-1][1], "input": row.input, "output": row.response}
    elif form == "prompt" and row.raw:
        told = {"prompt": row.messages[-1][1], "completion": row.response}
    elif form == "prompt":
        told = {"prompt": messages, "completion": [answer]}
    image = str(Path(row.folder, row.image).resolve()) if row.image else ""  # the new file may lie elsewhere
    extra = {"choices": list(row.choices), "image": image}
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
        why += ": where rows have no id, a line that was deleted or added moves the names of all below it" if moved else ""
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


def told(
    fields: Mapping[str, Any], ask: str | None, answer: str | None, beside: Collection[str | None] = (None, "instruction")
) -> Told:
    """What fields of these two names say, each of them None where there is none. Raises ValueError, which names the field.

    ask: "messages", which may end with the answer, or a key of PAIRS. answer: a value of PAIRS. beside: those of `ask` that
    an `input` belongs to.
    """
    messages: Messages | None = _messages(fields[ask], ask) if ask else None
    response = _answer(fields[answer], answer) if answer else None
    if ask == "messages" and messages and messages[-1][0] == "assistant":
        response = messages[-1][1]
        messages = messages[:-1] or None
    if messages is not None and (not messages or messages[-1][0] != "user"):
        last = f"a message of the {messages[-1][0]}" if messages else "nothing"
        raise ValueError(f"before its response its {ask} end with {last}, not of the user")
    given = _text(fields["input"], "input") if "input" in fields and ask in beside else None
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
    if choices and response.strip() and response not in choices:
        raise ValueError(f"its response {shown(response)} is none of its choices")
    image = _text(fields.get("image"), "image")
    if len(image.encode()) > PATH or any(len(part.encode()) > paths.NAME for part in Path(image).parts):
        raise ValueError(f"its image is {shown(image)}, no path of a file")
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
