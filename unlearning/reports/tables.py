"""Tables from result rows, and from nothing else: what is written once can be written again from its JSON.

A result is {table, command, date, hardware, versions, rows}, and `earlier` where other runs have made some of these rows:
{of, command, date, hardware, versions}, `of` naming networks and forget sets. A row is {dataset, model, forget, method,
epochs, n, command, metrics}, `curves` where evaluate.py made it and, where a paper has the same data set and network,
`published`; a metric is {mean, ci95, values} with one value for each seed, or {missing: reason} and, where "n/a" isn't the
word for it, `cell`.
"""

import csv
import io
import re

from unlearning.core.files import write_text
from unlearning.reports import figures, results
from unlearning.reports.columns import DIGITS, FOLDED, GROUPS


def markdown(result):
    """The result as Markdown: for each data set, network and forget set the tables of GROUPS and the rows' commands."""
    lines = []
    for heading, rows in results.by_forget_set(result["rows"]):
        for title, header, body in _tables(rows):
            published = title == "Headline" and any("published" in row for row in rows)
            header = ["#", *header] + (["paper: UA / RA / TA / MIA"] if published else [])
            body = [[str(i), *cells] for i, cells in enumerate(body, 1)]
            if published:
                for cells, row in zip(body, rows, strict=True):
                    paper = row.get("published")
                    cells.append(" / ".join(f"{paper[k]:g}" for k in ("UA", "RA", "TA", "MIA")) if paper else "")
            if title in FOLDED:
                lines += [f"<details><summary>{title}</summary>", "", *_pipes(header, body), "", "</details>", ""]
            else:
                lines += [f"**{heading}: {_inline(title)}**", "", *_pipes(header, body), ""]
        lines += ["<details><summary>The command of each row (its first seed)</summary>", ""]
        lines += [f"{i}. `{row['command']}`" for i, row in enumerate(rows, 1)] + ["", "</details>", ""]
        reasons = {m["missing"] for row in rows for m in row["metrics"].values() if "missing" in m and "cell" not in m}
        lines += [f"n/a: {'; '.join(sorted(reasons))}.", ""] if reasons else []
    return "\n".join([*lines, *_footnotes(result)]) + "\n"


def latex(result):
    """The result as LaTeX tables with booktabs, to be read in by \\input; one for each table of `markdown`."""
    lines = ["% \\usepackage{booktabs}", *(f"% {line}" for line in _footnotes(result))]
    for heading, rows in results.by_forget_set(result["rows"]):
        for title, header, body in _tables(rows):
            lines += [
                "",
                r"\begin{table}",
                r"\centering\footnotesize",
                rf"\caption{{{_tex(f'{heading}: {_inline(title)}')}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                r"\toprule",
                " & ".join(map(_tex, header)) + r" \\",
                r"\midrule",
                *(" & ".join(map(_tex, cells)) + r" \\" for cells in body),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
            ]
    return "\n".join(lines) + "\n"


def comma_separated(result):
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


FORMS = {"json": results.dump, "markdown": markdown, "latex": latex, "csv": comma_separated}
ENDINGS = {"json": ".json", "markdown": ".md", "latex": ".tex", "csv": ".csv"}


def terminal(result):
    """The same tables as plain text, columns aligned, without the commands."""
    lines = []
    for heading, rows in results.by_forget_set(result["rows"]):
        for title, header, body in _tables(rows):
            widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
            lines.append(f"{heading}: {_inline(title)}")
            for cells in (header, *body):
                texts = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
                lines.append("  ".join(texts).rstrip())
            lines.append("")
    return "\n".join(lines)


def write_all(result, stem):
    """Write stem.json, stem.md, stem.tex, stem.csv and the pictures."""
    for name, form in FORMS.items():
        write_text(f"{stem}{ENDINGS[name]}", form(result))
    figures.draw(result["rows"], stem)


def _tables(rows):
    """(title, header, body) for each of GROUPS that the rows have anything of."""
    tables = []
    for title, columns in GROUPS.items():
        keys = [key for key in columns if any(key in row["metrics"] for row in rows)]
        if keys:
            header = ["method", "epochs", "n", *(columns[key] for key in keys)]
            body = [
                [row["method"], str(row["epochs"] or "–"), str(row["n"]), *(cell(row, key) for key in keys)] for row in rows
            ]
            tables.append((title, header, body))
    return tables


def _inline(title):
    return title[0].lower() + title[1:]


def _footnotes(result):
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


def _made_by(run):
    versions = ", ".join(f"{name} {number}" for name, number in run["versions"].items())
    return f"`{run['command']}` on {run['hardware']}, {run['date']}; {versions}."


def cell(row, key):
    metric = row["metrics"].get(key, {"missing": ""})
    if "missing" in metric:
        return metric.get("cell", "n/a")
    digits = DIGITS.get(key, 2)
    text = f"{metric['mean']:,.{digits}f}"
    return text + (f" ± {metric['ci95']:,.{digits}f}" if metric["ci95"] else "")


def _pipes(header, body):
    align = ["---" if name == "method" else "---:" for name in header]
    return ["| " + " | ".join(cells) + " |" for cells in (header, align, *body)]


def _tex(text):
    text = re.sub(r"([%_&#$])", r"\\\1", text)
    for sign, command in (("--", "-{}-"), ("–", "--"), ("±", r"$\pm$"), ("Δ", r"$\Delta$"), (">", "$>$")):
        text = text.replace(sign, command)
    return text
