"""Result files: what is written once can be drawn again from its JSON."""

import argparse
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from unlearning.core import content, seals
from unlearning.core.content import check
from unlearning.core.errors import UserError
from unlearning.core.files import write_bytes
from unlearning.core.flags import on_one_line, shown
from unlearning.core.paths import output_file
from unlearning.core.words import encoded, first_line, say
from unlearning.metrics.statistics import grouped
from unlearning.reports import fields
from unlearning.reports.columns import method_name

PROVENANCE = ("command", "date", "commit", "hardware", "versions", "attack")


class Metric(TypedDict, total=False):
    """A metric over seeds, a value for each; or why it is missing and, where "n/a" isn't the word for it, its cell."""

    mean: float
    ci95: float | None
    values: list[float]
    missing: str
    cell: str


class Row(TypedDict):
    """A row of a table: all seeds of one identity.

    forgotten: the forget set in words. flags: those that differ from the defaults. seeds: of each metric's values, in their
    order. curves: what pictures need, where evaluate.py made the row. published: a paper's numbers, where it has the same
    data set and network. fingerprint: of the data, where their name alone doesn't say which they are. precision: in which
    evaluate.py scored it, "fp32" or "bf16".
    LMEraser's rows have `request` and `clusters` besides, LLMEraser's `task` and `share`. Of a tuning's rows `tunes` is the
    row that is tuned, `point` the flags of this point, `points` how many its grid has, those that diverged and have no row
    among them, `chosen` whether it is this one.
    """

    dataset: str
    model: str
    forget: str
    forgotten: NotRequired[str]
    method: str
    epochs: int | None
    n: int
    seeds: NotRequired[list[int]]
    command: str
    device: NotRequired[str]
    flags: NotRequired[list[str]]
    metrics: dict[str, Metric]
    curves: NotRequired[dict[str, Any]]
    published: NotRequired[dict[str, float]]
    fingerprint: NotRequired[str]
    precision: NotRequired[str]
    tunes: NotRequired[str]
    point: NotRequired[str]
    points: NotRequired[int]
    chosen: NotRequired[bool]


class Provenance(TypedDict):
    """What made the rows of a file: the keys of PROVENANCE."""

    command: str
    date: str
    commit: NotRequired[str]
    hardware: str
    versions: dict[str, str]


class Earlier(Provenance):
    """Another run that made some of a file's rows; `of` names their networks and forget sets."""

    of: list[str]


class Result(Provenance):
    """A result file. about: what the table shows, in a sentence. pictures: False where none are drawn."""

    table: str
    about: NotRequired[str]
    pictures: NotRequired[bool]
    attack: NotRequired[str]
    rows: list[Row]
    earlier: NotRequired[list[Earlier]]


def by_forget_set(rows: list[Any]) -> list[tuple[str, list[Any]]]:
    """(heading, rows) of each data set, network and forget set; data of one name and two fingerprints are two data sets."""
    groups = grouped(rows, lambda row: (row["dataset"], row["model"], row["forget"], row.get("fingerprint")))
    words = {key: group[0].get("forgotten", key[2]) for key, group in groups.items()}
    return [(on_one_line(", ".join([*key[:2], words[key]])), group) for key, group in groups.items()]


def by_seed(row: Any, metric: str) -> dict[int, float]:
    """A row's values of a metric by their seeds, by which rows are paired; none where it is missing. Rows that don't name
    their seeds, of earlier versions, count from 0."""
    values = row["metrics"].get(metric, {}).get("values", [])
    return dict(zip(row.get("seeds", range(len(values))), values, strict=True)) if values else {}


def row_names(rows: list[Any]) -> list[str]:
    """What tables call the rows' methods, with their epochs where one comes twice; a row with a "name" has that one."""
    often = Counter(row["method"] for row in rows)
    lengths = [f", {row['epochs']} epoch{'s' if row['epochs'] != 1 else ''}" for row in rows]
    names = [method_name(row) + (text if often[row["method"]] > 1 else "") for row, text in zip(rows, lengths, strict=True)]
    return [row.get("name", on_one_line(name)) for row, name in zip(rows, names, strict=True)]


