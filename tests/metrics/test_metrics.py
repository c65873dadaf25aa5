"""Every metric against its closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression

from unlearning.metrics import membership, populations, predictions, statistics

LOGITS = st.lists(st.lists(st.floats(-60, 60), min_size=4, max_size=4), min_size=1, max_size=8)


def test_accuracy_counts_top_1():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]])
    assert predictions.accuracy(logits, torch.tensor([0, 1, 0, 0])) == 75.0


def test_confidence_and_loss_are_softmax_and_its_negative_log():
    probabilities = torch.tensor([[0.98, 0.01, 0.01], [0.1, 0.85, 0.05], [0.3, 0.3, 0.4]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    expected = torch.tensor([0.98, 0.85, 0.40], dtype=torch.float64)
    torch.testing.assert_close(predictions.confidence(probabilities.log(), labels), expected)
    torch.testing.assert_close(predictions.loss(probabilities.log(), labels), -expected.log())


def test_a_masked_class_has_confidence_0_and_a_finite_loss():
    logits = torch.tensor([[1.0, float("-inf"), 0.0]])
    assert predictions.confidence(logits, torch.tensor([1])).item() == 0
    assert predictions.loss(logits, torch.tensor([1])).item() == 745.0


def test_the_attack_is_perfect_on_separable_and_blind_on_equal_distributions():
    members, nonmembers = torch.full((300,), 0.99), torch.full((300,), 0.2)
    assert membership.mia_efficacy(members, nonmembers, torch.full((50,), 0.2)) == 100
    assert membership.mia_efficacy(members, nonmembers, torch.full((50,), 0.99)) == 0
    generator = torch.Generator().manual_seed(1)
    members, nonmembers, forgotten = (torch.rand(n, generator=generator) for n in (9000, 2000, 4000))
    assert membership.mia_efficacy(members, nonmembers, forgotten) == pytest.approx(50, abs=12)


def test_the_attack_is_balanced_however_many_members_there_are():
    """With 20 members to one non-member an unbalanced attacker would call nobody a non-member."""
    generator = torch.Generator().manual_seed(2)
    members = torch.rand(20_000, generator=generator)
    nonmembers, forgotten = torch.rand(1000, generator=generator), torch.rand(1000, generator=generator)
    assert membership.mia_efficacy(members, nonmembers, forgotten) > 25


def test_the_attack_repeats_with_its_seed_and_not_otherwise():
    generator = torch.Generator().manual_seed(3)
    members, nonmembers, forgotten = (torch.rand(n, generator=generator) for n in (3000, 500, 500))
    same = [membership.mia_efficacy(members, nonmembers, forgotten, seed=0) for _ in range(2)]
    assert same[0] == same[1]
    assert len({membership.mia_efficacy(members, nonmembers, forgotten, seed=s) for s in range(4)}) > 1


def test_the_published_protocol_leans_towards_members():
    """Ideal forgetting (D_f like T_f) scores well below one half there: 9,000 members outvote 5,000 non-members."""
    generator = torch.Generator().manual_seed(4)
    members = torch.randn(12_000, generator=generator).abs()
    nonmembers = torch.randn(6000, generator=generator).abs() * 1.05
    forgotten = torch.randn(3000, generator=generator).abs() * 1.05
    assert membership.mia_lora_unlearn(members, nonmembers, forgotten) < 20
    assert membership.mia_lora_unlearn(members, nonmembers + 30, forgotten + 30) == 100


def test_modified_entropy_is_song_and_mittals():
    """Three images of two classes: an implementation that overwrites whole columns mixes them up."""
    probabilities = torch.tensor([[0.98, 0.015, 0.005], [0.05, 0.85, 0.10], [0.40, 0.35, 0.25]], dtype=torch.float64)
    labels = [0, 1, 0]
    expected = []
    for p, y in zip(probabilities.tolist(), labels, strict=True):
        others = sum(q * math.log(1 - q) for i, q in enumerate(p) if i != y)
        expected.append(-(1 - p[y]) * math.log(p[y]) - others)
    found = predictions.modified_entropy(probabilities.log(), torch.tensor(labels))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[0] < found[1] < found[2]


def test_entropy_correctness_and_margin():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    assert predictions.entropy(probabilities.log()).tolist() == pytest.approx([1.5 * math.log(2), 0])
    assert predictions.correctness(probabilities.log(), labels).tolist() == [0, 1]
    assert predictions.margin(probabilities.log(), labels).tolist() == pytest.approx([math.log(0.25 / 0.75), 100])
    masked = torch.tensor([[1.0, float("-inf"), 0.0]])
    assert predictions.margin(masked, torch.tensor([1])).item() == -100
    assert all(torch.isfinite(f(masked, torch.tensor([1]))).all() for f in predictions.FEATURES.values())


def features_of(offset, count, seed):
    """Every feature of `count` images of ten classes whose true logit is raised by `offset`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    logits = torch.randn(count, 10, generator=generator) + offset * torch.nn.functional.one_hot(labels, 10)
    return {name: feature(logits, labels) for name, feature in predictions.FEATURES.items()}


