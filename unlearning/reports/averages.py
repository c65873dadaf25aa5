"""Rows of tables in which one class after the other was forgotten, as means over these classes."""

import re
from collections.abc import Sequence
from typing import Any

from unlearning.metrics.statistics import grouped, rows_over_seeds

FEWEST = 3  # classes that are worth a mean
OVER = "classes"
NOTE = "Mean ± 95 % confidence interval (Student's t) over the classes, of each the mean over its seeds."


def over_classes(rows: Sequence[Any]) -> list[Any]:
    """A row for each method and its epochs, over all classes of its data set and network that were forgotten alone.

    A metric's values are its means over seeds, one for each class, and n is the number of classes; `over` says so. There are
    none where fewer than FEWEST classes were forgotten, and a method that lacks one of them is left out, for classes differ.
    """
    alone = [row for row in rows if re.fullmatch(r"class\d+", row["forget"]) and "request" not in row]
    found = []
    for group in grouped(alone, lambda row: (row["dataset"], row["model"], row.get("fingerprint"))).values():
        classes = {row["forget"] for row in group}
        methods = grouped(map(_as_one_seed, group), lambda row: (row["method"], row["epochs"])).values()
        if len(classes) >= FEWEST:
            common = {"forget": OVER, "forgotten": f"one class alone, of {len(classes)} in turn", "over": OVER}
            found += [row | common for row in rows_over_seeds(methods) if row["n"] == len(classes)]
    return found


def _as_one_seed(row: Any) -> Any:
    """The row with each metric's mean, or why it is missing, in the place of its values."""
    return row | {"metrics": {name: metric.get("mean", metric) for name, metric in row["metrics"].items()}}
