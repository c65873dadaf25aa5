"""Many networks: against closed forms and slow searches."""

import math

import numpy as np
import pytest
from scipy import stats

from unlearning.metrics import populations, statistics


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


def test_ulira_is_a_coin_on_equal_and_perfect_on_separate_distributions():
    generator = np.random.default_rng(7)
    for count in (4, 16):
        mean, half = statistics.mean_ci95(populations.ulira(*generator.normal(size=(2, count, 800))))
        assert abs(mean - 50) < max(1.5 * half, 1.5)
    unlearned, retrained = generator.normal(size=(2, 16, 50))
    assert populations.ulira(unlearned + 20, retrained) == [100.0] * 16
    assert populations.ulira(np.full((16, 50), -100.0), retrained) == [100.0] * 16  # a masked class
    assert populations.ulira(np.zeros((16, 50)), np.zeros((16, 50))) == [50.0] * 16


def test_ulira_finds_the_share_that_two_gaussians_allow():
    """Means two deviations apart: the best attacker is right in Phi(1) of the cases, this one nearly."""
    generator = np.random.default_rng(8)
    unlearned, retrained = generator.normal(size=(2, 64, 400))
    best = 100 * stats.norm.cdf(1)
    assert np.mean(populations.ulira(unlearned + 2, retrained)) == pytest.approx(best, abs=1.5)


def test_klom_is_0_for_the_same_networks_and_known_for_disjoint_ones():
    margins = np.random.default_rng(9).normal(size=(16, 30))
    assert populations.klom(margins, margins) == pytest.approx(np.zeros(30))
    ends = populations.klom(np.full((16, 1), 5.0), np.full((16, 1), -5.0)).item()
    full, empty = 1 + 1e-5, 1e-5
    assert ends == pytest.approx((full * math.log(full / empty) + empty * math.log(empty / full)) / (1 + 20e-5))
    small, large = (populations.klom(*np.random.default_rng(10).normal(size=(2, n, 200))).mean() for n in (16, 256))
    assert large < small / 3  # its floor falls with N


def test_epsilon_is_the_best_rules_of_a_search_over_all():
    generator = np.random.default_rng(11)
    for count in (3, 6):
        unlearned, retrained = generator.normal(size=(2, count, 40)) * np.array([1.0, 1.7])[:, None, None]
        unlearned += generator.normal(size=40)
        found = populations.forgetting_epsilon(unlearned, retrained)
        for i in range(40):
            assert found[i] == pytest.approx(searched_epsilon(unlearned[:, i], retrained[:, i]))


def test_epsilon_caps_separable_and_peaked_images_and_knows_ties():
    generator = np.random.default_rng(12)
    retrained = generator.normal(size=(8, 3))
    unlearned = np.stack([retrained[:, 0] + 100, np.full(8, 0.0), retrained[:, 2]], 1)
    epsilons = populations.forgetting_epsilon(unlearned, retrained)
    assert epsilons[:2].tolist() == [50, 50]
    assert epsilons[2] < 2  # the very same values: no cut goes between them


def test_forgetting_score_halves_with_each_half_unit_of_epsilon():
    assert populations.forgetting_score(np.array([0.0]), 16) == 1
    assert populations.forgetting_score(np.array([0.49, 0.5, 1.2, 2.99, 3.0, 50.0]), 16) == pytest.approx(
        (1 + 1 / 2 + 1 / 4 + 1 / 32 + 0 + 0) / 6
    )
