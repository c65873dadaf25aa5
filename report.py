"""Tables and pictures from result rows, and from nothing else: what is drawn once can be drawn again from its JSON.

A result is {table, command, date, hardware, versions, rows}; a row is {dataset, model, forget, method, epochs, n, command,
metrics} and, where a paper has the same data set and network, `published`; a metric is {mean, ci95, values} with one
value for each seed, or {missing: reason}.
"""

import json
import os
from collections import Counter
from itertools import groupby
from pathlib import Path

QUALITY = {"UA": "UA %", "UA_test": "UA-test %", "RA": "RA %", "TA": "TA %", "MIA": "MIA-Efficacy %", "gap": "average gap"}
COST = {
    "seconds": "seconds",
    "memory_mib": "memory MiB",
    "trainable": "trainable",
    "moved": "moved",
    "zeros": "zeros %",
    "bytes": "bytes",
}
DIGITS = {"seconds": 1, "memory_mib": 0, "trainable": 0, "moved": 0, "bytes": 0}  # two for percentages


def markdown(result):
    """The result as Markdown: for each data set, network and forget set a table of quality, one of cost, the commands."""
    lines = []
    for (dataset, model, forget), rows in _groups(result):
        published = any("published" in row for row in rows)
        header = ["#", "method", "epochs", "n", *QUALITY.values()] + (["paper: UA / RA / TA / MIA"] if published else [])
        body = [_head(i, row) + [_cell(row, key) for key in QUALITY] for i, row in enumerate(rows, 1)]
        for cells, row in zip(body, rows, strict=True):
            if published:
                paper = row.get("published")
                cells.append(" / ".join(f"{paper[k]:g}" for k in ("UA", "RA", "TA", "MIA")) if paper else "")
        lines += [f"**{dataset}, {model}, {forget}**", "", *_pipes(header, body), ""]
        body = [_head(i, row) + [_cell(row, key) for key in COST] for i, row in enumerate(rows, 1)]
        lines += [*_pipes(["#", "method", "epochs", "n", *COST.values()], body), ""]
        lines += ["<details><summary>The command of each row (its first seed)</summary>", ""]
        lines += [f"{i}. `{row['command']}`" for i, row in enumerate(rows, 1)] + ["", "</details>", ""]
        reasons = {m["missing"] for row in rows for m in row["metrics"].values() if "missing" in m}
        lines += [f"n/a: {'; '.join(sorted(reasons))}.", ""] if reasons else []
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines += [
        "Mean ± 95 % confidence interval (Student's t) over n training seeds. Average gap: mean distance from the Retrain "
        "of the same seed in UA, RA, TA and MIA-Efficacy.",
        f"`{result['command']}` on {result['hardware']}, {result['date']}; {versions}.",
    ]
    return "\n".join(lines) + "\n"


def terminal(result):
    """The same tables as plain text, columns aligned, without the commands."""
    lines = []
    for (dataset, model, forget), rows in _groups(result):
        for columns in (QUALITY, COST):
            header = ["method", "epochs", "n", *columns.values()]
            body = [_head(0, row)[1:] + [_cell(row, key) for key in columns] for row in rows]
            widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
            lines.append(f"{dataset}, {model}, {forget}")
            for cells in (header, *body):
                texts = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
                lines.append("  ".join(texts).rstrip())
            lines.append("")
    return "\n".join(lines)


def plot(result, path):
    """Draw every row's UA, RA, TA, MIA-Efficacy and gap with its interval; a line marks Retrain. PNG or what path says."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = _groups(result)
    columns = ("UA", "RA", "TA", "MIA", "gap")
    heights = [len(rows) for _, rows in groups]
    figure, axes = pyplot.subplots(
        len(groups),
        len(columns),
        figsize=(11, 0.9 * len(groups) + 0.24 * sum(heights)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for line, ((dataset, model, forget), rows) in zip(axes, groups, strict=True):
        often = Counter(row["method"] for row in rows)
        names = [row["method"] + (f", {row['epochs']} epochs" if often[row["method"]] > 1 else "") for row in rows]
        for axis, key in zip(line, columns, strict=True):
            low, high = _range(rows, key)
            axis.set_xlim(low, high)
            for place, row in enumerate(rows):
                metric = row["metrics"][key]
                if "missing" in metric:
                    continue
                if not low <= metric["mean"] <= high:  # the original, far from all that has unlearned: an arrow and a number
                    left = metric["mean"] < low
                    text = f"← {metric['mean']:.0f}" if left else f"{metric['mean']:.0f} →"
                    axis.text(
                        low if left else high, place, f" {text} ", ha="left" if left else "right", va="center", fontsize=8
                    )
                    continue
                anchor = row["method"] in ("original", "retrain")
                axis.errorbar(
                    metric["mean"],
                    place,
                    xerr=metric["ci95"] or 0,
                    fmt="s" if anchor else "o",
                    markersize=5,
                    color="black",
                    markerfacecolor="white" if anchor else "black",
                    capsize=2.5,
                    linewidth=1,
                )
                if row["method"] == "retrain":
                    axis.axvline(metric["mean"], color="0.5", linestyle="--", linewidth=1, zorder=0)
            axis.set_yticks(range(len(rows)), names if axis is line[0] else [])
            axis.set_ylim(len(rows) - 0.5, -0.5)
            axis.grid(axis="x", color="0.9")
            axis.xaxis.set_major_locator(pyplot.MaxNLocator(4))
            axis.tick_params(labelsize=8)
            axis.set_title(QUALITY[key].replace(" %", "") + (" (%)" if key != "gap" else " (points)"), fontsize=9)
        line[0].set_title(f"{dataset}, {model}, {forget}\n{line[0].get_title()}", fontsize=9)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _range(rows, key):
    """Limits of an axis that shows every row's interval but the original's."""
    metrics = [row["metrics"][key] for row in rows if row["method"] != "original" or len(rows) == 1]
    spans = [(m["mean"] - (m["ci95"] or 0), m["mean"] + (m["ci95"] or 0)) for m in metrics if "missing" not in m]
    low, high = min((s[0] for s in spans), default=0), max((s[1] for s in spans), default=100)
    margin = max(1.0, 0.12 * (high - low))
    return low - margin, high + margin


def write(path, text):
    """Replace the text file `path` in one step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.tmp")
    part.write_text(text)
    os.replace(part, path)


def write_all(result, stem):
    """Write stem.json, stem.md and stem.png."""
    write(f"{stem}.json", json.dumps(result, indent=1) + "\n")
    write(f"{stem}.md", markdown(result))
    plot(result, f"{stem}.png")


def _groups(result):
    rows = groupby(result["rows"], key=lambda row: (row["dataset"], row["model"], row["forget"]))
    return [(key, list(group)) for key, group in rows]


def _head(number, row):
    return [str(number), row["method"], str(row["epochs"] or "–"), str(row["n"])]


def _cell(row, key):
    metric = row["metrics"][key]
    if "missing" in metric:
        return "n/a"
    digits = DIGITS.get(key, 2)
    text = f"{metric['mean']:,.{digits}f}"
    return text + (f" ± {metric['ci95']:,.{digits}f}" if metric["ci95"] else "")


def _pipes(header, body):
    align = ["---:" if i not in (1,) else "---" for i in range(len(header))]
    return ["| " + " | ".join(cells) + " |" for cells in (header, align, *body)]
