"""Relearning and few-shot recovery as numbers."""

import pytest
import torch
from torch import nn

import data
import models
from baselines import randomlabel, ssd
from tests.helpers import FP32
from unlearning.vision.predict import recover, relearn


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
    assert seen[:20] == seen[20:] and len(seen) == 40 and {len(batch) for batch in seen} == {32}
    assert {image for batch in seen for image in batch} == set(range(60))


def pixels(values, labels):
    """Images of one pixel with labels."""
    values, labels = torch.as_tensor(values, dtype=torch.uint8), torch.as_tensor(labels)
    return data.Split(values.view(-1, 1, 1, 1), labels.expand(len(values)).long())


def test_recovery_weighs_few_images_as_much_as_those_of_d_r():
    """Two images of class 1 against 32 of class 0: the gradients cancel, and nothing moves. Images of D_r of both classes
    pull to neither; then ten steps of a thousandth for each logit are enough for 0.009 between them, and four aren't."""
    shots, test = pixels([1, 2], 1), pixels(range(5), 1)
    assert recover(Bias(0.0, 0.0), shots, pixels(range(60), 0), test, FP32) == 0
    network, both = Bias(0.009, 0.0), pixels([0] * 64, torch.arange(64) % 2)
    with torch.no_grad():
        network.bias.copy_(torch.tensor([0.009, -torch.inf]))  # a masked class counts from 0
    one_of_each = pixels([0, 0], torch.tensor([0, 1]))
    recover(network, shots, one_of_each, test, FP32, steps=1, batch_size=1)
    assert network.bias.tolist() == pytest.approx([0.009, -torch.inf])  # it stays as it was
    reached = [
        recover(network, pixels([1] * 64, 1), both, test, FP32, steps=steps, lr=lr) for steps, lr in ((2, 1e-3), (10, 3e-3))
    ]
    assert reached == [0, 100] and network.bias.tolist() == pytest.approx([0.009, -torch.inf])


@pytest.mark.parametrize(("count", "kept"), [(3, 32), (40, 40)])
def test_a_step_of_recovery_takes_all_shots_and_as_many_images_of_d_r_but_32_at_least(count, kept):
    seen = []

    class Watched(Bias):
        def forward(self, x):
            if torch.is_grad_enabled():
                assert not self.training
                seen.append((255 * x.flatten()).round().int().tolist())
            return super().forward(x)

    shots, others = pixels(range(count), 1), pixels(range(100, 200), 0)
    for _ in range(2):
        torch.rand(3)
        recover(Watched(0.0, 0.0), shots, others, shots, FP32)
    assert seen[:20] == seen[20:] and len(seen) == 40  # ten steps, each of both
    assert all(batch == list(range(count)) for batch in seen[::2])
    assert all(len(batch) == kept and min(batch) >= 100 for batch in seen[1::2]) and seen[1] != seen[3]


@pytest.mark.parametrize("takes", ["importances", "salient", "recover"])
def test_a_second_gradient_is_taken_through_a_network_that_keeps_attention_biases(takes):
    """As timm's LeViT does in evaluation mode, with the way that they were computed."""
    made = {"in_chans": 1, "num_classes": 10, "img_size": 8, "mean": [0.3], "std": [0.3], "input_size": 64}
    model = models.create("levit_128s", **made).eval()
    some = data.load("digits").train.take(torch.arange(8))
    if takes == "importances":
        found = ssd.importances(model, some, 4, FP32)
    elif takes == "salient":
        many = some.take(torch.arange(8).repeat(63))  # two batches
        found = randomlabel.salient(model, ssd.trained(model), many, 0.5, FP32)
    else:
        found = recover(model, some, some, some, FP32, steps=2)
    assert found is not None
