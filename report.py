"""Tables from result rows, and from nothing else: what is written once can be written again from its JSON.

A result is {table, command, date, hardware, versions, rows}, and `earlier` where other runs have made some of these rows:
{of, command, date, hardware, versions}, `of` naming networks and forget sets. A row is {dataset, model, forget, method,
epochs, n, command, metrics}, `curves` where evaluate.py made it and, where a paper has the same data set and network,
`published`; a metric is {mean, ci95, values} with one value for each seed, or {missing: reason} and, where "n/a" isn't the
word for it, `cell`.
"""

import csv
import io
import json
import re
from pathlib import Path

import metrics
import models
import pictures
from errors import UserError

PROVENANCE = ("command", "date", "hardware", "versions")
# The tables of a data set, network and forget set: title, columns. A column that no row has is left out.
GROUPS = {
    "Headline": {
        "UA": "UA %",
        "UA_test": "UA-test %",
        "RA": "RA %",
        "TA": "TA %",
        "MIA": "MIA-Efficacy %",
        "gap": "average gap",
    },
    "What an attacker, a probe and relearning still find": {
        "MIA_AUC": "MIA-AUC %",
        "TPR1": "TPR@1%FPR %",
        "probe": "probe %",
        "relearn_steps": "relearn steps",
    },
    "Many models": {
        "ulira": "U-LiRA %",
        "klom_f": "KLOM D_f",
        "klom_r": "KLOM D_r",
        "klom_t": "KLOM test",
        "epsilon": "epsilon",
        "forgetting": "forgetting score",
        "neurips": "times RA and TA ratio",
    },
    "Accuracy, and how many times less it costs than training again": {
        "accuracy": "accuracy %",
        "auc": "AUC %",
        "loss": "loss",
        "undone": "damage undone %",
        "forget_loss": "loss on the rows asked about",
        "membership": "membership AUC %",
        "sample_epochs_ratio": "sample-epochs, times less",
        "seconds_ratio": "seconds, times less",
    },
    "Unlearning and scoring in the published way and here": {
        "ratio": "times faster",
        "of_bare_loop": "of the bare loop %",
        "published_seconds": "s, published",
        "here_seconds": "s, here",
        "published_mib": "peak MiB, published",
        "here_mib": "peak MiB, here",
        "published_RA": "RA %, published",
        "here_RA": "RA %, here",
        "published_TA": "TA %, published",
        "here_TA": "TA %, here",
    },
    "Distance from Retrain, and how well the system was solved": {
        "distance": "distance",
        "cosine": "cosine",
        "js": "JS",
        "residual": "residual",
    },
    "Distance from the Retrain of the same seed": {
        "dUA": "ΔUA",
        "dRA": "ΔRA",
        "dTA": "ΔTA",
        "dMIA": "ΔMIA",
        "ToW": "ToW",
        "activation_f": "activation D_f",
        "activation_r": "activation D_r",
        "js_f": "JS D_f",
        "js_r": "JS D_r",
    },
    **{
        f"Every attack: {title}": {
            f"{key} {attacker} {feature}": f"{attacker}, {feature}"
            for attacker in metrics.ATTACKERS
            for feature in metrics.FEATURES
        }
        for key, title in {"MIA": "MIA-Efficacy %", "AUC": "MIA-AUC %", "TPR1": "TPR@1%FPR %"}.items()
    },
    "Cost": {
        "sample_epochs": "sample-epochs",
        "flops": "FLOPs",
        "seconds": "seconds",
        "memory_mib": "memory MiB",
        "steps": "steps",
        "trainable": "trainable",
        "moved": "moved",
        "zeros": "zeros %",
        "bytes": "bytes",
        "parameters": "parameters",
        "macs": "MACs an image",
        "latency_ms": "ms a batch",
        "onnx_ms": "ms a batch, onnxruntime",
    },
}
FOLDED = ("Distance from the Retrain of the same seed", "Cost")  # shown in Markdown on a click
DIGITS = {"seconds": 1, "relearn_steps": 1}  # digits after the point, two elsewhere
DIGITS |= {"sample_epochs_ratio": 1, "seconds_ratio": 1, "loss": 3, "forget_loss": 3, "residual": 5}
DIGITS |= {"of_bare_loop": 0, "published_seconds": 1, "here_seconds": 1, "published_mib": 0, "here_mib": 0}
DIGITS |= {"undone": 0, "distance": 3, "cosine": 3, "js": 4}
DIGITS |= dict.fromkeys(
    ("sample_epochs", "flops", "memory_mib", "steps", "trainable", "moved", "bytes", "parameters", "macs"), 0
)
DIGITS |= dict.fromkeys(("ToW", "activation_f", "activation_r", "js_f", "js_r", "forgetting", "neurips"), 3)