@pytest.mark.parametrize("attacker", membership.ATTACKERS)
def test_both_attackers_are_perfect_on_separable_features(attacker):
    members, nonmembers, forgotten = (features_of(o, 300, s) for o, s in ((40, 1), (-40, 2), (-40, 3)))
    for name in predictions.FEATURES:
        if name in ("entropy", "probabilities"):  # without the true class a sure error looks like a sure hit
            continue
        assert membership.mia_efficacy(members[name], nonmembers[name], forgotten[name], attacker) == 100
        assert membership.tell_apart(members[name], nonmembers[name], attacker)[0] == 100


def test_the_attack_on_equal_distributions_is_a_coin_within_its_interval():
    """Thirty pairs of samples from one distribution: the mean of each figure lies within its own 95 % interval, widened
    to 99.9 %, around a coin's."""
    areas, rates, efficacies = [], [], []
    for seed in range(30):
        seen, unseen, members = (features_of(2, 400, 3 * seed + i)["loss"] for i in range(3))
        area, roc = membership.tell_apart(seen, unseen)
        areas.append(area)
        rates.append(100 * np.interp(0.01, membership.FPR_GRID, roc))
        efficacies.append(membership.mia_efficacy(members, unseen, seen, "logistic"))
    for values, coin in ((areas, 50), (rates, 1), (efficacies, 50)):
        mean, half = statistics.mean_ci95(values)
        assert abs(mean - coin) < 1.8 * half, (mean, half, coin)
    assert statistics.mean_ci95(areas)[1] < 2


def test_a_constant_feature_is_a_coin():
    area, roc = membership.tell_apart(torch.full((100,), 745.0), torch.full((200,), 745.0))
    assert area == 50
    assert roc == pytest.approx(membership.FPR_GRID)


def test_too_few_images_to_cross_validate_are_refused():
    with pytest.raises(ValueError, match="too few"):
        membership.tell_apart(torch.rand(4), torch.rand(100))


def test_an_attacker_sees_at_most_its_limit(monkeypatch):
    seen = []

    class Counting(LogisticRegression):
        def fit(self, values, truth):
            seen.append(len(values))
            return super().fit(values, truth)

    monkeypatch.setitem(membership.ATTACKERS, "svc", Counting)
    big = torch.rand(30_000, generator=torch.Generator().manual_seed(0))
    membership.mia_efficacy(big, big, big)
    membership.tell_apart(big, big, "svc")
    assert seen == [10_000] + 5 * [8000]


def test_few_forgotten_images_against_many_others_are_balanced():
    """A hundred against three thousand of one distribution: called seen as often as not, not never."""
    generator = torch.Generator().manual_seed(14)
    few, many = torch.rand(100, generator=generator), torch.rand(3000, generator=generator)
    attack = membership.ATTACKERS["logistic"]().fit(membership._table(few, many), [1] * 100 + [0] * 3000)
    assert 0.3 < attack.predict(membership._table(many)).mean() < 0.7


