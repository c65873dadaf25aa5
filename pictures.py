"""Pictures of result rows (see report.py), readable without colour; drawn from the rows alone.

STEM.png          every row's metrics with their intervals, a line at Retrain
STEM-plane.png    the trade-off plane: gap in UA over gap in TA, Retrain at the origin
STEM-losses.png   histograms of the loss on D_f, T_f, D_r and T_r
STEM-roc.png      ROC of the attack that tells D_f from T_f, on log axes
STEM-relearn.png  accuracy on T_f over steps of training on D_f
STEM-steps.png    average gap over optimiser steps, for methods run with several numbers of epochs
STEM-cost.png     accuracy over the cost of a deletion, on a log axis
STEM-shares.png   loss over the share of rows asked about, for LLMEraser's three requests
STEM-features.png penultimate features of D_f and D_r on their first two principal components
"""

import re
from collections import Counter
from itertools import groupby
from pathlib import Path

import matplotlib
import numpy as np

import metrics

matplotlib.use("Agg")
from matplotlib import pyplot

DOTS = {
    "UA": "UA (%)",
    "RA": "RA (%)",
    "TA": "TA (%)",
    "gap": "average gap",
    "MIA_AUC": "MIA-AUC (%)",
    "probe": "probe (%)",
    "relearn_steps": "relearn steps",
    "ulira": "U-LiRA (%)",
    "klom_f": "KLOM D_f",
    "klom_r": "KLOM D_r",
    "forgetting": "forgetting score",
}
LOOK = {"font.size": 8, "axes.titlesize": 8, "axes.grid": True, "grid.color": "0.9"}
MARKERS = "osv^D<P>Xpd*h8"
COLUMNS = 5  # panels side by side
LINES = {  # how Original and Retrain look in every panel, and the panel's own method
    "original": {"color": "0.5", "linestyle": ":"},
    "retrain": {"color": "0.5", "linestyle": "--"},
    "this method": {"color": "black", "linestyle": "-"},
}


def path(stem, name):
    """The file of the picture `name`, a key of PICTURES."""
    return Path(f"{stem}.png" if name == "dots" else f"{stem}-{name}.png")


def by_forget_set(rows):
    """(heading, rows) of each data set, network and forget set."""
    groups = groupby(rows, key=lambda row: (row["dataset"], row["model"], row["forget"]))
    return [(", ".join(key), list(group)) for key, group in groups]


def draw(rows, stem):
    """Write every picture that the rows have something for."""
    Path(stem).parent.mkdir(parents=True, exist_ok=True)
    pyplot.rcParams.update(LOOK)
    for name, (has, picture) in PICTURES.items():
        if (kept := [row for row in rows if has(row)]) and (figure := picture(kept)):
            figure.savefig(path(stem, name), dpi=150)
            pyplot.close(figure)


