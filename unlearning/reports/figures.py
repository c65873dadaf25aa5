"""Pictures of result rows (see results.py), readable without colour; drawn from the rows alone.

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

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from unlearning.metrics import membership, predictions, statistics
from unlearning.reports import paper_figures, results
from unlearning.reports.style import LINES, LOOK, MARKERS, axis_range, grid, legend, panels, row_names, save

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


def draw(rows: list[Any], folder: str | Path) -> list[Path]:
    """Write every picture that the rows have something for to the folder: the files."""
    written = []
    for name, (has, picture) in PICTURES.items():
        with matplotlib.rc_context(LOOK):
            figure = picture(kept) if (kept := [row for row in rows if has(row)]) else None
        if figure:
            written.append(Path(folder) / f"{name}.png")
            save(figure, written[-1])
    return written


def dots(rows: list[Any]) -> Figure:
    """A dot and an interval for each row and metric."""
    columns = [key for key in DOTS if any("mean" in row["metrics"].get(key, {}) for row in rows)]
    groups = results.by_forget_set(rows)
    heights = [len(group) + 1.5 for _, group in groups]
    figure = Figure(figsize=(1.7 + 1.2 * len(columns), 0.5 + 0.19 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), len(columns), gridspec_kw={"height_ratios": heights}, squeeze=False)
    for line, (title, group) in zip(axes, groups, strict=True):
        for axis, key in zip(line, columns, strict=True):
            low, high = axis_range(group, key)
            axis.set_xlim(low, high)
            for place, row in enumerate(group):
                _dot(axis, place, row, row["metrics"].get(key, {"missing": ""}), low, high)
            axis.set_yticks(range(len(group)), row_names(group) if axis is line[0] else [])
            axis.set_ylim(len(group) - 0.5, -0.5)
            axis.grid(axis="y", visible=False)
            axis.xaxis.set_major_locator(MaxNLocator(3))
            axis.set_title(f"\n{DOTS[key]}")
        heading = line[0].set_title(f"{title}\n", loc="left", weight="bold")
        heading.set_in_layout(False)  # else the first column would be as wide as its heading
    return figure


def _dot(axis: Axes, place: int, row: Any, metric: Any, low: float, high: float) -> None:
    """One row's metric; "n/a" where it is missing, an arrow and a number where it lies off the axis."""
    if "missing" in metric:
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.5"}
        axis.text(0.5, place, metric.get("cell", "n/a"), transform=axis.get_yaxis_transform(), **centred)
        return
    if not low <= metric["mean"] <= high:  # the original, far from all that unlearned
        left = metric["mean"] < low
        text = f" ← {metric['mean']:.0f}" if left else f"{metric['mean']:.0f} → "
        axis.text(low if left else high, place, text, ha="left" if left else "right", va="center")
        return
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


def plane(rows: list[Any]) -> Figure:
    """UA gap over TA gap, a marker for each method; a row far off is named in a corner instead."""
    groups = results.by_forget_set(rows)
    figure, axes = grid(len(groups), 4.2, 4.4)
    methods = list(dict.fromkeys(name for _, group in groups for name in row_names(group)))
    for axis, (title, group) in zip(axes, groups, strict=True):
        inside = [row for row in group if row["method"] != "original"]
        reach = max((abs(row["metrics"]["dUA"]["mean"]) + (row["metrics"]["dUA"]["ci95"] or 0) for row in inside), default=1)
        reach = max(1.15 * reach, 0.5)
        for row, name in zip(group, row_names(group), strict=True):
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
    legend(figure, axes)
    return figure


def losses(rows: list[Any]) -> Figure:
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
                axis.stairs(row["curves"]["losses"][name], predictions.LOSS_BINS, label=name, **style)
        axis.set_xscale("log")
        axis.set_xticks([1e-4, 1e-2, 1, 1e2])

    return panels(rows, panel, "loss (nats)", "share")


