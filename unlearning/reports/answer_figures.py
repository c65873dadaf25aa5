"""Pictures of a network's answers before and after unlearning: its confusion matrix, and single images.

Each function returns a figure; style.save writes it as a PNG file.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unlearning.reports.style import BLUE, GREY, ORANGE, WIDTH, lettering, styled, wrapped

IN_CELLS = 12  # classes up to which each cell has its number
TICKS = 20  # names along an axis
IMAGES = (2, 6)  # lines and columns of single images
Answer = tuple[str, float]  # a class and its probability


def confusion(
    before: np.ndarray, after: np.ndarray, classes: list[str], title: str, forgotten: list[int] | None = None
) -> Figure:
    """Confusion matrices of the original (`before`) and of the unlearned network (`after`), side by side.

    before, after: int (C, C) counts, a line for each true class and a column for each class answered. classes: C names.
    forgotten: the numbers of the forgotten classes, which are marked. Cells are shaded by their share of the line; of up to
    12 classes they show it in percent. Raises ValueError if the shapes don't fit.
    """
    count = len(classes)
    if before.shape != (count, count) or after.shape != (count, count):
        raise ValueError(f"confusion matrices {before.shape} and {after.shape} for {count} classes")
    marked = forgotten or []
    names = [_short(name, 16) for name in classes]
    shown = _shown(count, marked)
    with styled():
        inches = 0.065 * max(map(len, names))  # that names take, on both axes
        figure = Figure(figsize=(WIDTH, (WIDTH - 1.4 - inches) / 2 + inches + 1.1), layout="constrained")
        figure.suptitle(wrapped(title, 0.97 * WIDTH, 9, "bold"), fontsize=9, weight="bold")
        axes = figure.subplots(1, 2)
        for axis, matrix, heading in zip(axes, (before, after), ("before: the original", "after unlearning"), strict=True):
            shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
            image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
            axis.set_title(heading)
            axis.set_xlabel("class answered")
            axis.grid(visible=False)
            axis.set_xticks(shown, [names[place] for place in shown], rotation=90)
            axis.set_yticks(shown, [names[place] for place in shown] if axis is axes[0] else [""] * len(shown))
            _mark(axis, count, shown, marked)
            if count <= IN_CELLS:
                _numbers(axis, shares)
        axes[0].set_ylabel("true class")
        figure.colorbar(image, ax=list(axes), label="share of the true class's images", shrink=0.7, aspect=30)
    return figure


def _shown(count: int, forgotten: list[int]) -> list[int]:
    """The classes whose names have room on an axis: forgotten ones first, then every so many."""
    step = -(-count // TICKS)
    shown: list[int] = []
    for place in [*forgotten, *range(0, count, step)]:
        if all(abs(place - other) >= step for other in shown):
            shown.append(place)
    return shown


def _mark(axis: Axes, count: int, shown: list[int], forgotten: list[int]) -> None:
    """Forgotten classes: bold names on both axes, and a frame around the row, or where that would hide it, arrows to it."""
    for labels in (axis.get_xticklabels(), axis.get_yticklabels()):
        for place, label in zip(shown, labels, strict=True):
            label.set_fontsize(7)
            label.set_fontweight("bold" if place in forgotten else "normal")
    for place in forgotten:
        if count <= TICKS:
            axis.add_patch(
                Rectangle((-0.5, place - 0.5), count, 1, fill=False, edgecolor=ORANGE, linewidth=1.6, clip_on=False)
            )
        else:
            for edge, marker in ((-0.5, ">"), (count - 0.5, "<")):
                axis.plot(edge, place, marker, color=ORANGE, markersize=6, clip_on=False)


def _numbers(axis: Axes, shares: np.ndarray) -> None:
    """The percentage of each cell that isn't empty, in white on dark cells."""
    for (line, column), share in np.ndenumerate(shares):
        if share:
            color = "white" if share > 0.5 else "black"
            axis.text(column, line, _percent(share), ha="center", va="center", fontsize=6.5, color=color)


def before_and_after(images: np.ndarray, truth: list[str], before: list[Answer], after: list[Answer], title: str) -> Figure:
    """Twelve images in two lines, each with its true class and the answers before and after unlearning.

    images: uint8 (N, H, W, C) with N of at most 12 and C of 1 or 3. truth: N names. before, after: N pairs of the class
    answered and its probability, from 0 to 1. Raises ValueError if there are more images, or another number of answers.
    """
    lines, columns = IMAGES
    if not 0 < len(images) <= lines * columns or any(len(part) != len(images) for part in (truth, before, after)):
        raise ValueError(f"{len(images)} images, {len(truth)} names, {len(before)} and {len(after)} answers; at most 12")
    with styled():
        figure = Figure(figsize=(WIDTH, 2.2 * lines + 0.3), layout="constrained")
        figure.suptitle(wrapped(title, 0.97 * WIDTH, 9, "bold"), fontsize=9, weight="bold")
        axes = list(figure.subplots(lines, columns).flat)
        for axis in axes:
            axis.set_axis_off()
        for axis, image, name, old, new in zip(axes, images, truth, before, after, strict=False):
            look: Any = {"cmap": "gray", "vmin": 0, "vmax": 255} if image.shape[-1] == 1 else {}
            axis.imshow(image[..., 0] if image.shape[-1] == 1 else image, interpolation="nearest", **look)
            axis.set_title(_short(name), weight="bold")
            for place, (word, answer) in enumerate((("before", old), ("after", new))):
                right = answer[0] == name
                look = {"color": "black" if right else BLUE, "weight": "normal" if right else "bold"}
                text = f"{word}: {_short(answer[0], 14)} {_percent(answer[1])} %"
                axis.text(
                    0.5, -0.06 - 0.13 * place, text, transform=axis.transAxes, ha="center", va="top", fontsize=7, **look
                )
        words = "above each image its true class; below it the class answered and its probability, bold where that is wrong"
        figure.supxlabel(words, fontsize=7, color=GREY)
    return figure


def _short(name: str, letters: int = 20) -> str:
    return lettering(name, letters)


def _percent(share: float) -> str:
    """A share in percent; neither 0 nor 100 unless it is."""
    if 0 < share < 0.01:
        return "<1"
    return ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"
