"""The bias shift: its constant, by hand and on a trained network."""

import pytest
import torch

import data
import models
from baselines import control
from tests.baselines.toy import Constant, images, run_of
from tests.helpers import FP32, call
from unlearning.vision.predict import predict


def test_the_lead_is_the_largest_over_images_of_a_forgotten_class_over_a_kept_one():
    logits = torch.tensor([[0.0, 5, 1, 2], [4, 1, 0, 0], [1, 0, 3, 1]])  # by 3, -3 and 2
    assert control.lead(logits, [1, 2]) == 3 and control.lead(logits[1:2], [1, 2]) == -3


@pytest.mark.parametrize(
    ("logits", "left"), [((2.0, 5.0), 2 - control.MARGIN), ((2.0, 2.0), 2 - control.MARGIN), ((2.0, 1.0), 1.0)]
)
def test_the_shift_is_the_least_with_which_another_class_is_the_answer(logits, left):
    """A tie is no other answer, and a class that is never the answer keeps its bias."""
    model = Constant(*logits).requires_grad_(False)
    control.shift(model, [model.logits], images(1, 1), [1], run_of())
    assert model.logits.tolist() == pytest.approx([2.0, left], abs=1e-6)


def test_the_shift_grows_until_rounding_leaves_no_forgotten_answer():
    """Below 64 numbers in bf16 are 1/4 apart, and what is above 63.875 is 64: a tie until the margin is 128 thousandths."""

    class Rounded(Constant):
        def forward(self, x):
            return super().forward(x).bfloat16()

    model = Rounded(64.0, 67.0).requires_grad_(False)
    control.shift(model, [model.logits], images(1), [1], run_of())
    assert model.logits.tolist() == pytest.approx([64, 64 - 128 * control.MARGIN])


def test_no_forgotten_image_is_answered_by_its_class_and_with_less_one_is(weights, tmp_path):
    common = ("--dataset", "digits", "--model", "resnet8", "--weights", weights, "--precision", "fp32", "--quiet")
    path = call(control, *common, "--forget-class", 3, 5, "--kind", "bias", "--output", tmp_path / "x.pth")
    before = models.load_checkpoint(weights / "digits_resnet8_original_s0.pth")["state_dict"]
    checkpoint = models.load_checkpoint(path)
    after, model = checkpoint["state_dict"], models.build(checkpoint)
    k = before["net.fc.bias"] - after["net.fc.bias"]
    assert k[3] > 0 and k[5].item() == pytest.approx(k[3].item(), abs=1e-6)
    assert {key for key, value in before.items() if not torch.equal(value, after[key])} == {"net.fc.bias"}
    assert k.count_nonzero() == 2
    gone = data.load("digits").train
    gone = gone.take((gone.labels == 3) | (gone.labels == 5))
    logits = predict(model, gone, FP32)
    assert not torch.isin(logits.argmax(1), torch.tensor([3, 5])).any()
    logits[:, [3, 5]] += 2 * control.MARGIN
    assert torch.isin(logits.argmax(1), torch.tensor([3, 5])).sum() == 1
    assert (checkpoint["method"], checkpoint["cost"]["steps"]) == ("bias", 0)
