"""Figures of single tables: the cost of deletions, speed, shares of rows, RFAU's residuals."""

import re
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unlearning.metrics.statistics import grouped
from unlearning.reports import results
from unlearning.reports.style import LOOK, MARKERS, grid, legend, row_names, save


def cost(rows: list[Any]) -> Figure:
    """Accuracy over the sample-epochs of a deletion, a panel for each request; a line joins numbers of clusters."""
    groups = results.by_forget_set(rows)
    figure, axes = grid(len(groups), 3.4, 3.6, len(groups), sharex=True, sharey=True)
    for axis, (heading, group) in zip(axes, groups, strict=True):
        kinds = grouped(group, lambda row: re.sub(r" --parts \d+", "", row["method"]))
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
    legend(figure, axes)
    return figure


def speed(rows: list[Any]) -> Figure:
    """How many times faster than the published way: a dot and an interval for each method, network by network."""
    groups = results.by_forget_set(rows)
    heights = [len(group) + 1.2 for _, group in groups]
    figure = Figure(figsize=(5, 0.6 + 0.24 * sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False)
    for axis, (title, group) in zip(axes[:, 0], groups, strict=True):
        ratios = [row["metrics"]["ratio"] for row in group]
        means = [m["mean"] for m in ratios]
        # On this axis an interval may not reach 0.
        spread = [[min(m["ci95"] or 0, 0.9 * m["mean"]) for m in ratios], [m["ci95"] or 0 for m in ratios]]
        axis.errorbar(means, range(len(group)), xerr=spread, fmt="o", color="black", markersize=5, capsize=2.5, linewidth=1)
        axis.axvline(1, color="0.5", linestyle="--", linewidth=1, zorder=0)
        axis.set_yticks(range(len(group)), row_names(group))
        axis.set_ylim(len(group) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.set_xscale("log")
        ticks = [1, 2, 3, 5, 10, 20]
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.set_title(title, loc="left", weight="bold")
    axes[-1, 0].set_xlabel("times faster than the published way (unlearning and scoring)")
    return figure


def shares(rows: list[Any]) -> Figure:
    """A panel for each task and request: loss over the share of rows; on clean test rows, or for removal on removed rows."""
    panels = grouped(rows, lambda row: (row["dataset"], row["task"]))
    figure, axes = grid(len(panels), 3.4, 3.2, len({task for _, task in panels}))
    for axis, ((dataset, task), group) in zip(axes, panels.items(), strict=True):
        _share_panel(axis, grouped(group, lambda row: row["method"]), "forget_loss" if task == "remove" else "loss")
        axis.set_title(f"{dataset}: {task}")
        axis.set_xlabel("share of rows (%)")
        axis.set_ylabel("loss on removed rows" if task == "remove" else "loss on clean test rows")
    legend(figure, axes)
    return figure


def _share_panel(axis: Axes, methods: dict[str, list[Any]], key: str) -> None:
    """The loss `key` of each method over the share of rows; one far from Corrupted's and Retrain's is named in words."""
    inside = [row["metrics"][key]["mean"] for name in ("corrupted", "retrain") for row in methods[name]]
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


def residuals(found: list[list[list[float]]], layers: list[str], file: str | Path) -> None:
    """Draw to `file` the residuals of RFAU: found holds, for each step, two lists with a number for each of `layers`, on D_r
    and on D_f, each a mean square over the variance of the original's feature."""
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(7, 3), layout="constrained")
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        axes[0].set_ylabel("mean square over variance")
        for side, (axis, title) in enumerate(zip(axes, ("on D_r", "on D_f"), strict=True)):
            for place, name in enumerate(layers):
                shade = str(0.8 * (1 - place / max(1, len(layers) - 1)))  # the last layer is black
                axis.plot([step[side][place] for step in found], color=shade, label=name.removeprefix("net."))
            axis.set_title(f"residual {title}")
            axis.set_xlabel("step")
            axis.set_ylim(bottom=0)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center")
    save(figure, file)
