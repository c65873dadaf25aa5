"""Scores of adapters, worked out by hand."""

import pytest
import torch

from unlearning.language import scores


def test_damage_undone_is_nothing_at_corrupted_and_all_at_retrain():
    """From a loss of 2 to one of 1.2; further than Retrain is more than all, a larger loss than before less than none."""
    found = [scores.undone(loss, 2.0, 1.2) for loss in (2.0, 1.8, 1.2, 1.0, 2.4)]
    assert found == pytest.approx([0, 25, 100, 125, -50])


def test_distances_are_from_retrain_and_cosines_between_steps_from_corrupted():
    logits = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    corrupted = ({}, torch.tensor([1.0, 0.0, 5.0]), logits)
    retrained = ({}, torch.tensor([1.0, 4.0, 5.0]), logits)
    scored = ({}, torch.tensor([3.0, 4.0, 5.0]), logits)
    scores.compare(scored, corrupted, retrained)
    assert scored[0] == pytest.approx({"js": 0, "distance": 2 / 4, "cosine": 4 / 20**0.5})
    scores.compare(corrupted, corrupted, retrained)
    assert corrupted[0]["distance"] == 1 and corrupted[0]["cosine"] == {"missing": "no step", "cell": "–"}
    other = ({}, retrained[1], -logits)
    scores.compare(other, corrupted, retrained)
    assert other[0]["js"] > 0.1 and (other[0]["distance"], other[0]["cosine"]) == pytest.approx((0, 1))
