"""Figures of single tables: the cost of deletions, speed, requests about rows, RFAU's residuals."""

import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unlearning.metrics.statistics import grouped
from unlearning.reports import results
from unlearning.reports.results import row_names
from unlearning.reports.style import (
    decades,
    grid,
    label_points,
    legend,
    lettering,
    save,
    series,
    styled,
    title,
)


def cost(rows: list[Any]) -> Figure:
    """Accuracy over the sample-epochs of a deletion, a panel for each request; a line joins numbers of clusters. A
    deletion after which nothing was trained has no dot."""
    rows = [row for row in rows if row["metrics"]["sample_epochs"]["mean"]]  # of which this axis has no 0
    groups = results.by_forget_set(rows)
    figure, axes = grid(len(groups), 2, sharey=True)
    kinds = list(dict.fromkeys(map(_without_parts, rows)))
    points: dict[Axes, list[tuple[float, float, str]]] = {}
    figure.supylabel("accuracy (%)", fontsize=8)
    for axis, (heading, group) in zip(axes, groups, strict=True):
        points[axis] = []
        for name, same in grouped(group, _without_parts).items():
            x = [row["metrics"]["sample_epochs"]["mean"] for row in same]
            y = [row["metrics"]["accuracy"]["mean"] for row in same]
            half = [row["metrics"]["accuracy"]["ci95"] or 0 for row in same]
            axis.errorbar(x, y, yerr=half, capsize=2, elinewidth=0.8, label=name, **series(kinds.index(name)))
            points[axis] += zip(x, y, [str(row["clusters"]) for row in same], strict=True)
        decades(axis)
        axis.set_xlabel("sample-epochs of the deletion")
        title(axis, heading)
    legend(figure, axes)
    label_points(figure, points)
    return figure


def _without_parts(row: Any) -> str:
    return re.sub(r" --parts \d+", "", row["method"])


def speed(rows: list[Any]) -> Figure:
    """How many times faster than the published way: a dot and an interval for each method, network by network."""
    groups = results.by_forget_set(rows)
    heights = [len(group) + 1.2 for _, group in groups]
    figure = Figure(figsize=(5, 0.6 + 0.24 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)
    for axis, (heading, group) in zip(axes[:, 0], groups, strict=True):
        ratios = [row["metrics"]["ratio"] for row in group]
        means = [m["mean"] for m in ratios]
        # On this axis an interval may not reach 0.
        spread = [[min(m["ci95"] or 0, 0.9 * m["mean"]) for m in ratios], [m["ci95"] or 0 for m in ratios]]
        axis.errorbar(means, range(len(group)), xerr=spread, fmt="o", color="black", markersize=5, capsize=2.5, linewidth=1)
        axis.axvline(1, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axis.set_yticks(range(len(group)), list(map(lettering, row_names(group))))
        axis.set_ylim(len(group) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xscale("log")
        ticks = [1, 2, 3, 5, 10, 20]
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.set_title(lettering(heading), loc="left", weight="bold")
    axes[-1, 0].set_xlabel("times faster than the published way (unlearning and scoring)")
    return figure


def requests(rows: list[Any]) -> Figure:
    """A panel for each task and request: the loss after each method, on clean test rows, or for removal on removed rows.

    Lines stand where Corrupted and Retrain are.
    """
    panels = grouped(rows, lambda row: (row["dataset"], row["task"], row["share"]))
    heights = [len(group) + 2.5 for group in panels.values()]
    figure = Figure(figsize=(5, 0.21 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
    for axis, ((dataset, task, share), group) in zip(axes, panels.items(), strict=True):
        outside = _request_panel(axis, group)
        title(axis, f"{dataset}: {task}, {share:g} % of the rows")
        axis.set_xlabel("\n".join([f"loss on {'removed' if task == 'remove' else 'clean test'} rows", *outside]))
    return figure


def has_loss(row: Any) -> bool:
    """True for what `requests` draws: a row of an answered request with a loss, which SISA's, a vote, has not."""
    return "task" in row and "mean" in row["metrics"].get(_loss_of(row), {})


def _loss_of(row: Any) -> str:
    return "forget_loss" if row["task"] == "remove" else "loss"


def _request_panel(axis: Axes, rows: list[Any]) -> list[str]:
    """A dot and an interval for each row, from top to bottom; in words, what is far from Corrupted's and Retrain's."""
    losses = [row["metrics"][_loss_of(row)] for row in rows]
    means = [loss["mean"] for loss in losses]
    known = [mean for mean, row in zip(means, rows, strict=True) if row["method"] in ("corrupted", "retrain")]
    low, high = min(known or means), max(known or means)
    margin = max(high - low, 0.02)
    outside = []
    for place, (row, loss) in enumerate(zip(rows, losses, strict=True)):
        mean, half = loss["mean"], loss["ci95"] or 0
        if low - margin <= mean <= high + margin:
            axis.errorbar(mean, place, xerr=half, fmt="o", color="black", markersize=4, capsize=2, linewidth=0.8)
        else:
            outside.append(f"not shown: {lettering(row['method'])}, {mean:.2f}")
        if row["method"] in ("corrupted", "retrain"):
            axis.axvline(mean, color="0.6", linestyle="--", linewidth=0.8, zorder=0)
    axis.set_yticks(range(len(rows)), [lettering(row["method"]) for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(low - margin, high + margin)
    axis.grid(axis="y", visible=False)
    return outside


def residuals(found: list[list[list[float]]], layers: list[str], file: str | Path) -> None:
    """Draw to `file` the residuals of RFAU: found holds, for each step, two lists with a number for each of `layers`, on D_r
    and on D_f, each a mean square over the variance of the original's feature."""
    with styled():
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        axes[0].set_ylabel("mean square over variance")
        for side, (axis, title) in enumerate(zip(axes, ("on D_r", "on D_f"), strict=True)):
            for place, name in enumerate(layers):
                shade = str(0.8 * (1 - place / max(1, len(layers) - 1)))  # the last layer is black
                axis.plot([step[side][place] for step in found], color=shade, label=lettering(name.removeprefix("net.")))
            axis.set_title(f"residual {title}")
            axis.set_xlabel("step")
            axis.set_ylim(bottom=0)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    save(figure, file)