def dump(result: dict[str, Any]) -> str:
    """The result as JSON, lists of numbers on one line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[\n\s*([-\d.,eE\s]+?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text) + "\n"


def write(path: str | Path, result: dict[str, Any]) -> None:
    """Write the result as JSON with its seal. Raises as `write_bytes`."""
    write_bytes(path, seals.sealed(encoded(dump(result)), "json"))


@dataclass(frozen=True)
class Output:
    """argparse type: a result file to write. What is there is one of the same `table`, as it was written here; those of
    earlier versions have no seal."""

    table: str

    def __call__(self, text: str) -> Path:
        path = output_file(text)
        if not path.exists():
            return path
        try:
            found = read_json(path)
            known = {"table", "command"} <= found.keys() and not seals.is_changed(path)
        except UserError:
            known = False
        if not known:
            raise argparse.ArgumentTypeError(f"{shown(text)} {seals.FOREIGN}")
        if found["table"] != self.table:
            other = shown(str(found["table"]))
            raise argparse.ArgumentTypeError(
                f"{shown(text)} holds another result, of {other}: move it, or choose another name"
            )
        return path


def read(path: str | Path) -> dict[str, Any]:
    """The result in the JSON file `path`. Raises UserError, which names the field, if it holds none (fields.py)."""
    found = read_json(path)
    check(found, fields.result, f"{path} is not a result file")
    return found


def say_if_changed(path: str | Path) -> None:
    """Say of a result file, which is about to be shown, that its seal doesn't fit."""
    if seals.is_changed(Path(path)):
        say(f"{path}: its seal doesn't fit: it was changed after it was written")


def read_json(path: str | Path) -> dict[str, Any]:
    """What the JSON file `path` holds, a table's result or a benchmark's, without its seal. Raises UserError if it can't be
    read."""
    try:
        found = content.read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} is not a result file: there is none") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a result file ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a result file (it holds {content.shown(found)})")
    found.pop(seals.FIELD, None)
    return found


def joined(result: dict[str, Any], path: str | Path, overwrite: bool = False) -> dict[str, Any]:
    """`result` with the rows that the file `path`, if there is one, has of other networks and forget sets, of a tuning those
    of other methods too, and what made those. What both have stands where it stood; a tuning's Original and Retrain of more
    seeds stay, for rows that stay are measured by them.

    Raises UserError where methods of a tuning would stay whose rows were scored on other data, or by another attack; with
    `overwrite` they go. So do other tables' rows that were scored by another attack, whose columns have the same names: a
    line names them.
    """
    if not Path(path).exists():
        return result
    before = read(path)
    there, new = grouped(before["rows"], _subject), grouped(result["rows"], _subject)
    if any("tunes" in row for row in result["rows"]):
        strange = _scored_otherwise(before, result)
        others = strange - new.keys()
        if others and not overwrite:
            text = "were scored on other data or by another attack: --overwrite, or --results elsewhere"
            raise UserError(f"{path} holds {', '.join(sorted(others))}, which {text}")
        there = {subject: group for subject, group in there.items() if subject not in others}
        new = {name: group for name, group in new.items() if name in strange or _seeds(group) >= _seeds(there.get(name, []))}
    elif overwrite:  # without it nobody comes here with another attack
        others = {subject for subject in there.keys() - new.keys() if _attacked_otherwise(subject, before, result)}
        there = {subject: group for subject, group in there.items() if subject not in others}
        if others:
            say(f"{path}: the rows of {'; '.join(sorted(others))} go: they were scored by another attack")
    left = [subject for subject in there if subject not in new]
    earlier: list[dict[str, Any]] = []
    for run in [*before.get("earlier", []), before]:
        of = [subject for subject in left if _is_of(subject, run.get("of", left))]
        left = [subject for subject in left if subject not in of]
        if of:
            earlier.append({"of": of} | {key: run[key] for key in PROVENANCE if key in run})
    rows = [row for group in (there | new).values() for row in group]
    return result | {"rows": rows} | ({"earlier": earlier} if earlier else {})


def _subject(row: dict[str, Any]) -> str:
    """What a command makes whole: a network's rows of a forget set; of a tuning a method's, whose points are compared with
    one another alone."""
    return ", ".join([row["model"], row["forget"], *([row["tunes"]] if "tunes" in row else [])])


def _scored_otherwise(before: dict[str, Any], result: dict[str, Any]) -> set[str]:
    """The subjects of `before`, of networks and forget sets that `result` has too, that were scored on other data or by
    another attack than its rows."""

    def how(row, file):
        return row["dataset"], row.get("fingerprint"), file.get("attack")

    new = {(row["model"], row["forget"]): how(row, result) for row in result["rows"]}
    old = {_subject(row): ((row["model"], row["forget"]), how(row, before)) for row in before["rows"]}
    return {subject for subject, (of, scored) in old.items() if new.get(of, scored) != scored}


def _attacked_otherwise(subject: str, before: dict[str, Any], result: dict[str, Any]) -> bool:
    """True where the run that made a subject's rows in the file `before` has scored them by another attack than `result`."""
    made = next((run for run in before.get("earlier", []) if _is_of(subject, run["of"])), before)
    return made.get("attack", result.get("attack")) != result.get("attack")


def _seeds(group: list[Any]) -> int:
    """How many seeds Original and Retrain have, by which rows of a tuning are measured; 0 for a method's rows."""
    return max((row["n"] for row in group if "tunes" not in row), default=0)


def _is_of(subject: str, others: list[str]) -> bool:
    """True if a subject is one of these, or a method of one."""
    return any(subject == other or subject.startswith(f"{other}, ") for other in others)
