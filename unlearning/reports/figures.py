"""Pictures of result rows (see results.py), readable without colour; drawn from the rows alone, into a folder.

metrics.png   every row's metrics with their intervals, a line at Retrain
speed.png     how many times faster than the published way
requests.png  the loss after each method, for LLMEraser's three requests
cost.png      accuracy over the cost of a deletion, on a log axis
plane.png     the trade-off plane: gap in UA over gap in TA, Retrain at the origin
losses.png    histograms of the loss on D_f, T_f, D_r and T_r, a panel for each row
roc.png       ROC of the attack that tells D_f from T_f, on log axes, a panel for each row
relearn.png   accuracy on T_f over steps of training on D_f, a panel for each row
features.png  penultimate features of D_f and D_r on their first two principal components, a panel for each row
steps.png     average gap over optimiser steps, for methods run with several numbers of epochs
classes.png   how far each method is from Retrain for each class, where MANY or more were forgotten one by one; the other
              pictures then show each method's mean over the classes, and those with a panel for each row none of them

Of several networks and forget sets, a picture with a panel for each row has a file each, and so has any other that would be
higher than 2,000 pixels: losses-MODEL-FORGET.png, or losses-DATASET-MODEL-FORGET.png where data sets share both. One that is
too high even then comes in numbered files, losses-1.png, losses-2.png; Original and Retrain are in each.
The pictures of a network's answers, one by one, are in answer_figures.py.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from unlearning.core.files import write_bytes
from unlearning.core.seals import check_own
from unlearning.metrics import statistics
from unlearning.reports import averages, class_figures, panel_figures, paper_figures, results
from unlearning.reports.columns import method_name
from unlearning.reports.results import row_names
from unlearning.reports.style import (
    DPI,
    GREY,
    MAX_HEIGHT,
    axis_range,
    fits,
    grid,
    legend,
    lettering,
    png,
    series,
    styled,
    title,
    wrapped,
)

METRICS = {
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
ACROSS = 7  # panels of metrics side by side
WIDEST = 9.3  # inches of metrics that a page has room for
ANCHORS = ("original", "retrain")
MANY = 5  # classes, each forgotten alone, of which nobody looks at each one's pictures


class Picture(NamedTuple):
    """A kind of picture. has: true of a row that it has something for. draw: the figure of such rows, None if they have
    nothing together. by: what its files are told apart by. alone: a file each, however small. of_many: of many classes that
    were forgotten one by one."""

    has: Callable[[Any], Any]
    draw: Callable[[list[Any]], Figure | None]
    by: tuple[str, ...] = ("model", "forget")
    alone: bool = False
    of_many: bool = False


def draw(rows: list[Any], folder: str | Path) -> list[Path]:
    """Write every picture that the rows have something for into `folder`, as PNG files: their paths. Raises as `write`."""
    return write({Path(folder) / name: content for name, content in pictures(rows).items()})


def write(drawn: Mapping[Path, bytes]) -> list[Path]:
    """Write pictures, the bytes of each by its path: their paths.

    Raises UserError, and writes none, where one would replace a file of somebody else's.
    """
    check_own(drawn)
    for path, content in drawn.items():
        write_bytes(path, content)
    return list(drawn)


def pictures(rows: list[Any]) -> dict[str, bytes]:
    """Every picture that the rows have something for, by its file's name: the bytes of a PNG file."""
    named = [
        row | {"name": name}
        for _, group in results.by_forget_set(rows)
        for row, name in zip(group, row_names(group), strict=True)
    ]
    many = [row for group in averages.in_turn(named, MANY) for row in group]
    alone = {id(row) for row in many}
    others = [row for row in named if id(row) not in alone] + averages.over_classes(many)
    many = [row for same in statistics.grouped(many, lambda row: row["name"]).values() for row in same]  # if cut, by method
    drawn = {}
    for name, picture in PICTURES.items():
        with styled():
            for ending, figure in _files(
                picture, [row for row in (many if picture.of_many else others) if picture.has(row)]
            ):
                drawn[f"{name}{ending}.png"] = png(figure)
    return drawn


