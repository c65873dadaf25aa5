"""Numbers in Markdown pages, drawn from result files between markers, so that no page shows an old one.

    <!-- table results/prunelora-quick model=resnet8 columns="UA RA gap" -->      a table of the rows that fit
    <!-- end -->
    <!-- value results/prunelora-quick model=resnet8 method=mask gap -->0.34 ± 0.77<!-- end -->

The first word is a table's folder or a JSON file, below the root of the project. `field=a,b` keeps the rows whose field is
a or b; `over=classes` puts a method's rows of all classes together, where each was forgotten alone (averages.py). In a
value `minus=lora` takes that method's row away, seed by seed; `tau=gap,probe_gap` is how alike two measures
order the rows' methods, `apart=gap` the share of pairs of these, in percent, that a measure tells apart (orders.py).
A column is a metric's key in columns.py or another field of a row, as `field:digits=Title_with_underscores`.
"""

import os
import re
import shlex
from pathlib import Path
from typing import Any

from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.files import write_bytes, write_text
from unlearning.core.locks import locked
from unlearning.core.words import encoded, say
from unlearning.metrics.statistics import mean_ci95
from unlearning.reports import averages, folders, orders, results, tables
from unlearning.reports.columns import COLUMNS, method_name

# A marker's text holds no other comment: cells have none.
MARKED = re.compile(r"(<!-- (table|value) ([^>]*?) -->)((?:(?!<!--).)*?)(<!-- end -->)", re.DOTALL)
# Meant as markers: with a file or a filter, or the word "end" alone.
INSIDE = r"(?:(?!-->)[\s\S])*?"
ALIKE = re.compile(
    rf"<!--\s*(?:(?:table|value)s?\b{INSIDE}(?:[/=]|\.json){INSIDE}(?:-->|$)|end\s*(?:-*>|$))", re.IGNORECASE | re.MULTILINE
)


def pages_of(root: Path) -> list[Path]:
    """The pages below `root` that may have excerpts."""
    return [root / "README.md", root / "model_weights" / "README.md", *sorted((root / "docs").rglob("*.md"))]


def refresh(root: Path) -> list[Path]:
    """Draw the excerpts of the pages below `root` again, and the pages that list results: the files that changed."""
    changed = []
    for page in filter(Path.exists, pages_of(root)):
        try:
            text = page.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise UserError(f"{page} isn't written in UTF-8") from None
        if (now := with_excerpts(text, root, page.name)) != text:
            write_text(page, now)
            changed.append(page)
    lists = sorted({root / "results", *(folder.parent for folder in folders.tables_below(root / "results"))})
    return changed + [path for path in map(write_index, lists) if path]


def write_index(root: Path) -> Path | None:
    """Write the page of all results below `root`: its path, None where it stays as it is or is somebody's own, which a line
    says of one that was written here and changed since."""
    page = root / folders.PAGE
    if page.is_dir():
        return None
    with locked(page):  # another process may list a table that isn't there yet
        now = folders.index(root)
        content = seals.sealed(encoded(now), "markdown")
        before = page.read_bytes() if page.exists() else b""
        if before in (content, encoded(now)):  # earlier versions wrote no seal
            return None
        if os.path.lexists(page) and not seals.is_own(page):
            if before.startswith(folders.HEAD.encode()):
                say(f"{page} stays as it is, for it isn't as this project wrote it: without it all tables are listed there")
            return None
        write_bytes(page, content)
    return page


