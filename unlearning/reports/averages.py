"""Rows of tables in which one class after the other was forgotten, as means over these classes."""

import re
from collections.abc import Sequence
from typing import Any

from unlearning.metrics.statistics import grouped, rows_over_seeds

FEWEST = 3  # classes that are worth a mean
OVER = "classes"
SAME = ("dataset", "model", "fingerprint", "method", "flags", "epochs", "name")  # of a method's rows, whatever the class
NOTE = (
    "Mean ± 95 % confidence interval (Student's t) over the classes, of each the mean over its seeds; of the rows that all "
    "classes have."
)


def over_classes(rows: Sequence[Any]) -> list[Any]:
    """A row for each method and its epochs, over all classes of its data set and network that were forgotten alone.

    A metric's values are its means over seeds, one for each class, and n is the number of classes; `over` says so. There are
    none where fewer than FEWEST classes were forgotten. A method that lacks one of them, for classes differ, or has several
    rows of one, is left out. What else a row says, such as a paper's numbers, is of its class, and is left out too.
    """
    found = []
    for group in in_turn(rows):
        classes = sorted({row["forget"] for row in group})
        methods = grouped(group, lambda row: (row["method"], row["epochs"])).values()
        whole = [rows for rows in methods if sorted(row["forget"] for row in rows) == classes]
        common = {"forget": OVER, "forgotten": f"one class alone, of {len(classes)} in turn", "over": OVER}
        found += [row | common for row in rows_over_seeds([list(map(_as_one_seed, rows)) for rows in whole])]
    return found


def in_turn(rows: Sequence[Any], fewest: int = FEWEST) -> list[list[Any]]:
    """The rows of each data set and network of which at least so many classes were forgotten, each alone."""
    alone = [row for row in rows if re.fullmatch(r"class\d+", row["forget"]) and "request" not in row]
    groups = grouped(alone, lambda row: (row["dataset"], row["model"], row.get("fingerprint"))).values()
    return [group for group in groups if len({row["forget"] for row in group}) >= fewest]


def number(tag: str) -> int:
    """The class that a tag such as "class3" names."""
    return int(tag.removeprefix("class"))


def _as_one_seed(row: Any) -> Any:
    """What is the same for all classes, and each metric's mean, or why it is missing, in the place of its values."""
    metrics = {name: metric.get("mean", metric) for name, metric in row["metrics"].items()}
    return {name: row[name] for name in SAME if name in row} | {"metrics": metrics}
