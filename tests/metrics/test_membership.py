"""Membership attacks: perfect on what is separable, blind on what is equal, balanced, repeatable."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from unlearning.metrics import membership, predictions, statistics


def features_of(offset, count, seed):
    """Every feature of `count` images of ten classes whose true logit is raised by `offset`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(10, (count,), generator=generator)
    logits = torch.randn(count, 10, generator=generator) + offset * torch.nn.functional.one_hot(labels, 10)
    return {name: feature(logits, labels) for name, feature in predictions.FEATURES.items()}


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
