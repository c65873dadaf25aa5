"""Result files: what is written once can be drawn again from its JSON."""

import argparse
import itertools
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
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
    """Another run that made some of a file's rows; `of` names their networks and forget sets, or single rows of these."""

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
    of other methods too, and what made those. What both have stands where it stood; a tuning's Original and Retrain of as
    many seeds stay where other methods' rows do, for these are measured by them.

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
        new = {name: group for name, group in new.items() if name in strange or not _measures(name, group, there, new)}
    elif overwrite:  # without it nobody comes here with another attack
        runs = [*before.get("earlier", []), before]
        others = {of for of in there.keys() - new.keys() if _attack(there[of][0], runs) not in (None, result.get("attack"))}
        there = {subject: group for subject, group in there.items() if subject not in others}
        if others:
            say(f"{path}: the rows of {'; '.join(sorted(others))} go: they were scored by another attack")
    return _together(result, before, there, new)


def added(
    result: dict[str, Any], path: str | Path, called: Callable[[Any], str], measures: Collection[str]
) -> dict[str, Any]:
    """`result` with all rows that the file `path`, if there is one, has beside, and what made those. What both have stands
    where it stood; rows of that file by which its others are measured stay.

    called: what the row is of which a command makes all at once. measures: of these what others are measured by. Raises
    UserError where the file's rows were measured by other networks or images.
    """
    if not Path(path).exists():
        return result
    before = read(path)

    def key(row):
        return row["model"], row["forget"], called(row)

    there, new = grouped(before["rows"], key), grouped(result["rows"], key)
    sets = {(model, forget) for model, forget, _ in there}
    for (model, forget, name), group in new.items():
        if name in measures and (model, forget) in sets and not _alike(group, there.get((model, forget, name), [])):
            text = f"measured its rows by another {name} ({model}, {forget}): leave --add out, or --results elsewhere"
            raise UserError(f"{path} {text}")
    new = {of: group for of, group in new.items() if of not in there or of[2] not in measures}
    return _together(result, before, there, new)


def _alike(rows: Sequence[Any], others: Sequence[Any]) -> bool:
    """True for the rows of one network for each seed, scored on the same images: bf16 and fp32, of which a machine takes
    what is faster there, were a quarter of a point apart on 2,000 images."""

    def scores(row):
        return {metric: by_seed(row, metric) for metric in ("RA", "TA")}

    def images(row):
        return row["dataset"], row.get("fingerprint")

    return len(rows) == len(others) and all(
        images(row) == images(other)
        and all(
            values.keys() == scores(other)[metric].keys()
            and all(abs(value - scores(other)[metric][seed]) < 0.51 for seed, value in values.items())
            for metric, values in scores(row).items()
        )
        for row, other in zip(rows, others, strict=True)
    )


def _together(
    result: dict[str, Any], before: dict[str, Any], there: dict[Any, list[Any]], new: dict[Any, list[Any]]
) -> dict[str, Any]:
    """`result` with the groups of rows `new` in the place of its rows, those of `before`, `there`, that aren't among them,
    and the runs that made these: `of` names a network and forget set, or rows of it where others made the rest."""
    rows = [row for group in (there | new).values() for row in group]
    runs = [*before.get("earlier", []), before]
    stay = grouped((row for of, group in there.items() if of not in new for row in group), lambda row: _maker(row, runs))
    whole = grouped(rows, _set)
    earlier = []
    for index in sorted(stay):
        sets = grouped(stay[index], _set)
        of = [[name] if len(group) == len(whole[name]) else map(_name, group) for name, group in sets.items()]
        run = {key: runs[index][key] for key in PROVENANCE if key in runs[index]}
        earlier.append({"of": list(dict.fromkeys(itertools.chain(*of)))} | run)
    return result | {"rows": rows} | ({"earlier": earlier} if earlier else {})


def _maker(row: dict[str, Any], runs: Sequence[dict[str, Any]]) -> int:
    """The number of the run that made a row of the last of them: of those that name it the one that does so most closely."""
    name = _name(row)
    fits = [
        (len(of), -index)
        for index, run in enumerate(runs[:-1])
        for of in run["of"]
        if name == of or name.startswith(f"{of}, ")
    ]
    return -max(fits)[1] if fits else len(runs) - 1


def _attack(row: dict[str, Any], runs: Sequence[dict[str, Any]]) -> str | None:
    """The attack by which the run that made a row has scored it."""
    return runs[_maker(row, runs)].get("attack")


def _set(row: dict[str, Any]) -> str:
    return f"{row['model']}, {row['forget']}"


def _name(row: dict[str, Any]) -> str:
    """What `of` calls a row: of a tuning all points of a method."""
    return f"{_set(row)}, {row.get('tunes', row['method'])}"


def _subject(row: dict[str, Any]) -> str:
    """What a command makes whole: a network's rows of a forget set; of a tuning a method's, whose points are compared with
    one another alone."""
    return ", ".join([_set(row), *([row["tunes"]] if "tunes" in row else [])])


def _scored_otherwise(before: dict[str, Any], result: dict[str, Any]) -> set[str]:
    """The subjects of `before`, of networks and forget sets that `result` has too, that were scored on other data or by
    another attack than its rows."""

    def how(row, file):
        return row["dataset"], row.get("fingerprint"), file.get("attack")

    new = {(row["model"], row["forget"]): how(row, result) for row in result["rows"]}
    old = {_subject(row): ((row["model"], row["forget"]), how(row, before)) for row in before["rows"]}
    return {subject for subject, (of, scored) in old.items() if new.get(of, scored) != scored}


def _measures(name: str, group: list[Any], there: dict[str, list[Any]], new: dict[str, list[Any]]) -> bool:
    """True where rows of a tuning that stay are measured by the Original and the Retrain that are `there`, and `group`, of
    the same name, has no more seeds: another training of these would stand beside gaps that aren't from it."""
    had, has = _seeds(there.get(name, [])), _seeds(group)
    stay = any(of.startswith(f"{name}, ") for of in there.keys() - new.keys())
    return had > has or (had == has > 0 and stay)


def _seeds(group: list[Any]) -> int:
    """How many seeds Original and Retrain have, by which rows of a tuning are measured; 0 for a method's rows."""
    return max((row["n"] for row in group if "tunes" not in row), default=0)
