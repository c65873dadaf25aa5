"""Instruction data, requests about its rows, and adapter folders that know what they were trained on.

A row is (query, answer). An edit names a row by its position and says what becomes of it: {"id": 17, "remove": true},
{"id": 17, "query": "..."} or {"id": 17, "response": "..."}; a file of edits has one in each line, as JSON. Corruptions are
stored as edits as well, so corrupting, retraining and unlearning share one format.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearning.core.content import check, parse_json, read_json, shown
from unlearning.core.errors import UserError
from unlearning.core.files import replacing, sha256, write_text
from unlearning.core.words import portions
from unlearning.language import fields, movielens
from unlearning.language.fields import KINDS

RECORD = "record.json"  # beside the files of PEFT: what the adapter was trained on, and what has been asked of it
ADAPTER = "adapter_model.safetensors"
FILES = {RECORD, "README.md", "adapter_config.json", ADAPTER}
FORMAT = 1
VERBS = {"remove": "forgets", "modify": "modifies", "correct": "corrects"}  # what is said of each kind of request
LONGEST = 40  # letters of an answer that are said
Rows = list[tuple[str, str]]  # queries and answers


@dataclass(frozen=True)
class Data:
    """Rows to train on, to choose by and to test on; all answers; a SHA-256 of everything."""

    train: Rows
    validation: Rows
    test: Rows
    answers: list[str]
    fingerprint: str


def load_rows(task: str, data_dir: Path, sizes: Sequence[int], quiet: bool = False) -> Data:
    """The Data of a task: a key of movielens.TASKS or a file with {"query": ..., "response": ...} in each line.

    sizes: how many rows to train on, to choose by, to test on. quiet: no progress of a download. Raises
    UserError when there are fewer, or none.
    """
    if task in movielens.TASKS:
        rows = movielens.TASKS[task](movielens.ratings(data_dir, quiet))
    else:
        pairs: list[Any] = [(line.get("query"), line.get("response")) for line in _lines(task, "--task")]
        if wrong := [i for i, row in enumerate(pairs) if not all(isinstance(text, str) and text.strip() for text in row)]:
            raise UserError(f"--task {task}: line {wrong[0] + 1} has no query or no response")
        rows = pairs
    train, validation, test = parts = movielens.split(rows, *sizes)
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    answers = sorted({answer for part in parts for _, answer in part})
    if len(answers) < 2:
        only = f"all rows have the one answer {shown(answers[0])}"
        raise UserError(f"--task {task}: {only}: there is nothing to learn or forget")
    return Data(train, validation, test, answers, digest)


def task_label(task: str) -> str:
    """What tables call the data of a task."""
    return f"movielens {task}" if task in movielens.TASKS else Path(task).stem


def read_edits(file: str | Path) -> list[dict[str, Any]]:
    """The edits of a file: a list of dict. Raises UserError for anything but lines with an id and one field of KINDS."""
    edits = _lines(file, "edits")
    for place, edit in enumerate(edits, 1):
        fields = set(edit) - {"id"}
        if not isinstance(edit.get("id"), int) or len(fields) > 1 or not fields <= set(KINDS.values()):
            raise UserError(f"{file}, line {place}: an edit has an id and one of {', '.join(KINDS.values())}")
    return edits


def check_edits(
    edits: list[dict[str, Any]], kind: str | None, rows: Sequence[Any], answers: Sequence[str]
) -> list[dict[str, Any]]:
    """The edits of a request of one kind (a key of KINDS; None: any) on rows, complete; UserError if one can't be met."""
    edits = [edit | ({"remove": True} if kind == "remove" else {}) for edit in edits]
    if not edits:
        raise UserError("nothing is asked: give --ids or a --request file with lines")
    ids = [edit["id"] for edit in edits]
    for edit in edits:
        _check_row(edit["id"], ids, rows)
        _check_field(edit, kind, answers)
    return edits


def _check_row(row: int, ids: list[int], rows: Sequence[Any]) -> None:
    if not 0 <= row < len(rows):
        raise UserError(f"row {row}: rows run from 0 to {len(rows) - 1}")
    if ids.count(row) > 1:
        raise UserError(f"row {row} is named twice")
    if rows[row] is None:
        raise UserError(f"row {row} has been removed already")