def test_the_unlearn_sparse_protocol_takes_the_first_members_unshuffled():
    generator = torch.Generator().manual_seed(5)
    members, nonmembers = 0.9 + torch.rand(200, generator=generator) / 10, torch.rand(200, generator=generator) / 2
    forgotten = torch.full((50,), 0.95)
    assert membership.mia_unlearn_sparse(members, nonmembers, forgotten) == 0
    padded = torch.cat([members, torch.full((5000,), 0.1)])
    assert membership.mia_unlearn_sparse(padded, nonmembers, forgotten) == 0  # what comes after them isn't looked at


def test_distances_of_opposite_one_hots_are_finite_and_largest():
    one, other = torch.tensor([[1000.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1000.0], [0.0, 0.0]])
    assert predictions.js_divergence(one[:1], other[:1]) == pytest.approx(math.log(2))
    assert predictions.activation_distance(one[:1], other[:1]) == pytest.approx(math.sqrt(2))
    assert predictions.js_divergence(one, other) == pytest.approx(math.log(2) / 2)  # a mean over images
    assert predictions.activation_distance(one, other) == pytest.approx(math.sqrt(2) / 2)


@given(LOGITS, LOGITS)
def test_distances_are_symmetric_bounded_and_0_for_equals(a, b):
    a, b = torch.tensor(a[: len(b)]), torch.tensor(b[: len(a)])
    for distance, most in ((predictions.js_divergence, math.log(2)), (predictions.activation_distance, math.sqrt(2))):
        assert distance(a, a) == 0
        assert -1e-12 <= distance(a, b) <= most + 1e-9
        assert distance(a, b) == pytest.approx(distance(b, a))


def test_js_divergence_of_nearly_equal_answers_is_no_nan():
    """Rounding can take a row's sum below 0, of which a root would be NaN."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2000, 10, generator=generator, dtype=torch.float64)
    found = predictions.js_divergence(a, a + 1e-9 * torch.randn(2000, 10, generator=generator, dtype=torch.float64))
    assert math.isfinite(found) and abs(found) < 1e-12


def test_tug_of_war_multiplies_three_closenesses():
    row, retrain = {"UA": 90.0, "RA": 95.0, "TA": 90.0}, {"UA": 100.0, "RA": 90.0, "TA": 92.0}
    assert predictions.tug_of_war(row, retrain) == pytest.approx(0.9 * 0.95 * 0.98)
    assert predictions.tug_of_war(retrain, retrain) == 1


def test_the_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(600) % 3
    noise = torch.randn(600, 8, generator=generator)
    clear = noise + 20 * torch.nn.functional.one_hot(labels, 8)
    wanted = labels[400:] == 2
    assert predictions.linear_probe(clear[:400], labels[:400], clear[400:][wanted], labels[400:][wanted]) == 100
    blind = predictions.linear_probe(noise[:400], labels[:400], noise[400:][wanted], labels[400:][wanted])
    assert 10 < blind < 60


def test_relearn_steps_is_the_first_step_at_the_target():
    assert predictions.relearn_steps((0, 1, 2, 4), [0, 30, 60, 90], 45) == 2
    assert predictions.relearn_steps((0, 1, 2, 4), [50, 30, 60, 90], 45) == 0
    assert predictions.relearn_steps((0, 1, 2, 4), [0, 0, 0, 0], 45) is None


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


def test_the_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(13).normal(size=12)
    assert statistics.jackknife(np.mean, values) == pytest.approx(statistics.mean_ci95(values))


def test_average_gap_is_the_mean_of_four_absolute_differences():
    row = {"UA": 99.0, "RA": 95.0, "TA": 90.0, "MIA": 80.0}
    retrain = {"UA": 100.0, "RA": 98.0, "TA": 88.0, "MIA": 90.0}
    assert predictions.average_gap(row, retrain) == (1 + 3 + 2 + 10) / 4


def test_confidence_interval_is_students():
    mean, half = statistics.mean_ci95([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert statistics.mean_ci95([5.0]) == (5.0, None)
