"""What all pictures share: look, series, grids of panels, legends, labels, names. matplotlib's own state isn't changed."""

import contextlib
import io
import itertools
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import LogLocator, NullFormatter

from unlearning.core.files import write_bytes
from unlearning.core.flags import on_one_line
from unlearning.core.seals import check_own, sealed
from unlearning.reports import results
from unlearning.reports.results import row_names

DPI = 150
LETTERS = 300  # of a name that a picture shows; more are cut off
WIDTH = 8.6  # inches: text of 8 points is still read where a page shows the picture 800 pixels wide
MAX_HEIGHT = 2000  # pixels
LOOK: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.grid": True,
    "grid.color": "0.9",
    "axes.axisbelow": True,
    "figure.dpi": DPI,
}
# Of Okabe and Ito's palette for colour-blind readers the three that lie furthest apart in grey: L* is 0, 46 and 71.
BLACK, BLUE, ORANGE = COLORS = ("#000000", "#0072B2", "#E69F00")
GREY = "0.5"
MARKERS = "osv^D<P>X*dp"
DASHES = ("-", "--", ":", "-.")
PANELS = 4  # panels side by side, where each row has one
LINES = {  # how Original and Retrain look in every panel, and the panel's own method
    "original": {"color": ORANGE, "linestyle": ":", "linewidth": 1.8},
    "retrain": {"color": BLACK, "linestyle": "--", "linewidth": 1.2},
    "this method": {"color": BLUE, "linestyle": "-", "linewidth": 1.4},
}


def series(place: int) -> dict[str, Any]:
    """Marker, fill, colour and line style of the series number `place` (from 0) of a picture, as keywords for `errorbar`.

    No two series share marker, fill and colour. The 72 that have a drawn sign are followed by ones whose marker is their
    number.
    """
    turn = place // len(MARKERS)
    shade = COLORS[(place + turn) % len(COLORS)]
    drawn = turn < 2 * len(COLORS)
    marker = MARKERS[place % len(MARKERS)] if drawn else f"${place + 1}$"
    inside = "none" if turn < len(COLORS) else shade  # unfilled first: one shows through another
    return {"marker": marker, "color": shade, "markerfacecolor": inside, "linestyle": DASHES[place % len(DASHES)]}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Pictures made while the context lasts look alike. The library's warnings of letters that its font lacks, each with a
    line of source, are not shown: these letters are boxes."""
    with matplotlib.rc_context(LOOK), warnings.catch_warnings():
        for text in ("Glyph", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", text, UserWarning)
        yield


def save(figure: Figure, file: str | Path) -> None:
    """Write a figure as a PNG file in one step. Raises UserError where something else is there, and as `write_bytes`."""
    check_own([Path(file)])
    write_bytes(file, png(figure))


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file with a seal, drawn without a screen."""
    drawn = io.BytesIO()
    with styled():
        figure.savefig(drawn, dpi=DPI, format="png")
    return sealed(drawn.getbuffer(), "png")


def fits(figure: Figure) -> bool:
    """True if the picture is at most MAX_HEIGHT pixels high."""
    return figure.get_figheight() * DPI <= MAX_HEIGHT


def lettering(text: str, letters: int = LETTERS) -> str:
    """A text from a file as a picture shows it: at most so many letters, no formula, and no sign that has no shape."""
    text = on_one_line(text if len(text) <= letters else text[: letters - 1] + "…")
    return text.replace("$", r"\$")


def wrapped(text: str, inches: float, points: float = 8, weight: str = "normal") -> str:
    """The text, as `lettering` has it, in lines that fit into a width, broken at spaces and only elsewhere if a word alone
    is too long."""
    text = lettering(text).replace(r"\$", "$")
    font = FontProperties(size=points, weight=weight)

    def longest(lines: list[str]) -> float:
        return max(text_to_path.get_text_width_height_descent(line, font, False)[0] for line in lines) / 72

    lines = [text]
    letters = len(text)
    while longest(lines) > inches and letters > 4:
        letters = min(letters - 1, int(letters * inches / longest(lines)) + 1)
        lines = textwrap.wrap(text, letters, break_on_hyphens=False)
    return "\n".join(lines).replace("$", r"\$")  # no formula


