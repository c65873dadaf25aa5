"""Tables from result rows, and from nothing else: Markdown, LaTeX, CSV and plain text."""

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from unlearning.core.flags import on_one_line
from unlearning.reports import averages, orders, results
from unlearning.reports.columns import COLUMNS, FOLDED, FOUND, HEADLINE, SEVEN, method_name

Table = tuple[str, list[str], list[list[str]]]  # title, header, body
SIGNS = {"--": "-{}-", "–": "--", "±": r"$\pm$", "Δ": r"$\Delta$"}  # in this order
CHOSEN = "Chosen points, those of the least average gap"
NARROWED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{"  # of graphicx: no table wider than its column
FLOATS = 16  # tables that LaTeX can keep for a later page
MINUS = re.compile(r"(?<![\w}-])-(?=[\d.])")


def markdown(result: dict[str, Any]) -> str:
    """The result as Markdown: for each data set, network and forget set its tables and the rows' commands; then tables of
    means over classes, where several were forgotten in turn."""
    lines = []
    for heading, rows in _groups(result["rows"]):
        for title, header, body in _tables_of(rows):
            lines_of = [[str(i), in_markdown(name), *cells] for i, (name, *cells) in enumerate(body, 1)]
            text = drawn(["#", *header], lines_of, "pipe", ["right", "left"])
            if title in FOLDED:
                lines += [f"<details><summary>{title}</summary>", "", text, "", "</details>", ""]
            else:
                lines += [f"**{in_markdown(heading)}: {_inline(title)}**", "", text, ""]
        missing = [f"{in_markdown(why)}\n"] if (why := _why_missing(rows, list(COLUMNS))) else []
        if "over" in rows[0]:
            lines += [f"{averages.NOTE}\n", *missing]
            continue
        if points := _chosen(rows):
            lines += [f"**{in_markdown(heading)}: {_inline(CHOSEN)}**", "", drawn(*points, "pipe", ["left", "left"]), ""]
        if order := orders.table(rows):
            text = drawn(*order, "pipe")
            lines += [f"<details><summary>{orders.TITLE}</summary>", "", text, "", orders.NOTE, "", "</details>", ""]
        lines += ["<details><summary>The command of each row (its first seed)</summary>", ""]
        lines += [f"{i}. {code(row['command'])}" for i, row in enumerate(rows, 1)] + ["", "</details>", ""]
        lines += missing
    return "\n".join([*lines, *_footnotes(result)]) + "\n"


def latex(result: dict[str, Any]) -> str:
    """The result as LaTeX tables with booktabs, to be read in by \\input; one for each table of `markdown`, labelled
    tab:<table>-<network>-<forget set>-<its first column>."""
    notes = (plain(" ".join(line.split())) for line in _footnotes(result))
    lines, labels = ["% \\usepackage{booktabs,graphicx}", *(f"% {line}" for line in notes)], Counter[str]()
    for heading, rows in _groups(result["rows"]):
        for title, header, body in _tables_of(rows):
            first = next(key for key, column in COLUMNS.items() if (column.group, column.title) == (title, header[3]))
            name = "-".join([result["table"], rows[0]["model"], rows[0]["forget"], first])
            label = re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
            labels[label] += 1
            label += f"-{labels[label]}" if labels[label] > 1 else ""
            lines += [r"\clearpage" if sum(labels.values()) % FLOATS == 0 else "%"]  # LaTeX keeps no more waiting
            lines += [r"\begin{table}", r"\centering\footnotesize"]
            lines += [rf"\caption{{{_with_signs(_escaped(_caption(title, heading, rows)))}}}", rf"\label{{tab:{label}}}"]
            lines += [NARROWED, _with_signs(drawn(header, body, "latex_booktabs")), "}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def comma_separated(result: dict[str, Any]) -> str:
    """The result as CSV, a line for each row: for each metric its mean, its interval's half-width as `<metric>_ci95`, and a
    paper's number, where there is one, as `<metric>_paper`."""
    keys = list(dict.fromkeys(key for row in result["rows"] for key in row["metrics"]))
    papers = [key for key in keys if any(key in row.get("published", {}) for row in result["rows"])]
    names = ("dataset", "model", "forget", "method", "epochs", "n", "command")
    lines = [[*names, *(column for key in keys for column in (key, f"{key}_ci95")), *(f"{key}_paper" for key in papers)]]
    for row in result["rows"]:
        found = [row["metrics"].get(key, {}) for key in keys]
        cells = [metric.get(part) for metric in found for part in ("mean", "ci95")]
        lines.append([row[name] for name in names] + cells + [row.get("published", {}).get(key) for key in papers])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def terminal(result: dict[str, Any], brief: bool = False) -> str:
    """The same tables as plain text, without the commands. brief: of rows that have them, the columns of SEVEN alone."""
    lines = []
    for heading, rows in _groups(result["rows"]):
        if brief and all(any(key in row["metrics"] for row in rows) for key in SEVEN):
            lines += [heading, drawn(*_columns_of(rows, SEVEN), "plain"), _why_missing(rows, SEVEN), ""]
            continue
        for title, header, body in _tables_of(rows):
            lines += [f"{heading}: {_inline(title)}", drawn(header, body, "plain"), ""]
        lines += [_why_missing(rows, list(COLUMNS)), ""]
    lines += [scored, ""] if (scored := precisions(result["rows"])) else []
    for heading, rows in results.by_forget_set(result["rows"]):
        if points := _chosen(rows):
            lines += [f"{heading}: {_inline(CHOSEN)}", drawn(*points, "plain", ["left", "left"]), ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


FORMS: dict[str, Callable[[dict[str, Any]], str]] = {
    "json": results.dump,
    "markdown": markdown,
    "latex": latex,
    "csv": comma_separated,
}


def cell(row: Any, key: str) -> str:
    """The text of a row's metric: its mean and interval, or what stands in the place of a missing one."""
    metric = row["metrics"].get(key, {"missing": ""})
    if "missing" in metric:
        return metric.get("cell", "n/a")
    digits = COLUMNS[key].digits
    text = f"{metric['mean']:z,.{digits}f}"
    return text + (f" ± {metric['ci95']:,.{digits}f}" if metric["ci95"] else "")


def reasons(rows: list[Any], keys: Sequence[str]) -> list[str]:
    """Why the metrics `keys` are n/a in rows, each reason once, sorted."""
    found = [row["metrics"].get(key, {}) for row in rows for key in keys]
    return sorted({metric["missing"] for metric in found if "missing" in metric and "cell" not in metric})


def _groups(rows: list[Any]) -> list[tuple[str, list[Any]]]:
    """(heading, rows) of each data set, network and forget set; then those over classes."""
    return [group for some in (rows, averages.over_classes(rows)) for group in results.by_forget_set(some)]


def _tables_of(rows: list[Any]) -> list[Table]:
    """Title, header and body of each table that the rows have anything of; of means over classes the first two alone."""
    tables = []
    titles = (HEADLINE, FOUND) if "over" in rows[0] else dict.fromkeys(column.group for column in COLUMNS.values())
    for title in titles:
        keys = [k for k, column in COLUMNS.items() if column.group == title and any(k in row["metrics"] for row in rows)]
        if keys:
            tables.append((title, *_columns_of(rows, keys)))
    return tables


def _columns_of(rows: list[Any], keys: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Header and body of a table with a column for each of `keys`; then, where a row has them, a paper's numbers."""
    papers = [key for key in keys if any(key in row.get("published", {}) for row in rows)]
    header = ["method", "epochs", rows[0].get("over", "n"), *(COLUMNS[key].title for key in keys)]
    header += [f"paper: {COLUMNS[key].title}" for key in papers]
    body = []
    for row in rows:
        named = [plain(method_name(row)), str(row["epochs"] or "–"), str(row["n"])]
        paper = row.get("published", {})
        body.append(named + [cell(row, key) for key in keys] + [f"{paper[key]:g}" if key in paper else "" for key in papers])
    return header, body


def _chosen(rows: list[Any]) -> tuple[list[str], list[list[str]]] | None:
    """Header and body of a table of the points that a tuning chose; None for what is none."""
    found = [row for row in rows if row.get("chosen")]
    body = [[plain(row["tunes"]), plain(row["point"]), str(row["points"]), cell(row, "gap")] for row in found]
    return (["row", "flags", "of points", COLUMNS["gap"].title], body) if body else None


def drawn(header: list[str], body: list[list[str]], form: str, align: Sequence[str] = ("left",)) -> str:
    """A table as text, in one of tabulate's formats. align: "left" or "right", of the first columns; of others "right"."""
    from tabulate import tabulate

    align = [*align, *["right"] * (len(header) - len(align))]
    if form == "pipe":
        body = [[_in_a_cell(cell) for cell in line] for line in body]
    return tabulate(body, header, form, disable_numparse=True, colalign=align)


def _in_a_cell(text: str) -> str:
    """Text of a cell in Markdown, where a bar or a new line would end it and a tag would be one."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").splitlines()) if text else text


def precisions(rows: Sequence[Any]) -> str:
    """In which arithmetic rows were scored, in a sentence, by network where they differ in it; "" where no row says it."""
    networks: dict[str, dict[str, None]] = {}
    for row in rows:
        networks.setdefault(row.get("precision", ""), {})[row["model"]] = None
    named = [(precision, ", ".join(models)) for precision, models in networks.items() if precision]
    parts = [f"{precision} ({models})" if len(networks) > 1 else precision for precision, models in named]
    return f"Scored in {', '.join(parts)}." if parts else ""


def plain(text: str) -> str:
    """Text from a file on one line, without signs that a terminal obeys."""
    return on_one_line(" ".join(text.splitlines()))


def in_markdown(text: str) -> str:
    """Text from a file in Markdown, where a tag would be one, and signs would begin code, a link or a picture."""
    return plain(text).replace("<", "&lt;").replace("`", "\\`").replace("](", "]\\(")


def code(text: str) -> str:
    """Text from a file as code in Markdown, which ends where as many backticks stand as it began with."""
    text, fence = plain(text), "`"
    while fence in text:
        fence += "`"
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{text}{space}{fence}"


def _made_by(run: dict[str, Any]) -> str:
    """What made the rows of a file, in a sentence: command, hardware, date, commit and versions."""
    versions = in_markdown(", ".join(f"{name} {number}" for name, number in run["versions"].items()))
    commit = f", commit {run['commit']}" if "commit" in run else ""
    where = in_markdown(f"{run['hardware']}, {run['date']}{commit}")
    return f"{code(run['command'])} on {where}; {versions}."


def _escaped(text: str) -> str:
    """Text with LaTeX's special characters escaped, as tabulate escapes cells."""
    from tabulate import LATEX_ESCAPE_RULES

    return "".join(LATEX_ESCAPE_RULES.get(sign, sign) for sign in plain(text))


def _with_signs(text: str) -> str:
    """LaTeX for the signs that tabulate's escaping leaves as they are; a minus before a number becomes one."""
    text = MINUS.sub("$-$", text)
    for sign, command in SIGNS.items():
        text = text.replace(sign, command)
    return text


def _caption(title: str, heading: str, rows: list[Any]) -> str:
    """A caption in words: what the table shows, of which data, network and forget set, and over how many seeds."""
    seeds = sorted({row["n"] for row in rows})
    counted = f"{' or '.join(map(str, seeds))} {rows[0].get('over', 'seeds')}"
    over = "one seed" if seeds == [1] else f"mean ± 95 % confidence interval over {counted}"
    return f"{title}: {heading}, {over}."


def _why_missing(rows: list[Any], keys: Sequence[str]) -> str:
    """Why metrics are n/a, in a sentence; "" where none is."""
    found = reasons(rows, keys)
    return f"n/a: {plain('; '.join(found))}." if found else ""


def _inline(title: str) -> str:
    return title[0].lower() + title[1:]


def _footnotes(result: dict[str, Any]) -> list[str]:
    gaps = (
        " Gaps and distances are from the Retrain of the same seed; average gap: mean absolute difference in UA, RA, TA and "
        "MIA-Efficacy."
    )
    draws = " MIA sd over draws: standard deviation over the draws of the attacker's samples, mean over seeds."
    known = {key for row in result["rows"] for key in row["metrics"]}
    return [
        "Mean ± 95 % confidence interval (Student's t) over n training seeds."
        + (gaps if "RA" in known else "")
        + (draws if "MIA_draw_sd" in known else "")
        + (f" {scored}" if (scored := precisions(result["rows"])) else ""),
        *(f"{in_markdown('; '.join(run['of']))}: {_made_by(run)}" for run in result.get("earlier", [])),
        _made_by(result),
    ]
