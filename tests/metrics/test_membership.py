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


def test_the_attack_is_perfect_on_separable_and_blind_on_equal_distributions(every_draw):
    members, nonmembers = torch.full((300,), 0.99), torch.full((300,), 0.2)
    assert membership.mia_efficacy(members, nonmembers, torch.full((50,), 0.2)) == 100
    assert membership.mia_efficacy(members, nonmembers, torch.full((50,), 0.99)) == 0
    generator = torch.Generator().manual_seed(1)
    members, nonmembers, forgotten = (torch.rand(n, generator=generator) for n in (3000, 300, 300))
    assert membership.over_draws(membership.mia_efficacy, members, nonmembers, forgotten, 0)[0] == pytest.approx(50, abs=12)


def test_mean_and_deviation_over_draws_are_those_of_twenty_seeds_of_their_own(every_draw):
    """Of training seed 3 the attacker's seeds 60 to 79: mean 69.5, variance 20 * 21 / 12 with n - 1 below."""
    asked = []

    def seed_itself(members, nonmembers, forgotten, seed):
        asked.append((members, nonmembers, forgotten, seed))
        return float(seed)

    assert membership.over_draws(seed_itself, "D_r", "T_r", "D_f", 3) == pytest.approx((69.5, 35**0.5))
    assert asked == [("D_r", "T_r", "D_f", seed) for seed in range(60, 80)]


