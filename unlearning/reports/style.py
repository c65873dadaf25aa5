"""What all pictures share: look, markers, grids of panels, legends, names. matplotlib's own state isn't changed."""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unlearning.reports import results

LOOK: Any = {"font.size": 8, "axes.titlesize": 8, "axes.grid": True, "grid.color": "0.9"}
MARKERS = "osv^D<P>Xpd*h8"
COLUMNS = 5  # panels side by side
LINES = {  # how Original and Retrain look in every panel, and the panel's own method
    "original": {"color": "0.5", "linestyle": ":"},
    "retrain": {"color": "0.5", "linestyle": "--"},
    "this method": {"color": "black", "linestyle": "-"},
}


def save(figure: Figure, file: str | Path) -> None:
    """Write a figure as a PNG file, drawn without a screen."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(LOOK):
        figure.savefig(file, dpi=150)


def panels(rows: list[Any], panel: Callable[[Axes, Any, dict[str, Any]], None], xlabel: str, ylabel: str) -> Figure:
    """A panel for each row but a method's variants, network by network; `panel(axis, row, anchors' curves)` draws one."""
    groups = [(title, [row for row in group if " --" not in row["method"]]) for title, group in results.by_forget_set(rows)]
    lines = [-(-len(group) // COLUMNS) for _, group in groups]
    figure = Figure(figsize=(9, 0.35 + 1.75 * sum(lines)), layout="constrained")
    blocks = figure.subfigures(len(groups), 1, height_ratios=lines, squeeze=False)[:, 0]
    for block, height, (title, group) in zip(blocks, lines, groups, strict=True):
        block.suptitle(title, fontsize=9, weight="bold")
        axes = block.subplots(height, COLUMNS, sharex=True, sharey=True, squeeze=False).flat
        anchors = {row["method"]: row["curves"] for row in group if row["method"] in ("original", "retrain")}
        for place, (axis, row, name) in enumerate(zip(axes, group, row_names(group), strict=False)):
            panel(axis, row, anchors)
            axis.tick_params(labelbottom=place + COLUMNS >= len(group))  # nothing below it
            axis.set_title(name)
            axis.tick_params(labelsize=7)
        for axis in axes[len(group) :]:
            axis.set_axis_off()
        block.supxlabel(xlabel, fontsize=8)
        block.supylabel(ylabel, fontsize=8)
    legend(figure, figure.axes)
    return figure


def grid(count: int, width: float, height: float, columns: int = 3, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` axes, at most `columns` side by side, each so many inches wide and high: (figure, axes)."""
    columns = min(columns, count)
    lines = -(-count // columns)
    size = (width * columns, height * lines)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **shared)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """One legend below the picture for all its panels."""
    handles: dict[Any, Any] = {}
    for axis in axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)


def row_names(rows: list[Any]) -> list[str]:
    """The rows' methods, with their epochs where a method comes twice."""
    often = Counter(row["method"] for row in rows)
    lengths = [f", {row['epochs']} epoch{'s' if row['epochs'] != 1 else ''}" for row in rows]
    return [row["method"] + (text if often[row["method"]] > 1 else "") for row, text in zip(rows, lengths, strict=True)]


def axis_range(rows: list[Any], key: str) -> tuple[float, float]:
    """Limits of an axis that shows every row's interval but the original's."""
    found = [row["metrics"].get(key, {}) for row in rows if row["method"] != "original" or len(rows) == 1]
    spans = [(m["mean"] - (m["ci95"] or 0), m["mean"] + (m["ci95"] or 0)) for m in found if "mean" in m]
    low, high = min((s[0] for s in spans), default=0), max((s[1] for s in spans), default=100)
    margin = max(0.12 * (high - low), 0.01 * abs(high), 0.02)
    return low - margin, high + margin
