"""Figure of one class after the other: how far each method is from Retrain for each of them."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unlearning.metrics.statistics import grouped
from unlearning.reports import averages
from unlearning.reports.results import row_names
from unlearning.reports.style import WIDTH, lettering, wrapped

# Each panel: the metric whose size is the shade, the one that is written in the cell, its digits, the title.
PANELS = (
    ("dUA", "UA", 0, "UA (%)"),
    ("dTA", "dTA", 1, "TA minus Retrain's (points)"),
    ("probe_gap", "probe_gap", 0, "probe gap (points)"),
    ("ncc_gap", "ncc_gap", 0, "NCC gap (points)"),
)
WRITTEN = 25  # classes side by side whose numbers can be read
LINE = 0.17  # inches


def classes(rows: list[Any]) -> Figure | None:
    """A panel for each metric: a line for each method, a column for each class that was forgotten alone; the further from
    Retrain, the darker. None where there is nothing to set beside Retrain. rows: of one data set and network."""
    groups = grouped(rows, lambda row: row["forget"])
    order = sorted(groups, key=averages.number)
    table = {tag: dict(zip(row_names(groups[tag]), groups[tag], strict=True)) for tag in order}
    own = [name for tag in order for name, row in table[tag].items() if row["method"] not in ("original", "retrain")]
    names = list(dict.fromkeys(own))
    shown = [panel for panel in PANELS if any(_value(row, panel[0]) is not None for row in rows)]
    if not names or not shown:
        return None
    across = 2 if len(order) <= WRITTEN // 2 and len(shown) > 1 else 1
    lines, labels = -(-len(shown) // across), [wrapped(name, 1.7) for name in names]
    heights = LINE * sum(label.count("\n") + 1 for label in labels) + 0.5
    figure = Figure(figsize=(WIDTH, lines * heights + 1.1), layout="constrained")
    axes = figure.subplots(lines, across, squeeze=False, sharex=True, sharey=True)
    for place, (axis, panel) in enumerate(zip(axes.flat, shown, strict=False)):
        _panel(axis, panel, [[table[tag].get(name) for tag in order] for name in names])
        axis.set_yticks(range(len(names)), labels)
        axis.set_xticks(range(len(order)), [_called(groups[tag][0]) for tag in order], rotation=90)
        axis.tick_params(labelbottom=place + across >= len(shown))  # nothing below it
    for spare in axes.flat[len(shown) :]:
        spare.remove()
    heading = f"{rows[0]['dataset']}, {rows[0]['model']}: each class forgotten alone; the darker, the further from Retrain"
    figure.suptitle(wrapped(heading, 0.97 * WIDTH, 9, "bold"), x=0.01, ha="left", fontsize=9, weight="bold")
    return figure


def _panel(axis: Axes, panel: tuple[str, str, int, str], cells: list[list[Any]]) -> None:
    """One metric of each method (a line) and class (a column), black where it is furthest from Retrain's."""
    shade, written, digits, text = panel
    far = np.array([[_value(row, shade) for row in line] for line in cells], dtype=float)
    reach = max(np.nanmax(np.abs(far)), 1e-9) if not np.isnan(far).all() else 1.0
    axis.imshow(np.abs(far), cmap="Greys", vmin=0, vmax=1.3 * reach, aspect="auto")  # black itself would hide a number less
    axis.grid(visible=False)
    axis.set_title(text)
    if len(cells[0]) > WRITTEN:
        return
    for (line, column), value in np.ndenumerate(np.abs(far)):
        number = _value(cells[line][column], written)
        if number is not None:
            color = "white" if value > 0.7 * reach else "black"
            axis.text(column, line, f"{number:z.{digits}f}", ha="center", va="center", fontsize=6.5, color=color)


def _value(row: Any, key: str) -> float | None:
    return row["metrics"].get(key, {}).get("mean") if row else None


def _called(row: Any) -> str:
    """What a class is called: its name, or its number where it has none."""
    words = row.get("forgotten", row["forget"])
    return lettering(words.partition("(")[2].removesuffix(")") or str(averages.number(row["forget"])), 20)
