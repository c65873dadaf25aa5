"""Requests about rows by name: remove them, modify their queries, or correct their responses.

A request is a list of edits, one a row: {"id": NAME, "remove": true}, {"id": NAME, "query": TEXT} or {"id": NAME,
"response": TEXT}. A modified query of an Alpaca row may come with its new `input`; without one the row has none any more. A
file of a request has the rows' names in `id` and the new fields in any of the forms of `rows`; names to remove may also
stand one a line.
"""

import difflib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unlearning.core.content import shown
from unlearning.core.errors import UserError
from unlearning.core.flags import MEANT, on_one_line
from unlearning.core.words import listed
from unlearning.language.fields import KINDS
from unlearning.language.layouts import LONGEST, PAIRS, Record, delimiter, naming, parse, read_text
from unlearning.language.rows import Row, digest, few, name_of, said, told

VERBS = {"remove": "removes", "modify": "modifies", "correct": "corrects"}  # what is said of each kind of request
WIDTH = 72  # characters of a text that are said
BEFORE = 24  # characters before the first difference that are said with what a query becomes
GIVEN = "given"  # of an edit that `read_request` returns: what else its line says of the row, as it should be already
Edit = dict[str, Any]


def read_request(file: Path, kind: str, flag: str = "--request") -> list[Edit]:
    """The edits of a file, to be completed by `check_edits`.

    kind: a key of KINDS. flag: by which the user named the file. Raises UserError, which names file and line, for a line
    without an `id` or without what the kind needs.
    """
    what = f"{flag} {file}"
    text = read_text(file, flag)
    if kind == "remove" and text.strip() and text.lstrip()[0] not in "[{" and not delimiter(text):
        lines = [Record("", f"line {place}", {"id": line}) for place, line in enumerate(text.split("\n"), 1) if line.strip()]
    else:
        _, lines = parse(text, what, names=kind == "remove")
    edits = []
    for record in lines:
        with naming(record, what):
            edits.append(_edit(record.value, kind))
    return edits


def edits_of_names(names: Iterable[str]) -> list[Edit]:
    """Edits that remove the rows of these names."""
    return [{"id": name, "remove": True} for name in names]


def check_edits(edits: Sequence[Edit], kind: str, rows: Sequence[Row | None], gone: Collection[str] = ()) -> list[Edit]:
    """The edits of a request of one kind, complete, as they are recorded.

    rows: as they are before the request, removed ones None. gone: the names of removed ones. Raises UserError, which names
    the row, for an edit that can't be met or changes nothing.
    """
    there = {row.name: row for row in rows if row is not None}
    _check_names([edit["id"] for edit in edits], there, set(gone))
    return [_complete(edit, kind, there[edit["id"]]) for edit in edits]


def edited(rows: Sequence[Row | None], edits: Sequence[Edit]) -> list[Row | None]:
    """The rows after edits, which are carried out one after another, in their order; a removed one is None.

    Raises UserError for an edit of a row that isn't there.
    """
    found = list(rows)
    places = {row.name: place for place, row in enumerate(rows) if row is not None}
    for edit in edits:
        row = found[places[edit["id"]]] if edit["id"] in places else None
        if row is None:
            raise UserError(f"row {said(edit['id'])}: it isn't there to be changed")
        found[places[row.name]] = _after(row, edit)
    return found


def without_texts(edits: Iterable[Edit], names: Collection[str]) -> list[Edit]:
    """Earlier edits, those of the rows of these names, which are removed now, without what these had become."""
    return [{"id": edit["id"], "forgotten": True} if edit["id"] in names else edit for edit in edits]


def in_words(kind: str, edits: Sequence[Edit], rows: Sequence[Row | None], limit: int = 5) -> list[str]:
    """A request as lines for the user: "removes 2 of 500 rows", then a line for each of the first `limit` rows.

    rows: as they are before the request, removed ones None. Nothing in the lines is a sign that a terminal obeys.
    """
    there = {row.name: row for row in rows if row is not None}
    lines = [f"{VERBS[kind]} {len(edits):,} of {len(there):,} rows"]
    lines += [_row_in_words(there[edit["id"]], edit) for edit in edits[:limit]]
    if len(edits) > limit:
        lines.append(f"  and {len(edits) - limit:,} more")
    return [on_one_line(line) for line in lines]


def left_doubles(edits: Sequence[Edit], rows: Sequence[Row | None]) -> str:
    """A line where rows that a request leaves as they are say the same as some that it is about, else "".

    rows: as they are before the request, removed ones None.
    """
    names = {edit["id"] for edit in edits}
    asked = {digest(row) for row in rows if row is not None and row.name in names}
    same = [row.name for row in rows if row is not None and row.name not in names and digest(row) in asked]
    return f"warning: rows that stay as they are say the same as some of these, {few(same)}: name them too" if same else ""