def _check_field(edit: dict[str, Any], kind: str | None, answers: Sequence[str]) -> None:
    row, field = edit["id"], next(iter(set(edit) - {"id"}), None)
    if field is None or (kind and field != KINDS[kind]):
        raise UserError(f"row {row}: a request to {kind} needs its {KINDS.get(kind or '')}")
    if field != "remove" and not (isinstance(edit[field], str) and edit[field].strip()):
        raise UserError(f"row {row}: its new {field} is empty")
    if field == "response" and edit[field] not in answers:
        raise UserError(f"row {row}: {edit[field]!r} is none of the answers {', '.join(answers)}")


def in_words(action: str, edits: Sequence[dict[str, Any]], rows: Sequence[Any]) -> str:
    """A request in a line: "forgets 2 of 500 rows: 1 of answer yes, 1 of answer no". rows: before it, removed ones None."""
    asked, there = [rows[edit["id"]] for edit in edits], [row for row in rows if row is not None]
    inside, every = (Counter(f"answer {answer[:LONGEST]}" for _, answer in some) for some in (asked, there))
    what = portions(dict(sorted(inside.items())), every, "answers")
    return f"{VERBS[action]} {len(asked):,} of {len(there):,} rows: {what}"


def edited(rows: Sequence[Any], edits: Sequence[dict[str, Any]]) -> list[Any]:
    """The rows after the edits; a removed one is None, so that all keep their numbers."""
    rows = list(rows)
    for edit in edits:
        query, answer = rows[edit["id"]]
        rows[edit["id"]] = None if edit.get("remove") else (edit.get("query", query), edit.get("response", answer))
    return rows


def write_edits(file: Path, edits: Sequence[dict[str, Any]]) -> None:
    """Write a file of edits."""
    write_text(file, "".join(json.dumps(edit) + "\n" for edit in edits))


def read_record(folder: str | Path) -> dict[str, Any]:
    """What an adapter's folder says of itself. Raises UserError for any other folder."""
    try:
        record = read_json(Path(folder) / RECORD)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is not an adapter of this project ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{folder} is not an adapter of this project's format {FORMAT}")
    check(record, fields.record, str(Path(folder) / RECORD))
    file = Path(folder) / ADAPTER
    if "adapter_sha256" in record and not (
        file.is_file() and sha256(file) == record["adapter_sha256"]
    ):  # else an earlier version's
        raise UserError(f"{file} is missing, or not what {RECORD} beside it was written with: it is damaged")
    return record


def rows_of(record: dict[str, Any], data: Data, folder: str | Path | None) -> list[Any]:
    """The rows that an adapter in `folder` was trained on, removed ones None. Raises UserError where its record has answers
    that aren't among those of the task."""
    told = [edit["response"] for edit in record["edits"] if "response" in edit]
    told += [answer for entry in record["ledger"] for _, answer in entry["before"]]
    if odd := [answer for answer in told if answer not in data.answers]:
        raise UserError(f"{folder}: its record has an answer {shown(odd[0])}, which {record['task']} hasn't: it is damaged")
    return edited(data.train, record["edits"])


def write_adapter(peft_model: Any, folder: Path, record: dict[str, Any]) -> None:
    """Write an adapter in PEFT's format with its record, the folder as a whole. Raises RunFailed on a full disk."""
    with replacing(folder) as part:
        peft_model.save_pretrained(str(part))
        made = {"format": FORMAT, "adapter_sha256": sha256(part / ADAPTER)}
        (part / RECORD).write_text(json.dumps(record | made, indent=1), encoding="utf-8")


def _lines(file: str | Path, flag: str) -> list[dict[str, Any]]:
    """The JSON objects in the lines of a file."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        lines = [parse_json(line) for line in text.split("\n") if line.strip()]  # other line ends may lie within a text
    except (OSError, ValueError) as error:
        raise UserError(f"{flag} {file}: not a file with JSON in each line ({error})") from None
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{flag} {file}: not a JSON object in each line")
    return lines