def _files(picture: Picture, rows: list[Any]) -> Iterator[tuple[str, Figure]]:
    """The files that a picture of `rows` comes in: what each one's name ends in, and its figure."""
    groups = statistics.grouped(
        rows, lambda row: (row["dataset"], row.get("fingerprint"), *(row[key] for key in picture.by))
    )
    if len(groups) > 1 and not picture.alone:
        figure = picture.draw(rows)
        if not figure or fits(figure):
            groups = {(): rows}
    for ending, group in zip(_endings(list(groups)), groups.values(), strict=True):
        figure = picture.draw(group)
        if figure and fits(figure):
            yield ending, figure
        elif figure:
            parts = _parts(picture, group, -(-figure.get_figheight() * DPI // MAX_HEIGHT))
            yield from ((f"{ending}-{number}", part) for number, part in enumerate(parts, 1))


def _parts(picture: Picture, rows: list[Any], least: float) -> list[Figure]:
    """Figures of some of the rows each, at least so many, as many as it takes for none to be too high."""
    anchors = [row for row in rows if row["method"] in ANCHORS]
    others = [row for row in rows if row["method"] not in ANCHORS]
    figures: list[Figure] = []
    for count in range(int(least), len(others) + 1):
        size = -(-len(others) // count)
        drawn = [picture.draw(anchors + others[start : start + size]) for start in range(0, len(others), size)]
        figures = [figure for figure in drawn if figure]
        if all(map(fits, figures)):
            break
    return figures


def _endings(keys: list[tuple[Any, ...]]) -> list[str]:
    """What the names of the files of groups end in: nothing for one alone, else -MODEL-FORGET; -DATASET-MODEL-FORGET, then a
    digest, for those that this doesn't tell apart. keys: dataset, fingerprint and what the files are told apart by."""
    if len(keys) == 1:
        return [""]

    def name(key: tuple[Any, ...], parts: tuple[Any, ...], digest: bool = False) -> str:
        text = "".join("-" + re.sub(r"[^A-Za-z0-9._+-]+", "_", str(part)) for part in parts)
        return text[:100] + "-" + hashlib.sha256(repr(key).encode()).hexdigest()[:8] if digest or len(text) > 100 else text

    found = [name(key, key[2:]) for key in keys]
    for again in (lambda key: name(key, (key[0], *key[2:])), lambda key: name(key, key[2:], digest=True)):
        small = [text.lower() for text in found]  # some file systems don't know capitals
        found = [again(key) if small.count(text.lower()) > 1 else text for key, text in zip(keys, found, strict=True)]
    return found


def metrics(rows: list[Any]) -> Figure:
    """A dot and an interval for each row and metric, a block for each forget set."""
    groups = results.by_forget_set(rows)
    keys = [[key for key in METRICS if any("mean" in row["metrics"].get(key, {}) for row in group)] for _, group in groups]
    widest = max(map(len, keys))
    columns = -(-widest // -(-widest // ACROSS))  # as many in each line
    for room in (2.8, 1.7):
        names = [[wrapped(name, room) for name in row_names(group)] for _, group in groups]
        all_names = [name for some in names for name in some]
        longest = max(len(line) for name in all_names for line in name.splitlines())
        width = max(3.4, 0.2 + 0.062 * longest + 1.02 * columns)
        if width <= WIDEST:
            break
    headings = [wrapped(heading, 0.97 * width, weight="bold") for heading, _ in groups]
    pitch = 0.06 + 0.13 * max(name.count("\n") + 1 for name in all_names)
    heights = [
        0.08 + 0.13 * (heading.count("\n") + 1) + -(-len(own) // columns) * (0.4 + pitch * len(group))
        for heading, own, (_, group) in zip(headings, keys, groups, strict=True)
    ]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    blocks = figure.subfigures(len(groups), 1, height_ratios=heights, squeeze=False)[:, 0]
    for block, heading, own, some, (_, group) in zip(blocks, headings, keys, names, groups, strict=True):
        block.suptitle(heading, x=0.01, ha="left", fontsize=8, weight="bold")
        _block(block, group, own, some, columns)
    return figure


def _block(block: SubFigure, rows: list[Any], keys: list[str], names: list[str], columns: int) -> None:
    """One forget set's panels, at most `columns` side by side."""
    axes = block.subplots(-(-len(keys) // columns), columns, squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_axis_off()
    for axis, key in zip(axes.flat, keys, strict=False):
        low, high = axis_range(rows, key)
        axis.set_xlim(low, high)
        for place, row in enumerate(rows):
            _dot(axis, place, row, row["metrics"].get(key, {"missing": ""}), low, high)
        axis.set_yticks(range(len(rows)), names if axis in axes[:, 0] else [])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(MaxNLocator(3))
        axis.set_title(METRICS[key])


def _dot(axis: Axes, place: int, row: Any, metric: Any, low: float, high: float) -> None:
    """One row's metric; "n/a" where it is missing, an arrow and a number where it lies off the axis."""
    if "missing" in metric:
        centred: dict[str, Any] = {"ha": "center", "va": "center", "color": "0.5"}
        axis.text(0.5, place, lettering(metric.get("cell", "n/a")), transform=axis.get_yaxis_transform(), **centred)
        return
    if not low <= metric["mean"] <= high:  # the original, far from all that unlearned
        left = metric["mean"] < low
        text = f" ← {metric['mean']:.0f}" if left else f"{metric['mean']:.0f} → "
        axis.text(low if left else high, place, text, ha="left" if left else "right", va="center")
        return
    anchor = row["method"] in ANCHORS
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
    """UA gap over TA gap, a marker for each method; a row far off is named below the panel instead."""
    groups = results.by_forget_set(rows)
    figure, axes = grid(len(groups), widest=4.8)
    methods = list(dict.fromkeys(name for _, group in groups for name in row_names(group)))
    for axis, (heading, group) in zip(axes, groups, strict=True):
        inside = [row for row in group if row["method"] != "original"]
        reach = max((abs(row["metrics"]["dUA"]["mean"]) + (row["metrics"]["dUA"]["ci95"] or 0) for row in inside), default=1)
        reach = max(1.15 * reach, 0.5)
        outside = []
        for row, name in zip(group, row_names(group), strict=True):
            x, y = row["metrics"]["dTA"], row["metrics"]["dUA"]
            if abs(y["mean"]) > reach:
                outside.append(f"not shown: {lettering(name)} at ({x['mean']:.1f}, {y['mean']:.1f})")
                continue
            look: Any = series(methods.index(name)) | {"linestyle": "none", "markersize": 8, "capsize": 2, "elinewidth": 0.8}
            axis.errorbar(x["mean"], y["mean"], xerr=x["ci95"] or 0, yerr=y["ci95"] or 0, label=name, **look)
        axis.axhline(0, color="0.7", linewidth=1, zorder=0)
        axis.axvline(0, color="0.7", linewidth=1, zorder=0)
        axis.set_ylim(-reach, reach)
        axis.set_xlabel("\n".join(["TA minus Retrain's (points)", *outside]))
        axis.set_ylabel("UA minus Retrain's (points)")
        title(axis, heading)
    legend(figure, axes)
    return figure


def steps(rows: list[Any]) -> Figure | None:
    """Average gap over optimiser steps, for each method that was run with several numbers of epochs; None without any. Lines
    stand for the original, where it is no higher than the methods and their intervals, and for a fine-tuning with one."""
    groups = [(heading, group) for heading, group in results.by_forget_set(rows) if _several(group)]
    if not groups:
        return None
    figure, axes = grid(len(groups))
    methods = list(dict.fromkeys(name for _, group in groups for name in _several(group)))
    for axis, (heading, group) in zip(axes, groups, strict=True):
        several = _several(group)
        gaps = [row["metrics"]["gap"] for row in group if row["method"] in (*several, "finetune")]
        reach = 1.15 * max(gap["mean"] + (gap["ci95"] or 0) for gap in gaps)
        below = ["optimiser steps"]
        for name, same in several.items():
            x, y = ([row["metrics"][key]["mean"] for row in same] for key in ("steps", "gap"))
            half = [row["metrics"]["gap"]["ci95"] or 0 for row in same]
            x = [value * 1.03 ** methods.index(name) for value in x]  # beside each other: so are their intervals
            axis.errorbar(
                x, y, yerr=half, capsize=2, elinewidth=0.8, label=method_name(same[0]), **series(methods.index(name))
            )
        for row in group:
            gap = row["metrics"]["gap"]["mean"]
            if row["method"] == "original" and gap > reach:
                below.append(f"not shown: original at {gap:.1f}")
            elif row["method"] in ("original", "finetune") and row["method"] not in several:
                style = ":" if row["method"] == "original" else "--"
                axis.axhline(gap, color=GREY, linestyle=style, label=row["method"])
        axis.set_xscale("log", base=2)
        axis.set_xticks(_apart([row["metrics"]["steps"]["mean"] for same in several.values() for row in same]))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.minorticks_off()
        axis.set_ylim(bottom=0)
        axis.set_xlabel("\n".join(below))
        axis.set_ylabel("average gap")
        title(axis, heading)
    legend(figure, axes)
    return figure


def _has_metric(row: Any) -> bool:
    other = "clusters" in row or "task" in row or "ratio" in row["metrics"]
    return not other and any("mean" in row["metrics"].get(key, {}) for key in METRICS)


PICTURES = {
    "metrics": Picture(_has_metric, metrics),
    "speed": Picture(lambda row: "ratio" in row["metrics"], paper_figures.speed),
    "requests": Picture(paper_figures.has_loss, paper_figures.requests, by=("model",)),
    "cost": Picture(lambda row: "clusters" in row, paper_figures.cost, by=("model",)),
    "plane": Picture(lambda row: all("mean" in row["metrics"].get(key, {}) for key in ("dTA", "dUA")), plane),
    "losses": Picture(lambda row: "curves" in row, panel_figures.losses, alone=True),
    "roc": Picture(lambda row: "curves" in row and row["curves"]["roc"], panel_figures.roc, alone=True),
    "relearn": Picture(lambda row: "curves" in row and row["curves"]["relearn"], panel_figures.relearn, alone=True),
    "features": Picture(panel_figures.has_features, panel_figures.features, alone=True),
    "steps": Picture(lambda row: all("mean" in row["metrics"].get(key, {}) for key in ("steps", "gap")), steps),
    "classes": Picture(_has_metric, class_figures.classes, by=("model",), alone=True, of_many=True),
}


def _apart(values: Sequence[float]) -> list[float]:
    """Those values that a log axis has room to name, the smallest first."""
    found: list[float] = []
    for value in sorted(values):
        if not found or value > 1.3 * found[-1]:
            found.append(value)
    return found


def _several(rows: list[Any]) -> dict[str, list[Any]]:
    """The methods that come with more than one number of epochs: name to rows, those of fewer steps first."""
    methods = statistics.grouped(rows, lambda row: row["method"])
    several = {name: same for name, same in methods.items() if len(same) > 1}
    return {name: sorted(same, key=lambda row: row["metrics"]["steps"]["mean"]) for name, same in several.items()}
