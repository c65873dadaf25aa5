"""SSD: importances and dampening by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import data
import models
from baselines import ssd
from tests.baselines.toy import images, run_of
from tests.helpers import FP32


class Bias(nn.Module):
    """Answers (b, 0) of a number b: the loss has the gradient q - 1 where the label is 0, and q where it is 1."""

    def __init__(self, b):
        super().__init__()
        self.b = nn.Parameter(torch.tensor([b]))

    def forward(self, x):
        return nn.functional.pad(self.b, (0, 1)).expand(len(x), -1)


def test_importances_are_squares_of_a_batchs_gradient_and_a_mean_over_batches():
    """With q = 1/2: of a batch of one label 1/4; of three labels 0 and one label 1 (1/4)^2, not the mean of four squares."""
    for labels, size, expected in (((0, 0, 0, 0), 2, 1 / 4), ((0, 0, 0, 1), 4, 1 / 16), ((0, 1), 8, 0)):
        (found,) = ssd.importances(Bias(0.0), images(*labels), size, FP32)
        assert found.tolist() == pytest.approx([expected]), labels


def test_a_weight_is_dampened_above_alpha_and_never_grows():
    on_forget, on_all = torch.tensor([10.1, 9.9, -0.0, 4.0]), torch.tensor([1.0, 1.0, 0.0, 0.1])
    for dampening, expected in ((1.0, [1 / 10.1, 2, 3, 4 * 0.1 / 4]), (20.0, [1, 2, 3, 4 * 2 / 4])):
        weights = nn.Parameter(torch.tensor([1.0, 2.0, 3.0, 4.0]))
        ssd.dampen([weights], [on_forget], [on_all], 10.0, dampening)
        assert weights.tolist() == pytest.approx(expected), dampening


@pytest.mark.parametrize(("alpha", "left"), [(80.0, 1 / 81), (82.0, 1)])
def test_d_holds_the_forgotten_images_too(alpha, left):
    """q = 3/4: imp_f = (3/4)^2, imp_D = ((3/4 - 1/4 - 1/4) / 3)^2, a ratio of 81. Without D_f it would be 9."""
    run = run_of(alpha=alpha, dampening=1.0)
    model = ssd.unlearn(Bias(math.log(3)), images(0, 0), images(1), run)
    assert model.b.tolist() == pytest.approx([left * math.log(3)])
    assert (run.cost["steps"], run.cost["trainable"]) == (0, 0)


@pytest.mark.parametrize(("alpha", "left"), [(80.0, 1 / 81), (82.0, 1)])
def test_of_a_part_of_the_retained_images_d_holds_as_small_a_part_of_the_forgotten_ones(alpha, left):
    """Of 8 images that stay 2, and so of 4 to forget 1: the D of the test above. With all 4 the ratio would be 3.24."""
    run = run_of(alpha=alpha, dampening=1.0)
    run = replace(run, dataset=replace(run.dataset, train=images(*[0] * 8, *[1] * 4)))
    model = ssd.unlearn(Bias(math.log(3)), images(0, 0), images(1, 1, 1, 1), run)
    assert model.b.tolist() == pytest.approx([left * math.log(3)])


def test_a_vits_fixed_position_codes_stay():
    """They have no gradient, and what has none has no importance."""
    dataset = data.load("digits", subset=40)
    network, _ = models.create_for("vit_micro", dataset)
    before = models.state(network)
    three = dataset.train.labels == 3
    after = models.state(
        ssd.unlearn(network, dataset.train.take(~three), dataset.train.take(three), run_of(alpha=1.0, dampening=1.0))
    )
    moved = {name for name, value in after.items() if not value.equal(before[name])}
    assert moved and not any("pos_embed" in name for name in moved)


def test_alpha_is_smaller_for_transformers():
    alpha = ssd.parser().parse_args([]).alpha
    assert [alpha.of(name) for name in ("resnet18", "vit_small", "vit_micro")] == [10, 5, 5]
    assert alpha.of("timm:deit_tiny_patch16_224", is_vit=True) == 5
