"""l1-sparse: the penalty and its fall, by hand."""

import math

import pytest
import torch

from baselines import l1sparse
from tests.baselines.toy import Constant, handed_to_fit, images


def test_the_penalty_is_the_sum_of_magnitudes_and_falls_linearly_towards_0():
    model, retain = Constant(-1.0, 2.0), images(0, 1)
    split, optimizer, policy = handed_to_fit(l1sparse, model, retain, images(0), gamma=0.5, epochs=4)
    assert split is retain and type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"], len(group["params"])) == (0.1, 0.9, 5e-4, 1)
    entropy = math.log(math.exp(-1) + math.exp(2)) - (-1 + 2) / 2
    for epoch, part in enumerate((1, 0.75, 0.5, 0.25)):
        policy["before_epoch"](epoch)
        found = policy["objective"](model, torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), None)
        assert found.item() == pytest.approx(entropy + 0.5 * part * 3), epoch
    found.backward()
    small = torch.softmax(model.logits.detach(), 0) - 0.5 + 0.125 * torch.tensor([-1.0, 1.0])  # each towards 0
    torch.testing.assert_close(model.logits.grad, small)
