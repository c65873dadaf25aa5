"""The one pooling of seeds: means, confidence intervals, and rows of groups."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np


def grouped(rows: Iterable[Any], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    """The rows of each key, keys and rows in the order in which they come."""
    groups: dict[Any, list[Any]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def rows_over_seeds(groups: Iterable[Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """A row for each group of rows of one identity, a seed each: the first one, with n and its metrics over seeds."""
    return [group[0] | {"n": len(group), "metrics": metrics_over_seeds(group)} for group in groups]


def metrics_over_seeds(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The metrics that all rows of a group have, a row for each seed, put together."""
    return {
        name: over_seeds([row["metrics"][name] for row in group])
        for name in group[0]["metrics"]
        if all(name in row["metrics"] for row in group)  # a file of an earlier version may lack one
    }


def over_seeds(values: list[Any]) -> dict[str, Any]:
    """A metric's values, a number for each seed, as reports/results.py wants it; missing as a whole where one is missing."""
    missing = [value for value in values if isinstance(value, dict)]
    if missing:
        return missing[0]
    mean, half = mean_ci95(values)
    return {"mean": mean, "ci95": half, "values": values}


def mean_ci95(values: Any) -> tuple[float, float | None]:
    """(mean, half-width of the 95 % confidence interval by Student's t) over seeds; the half-width is None for one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    from scipy import stats

    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, float(half)


def jackknife(statistic: Callable[..., Any], *samples: np.ndarray) -> tuple[float, float | None]:
    """(value, half-width of its 95 % confidence interval) of a statistic of N networks together, by Tukey's jackknife.

    samples: arrays (N, ...), left out one row at a time, the same of each.
    """
    count, value = len(samples[0]), statistic(*samples)
    without = np.array([statistic(*(np.delete(x, i, 0) for x in samples)) for i in range(count)])
    return float(value), mean_ci95(count * value - (count - 1) * without)[1]