def panels(rows: list[Any], panel: Callable[[Axes, Any, dict[str, Any]], None], xlabel: str, ylabel: str) -> Figure:
    """A panel for each row of one forget set; `panel(axis, row, anchors' curves)` draws one."""
    [(heading, _)] = results.by_forget_set(rows)
    columns = min(PANELS, len(rows))
    width = WIDTH * max(columns, 2) / PANELS
    names = [wrapped(name, 0.85 * width / columns) for name in row_names(rows)]
    heading = wrapped(heading, 0.97 * width, 9, "bold")
    # In inches. Margins of fixed size: matplotlib's own layout takes longer than all else.
    above = 0.1 + 0.15 * (heading.count("\n") + 1)
    between = 0.15 + 0.14 * max(name.count("\n") + 1 for name in names)
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(width, above + lines * (1.25 + between) + 0.45))
    axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flat
    anchors = {row["method"]: row["curves"] for row in rows if row["method"] in ("original", "retrain")}
    for place, (axis, row, name) in enumerate(zip(axes, rows, names, strict=False)):
        panel(axis, row, anchors)
        axis.tick_params(labelbottom=place + columns >= len(rows), labelsize=7)  # nothing below it
        axis.set_title(name)
    for axis in axes[len(rows) :]:
        axis.set_axis_off()
    below = 0.45 + legend(figure, figure.axes)
    inches = figure.get_figheight()
    figure.suptitle(heading, y=1 - 0.05 / inches, va="top", fontsize=9, weight="bold")
    figure.supxlabel(xlabel, y=(below - 0.4) / inches, va="bottom", fontsize=8)
    figure.supylabel(ylabel, x=0.04 / width, fontsize=8)
    edges = {
        "left": 0.55 / width,
        "right": 1 - 0.08 / width,
        "bottom": below / inches,
        "top": 1 - (above + between) / inches,
    }
    figure.subplots_adjust(**edges, wspace=0.1, hspace=between / 1.25)
    return figure


