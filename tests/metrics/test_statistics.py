"""Means, intervals and the jackknife against closed forms."""

import math

import numpy as np
import pytest

from unlearning.metrics import statistics


def searched_epsilon(unlearned, retrained, delta=1e-5):
    """The definition, rule by rule."""
    cuts = np.sort(np.concatenate([unlearned, retrained]))
    cuts = [-np.inf, *((cuts[1:] + cuts[:-1]) / 2), np.inf]
    high = (unlearned, retrained) if np.median(unlearned) > np.median(retrained) else (retrained, unlearned)
    narrow = (unlearned, retrained) if np.ptp(unlearned) < np.ptp(retrained) else (retrained, unlearned)
    rules = [(*high, low, np.inf) for low in cuts[:-1]]
    rules += [(*narrow, low, top) for i, low in enumerate(cuts) for top in cuts[i + 1 :]]
    best = 0.0
    for positive, negative, low, top in rules:
        fnr = np.mean((positive < low) | (positive > top))
        fpr = np.mean((negative >= low) & (negative <= top))
        if fnr == fpr == 0:
            return 50.0
        if fnr and fpr:
            for a, b in ((fpr, fnr), (fnr, fpr)):
                if 1 - delta - a > 0:
                    best = max(best, math.log((1 - delta - a) / b))
    return best


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(13).normal(size=12)
    assert statistics.jackknife(np.mean, values) == pytest.approx(statistics.mean_ci95(values))


def test_confidence_interval_is_students():
    mean, half = statistics.mean_ci95([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert statistics.mean_ci95([5.0]) == (5.0, None)