def dots(rows):
    """A dot and an interval for each row and metric."""
    columns = [key for key in DOTS if any("mean" in row["metrics"].get(key, {}) for row in rows)]
    groups = by_forget_set(rows)
    heights = [len(group) + 1.5 for _, group in groups]
    figure, axes = pyplot.subplots(
        len(groups),
        len(columns),
        figsize=(1.7 + 1.2 * len(columns), 0.5 + 0.19 * sum(heights)),
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for line, (title, group) in zip(axes, groups, strict=True):
        for axis, key in zip(line, columns, strict=True):
            low, high = _range(group, key)
            axis.set_xlim(low, high)
            for place, row in enumerate(group):
                metric = row["metrics"].get(key, {"missing": ""})
                if "missing" in metric:
                    axis.text(
                        0.5,
                        place,
                        metric.get("cell", "n/a"),
                        ha="center",
                        va="center",
                        transform=axis.get_yaxis_transform(),
                        color="0.5",
                    )
                elif not low <= metric["mean"] <= high:  # the original, far from all that unlearned: an arrow and a number
                    left = metric["mean"] < low
                    text = f" ← {metric['mean']:.0f}" if left else f"{metric['mean']:.0f} → "
                    axis.text(low if left else high, place, text, ha="left" if left else "right", va="center")
                else:
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
            axis.set_yticks(range(len(group)), _names(group) if axis is line[0] else [])
            axis.set_ylim(len(group) - 0.5, -0.5)
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(pyplot.MaxNLocator(3))
            axis.set_title(f"\n{DOTS[key]}")
        heading = line[0].set_title(f"{title}\n", loc="left", weight="bold")
        heading.set_in_layout(False)  # else the first column would be as wide as its heading
    return figure


def plane(rows):
    """UA gap over TA gap, a marker for each method; a row far off is named in a corner instead."""
    groups = by_forget_set(rows)
    figure, axes = _grid(len(groups), 4.2, 4.4)
    methods = list(dict.fromkeys(name for _, group in groups for name in _names(group)))
    for axis, (title, group) in zip(axes, groups, strict=True):
        inside = [row for row in group if row["method"] != "original"]
        reach = max((abs(row["metrics"]["dUA"]["mean"]) + (row["metrics"]["dUA"]["ci95"] or 0) for row in inside), default=1)
        reach = max(1.15 * reach, 0.5)
        for row, name in zip(group, _names(group), strict=True):
            x, y = row["metrics"]["dTA"], row["metrics"]["dUA"]
            if abs(y["mean"]) > reach:
                text = f"{name}: ({x['mean']:.1f}, {y['mean']:.1f})"
                axis.text(0.02, 0.02, text, transform=axis.transAxes)
                continue
            place = methods.index(name)
            axis.errorbar(
                x["mean"],
                y["mean"],
                xerr=x["ci95"] or 0,
                yerr=y["ci95"] or 0,
                fmt=MARKERS[place % len(MARKERS)],
                color="black" if place % 2 else "0.5",
                markerfacecolor="none",  # so that one shows through another
                markersize=8,
                capsize=2,
                linewidth=0.8,
                label=name,
            )
        axis.axhline(0, color="0.7", linewidth=1, zorder=0)
        axis.axvline(0, color="0.7", linewidth=1, zorder=0)
        axis.set_ylim(-reach, reach)
        axis.set_xlabel("TA minus Retrain's (points)")
        axis.set_ylabel("UA minus Retrain's (points)")
        axis.set_title(title.replace(", ", "\n", 1))
    _legend(figure, axes)
    return figure


def losses(rows):
    """Histograms of the loss on the four sets, a panel for each method."""
    styles = {
        "D_f": {"color": "black", "linestyle": "-"},
        "T_f": {"color": "black", "linestyle": "--"},
        "D_r": {"color": "0.6", "linestyle": "-"},
        "T_r": {"color": "0.6", "linestyle": "--"},
    }

    def panel(axis, row, anchors):
        for name, style in styles.items():
            if name in row["curves"]["losses"]:
                axis.stairs(row["curves"]["losses"][name], metrics.LOSS_BINS, label=name, **style)
        axis.set_xscale("log")
        axis.set_xticks([1e-4, 1e-2, 1, 1e2])

    return _panels(rows, panel, "loss (nats)", "share")


def roc(rows):
    """ROC of D_f against T_f on log axes, Original and Retrain in every panel."""

    def panel(axis, row, anchors):
        for label, curve in _beside_anchors(row, anchors, "roc"):
            axis.plot(metrics.FPR_GRID, np.maximum(curve, 1e-3), label=label, **LINES[label])
        axis.plot([1e-3, 1], [1e-3, 1], color="0.8", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(1e-3, 1)
        axis.set_ylim(1e-3, 1)

    return _panels(rows, panel, "false-positive rate", "true-positive rate")


def relearn(rows):
    """Relearning curves with intervals, Original and Retrain in every panel."""

    def panel(axis, row, anchors):
        steps = row["curves"]["relearn_steps"]
        for label, curves in _beside_anchors(row, anchors, "relearn"):
            mean, half = zip(*(metrics.mean_ci95(values) for values in zip(*curves, strict=True)), strict=True)
            axis.plot(steps, mean, label=label, **LINES[label])
            if label == "this method" and None not in half:
                low, high = np.subtract(mean, half), np.add(mean, half)
                axis.fill_between(steps, np.maximum(low, 0), np.minimum(high, 100), color="0.85", linewidth=0)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xticks([0, 1, 4, 16, 64], [0, 1, 4, 16, 64])
        axis.minorticks_off()
        axis.set_ylim(-3, 103)

    return _panels(rows, panel, "steps on D_f", "accuracy on T_f (%)")


def features(rows):
    """Features of D_f and D_r on the network's own first two principal components."""

    def panel(axis, row, anchors):
        for name, marker, color in (("D_r", ".", "0.65"), ("D_f", "x", "black")):
            points = np.array(row["curves"]["features"][name])
            axis.scatter(*points.T, marker=marker, s=14, linewidth=0.8, color=color, label=name)
        axis.set_xticks([])
        axis.set_yticks([])

    return _panels(rows, panel, "first component", "second")


def steps(rows):
    """Average gap over optimiser steps, for each method that was run with several numbers of epochs; None without any."""
    groups = [(heading, group) for heading, group in by_forget_set(rows) if _several(group)]
    if not groups:
        return None
    figure, axes = _grid(len(groups), 3.6, 3.4)
    for axis, (heading, group) in zip(axes, groups, strict=True):
        for place, (name, same) in enumerate(_several(group).items()):
            x, y = ([row["metrics"][key]["mean"] for row in same] for key in ("steps", "gap"))
            half = [row["metrics"]["gap"]["ci95"] or 0 for row in same]
            axis.errorbar(x, y, yerr=half, fmt=f"-{MARKERS[place]}", color="black", capsize=2, label=name)
        for row in group:
            if row["method"] in ("original", "finetune"):
                style = ":" if row["method"] == "original" else "--"
                axis.axhline(row["metrics"]["gap"]["mean"], color="0.5", linestyle=style, label=row["method"])
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter("{x:.0f}")
        axis.set_ylim(bottom=0)
        axis.set_xlabel("optimiser steps")
        axis.set_ylabel("average gap")
        axis.set_title(heading.replace(", ", "\n", 1))
    _legend(figure, axes)
    return figure


def cost(rows):
    """Accuracy over the sample-epochs of a deletion, a panel for each request; a line joins numbers of clusters."""
    groups = by_forget_set(rows)
    figure, axes = _grid(len(groups), 3.4, 3.6, len(groups), sharex=True, sharey=True)
    for axis, (heading, group) in zip(axes, groups, strict=True):
        kinds = {}
        for row in group:
            kinds.setdefault(re.sub(r" --parts \d+", "", row["method"]), []).append(row)
        for place, (name, same) in enumerate(kinds.items()):
            x, y = ([row["metrics"][key] for row in same] for key in ("sample_epochs", "accuracy"))
            axis.errorbar(
                [m["mean"] for m in x],
                [m["mean"] for m in y],
                yerr=[m["ci95"] or 0 for m in y],
                fmt=("-", "--", ":", "-.")[place % 4] + MARKERS[place],
                color="black" if place % 2 == 0 else "0.5",
                capsize=2,
                label=name,
            )
            for row, m, n in zip(same, x, y, strict=True):
                above = 4 if place % 2 else -11
                axis.annotate(row["clusters"], (m["mean"], n["mean"]), xytext=(3, above), textcoords="offset points")
        axis.set_xscale("log")
        axis.set_xlabel("sample-epochs of the deletion")
        axis.set_title(heading.replace(", ", "\n"))
    axes[0].set_ylabel("accuracy (%)")
    _legend(figure, axes)
    return figure


def speed(rows):
    """How many times faster than the published way: a dot and an interval for each method, network by network."""
    groups = by_forget_set(rows)
    heights = [len(group) + 1.2 for _, group in groups]
    figure, axes = pyplot.subplots(
        len(groups),
        1,
        figsize=(5, 0.6 + 0.24 * sum(heights)),
        sharex=True,
        gridspec_kw={"height_ratios": heights},
        squeeze=False,
        layout="constrained",
    )
    for axis, (title, group) in zip(axes[:, 0], groups, strict=True):
        ratios = [row["metrics"]["ratio"] for row in group]
        means = [m["mean"] for m in ratios]
        # On this axis an interval may not reach 0.
        spread = [[min(m["ci95"] or 0, 0.9 * m["mean"]) for m in ratios], [m["ci95"] or 0 for m in ratios]]
        axis.errorbar(means, range(len(group)), xerr=spread, fmt="o", color="black", markersize=5, capsize=2.5, linewidth=1)
        axis.axvline(1, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axis.set_yticks(range(len(group)), _names(group))
        axis.set_ylim(len(group) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xscale("log")
        ticks = [1, 2, 3, 5, 10, 20]
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.set_title(title, loc="left", weight="bold")
    axes[-1, 0].set_xlabel("times faster than the published way (unlearning and scoring)")
    return figure


def growth(rows, file):
    """Seconds, and MiB, over each quantity that benchmarks/growth.py varies, exponents in the legends; into `file`."""
    pyplot.rcParams.update(LOOK)
    quantities = list(dict.fromkeys(row["varied"] for row in rows))
    labels = list(dict.fromkeys(row["what"] for row in rows))
    figure, axes = pyplot.subplots(
        2, len(quantities), figsize=(2.4 * len(quantities), 5.6), sharex="col", sharey="row", layout="constrained"
    )
    for axis_of, key, unit in zip(axes, ("seconds", "mib"), ("seconds", "MiB"), strict=True):
        for axis, name in zip(axis_of, quantities, strict=True):
            for row in (row for row in rows if row["varied"] == name):
                place = labels.index(row["what"])
                style = ("-", "--", ":")[place % 3] + MARKERS[place]
                label = f"{row['what']}: {row[f'exponent_{key}']:.2f}"
                axis.plot(
                    row["values"], row[key], style, color="black" if place % 2 == 0 else "0.5", markersize=4, label=label
                )
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(row["values"], map(str, row["values"]))
            axis.minorticks_off()
            axis.legend(fontsize=5.5, ncol=2, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), columnspacing=0.8)
            if key == "mib":
                axis.set_xlabel(name)
        axis_of[0].set_ylabel(unit)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


def shares(rows):
    """A panel for each task and request: loss over the share of rows; on clean test rows, or for removal on removed rows."""
    panels = {}
    for row in rows:
        panels.setdefault((row["dataset"], row["task"]), {}).setdefault(row["method"], []).append(row)
    figure, axes = _grid(len(panels), 3.4, 3.2, len({task for _, task in panels}))
    for axis, ((dataset, task), methods) in zip(axes, panels.items(), strict=True):
        key = "forget_loss" if task == "remove" else "loss"
        inside = [m for name in ("corrupted", "retrain") for m in (row["metrics"][key]["mean"] for row in methods[name])]
        low, high = min(inside), max(inside)
        margin = max(0.4 * (high - low), 0.01)
        outside = []
        for place, (name, same) in enumerate(methods.items()):
            y = [row["metrics"][key]["mean"] for row in same]
            if not all(low - margin <= value <= high + margin for value in y):
                outside.append(f"{name}: {min(y):.2f} to {max(y):.2f}")
                continue
            axis.errorbar(
                [row["share"] for row in same],
                y,
                yerr=[row["metrics"][key]["ci95"] or 0 for row in same],
                fmt=("-", "--", ":")[place % 3] + MARKERS[place],
                color="black" if place % 2 else "0.5",
                markerfacecolor="none",
                capsize=2,
                label=name,
            )
        axis.set_ylim(low - margin, high + margin)
        axis.text(0.02, 0.02, "\n".join(outside), transform=axis.transAxes, fontsize=6)
        axis.set_title(f"{dataset}: {task}")
        axis.set_xlabel("share of rows (%)")
        axis.set_ylabel("loss on removed rows" if task == "remove" else "loss on clean test rows")
    _legend(figure, axes)
    return figure


def residuals(found, layers, file):
    """Draw to `file` the residuals of RFAU: found holds, for each step, two lists with a number for each of `layers`, on D_r
    and on D_f, each a mean square over the variance of the original's feature."""
    pyplot.rcParams.update(LOOK)
    figure, axes = pyplot.subplots(1, 2, figsize=(7, 3), sharex=True, sharey=True, layout="constrained")
    axes[0].set_ylabel("mean square over variance")
    for side, (axis, title) in enumerate(zip(axes, ("on D_r", "on D_f"), strict=True)):
        for place, name in enumerate(layers):
            shade = str(0.8 * (1 - place / max(1, len(layers) - 1)))  # the last layer is black
            axis.plot([step[side][place] for step in found], color=shade, label=name.removeprefix("net."))
        axis.set_title(f"residual {title}")
        axis.set_xlabel("step")
        axis.set_ylim(bottom=0)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=150)
    pyplot.close(figure)


PICTURES = {  # name: (whether a row has something for it, the picture)
    "dots": (lambda row: "request" not in row and "task" not in row and "ratio" not in row["metrics"], dots),
    "speed": (lambda row: "ratio" in row["metrics"], speed),
    "shares": (lambda row: "task" in row, shares),
    "cost": (lambda row: "request" in row, cost),
    "plane": (lambda row: "mean" in row["metrics"].get("dUA", {}), plane),
    "losses": (lambda row: "curves" in row, losses),
    "roc": (lambda row: "curves" in row and row["curves"]["roc"], roc),
    "relearn": (lambda row: "curves" in row and row["curves"]["relearn"], relearn),
    "features": (lambda row: "curves" in row and row["curves"]["features"], features),
    "steps": (lambda row: "mean" in row["metrics"].get("steps", {}) and "mean" in row["metrics"].get("gap", {}), steps),
}


def _panels(rows, panel, xlabel, ylabel):
    """A panel for each row but a method's variants, network by network; `panel(axis, row, anchors' curves)` draws one."""
    groups = [(title, [row for row in group if " --" not in row["method"]]) for title, group in by_forget_set(rows)]
    lines = [-(-len(group) // COLUMNS) for _, group in groups]
    figure = pyplot.figure(figsize=(9, 0.35 + 1.75 * sum(lines)), layout="constrained")
    blocks = figure.subfigures(len(groups), 1, height_ratios=lines, squeeze=False)[:, 0]
    for block, height, (title, group) in zip(blocks, lines, groups, strict=True):
        block.suptitle(title, fontsize=9, weight="bold")
        axes = block.subplots(height, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
        anchors = {row["method"]: row["curves"] for row in group if row["method"] in ("original", "retrain")}
        for place, (axis, row, name) in enumerate(zip(axes, group, _names(group), strict=False)):
            panel(axis, row, anchors)
            axis.tick_params(labelbottom=place + COLUMNS >= len(group))  # nothing below it
            axis.set_title(name)
            axis.tick_params(labelsize=7)
        for axis in axes[len(group) :]:
            axis.set_axis_off()
        block.supxlabel(xlabel, fontsize=8)
        block.supylabel(ylabel, fontsize=8)
    _legend(figure, figure.axes)
    return figure


def _grid(count, width, height, columns=3, **shared):
    """A figure of `count` axes, at most `columns` side by side, each so many inches wide and high: (figure, axes)."""
    columns = min(columns, count)
    lines = -(-count // columns)
    size = (width * columns, height * lines)
    figure, axes = pyplot.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained", **shared)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def _several(rows):
    """The methods that come with more than one number of epochs: name to rows."""
    methods = {row["method"]: [r for r in rows if r["method"] == row["method"]] for row in rows}
    return {name: same for name, same in methods.items() if len(same) > 1}


def _beside_anchors(row, anchors, name):
    """(label, curve) of Original, of Retrain and of the row itself, of those that have the curve `name`."""
    others = [] if row["method"] in anchors else anchors.items()
    found = [(label, curves[name]) for label, curves in (*others, ("this method", row["curves"]))]
    return [(label, curve) for label, curve in found if curve]


def _legend(figure, axes):
    """One legend below the picture for all its panels."""
    handles = {}
    for axis in axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)


def _names(rows):
    """The rows' methods, with their epochs where a method comes twice."""
    often = Counter(row["method"] for row in rows)
    lengths = [f", {row['epochs']} epoch{'s' if row['epochs'] != 1 else ''}" for row in rows]
    return [row["method"] + (text if often[row["method"]] > 1 else "") for row, text in zip(rows, lengths, strict=True)]


def _range(rows, key):
    """Limits of an axis that shows every row's interval but the original's."""
    found = [row["metrics"].get(key, {}) for row in rows if row["method"] != "original" or len(rows) == 1]
    spans = [(m["mean"] - (m["ci95"] or 0), m["mean"] + (m["ci95"] or 0)) for m in found if "mean" in m]
    low, high = min((s[0] for s in spans), default=0), max((s[1] for s in spans), default=100)
    margin = max(0.12 * (high - low), 0.01 * abs(high), 0.02)
    return low - margin, high + margin
