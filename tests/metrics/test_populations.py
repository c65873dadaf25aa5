"""Many networks: against closed forms and slow searches."""

import math
import statistics as textbook

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


def smoothed_kl(first, second, smoothing=1e-5, bins=20):
    """KL in nats of two lists of shares in `bins` bins, of which only these aren't 0 in both."""
    p, q = (
        [(share + smoothing) / (1 + bins * smoothing) for share in [*shares, *[0] * (bins - len(shares))]]
        for shares in (first, second)
    )
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_klom_is_the_divergence_of_the_unlearned_from_the_retrained():
    """Margins 0, 0, 10.5, 20 against 0, 10.5, 10.5, 10.5: bins of width 1 hold 2, 1, 1 and 1, 3, 0 of four. An image by
    hand, the same with the two swapped, and one whose margins are three times wider."""
    unlearned, retrained = np.array([0, 0, 10.5, 20]), np.array([0, 10.5, 10.5, 10.5])
    found = populations.klom(np.stack([unlearned, retrained], 1), np.stack([retrained, unlearned], 1))
    there, back = (
        smoothed_kl([1 / 2, 1 / 4, 1 / 4], [1 / 4, 3 / 4, 0]),
        smoothed_kl([1 / 4, 3 / 4, 0], [1 / 2, 1 / 4, 1 / 4]),
    )
    assert found.tolist() == pytest.approx([there, back], rel=1e-12)
    assert there == pytest.approx(math.log(2) / 2 - math.log(3) / 4 + math.log(0.25e5) / 4, abs=1e-3)  # 2.60
    assert back == pytest.approx(math.log(1 / 2) / 4 + math.log(3) * 3 / 4, abs=1e-3)  # 0.65
    margins = np.random.default_rng(17).normal(size=(2, 100, 300))
    wide, narrow = populations.klom(3 * margins[0], margins[1]), populations.klom(margins[1], 3 * margins[0])
    assert wide.mean() == pytest.approx(2.85, abs=0.1) and narrow.mean() == pytest.approx(0.74, abs=0.05)


def test_klom_differs_from_the_authors_smoothing_by_less_than_a_hundredth():
    """Theirs: only Retrain's shares, where the unlearned networks have some, are raised to 1e-5 and divided by their sum."""
    unlearned, retrained = np.random.default_rng(18).normal(size=(2, 16, 50)) * np.array([2.0, 1.0])[:, None, None] + 0.3
    found = populations.klom(unlearned, retrained)
    for i in range(50):
        edges = np.histogram_bin_edges(np.concatenate([unlearned[:, i], retrained[:, i]]), 20)
        p, q = (np.histogram(x[:, i], edges)[0] / 16 for x in (unlearned, retrained))
        assert found[i] == pytest.approx(stats.entropy(p, np.where(p > 0, np.maximum(q, 1e-5), q)), abs=0.01)


def test_ulira_written_out():
    """Each pair is judged by Gaussians of the others' mean and sample deviation, n - 1 below: with n another number."""
    unlearned, retrained = np.random.default_rng(19).normal(size=(2, 4, 60)) * np.array([1.6, 1.0])[:, None, None]

    def accuracies(deviation):
        found = []
        for i in range(4):
            right = 0
            for u, r in zip(unlearned.T.tolist(), retrained.T.tolist(), strict=True):
                fits = [
                    textbook.NormalDist(textbook.mean(rest), deviation(rest))
                    for rest in (u[:i] + u[i + 1 :], r[:i] + r[i + 1 :])
                ]
                right += fits[0].pdf(u[i]) > fits[1].pdf(u[i])
                right += fits[1].pdf(r[i]) > fits[0].pdf(r[i])
            found.append(100 * right / 120)
        return found

    assert populations.ulira(unlearned, retrained) == pytest.approx(accuracies(textbook.stdev))
    assert accuracies(textbook.stdev) != pytest.approx(accuracies(textbook.pstdev))


def test_ulira_and_epsilon_tell_two_samples_apart_whichever_is_the_unlearned():
    unlearned, retrained = np.random.default_rng(20).normal(size=(2, 6, 30)) * np.array([1.7, 1.0])[:, None, None]
    for same in (populations.ulira, populations.forgetting_epsilon):
        assert same(unlearned, retrained) == pytest.approx(same(retrained, unlearned))


@pytest.mark.parametrize("measure", [populations.ulira, populations.klom, populations.forgetting_epsilon])
def test_margins_of_nan_are_refused(measure):
    margins = np.random.default_rng(21).normal(size=(4, 3))
    broken = margins.copy()
    broken[2, 1] = np.nan
    for pair in ((broken, margins), (margins, broken)):
        with pytest.raises(ValueError, match="NaN"):
            measure(*pair)


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
    # 60 networks can show more: the largest epsilon is ceil(ln 59) = 5
    assert populations.forgetting_score(np.array([2.99, 3.0, 4.99, 5.0]), 60) == pytest.approx(
        (2**-5 + 2**-6 + 2**-9 + 0) / 4
    )
