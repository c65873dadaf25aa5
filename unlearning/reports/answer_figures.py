"""Pictures of answers before and after unlearning: confusion matrices, and images of the forget set."""

import numpy as np
from matplotlib.figure import Figure


def confusion(before: np.ndarray, after: np.ndarray, classes: list[str], title: str, forgotten: list[int]) -> Figure:
    """Two confusion matrices side by side: counts int64 (C, C), rows true class, columns answered class."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    figure.suptitle(title)
    for axis, name, counts in zip(figure.subplots(1, 2, sharey=True), ("before", "after"), (before, after), strict=True):
        axis.imshow(counts, cmap="Greys")
        axis.set_title(name)
        axis.set_xlabel("answered class")
        axis.grid(visible=False)
        labels = [f"{name} (forgotten)" if place in forgotten else name for place, name in enumerate(classes)]
        axis.set_yticks(range(len(classes)), labels)
    return figure


def before_and_after(
    images: np.ndarray, truth: list[str], before: list[tuple[str, float]], after: list[tuple[str, float]], title: str
) -> Figure:
    """Images uint8 (N, H, W, C), each with its true class and the class and probability answered before and after."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(3, 4).flat
    for axis in axes:
        axis.set_axis_off()
    for axis, image, name, old, new in zip(axes, images, truth, before, after, strict=False):
        axis.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(f"{name}\nbefore: {old[0]} ({old[1]:.0%})\nafter: {new[0]} ({new[1]:.0%})")
    return figure