def test_attackers_seeds_differ_between_draws_and_between_training_seeds(every_draw):
    every = [seed for training in (*range(50), 2**32 - 1) for seed in membership.draw_seeds(training)]
    assert len(set(every)) == len(every) == 51 * 20
    generator = torch.Generator().manual_seed(15)
    groups = [torch.rand(n, generator=generator) for n in (300, 100, 100)]
    found = [membership.over_draws(membership.mia_efficacy, *groups, seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2] and found[0][1] > 0
    for seed in every[-20:]:
        torch.Generator().manual_seed(seed)  # torch takes even the largest


def test_a_draw_takes_as_many_members_as_nonmembers_and_no_image_twice(monkeypatch):
    seen = []

    class Remembering(LogisticRegression):
        def fit(self, values, truth):
            seen.append((values[truth == 1].ravel().tolist(), values[truth == 0].ravel().tolist()))
            return super().fit(values, truth)

    monkeypatch.setitem(membership.ATTACKERS, "svc", Remembering)
    members, nonmembers = torch.arange(3000.0), -torch.arange(1.0, 501)
    for seed in (0, 1):
        membership.mia_efficacy(members, nonmembers, members[:1], seed=seed)
    membership.mia_efficacy(members, -members, members[:1])
    membership.mia_efficacy(members[:200], nonmembers, members[:1])
    for inside, outside in seen:
        assert set(inside) <= set(members.tolist()) and max(outside) <= 0
        assert len(set(inside)) == len(inside) == len(set(outside)) == len(outside)
    assert [(len(inside), len(outside)) for inside, outside in seen] == [(n, n) for n in (500, 500, 1000, 200)]
    assert set(seen[0][0]) != set(seen[1][0]) and set(seen[0][1]) == set(seen[1][1])


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
    assert seen == [2000] + 5 * [8000]


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


def test_the_svc_is_the_published_one():
    """Counted by an SVC with C 3 and an RBF kernel of gamma 1, "auto" for one feature; with "scale" 15 of the 41 are
    called non-members, with C 1 28, with a linear kernel 29. Unlearn-Sparse has 70 members here: 24 if it balanced them."""
    members = torch.cat([torch.linspace(0.9, 1, 60), torch.linspace(0.2, 0.3, 20)])
    nonmembers = torch.cat([torch.linspace(0.4, 0.6, 40), torch.linspace(0.9, 1, 40)])
    forgotten = torch.linspace(0, 1, 41)
    assert membership.mia_efficacy(members, nonmembers, forgotten) == pytest.approx(100 * 21 / 41)
    assert membership.mia_unlearn_sparse(members[:70], nonmembers, forgotten) == pytest.approx(100 * 25 / 41)


def test_seen_and_unseen_are_no_synonyms():
    """Half of D_f is easily told, the rest looks like T_f: half is found without a false alarm. The other way round all of
    T_f is found, at a false alarm for each second image of D_f. The AUC is 3/4 for both."""
    told, like_others = torch.full((200,), 5.0), torch.zeros(400)
    half_told = torch.cat([told, like_others[:200]])
    area, roc = membership.tell_apart(half_told, like_others)
    assert area == pytest.approx(75) and roc == pytest.approx(0.5 + 0.5 * membership.FPR_GRID)
    area, roc = membership.tell_apart(like_others, half_told)
    assert area == pytest.approx(75) and roc == pytest.approx(np.minimum(2 * membership.FPR_GRID, 1), abs=0.05)


@pytest.mark.parametrize("attack", [membership.mia_efficacy, membership.mia_unlearn_sparse, membership.mia_lora_unlearn])
def test_swapped_sets_give_another_number(attack):
    """p_y of members is high, of non-members low, of D_f low or high: (0, 100) is another pair with two sets swapped."""
    high, low = torch.linspace(0.9, 1, 200), torch.linspace(0, 0.1, 200)
    high, low = (x.neg() * 50 if attack is membership.mia_lora_unlearn else x for x in (high, low))  # that one takes losses
    assert (attack(high, low, low[:50]), attack(high, low, high[:50])) == (100, 0)
    assert (attack(low, high, low[:50]), attack(low, high, high[:50])) == (0, 100)


@pytest.mark.parametrize("attack", [membership.mia_efficacy, membership.mia_unlearn_sparse, membership.mia_lora_unlearn])
def test_an_attacker_that_sees_nan_has_no_answer(attack):
    values, broken = torch.rand(50, generator=torch.Generator().manual_seed(16)), torch.full((50,), torch.nan)
    for groups in ((broken, values, values), (values, broken, values), (values, values, broken)):
        with pytest.raises(ValueError, match="NaN"):
            attack(*groups)
    for pair in ((broken, values), (values, broken)):
        with pytest.raises(ValueError, match="NaN"):
            membership.tell_apart(*pair)


def test_the_unlearn_sparse_protocol_draws_nothing_below_its_limit(monkeypatch):
    """All first members and all non-members, whatever the seed; above it both are thinned alike, by a draw of the seed's."""
    seen = []

    class Remembering(LogisticRegression):
        def fit(self, values, truth):
            seen.append(sorted(values[truth == 1].ravel().tolist()) + sorted(values[truth == 0].ravel().tolist()))
            return super().fit(values, truth)

    monkeypatch.setattr(membership, "svc", lambda class_weight: Remembering(class_weight=class_weight))
    members, nonmembers = torch.arange(900.0), -torch.arange(1.0, 401)
    for seed in (0, 1):
        membership.mia_unlearn_sparse(members, nonmembers, members[:1], seed)
    assert seen[0] == seen[1] == members[:400].tolist() + nonmembers.flip(0).tolist()
    monkeypatch.setattr(membership, "ATTACK_LIMIT", 200)
    for seed in (0, 0, 1):
        membership.mia_unlearn_sparse(members, nonmembers, members[:1], seed)
    assert seen[2] == seen[3] != seen[4]
    assert sum(value >= 0 for value in seen[2]) == sum(value < 0 for value in seen[2]) == 100


def test_the_published_attack_takes_one_image_of_each_kind_at_least():
    assert membership.mia_lora_unlearn(
        torch.zeros(1), torch.full((1,), 9.0), torch.tensor([0.0, 9.0, 9.0])
    ) == pytest.approx(200 / 3)


def test_rmias_score_is_the_papers_by_hand():
    """a = 0.5, two references. x: mean 0.4, Pr(x) = (1.5 * 0.4 + 0.5) / 2 = 0.55, ratio 0.44 / 0.55 = 0.8; the second x has
    a reference that was trained on it: mean 0.2, Pr(x) = 0.4, ratio 1. z: ratios 0.5, 0.8, 0.9 and 1.2."""
    x, x_references = torch.tensor([0.44, 0.40]), torch.tensor([[0.5, 0.2], [0.3, torch.nan]])
    means = torch.tensor([0.2, 0.4, 0.6, 0.1])
    ratios = torch.tensor([0.5, 0.8, 0.9, 1.2])
    z = ratios * (1.5 * means + 0.5) / 2
    population = z.double() + 1e-9, means.double().expand(2, 4)
    assert membership.rmia_scores(x.double(), x_references.double(), *population, a=0.5).tolist() == [1 / 4, 3 / 4]
    # By a = 1, Pr(x) is the mean: ratios 1.1 and 2, of z 1, 1.1, 1.05 and 3.9. Equal ratios are none above another.
    assert membership.rmia_scores(x.double(), x_references.double(), *population, a=1.0).tolist() == [2 / 4, 3 / 4]
    half = torch.tensor([0.5])
    assert membership.rmia_scores(half, half[None], half, half[None]).item() == 0
    assert membership.RMIA_A == 0.3  # the authors'


def test_rmia_sets_an_image_against_what_references_say_of_it():
    """D_f and unseen images have the same probabilities, and references know the unseen better: easy images, which all
    networks know, are no members. Without references the attack would be a coin; inverted, 0."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(200, generator=generator) * 0.5 + 0.4
    easier = (target[None] + 0.08).expand(4, -1)
    harder = (target[None] - 0.3).expand(4, -1)
    area, rate = membership.rmia((target, target), (harder, easier), torch.ones(4, 200, dtype=torch.bool))
    assert area > 95 and rate > 50
    again = membership.rmia((target, target), (easier, harder), torch.ones(4, 200, dtype=torch.bool))
    assert again[0] < 5


def test_rmia_on_images_that_nobody_has_seen_is_a_coin():
    """Also where each image of D_f has but one reference that wasn't trained on it, and references say 0 or 1: unseen images
    have one as well, for the mean of four is rarely 0, which makes the largest ratios. What the others say isn't heard."""
    found = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        seen, unseen = (torch.rand(n, generator=generator) for n in (400, 400))
        references = [torch.rand(4, n, generator=generator).round() for n in (400, 400)]
        out = torch.rand(4, 400, generator=generator).argmax(0) == torch.arange(4)[:, None]
        heard = torch.where(out, references[0], 1.0), references[1]
        found.append(membership.rmia((seen, unseen), heard, out, seed))
        deaf = torch.where(out, references[0], 0.3), references[1]
        assert membership.rmia((seen, unseen), deaf, out, seed) == found[-1]
    assert np.mean(found, 0) == pytest.approx([50, 1], abs=2)


def test_rmia_of_a_masked_class_is_a_coin_and_what_it_needs_is_refused():
    nothing, half = torch.zeros(10), torch.full((2, 10), 0.5)
    every = torch.ones(2, 10, dtype=torch.bool)
    assert membership.rmia((nothing, nothing), (half, half), every) == (50, None)
    with pytest.raises(ValueError, match="every reference has trained on 3 of the 10"):
        membership.rmia((nothing, nothing), (half, half), every & (torch.arange(10) > 2))
    with pytest.raises(ValueError, match="1 images that were never seen"):
        membership.rmia((nothing, nothing[:1]), (half, half[:, :1]), every)
    with pytest.raises(ValueError, match="NaN"):
        membership.rmia((nothing / 0, nothing), (half, half), every)
    seen = torch.linspace(0, 1, 300)
    for count, known in ((199, True), (198, False)):  # half of them, rounded up, are told from D_f
        rate = membership.rmia(
            (seen, seen[:count]), (half[:, :1].expand(2, 300), half[:, :1].expand(2, count)), every[:, :1].expand(2, 300)
        )[1]
        assert (rate is not None) == known
