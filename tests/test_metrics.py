"""Every metric against its closed form."""

import math

import pytest
import torch

import metrics


def test_accuracy_counts_top_1():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]])
    assert metrics.accuracy(logits, torch.tensor([0, 1, 0, 0])) == 75.0


def test_confidence_and_loss_are_softmax_and_its_negative_log():
    probabilities = torch.tensor([[0.98, 0.01, 0.01], [0.1, 0.85, 0.05], [0.3, 0.3, 0.4]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    expected = torch.tensor([0.98, 0.85, 0.40], dtype=torch.float64)
    torch.testing.assert_close(metrics.confidence(probabilities.log(), labels), expected)
    torch.testing.assert_close(metrics.loss(probabilities.log(), labels), -expected.log())


def test_a_masked_class_has_confidence_0_and_a_finite_loss():
    logits = torch.tensor([[1.0, float("-inf"), 0.0]])
    assert metrics.confidence(logits, torch.tensor([1])).item() == 0
    assert metrics.loss(logits, torch.tensor([1])).item() == 745.0


def test_the_attack_is_perfect_on_separable_and_blind_on_equal_distributions():
    members, nonmembers = torch.full((300,), 0.99), torch.full((300,), 0.2)
    assert metrics.mia_efficacy(members, nonmembers, torch.full((50,), 0.2)) == 100
    assert metrics.mia_efficacy(members, nonmembers, torch.full((50,), 0.99)) == 0
    generator = torch.Generator().manual_seed(1)
    members, nonmembers, forgotten = (torch.rand(n, generator=generator) for n in (9000, 2000, 4000))
    assert metrics.mia_efficacy(members, nonmembers, forgotten) == pytest.approx(50, abs=12)


def test_the_attack_is_balanced_however_many_members_there_are():
    """With 20 members to one non-member an unbalanced attacker would call nobody a non-member."""
    generator = torch.Generator().manual_seed(2)
    members = torch.rand(20_000, generator=generator)
    nonmembers, forgotten = torch.rand(1000, generator=generator), torch.rand(1000, generator=generator)
    assert metrics.mia_efficacy(members, nonmembers, forgotten) > 25


def test_the_attack_repeats_with_its_seed_and_not_otherwise():
    generator = torch.Generator().manual_seed(3)
    members, nonmembers, forgotten = (torch.rand(n, generator=generator) for n in (3000, 500, 500))
    same = [metrics.mia_efficacy(members, nonmembers, forgotten, seed=0) for _ in range(2)]
    assert same[0] == same[1]
    assert len({metrics.mia_efficacy(members, nonmembers, forgotten, seed=s) for s in range(4)}) > 1


def test_the_published_protocol_leans_towards_members():
    """Ideal forgetting (D_f like T_f) scores well below one half there: 9,000 members outvote 5,000 non-members."""
    generator = torch.Generator().manual_seed(4)
    members = torch.randn(12_000, generator=generator).abs()
    nonmembers = torch.randn(6000, generator=generator).abs() * 1.05
    forgotten = torch.randn(3000, generator=generator).abs() * 1.05
    assert metrics.mia_lora_unlearn(members, nonmembers, forgotten) < 20
    assert metrics.mia_lora_unlearn(members, nonmembers + 30, forgotten + 30) == 100


def test_average_gap_is_the_mean_of_four_absolute_differences():
    row = {"UA": 99.0, "RA": 95.0, "TA": 90.0, "MIA": 80.0}
    retrain = {"UA": 100.0, "RA": 98.0, "TA": 88.0, "MIA": 90.0}
    assert metrics.average_gap(row, retrain) == (1 + 3 + 2 + 10) / 4


def test_confidence_interval_is_students():
    mean, half = metrics.mean_ci95([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302652729911275 / math.sqrt(3))
    assert metrics.mean_ci95([5.0]) == (5.0, None)
