"""Means, intervals and the jackknife against closed forms."""

import math

import numpy as np
import pytest

from unlearning.metrics import statistics


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(13).normal(size=12)
    assert statistics.jackknife(np.mean, values) == pytest.approx(statistics.mean_ci95(values))


def test_confidence_interval_is_students():
    mean, half = statistics.mean_ci95([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert statistics.mean_ci95([5.0]) == (5.0, None)
