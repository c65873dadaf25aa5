"""The bias shift: its constant, by hand and on a trained network."""

import pytest
import torch

import data
import models
from baselines import control
from tests.helpers import FP32, call
from unlearning.vision.predict import predict


def test_the_shift_is_the_least_with_which_another_class_is_the_answer():
    logits = torch.tensor([[0.0, 5, 1, 2], [4, 1, 0, 0], [1, 0, 3, 1]])  # ahead of the kept ones by 3, -3 and 2
    k = control.shift(logits, [1, 2])
    assert k == pytest.approx(3 + control.MARGIN)
    assert control.shift(logits[1:2], [1, 2]) == 0  # never answered, so nothing to take away


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