def roc(rows: list[Any]) -> Figure:
    """ROC of D_f against T_f on log axes, Original and Retrain in every panel."""

    def panel(axis, row, anchors):
        for label, curve in _beside_anchors(row, anchors, "roc"):
            axis.plot(membership.FPR_GRID, np.maximum(curve, 1e-3), label=label, **LINES[label])
        axis.plot([1e-3, 1], [1e-3, 1], color="0.8", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(1e-3, 1)
        axis.set_ylim(1e-3, 1)

    return panels(rows, panel, "false-positive rate", "true-positive rate")


def relearn(rows: list[Any]) -> Figure:
    """Relearning curves with intervals, Original and Retrain in every panel."""

    def panel(axis, row, anchors):
        steps = row["curves"]["relearn_steps"]
        for label, curves in _beside_anchors(row, anchors, "relearn"):
            mean, half = zip(*(statistics.mean_ci95(values) for values in zip(*curves, strict=True)), strict=True)
            axis.plot(steps, mean, label=label, **LINES[label])
            if label == "this method" and None not in half:
                low, high = np.subtract(mean, half), np.add(mean, half)
                axis.fill_between(steps, np.maximum(low, 0), np.minimum(high, 100), color="0.85", linewidth=0)
        axis.set_xscale("symlog", linthresh=1)
        axis.set_xticks([0, 1, 4, 16, 64], [0, 1, 4, 16, 64])
        axis.minorticks_off()
        axis.set_ylim(-3, 103)

    return panels(rows, panel, "steps on D_f", "accuracy on T_f (%)")


def features(rows: list[Any]) -> Figure:
    """Features of D_f and D_r on the network's own first two principal components."""

    def panel(axis, row, anchors):
        for name, marker, color in (("D_r", ".", "0.65"), ("D_f", "x", "black")):
            points = np.array(row["curves"]["features"][name])
            axis.scatter(*points.T, marker=marker, s=14, linewidth=0.8, color=color, label=name)
        axis.set_xticks([])
        axis.set_yticks([])

    return panels(rows, panel, "first component", "second")


def steps(rows: list[Any]) -> Figure | None:
    """Average gap over optimiser steps, for each method that was run with several numbers of epochs; None without any."""
    groups = [(heading, group) for heading, group in results.by_forget_set(rows) if _several(group)]
    if not groups:
        return None
    figure, axes = grid(len(groups), 3.6, 3.4)
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
    legend(figure, axes)
    return figure


Picture = tuple[Callable[[Any], Any], Callable[[list[Any]], Figure | None]]  # whether a row has something for it; draws it
PICTURES: dict[str, Picture] = {
    "metrics": (lambda row: "request" not in row and "task" not in row and "ratio" not in row["metrics"], dots),
    "speed": (lambda row: "ratio" in row["metrics"], paper_figures.speed),
    "shares": (lambda row: "task" in row, paper_figures.shares),
    "cost": (lambda row: "request" in row, paper_figures.cost),
    "plane": (lambda row: "mean" in row["metrics"].get("dUA", {}), plane),
    "losses": (lambda row: "curves" in row, losses),
    "roc": (lambda row: "curves" in row and row["curves"]["roc"], roc),
    "relearn": (lambda row: "curves" in row and row["curves"]["relearn"], relearn),
    "features": (lambda row: "curves" in row and row["curves"]["features"], features),
    "steps": (lambda row: "mean" in row["metrics"].get("steps", {}) and "mean" in row["metrics"].get("gap", {}), steps),
}


def _several(rows: list[Any]) -> dict[str, list[Any]]:
    """The methods that come with more than one number of epochs: name to rows."""
    methods = statistics.grouped(rows, lambda row: row["method"])
    return {name: same for name, same in methods.items() if len(same) > 1}


def _beside_anchors(row: Any, anchors: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """(label, curve) of Original, of Retrain and of the row itself, of those that have the curve `name`."""
    others = [] if row["method"] in anchors else anchors.items()
    found = [(label, curves[name]) for label, curves in (*others, ("this method", row["curves"]))]
    return [(label, curve) for label, curve in found if curve]