def markdown(result):
    """The result as Markdown: for each data set, network and forget set the tables of GROUPS and the rows' commands."""
    lines = []
    for heading, rows in pictures.by_forget_set(result["rows"]):
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
    for heading, rows in pictures.by_forget_set(result["rows"]):
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


def dump(result):
    """The result as JSON, lists of numbers on one line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[\s+([-\d.,eE\s]+?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text) + "\n"


FORMS = {"json": dump, "markdown": markdown, "latex": latex, "csv": comma_separated}
ENDINGS = {"json": ".json", "markdown": ".md", "latex": ".tex", "csv": ".csv"}


def terminal(result):
    """The same tables as plain text, columns aligned, without the commands."""
    lines = []
    for heading, rows in pictures.by_forget_set(result["rows"]):
        for title, header, body in _tables(rows):
            widths = [max(map(len, column)) for column in zip(header, *body, strict=True)]
            lines.append(f"{heading}: {_inline(title)}")
            for cells in (header, *body):
                texts = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
                lines.append("  ".join(texts).rstrip())
            lines.append("")
    return "\n".join(lines)


def read(path):
    """The result in the JSON file `path`. Raises UserError if it holds none."""
    try:
        content = json.loads(Path(path).read_text())
        content["rows"][0]["metrics"]
        return content
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is not a result file ({error})") from None


def joined(result, path):
    """`result` with the rows that the file `path`, if there is one, has of other networks and forget sets, and what made
    those."""
    if not Path(path).exists():
        return result
    before = read(path)
    own = set(map(_subject, result["rows"]))
    kept = [row for row in before["rows"] if _subject(row) not in own]
    left, earlier = list(dict.fromkeys(map(_subject, kept))), []
    for run in [*before.get("earlier", []), before]:
        of = [subject for subject in left if subject in run.get("of", left)]
        left = [subject for subject in left if subject not in of]
        if of:
            earlier.append({"of": of} | {key: run[key] for key in PROVENANCE})
    return result | {"rows": kept + result["rows"]} | ({"earlier": earlier} if earlier else {})


def _subject(row):
    return f"{row['model']}, {row['forget']}"


def write(path, text):
    """Replace the text file `path` in one step."""
    models.write_bytes(path, text.encode())


def write_all(result, stem):
    """Write stem.json, stem.md, stem.tex, stem.csv and the pictures."""
    for name, form in FORMS.items():
        write(f"{stem}{ENDINGS[name]}", form(result))
    pictures.draw(result["rows"], stem)


def _tables(rows):
    """(title, header, body) for each of GROUPS that the rows have anything of."""
    tables = []
    for title, columns in GROUPS.items():
        keys = [key for key in columns if any(key in row["metrics"] for row in rows)]
        if keys:
            header = ["method", "epochs", "n", *(columns[key] for key in keys)]
            body = [
                [row["method"], str(row["epochs"] or "–"), str(row["n"]), *(_cell(row, key) for key in keys)] for row in rows
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


def _cell(row, key):
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