def _edit(fields: Mapping[str, Any], kind: str) -> Edit:
    """What a line asks for, as an edit. Raises ValueError."""
    name = name_of(fields)
    if not name:
        raise ValueError("it has no id: the name of a row")
    asks, answers = ([field for field in known if field in fields] for known in (("messages", *PAIRS), PAIRS.values()))
    with_answer = [*asks, *answers] if "messages" in asks else []  # messages hold the response as well
    if two := next((some for some in (asks, answers, with_answer) if len(some) > 1), None):
        raise ValueError(f"it has both {two[0]} and {two[1]}: keep one")
    ask, answer = (some[0] if some else None for some in (asks, answers))
    messages, given, response = told(fields, ask, answer, beside=(None, *PAIRS))
    parts = {"before": messages[:-1] if messages else (), "query": messages[-1][1] if messages else None}
    parts |= {"input": given, "response": response}
    edit: Edit = {"id": name}
    for field in {"remove": (), "modify": ("query", "input"), "correct": ("response",)}[kind]:
        value = parts.pop(field)
        edit |= {} if value is None else {field: value}
    if kind == "remove":
        edit["remove"] = True
    elif len(edit) == 1:
        ways = (*PAIRS, "input") if kind == "modify" else PAIRS.values()
        raise ValueError(f"a request to {kind} needs its new {KINDS[kind]}: one of {listed(ways)}, messages")
    return edit | {GIVEN: {field: value for field, value in parts.items() if value}}


def _check_names(names: Sequence[str], there: Mapping[str, Row], gone: set[str]) -> None:
    """Raise UserError where nothing is named, a row twice, one that was removed, or one that isn't there."""
    if not names:
        raise UserError("nothing is asked: give --ids or a --request file with rows")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"named twice: {few(twice)}")
    if before := [name for name in names if name in gone]:
        raise UserError(f"removed already: {few(before)}")
    if unknown := [name for name in names if name not in there]:
        like = difflib.get_close_matches(unknown[0], there)
        meant = f"; {MEANT} {' or '.join(map(said, like))}?" if like else ""
        if "," in unknown[0] and all(part.strip() in there for part in unknown[0].split(",")):
            meant = f"; names are separated by spaces: {' '.join(part.strip() for part in unknown[0].split(','))}"
        raise UserError(f"not among the {len(there):,} rows that the adapter was trained on: {few(unknown)}{meant}")


def _complete(edit: Edit, kind: str, row: Row) -> Edit:
    """An edit with all of its fields, without GIVEN. Raises UserError where it doesn't fit its row."""
    where, field = f"row {said(row.name)}", KINDS[kind]
    if kind == "modify" and "input" in edit:
        edit = {"query": row.messages[-1][1], **edit}  # an input alone leaves the instruction
    if field not in edit:
        raise UserError(f"{where}: a request to {kind} needs its {field}")
    _check_given(edit.get(GIVEN, {}), kind, row)
    if kind == "remove":
        return {"id": row.name, "remove": True}
    after = _after(row, edit)
    assert after is not None  # it isn't removed
    if not getattr(after, field).strip():
        raise UserError(f"{where}: its new {field} is empty")
    if getattr(after, field) == getattr(row, field):
        raise UserError(f"{where}: its new {field} is the one that it has")
    if len(after.query) + len(after.response) > LONGEST:
        raise UserError(f"{where}: with its new {field} it has more than {LONGEST:,} characters")
    if row.choices and after.response not in row.choices:
        raise UserError(f"{where}: {shown(after.response)} is none of its choices")
    return {"id": row.name, field: edit[field]} | ({"input": edit["input"]} if edit.get("input") else {})


def _check_given(given: Mapping[str, Any], kind: str, row: Row) -> None:
    """Raise UserError where a line of a request says something else of a row than what it is, and doesn't ask for it."""
    have = {"before": row.messages[:-1], "query": row.messages[-1][1], "input": row.input, "response": row.response}
    for field, value in given.items():
        if value != have[field] and not (field == "query" and value == row.query):
            what = "other earlier messages" if field == "before" else f"another {field}"
            raise UserError(
                f"row {said(row.name)}: the request, which is to {kind} it, has {what} than the row: leave that out"
            )


def _after(row: Row, edit: Edit) -> Row | None:
    """A row after an edit; None for one that is removed."""
    if edit.get("remove"):
        return None
    if edit.get("forgotten"):  # what it became isn't known any more, for it has been removed since
        return row
    if "query" in edit:
        return replace(row, messages=(*row.messages[:-1], ("user", edit["query"])), input=edit.get("input", ""))
    return replace(row, response=edit["response"])


def _row_in_words(row: Row, edit: Edit) -> str:
    line = f'  row {said(row.name)}: "{_short(row.query)}", answered "{_short(row.response)}"'
    after = _after(row, edit)
    if after is None:
        return line
    if "response" in edit:
        return f'{line}, becomes "{_short(after.response)}"'
    return f'{line}; its query becomes "{_from_difference(row.query, after.query)}"'


def _from_difference(old: str, new: str) -> str:
    """A new text from shortly before it differs from the old one: long ones often begin alike."""
    same = next((place for place, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - BEFORE)
    if start:
        start = 1 + new.find(" ", start, same) or start  # at a word's beginning, where there is one
    return f"... {_short(new[start:])}" if start else _short(new)


def _short(text: str) -> str:
    """A text on one line; of a long one its first and its last words."""
    if len(text) <= 4 * WIDTH and len(line := " ".join(text.split())) <= WIDTH:
        return line
    first, last = " ".join(text[: 4 * WIDTH].split()), " ".join(text[-4 * WIDTH :].split())
    head, tail = first[: WIDTH * 2 // 3], last[-WIDTH // 3 :]
    if " " in head[WIDTH // 3 :]:  # else it is one long word, or a script without spaces
        head = head.rpartition(" ")[0]
    if " " in tail[: WIDTH // 6]:
        tail = tail.partition(" ")[2]
    return f"{head} ... {tail}"