def grid(count: int, columns: int = 3, widest: float = 4.3, **shared: Any) -> tuple[Figure, list[Axes]]:
    """A figure of `count` nearly square axes, at most `columns` side by side and `widest` inches wide: (figure, axes)."""
    columns = 2 if count == 4 else min(columns, count)
    lines = -(-count // columns)
    width = min(WIDTH / columns, widest)
    figure = Figure(figsize=(width * columns, (width + 0.2) * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, **shared)
    for spare in axes.flat[count:]:
        spare.remove()
    return figure, list(axes.flat[:count])


def title(axis: Axes, text: str) -> None:
    """A title above one of a grid's axes, in as many lines as it needs."""
    figure: Any = axis.get_figure(root=True)
    place: Any = axis.get_subplotspec()
    axis.set_title(wrapped(text, 0.8 * figure.get_figwidth() / place.get_gridspec().ncols))


def legend(figure: Figure, axes: Iterable[Axes]) -> float:
    """One legend below the picture for all its panels; the figure grows by its height, in inches, which is returned."""
    handles: dict[Any, Any] = {}
    for axis in axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    labels = [wrapped(label, figure.get_figwidth() - 1) for label in handles]
    signs = [handle[0] if isinstance(handle, ErrorbarContainer) else handle for handle in handles.values()]
    place: Any = "outside lower center" if figure.get_layout_engine() else "lower center"
    pixels = FigureCanvasAgg(figure).get_renderer()
    for columns in (4, 3, 2, 1):
        drawn = figure.legend(signs, labels, loc=place, ncols=columns)
        box = drawn.get_window_extent(pixels)
        if columns == 1 or box.width < 0.98 * figure.bbox.width:
            break
        drawn.remove()
    inches = box.height / figure.dpi + 0.05
    figure.set_figheight(figure.get_figheight() + inches)
    return inches


def decades(axis: Axes) -> None:
    """A logarithmic x axis with as many numbers in each decade as have room."""
    axis.set_xscale("log")
    axis.margins(x=0.08)
    low, high = axis.get_xlim()
    subs = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 5 * low else (1.0, 2.0, 5.0) if high < 40 * low else (1.0,)
    axis.xaxis.set_major_locator(LogLocator(subs=subs))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.xaxis.set_minor_formatter(NullFormatter())


def label_points(figure: Figure, points: dict[Axes, list[tuple[float, float, str]]]) -> None:
    """Write a text beside each point (x, y, text) in the units of its axes, over no other text, point, line or frame.

    Call it last: where a text has room depends on where the axes lie. One that isn't next to its point gets a line to it.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    sides = [(1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)]
    tries = [(x, y, gap) for gap in range(3, 60, 4) for x, y in sides]
    scale = figure.dpi / 72
    for axis, labels in points.items():
        spots = axis.transData.transform([label[:2] for label in labels])
        lines = [_along(axis.transData.transform(line)) for line in _lines(axis)]
        taken = np.concatenate([np.hstack([spots - 4 * scale, spots + 4 * scale]), *lines])
        for (x, y, text), spot in zip(labels, spots, strict=True):
            note = axis.annotate(text, (x, y), (0, 0), textcoords="offset points", ha="center", va="center", fontsize=7)
            note.set_in_layout(False)
            box = note.get_window_extent(canvas.get_renderer())
            shifts = [(a * (box.width / 2 + gap * scale), b * (box.height / 2 + gap * scale)) for a, b, gap in tries]
            boxes = np.tile(spot + shifts, 2) + np.array([-box.width, -box.height, box.width, box.height]) / 2
            place = int(np.argmax(_has_room(boxes, axis.bbox, taken)))
            taken = np.vstack([taken, boxes[place]])
            end = (shifts[place][0] / scale, shifts[place][1] / scale)
            note.set_position(end)
            if tries[place][2] > tries[0][2]:
                line: Any = {"arrowstyle": "-", "linewidth": 0.5, "color": GREY, "shrinkA": 4, "shrinkB": 3}
                axis.annotate("", (x, y), end, textcoords="offset points", arrowprops=line).set_in_layout(False)


def _lines(axis: Axes) -> list[Any]:
    """The points (N, 2) of each line and interval that is drawn in the axes' units."""
    bars = [bar for found in axis.collections if isinstance(found, LineCollection) for bar in found.get_segments()]
    return [*bars, *(line.get_xydata() for line in axis.lines if line.get_linestyle() != "None")]


def _along(pixels: Any) -> Any:
    """Small boxes (M, 4) along a line through pixels (N, 2)."""
    spots = [pixels]
    for start, end in itertools.pairwise(pixels):
        count = int(np.abs(end - start).max() // 4) + 1
        spots.append(start + (end - start) * np.linspace(0, 1, count + 1)[:, None])
    found = np.concatenate(spots)
    return np.hstack([found - 2, found + 2])


def _has_room(boxes: Any, frame: Any, taken: Any) -> Any:
    """Which of the boxes (N, 4: left, lower, right, upper) lie in the frame and over none of those that are taken (M, 4)."""
    inside = (boxes[:, :2] > frame.min).all(axis=1) & (boxes[:, 2:] < frame.max).all(axis=1)
    apart = (boxes[:, None, 2:] < taken[None, :, :2]) | (boxes[:, None, :2] > taken[None, :, 2:])
    return inside & apart.any(axis=2).all(axis=1)


def axis_range(rows: list[Any], key: str) -> tuple[float, float]:
    """Limits of an axis that shows every row's interval but the original's."""
    found = [row["metrics"].get(key, {}) for row in rows if row["method"] != "original" or len(rows) == 1]
    spans = [(m["mean"] - (m["ci95"] or 0), m["mean"] + (m["ci95"] or 0)) for m in found if "mean" in m]
    low, high = min((s[0] for s in spans), default=0), max((s[1] for s in spans), default=100)
    margin = max(0.12 * (high - low), 0.01 * abs(high), 0.02)
    return low - margin, high + margin