def with_excerpts(text: str, root: Path, name: str) -> str:
    """The page's text with each excerpt as its result file has it now; a line says which of these files were changed.

    Raises UserError, with the page's name, where a marker fits no row, has no end, or is none but looks like one.
    """
    if left := ALIKE.search(MARKED.sub("", text)):
        way = "a marker begins with <!-- table or <!-- value and a space, and the next is its <!-- end -->"
        raise UserError(f"{name}: {' '.join(left.group().split())}: {way}")
    rows_of: dict[Path, list[Any]] = {}  # each file is read once

    def drawn(found: re.Match[str]) -> str:
        begin, kind, words, _, end = found.groups()
        try:
            source, filters, asked = _read(words)
            file, _ = folders.place(root / source)
            if file not in rows_of:
                rows_of[file] = _rows(file)
            rows = _of(rows_of[file], filters)
            if kind == "table":
                return f"{begin}\n{_table(_chosen(rows, filters, asked), filters, asked)}\n{end}"
            return begin + _value(rows, filters, asked) + end
        except (UserError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{name}: <!-- {kind} {words} -->: {error}") from None

    now = MARKED.sub(drawn, text)
    for file in sorted(rows_of):
        results.say_if_changed(file)
    return now


def _read(words: str) -> tuple[str, dict[str, list[str]], list[str]]:
    """A marker's words: the source, values by field, and the columns that are asked for."""
    source, *rest = shlex.split(words)
    pairs = dict(word.split("=", 1) for word in rest if "=" in word)
    asked = [*pairs.pop("columns", "").split(), *(word for word in rest if "=" not in word)]
    return source, {field: value.split(",") for field, value in pairs.items()}, asked


def _rows(file: Path) -> list[Any]:
    """The rows of a result file; of one without rows all of it is the only one."""
    content = results.read_json(file)
    return content.get("rows", [content])


def _of(rows: list[Any], filters: dict[str, list[str]]) -> list[Any]:
    """The rows that `over` asks for, which is taken out of the filters. Raises UserError for what there is no mean over."""
    over = filters.pop("over", None)
    if over in (None, [averages.OVER]):
        return averages.over_classes(rows) if over else rows
    raise UserError(f"over={','.join(over)}: there is a mean over classes alone")


def _chosen(rows: list[Any], filters: dict[str, list[str]], asked: list[str]) -> list[Any]:
    """The rows that fit. Raises UserError if there are none, or none has a column that is asked for."""
    kept = [row for row in rows if all(_text(row.get(field)) in values for field, values in filters.items())]
    if not kept:
        raise UserError("no row fits")
    if wrong := [key for key in asked if not any(_has(row, key) for row in kept)]:
        raise UserError(f"no row has {wrong[0]}")
    return kept


def _value(rows: list[Any], filters: dict[str, list[str]], asked: list[str]) -> str:
    """A number: a row's cell, its difference from another row, or what is said of all rows that fit."""
    minus, pair, measure = (filters.pop(name, []) for name in ("minus", "tau", "apart"))
    kept = _chosen(rows, filters, asked)
    if pair or measure:
        if asked or minus or (len(pair), len(measure)) not in ((2, 0), (0, 1)):
            raise UserError("tau has two measures, apart one, and neither has a column beside it")
        return _of_all(kept, pair, measure)
    if len(kept) * len(asked) != 1:
        raise UserError(f"{len(kept)} rows and {len(asked)} columns fit")
    if minus:
        if not {*minus}.isdisjoint(("original", "retrain")):  # whose epochs are of a training
            filters.pop("epochs", None)
        return _difference(kept[0], _chosen(rows, filters | {"method": minus}, asked), asked[0])
    return _cell(kept[0], asked[0])


def _of_all(rows: list[Any], pair: list[str], measure: list[str]) -> str:
    """How alike a pair of measures orders the rows, or what share of these one measure tells apart."""
    if len(results.by_forget_set(rows)) != 1:
        raise UserError("the rows are not those of one network and forget set")
    far = orders.distances(rows)
    if wrong := [name for name in (*pair, *measure) if name not in far]:
        few = f"{orders.FEWEST} of these rows have only {', '.join(far)}" if far else f"fewer than {orders.FEWEST} rows fit"
        raise UserError(f"{wrong[0]}: {few}")
    return _text(orders.tau(*(far[name] for name in pair))) if pair else _text(orders.told_apart(far[measure[0]]), "0")


def _difference(row: Any, others: list[Any], metric: str) -> str:
    """A row's metric less that of the only other row, paired by seed: the mean and its 95 % interval."""
    if len(others) != 1:
        raise UserError(f"{len(others)} rows fit after minus")
    one, other = (results.by_seed(found, metric) for found in (row, others[0]))
    if one.keys() != other.keys() or len(one) != row["n"]:
        seeds = " and of ".join(", ".join(map(str, found)) or "none" for found in (one, other))
        raise UserError(f"{metric} is of seeds {seeds} in these rows, of {row['n']}: minus pairs them")
    mean, half = mean_ci95([one[seed] - other[seed] for seed in one])
    return tables.cell({"metrics": {metric: {"mean": mean, "ci95": half}}}, metric)


def _table(rows: list[Any], filters: dict[str, list[str]], asked: list[str]) -> str:
    """A Markdown table. First the fields that a filter gives several values, then method, epochs and n of methods, unless
    a filter fixes them."""
    fixed = [field for field, values in filters.items() if len(values) == 1]
    named = [key for key in ("method", "epochs", "n") if "metrics" in rows[0] and key not in fixed]
    named = [key for key in named if key != "epochs" or any(row["epochs"] for row in rows)]
    named = [*(field for field in filters if field not in (*fixed, *named, *map(_field, asked))), *named]
    keys, header = [*named, *asked], [*named, *map(_title, asked)]
    align = ["left" if all(isinstance(row.get(_field(key)), str) for row in rows) else "right" for key in keys]
    return tables.drawn(header, [[_cell(row, key) for key in keys] for row in rows], "pipe", align)


def _has(row: Any, column: str) -> bool:
    return _field(column) in row or _field(column) in row.get("metrics", {})


def _field(column: str) -> str:
    return re.split("[:=]", column)[0]


def _title(column: str) -> str:
    field, title = _field(column), column.partition("=")[2]
    return title.replace("_", " ") or (COLUMNS[field].title if field in COLUMNS else field.replace("_", " "))


def _cell(row: Any, column: str) -> str:
    """A cell's text: a metric as in all tables, another field as it is, a number with so many digits."""
    field, _, digits = column.partition("=")[0].partition(":")
    if "metrics" in row and field in COLUMNS and field not in row:
        return tables.cell(row, field)
    if "metrics" in row and field == "method":
        return tables.in_markdown(method_name(row))
    return tables.in_markdown(_text(row.get(field, row.get("metrics", {}).get(field)), digits or "2"))


def _text(value: Any, digits: str = "2") -> str:
    """A field's value as text: of {"median", "min", "max"} the median with its range, of {"mean", "ci95"} that interval."""
    if value is None:
        return "–"
    if isinstance(value, dict) and "mean" in value:
        half = f" ± {_text(value['ci95'], digits)}" if value["ci95"] is not None else ""
        return _text(value["mean"], digits) + half
    if isinstance(value, dict):
        low, high = (_text(value[key], digits) for key in ("min", "max"))
        return f"{_text(value['median'], digits)} ({low} to {high})"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:z,.{digits}f}" if isinstance(value, float) else str(value)
