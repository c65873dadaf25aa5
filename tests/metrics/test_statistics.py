"""Means, intervals and the jackknife against closed forms."""

import math

import numpy as np
import pytest

from unlearning.metrics import statistics


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(13).normal(size=12)
    assert statistics.jackknife(np.mean, values) == pytest.approx(statistics.mean_ci95(values))


def test_the_jackknife_leaves_the_same_row_out_of_each_sample_in_their_order():
    """Of a difference of means it is Student's interval of the differences of each pair."""
    first, second = np.random.default_rng(22).normal(size=(2, 9, 5)) * np.array([1.0, 3.0])[:, None, None]

    def statistic(a, b):
        return a.mean() - 2 * b.mean()

    found = statistics.jackknife(statistic, first, second)
    assert found == pytest.approx(statistics.mean_ci95((first - 2 * second).mean(1)))


def test_confidence_interval_is_students():
    mean, half = statistics.mean_ci95([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert statistics.mean_ci95([5.0]) == (5.0, None)


def test_rows_are_grouped_in_the_order_in_which_they_come():
    assert list(statistics.grouped("bacBA", str.lower).items()) == [("b", ["b", "B"]), ("a", ["a", "A"]), ("c", ["c"])]
    assert statistics.grouped([], len) == {}


def test_seeds_are_pooled_and_missing_as_a_whole():
    values = [1.0, 2.0, 3.0]
    mean, half = statistics.mean_ci95(values)
    assert statistics.over_seeds(values) == {"mean": mean, "ci95": half, "values": values}
    assert statistics.over_seeds([5.0]) == {"mean": 5.0, "ci95": None, "values": [5.0]}
    never = {"missing": "never", "cell": "> 64"}
    assert statistics.over_seeds([1.0, never, {"missing": "other"}]) == never


def test_a_metric_that_one_seed_lacks_is_left_out():
    group = [{"metrics": {"TA": 90.0, "new": 1.0}}, {"metrics": {"TA": 92.0}}]
    pooled = statistics.metrics_over_seeds(group)
    assert list(pooled) == ["TA"] and pooled["TA"]["values"] == [90.0, 92.0]
