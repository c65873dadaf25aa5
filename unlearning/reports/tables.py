"""Tables from result rows, and from nothing else: Markdown, LaTeX, CSV and plain text."""

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unlearning.core.files import write_text
from unlearning.reports import results
from unlearning.reports.columns import COLUMNS, FOLDED, HEADLINE, SEVEN

Table = tuple[str, list[str], list[list[str]]]  # title, header, body
SIGNS = {"--": "-{}-", "–": "--", "±": r"$\pm$", "Δ": r"$\Delta$"}  # in this order


def markdown(result: dict[str, Any]) -> str:
    """The result as Markdown: for each data set, network and forget set its tables and the rows' commands."""
    lines = []
    for heading, rows in results.by_forget_set(result["rows"]):
        for title, header, body in _tables(rows):
            header, body = ["#", *header], [[str(i), *cells] for i, cells in enumerate(body, 1)]
            if title == HEADLINE and any("published" in row for row in rows):
                header.append("paper: UA / RA / TA / MIA")
                body = [[*cells, _published(row)] for cells, row in zip(body, rows, strict=True)]
            text = _drawn(header, body, "pipe", ["right", "left", *["right"] * (len(header) - 2)])
            if title in FOLDED:
                lines += [f"<details><summary>{title}</summary>", "", text, "", "</details>", ""]
            else:
                lines += [f"**{heading}: {_inline(title)}**", "", text, ""]
        lines += ["<details><summary>The command of each row (its first seed)</summary>", ""]
        lines += [f"{i}. `{row['command']}`" for i, row in enumerate(rows, 1)] + ["", "</details>", ""]
        reasons = {m["missing"] for row in rows for m in row["metrics"].values() if "missing" in m and "cell" not in m}
        lines += [f"n/a: {'; '.join(sorted(reasons))}.", ""] if reasons else []
    return "\n".join([*lines, *_footnotes(result)]) + "\n"


def latex(result: dict[str, Any]) -> str:
    """The result as LaTeX tables with booktabs, to be read in by \\input; one for each table of `markdown`."""
    lines = ["% \\usepackage{booktabs}", *(f"% {line}" for line in _footnotes(result))]
    for heading, rows in results.by_forget_set(result["rows"]):
        for title, header, body in _tables(rows):
            caption = _with_signs(_escaped(f"{heading}: {_inline(title)}"))
            text = _with_signs(_drawn(header, body, "latex_booktabs"))
            lines += ["", r"\begin{table}", r"\centering\footnotesize", rf"\caption{{{caption}}}", text, r"\end{table}"]
    return "\n".join(lines) + "\n"


def comma_separated(result: dict[str, Any]) -> str:
    """The result as CSV: a line for each row; for each metric its mean, and its interval's half-width as `<metric>_ci95`."""
    keys = list(dict.fromkeys(key for row in result["rows"] for key in row["metrics"]))
    names = ("dataset", "model", "forget", "method", "epochs", "n", "command")
    lines = [[*names, *(column for key in keys for column in (key, f"{key}_ci95"))]]
    for row in result["rows"]:
        found = [row["metrics"].get(key, {}) for key in keys]
        lines.append([row[name] for name in names] + [metric.get(part) for metric in found for part in ("mean", "ci95")])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def terminal(result: dict[str, Any], brief: bool = False) -> str:
    """The same tables as plain text, without the commands. brief: of rows that have them, the columns of SEVEN alone."""
    lines = []
    for heading, rows in results.by_forget_set(result["rows"]):
        if brief and all(any(key in row["metrics"] for row in rows) for key in SEVEN):
            lines += [heading, _drawn(*_columns(rows, SEVEN), "plain"), ""]
            continue
        for title, header, body in _tables(rows):
            lines += [f"{heading}: {_inline(title)}", _drawn(header, body, "plain"), ""]
    return "\n".join(lines)


FORMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "json": results.dump,
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
}
ENDINGS = {"json": ".json", "markdown": ".md", "latex": ".tex", "csv": ".csv"}


def write_all(result: dict[str, Any], stem: str | Path) -> None:
    """Write stem.json, stem.md, stem.tex, stem.csv, and the pictures into the folder stem-figures."""
    from unlearning.reports import figures  # takes a second

    for name, form in FORMS.items():
        write_text(f"{stem}{ENDINGS[name]}", form(result))
    figures.draw(result["rows"], f"{stem}-figures")


def cell(row: Any, key: str) -> str:
    """The text of a row's metric: its mean and interval, or what stands in the place of a missing one."""
    metric = row["metrics"].get(key, {"missing": ""})
    if "missing" in metric:
        return metric.get("cell", "n/a")
    digits = COLUMNS[key].digits
    text = f"{metric['mean']:,.{digits}f}"
    return text + (f" ± {metric['ci95']:,.{digits}f}" if metric["ci95"] else "")


def _tables(rows: list[Any]) -> list[Table]:
    """Title, header and body of each table that the rows have anything of."""
    tables = []
    for title in dict.fromkeys(column.group for column in COLUMNS.values()):
        keys = [k for k, column in COLUMNS.items() if column.group == title and any(k in row["metrics"] for row in rows)]
        if keys:
            tables.append((title, *_columns(rows, keys)))
    return tables


def _columns(rows: list[Any], keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and body of a table with a column for each of `keys`."""
    header = ["method", "epochs", "n", *(COLUMNS[key].title for key in keys)]
    named = [[row["method"], str(row["epochs"] or "–"), str(row["n"])] for row in rows]
    return header, [[*names, *(cell(row, key) for key in keys)] for names, row in zip(named, rows, strict=True)]


def _drawn(header: list[str], body: list[list[str]], form: str, align: list[str] | None = None) -> str:
    """A table as text, in one of tabulate's formats; the first column to the left, the others to the right."""
    from tabulate import tabulate

    align = align or ["left", *["right"] * (len(header) - 1)]
    return tabulate(body, header, form, disable_numparse=True, colalign=align)


def _escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped, as tabulate escapes cells."""
    from tabulate import LATEX_ESCAPE_RULES

    return "".join(LATEX_ESCAPE_RULES.get(sign, sign) for sign in text)


def _with_signs(text: str) -> str:
    """LaTeX for the signs that tabulate's escaping leaves as they are."""
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    return text


def _published(row: Any) -> str:
    paper = row.get("published")
    return " / ".join(f"{paper[key]:g}" for key in ("UA", "RA", "TA", "MIA")) if paper else ""


def _inline(title: str) -> str:
    return title[0].lower() + title[1:]


def _footnotes(result: dict[str, Any]) -> list[str]:
    gaps = (
        " Gaps and distances are from the Retrain of the same seed; average gap: mean absolute difference in UA, RA, TA and "
        "MIA-Efficacy."
    )
    return [
        "Mean ± 95 % confidence interval (Student's t) over n training seeds."
        + (gaps if any("RA" in row["metrics"] for row in result["rows"]) else ""),
        *(f"{'; '.join(run['of'])}: {_made_by(run)}" for run in result.get("earlier", [])),
        _made_by(result),
    ]


def _made_by(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return f"`{run['command']}` on {run['hardware']}, {run['date']}; {versions}."
