"""Figures with a panel for each row of one forget set: losses, ROC, relearning, features."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from unlearning.metrics import membership, predictions, statistics
from unlearning.reports.style import BLUE, LINES, ORANGE, panels


def losses(rows: list[Any]) -> Figure:
    """Histograms of the loss on the four sets, a panel for each row of one forget set."""
    styles = {
        "D_f": {"color": BLUE, "linestyle": "-"},
        "T_f": {"color": BLUE, "linestyle": "--"},
        "D_r": {"color": ORANGE, "linestyle": "-"},
        "T_r": {"color": ORANGE, "linestyle": "--"},
    }

    def panel(axis, row, anchors):
        for name, style in styles.items():
            if name in row["curves"]["losses"]:
                axis.stairs(row["curves"]["losses"][name], predictions.LOSS_BINS, label=name, linewidth=1.2, **style)
        axis.set_xscale("log")
        axis.set_xticks([1e-4, 1e-2, 1, 1e2])
        axis.minorticks_off()

    return panels(rows, panel, "loss (nats)", "share")


def roc(rows: list[Any]) -> Figure:
    """ROC of D_f against T_f on log axes, Original and Retrain in every panel, a panel for each row of one forget set."""

    def panel(axis, row, anchors):
        for label, curve in _beside_anchors(row, anchors, "roc"):
            axis.plot(membership.FPR_GRID, np.maximum(curve, 1e-3), label=label, **LINES[label])
        axis.plot([1e-3, 1], [1e-3, 1], color="0.8", linewidth=0.8)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(1e-3, 1)
        axis.set_ylim(1e-3, 1)
        axis.set_xticks([1e-3, 1e-2, 1e-1, 1], ["", "0.01", "0.1", "1"])
        axis.set_yticks([1e-3, 1e-2, 1e-1, 1], ["0.001", "0.01", "0.1", "1"])
        axis.minorticks_off()

    return panels(rows, panel, "false-positive rate", "true-positive rate")


def relearn(rows: list[Any]) -> Figure:
    """Relearning curves with intervals, Original and Retrain in every panel, a panel for each row of one forget set."""

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
    """Features of D_f and D_r, of those that have points, on the network's own first two principal components, a panel for
    each row."""

    def panel(axis, row, anchors):
        for name, marker, color in (("D_r", ".", ORANGE), ("D_f", "x", BLUE)):
            if points := row["curves"]["features"][name]:
                axis.scatter(*zip(*points, strict=True), marker=marker, s=14, linewidth=0.8, color=color, label=name)
        axis.set_xticks([])
        axis.set_yticks([])

    return panels(rows, panel, "first component", "second")


def has_features(row: Any) -> bool:
    """True where `features` has points to show of a row."""
    return any((row.get("curves", {}).get("features") or {}).values())


def _beside_anchors(row: Any, anchors: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """(label, curve) of Original, of Retrain and of the row itself, of those that have the curve `name`."""
    others = [] if row["method"] in anchors else anchors.items()
    found = [(label, curves[name]) for label, curves in (*others, ("this method", row["curves"]))]
    return [(label, curve) for label, curve in found if curve]
