"""Relearning as numbers."""

import pytest
import torch
from torch import nn

import data
from tests.helpers import FP32
from unlearning.vision.predict import relearn


class Bias(nn.Module):
    """Two logits that no image changes, behind a dropout that a network in training mode would feel."""

    def __init__(self, first, second):
        super().__init__()
        self.bias, self.dropout = nn.Parameter(torch.tensor([first, second])), nn.Dropout(0.9)

    def forward(self, x):
        return self.dropout(self.bias + 0 * x.flatten(1)[:, :1])


@pytest.mark.parametrize("second", [0.0, -torch.inf])  # a masked class counts from 0
def test_relearning_takes_adams_steps_of_a_thousandth(second):
    """Each moves both logits by 0.001, so that 0.009 between them are gone after five; the network itself stays."""
    network, split = Bias(0.009, second), data.Split(torch.zeros(40, 1, 1, 1, dtype=torch.uint8), torch.ones(40).long())
    assert relearn(network, split, split, FP32, (0, 4, 5, 7)) == [0, 0, 100, 100]
    assert network.bias.tolist() == pytest.approx([0.009, second]) and network.bias.grad is None


def test_relearning_draws_32_images_of_d_f_a_step_and_the_same_ones_again():
    seen = []

    class Watched(Bias):
        def forward(self, x):
            if torch.is_grad_enabled():
                seen.append((255 * x.flatten()).round().int().tolist())
            return super().forward(x)

    forget = data.Split(torch.arange(60, dtype=torch.uint8).view(60, 1, 1, 1), torch.arange(60) % 2)
    for _ in range(2):
        torch.rand(3)
        relearn(Watched(0.0, 0.0), forget, forget.take(slice(5)), FP32, (0, 20))
    assert seen[:21] == seen[21:] and {len(batch) for batch in seen} == {32}
    assert {image for batch in seen for image in batch} == set(range(60))
