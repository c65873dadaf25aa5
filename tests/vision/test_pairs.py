"""D_f beside D_r: which images a step takes, and what it minimises."""

from collections import OrderedDict
from math import exp, log

import pytest
import torch
from torch import nn

import data
import loraprune
import models
from tests.helpers import FEW, FP32, Pixel, call, forgetting_three
from tests.test_rfau import Toy
from unlearning.core.errors import UserError
from unlearning.core.files import Staged
from unlearning.vision import pairs
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared


def split_of(pixels, labels):
    images = torch.tensor(pixels).mul(255).round().to(torch.uint8).view(-1, 1, 1, 1)
    return data.Split(images, torch.tensor(labels))


RETAIN, FORGET = split_of([0.2, 0.0], [0, 2]), split_of([1.0, 0.6], [1, 2])


def run_of(tmp_path, **flags):
    """A run of loraprune on images of three classes."""
    settings = Settings({"forget_loss": None, "forget_weight": 0.1, "compact": None} | flags)
    dataset = data.Dataset("toy", RETAIN, RETAIN, ("a", "b", "c"), False, "toy", ((0.5,), (0.5,)))
    return Run("loraprune", settings, FP32, dataset, Staged(tmp_path / "x.pth"))


def asked(model, split, how, rows):
    """The objective on the images at these positions of what is trained on."""
    rows = torch.tensor(rows)
    drawn = how.get("draw", torch.clone)(rows)
    return how["objective"](model, split.images[rows] / 255, split.labels[rows], drawn).item()


@pytest.mark.parametrize(
    ("first", "others", "size", "shares"),
    [
        (90, 10, 20, [3, 3, 3, 3, 2]),  # 20 * 10 / 90 and 10 * 10 / 90, rounded up
        (100, 1, 25, [1, 1, 1, 1]),  # at least one
        (10, 90, 4, [4, 4, 2]),  # at most as many
    ],
)
def test_a_batch_is_followed_by_its_share_of_the_others(first, others, size, shares):
    torch.manual_seed(0)
    batches = pairs.batches_beside(first, first + others, size)
    split = [(batch[batch < first], batch[batch >= first]) for batch in batches]
    assert [len(drawn) for _, drawn in split] == shares
    assert all(torch.equal(batch, torch.cat(parts)) for batch, parts in zip(batches, split, strict=True))
    assert torch.cat([mine for mine, _ in split]).sort().values.tolist() == list(range(first))  # each once
    assert torch.cat([drawn for _, drawn in split]).max() < first + others
    torch.manual_seed(0)
    assert all(map(torch.equal, pairs.batches_beside(first, first + others, size), batches))
    assert not all(map(torch.equal, pairs.batches_beside(first, first + others, size), batches))
    drawn = torch.cat([torch.cat(pairs.batches_beside(first, first + others, size)) for _ in range(200)])
    assert set(drawn[drawn >= first].tolist()) == set(range(first, first + others))  # any of them


def test_both_losses_get_their_own_images_and_positions():
    heard = {}

    def loss(name, value):
        def hear(logits, labels, rows):
            heard[name] = logits[:, 0].tolist(), labels.tolist(), rows.tolist()
            return torch.tensor(value)

        return hear

    split, how = pairs.beside(RETAIN, FORGET, loss("first", 0.5), loss("other", 3.0))
    assert torch.equal(split.labels, torch.tensor([0, 2, 1, 2])) and how["of_answers"]
    assert asked(Pixel(), split, how, [1, 0, 3, 2, 3]) == 3.5
    assert heard["first"] == ([0.0, pytest.approx(0.2)], [2, 0], [1, 0])
    assert heard["other"] == ([pytest.approx(0.6), 1.0, pytest.approx(0.6)], [2, 1, 2], [1, 0, 1])
    torch.manual_seed(0)
    first = pairs.batches_beside(2, 4, 2)
    torch.manual_seed(0)
    assert all(map(torch.equal, how["batches"](4, 2), first))


def ce(x, label):
    return log(exp(x) + 2) - (x if label == 0 else 0)


def test_deletes_target_is_the_originals_and_not_the_students(tmp_path):
    """Original: logits (x, 0, 0), so an image of class 1 has the target (e^x, 0, 1) / (e^x + 1), and alike one of class 2.
    Student: (2 x, 0, 0)."""
    model = Pixel()
    run = run_of(tmp_path, forget_loss="delete", forget_weight=0.25)
    split, how = pairs.with_forget_loss(model, RETAIN, FORGET, run)
    model.scale.data.fill_(2.0)

    def divergence(x):
        p = exp(x) / (exp(x) + 1)
        return p * log(p) + (1 - p) * log(1 - p) - p * 2 * x + log(exp(2 * x) + 2)

    expected = (ce(0.4, 0) + ce(0.0, 2)) / 2 + 0.25 * (2 * divergence(1.0) + divergence(0.6)) / 3
    assert asked(model, split, how, [0, 1, 2, 2, 3]) == pytest.approx(expected, rel=1e-5)
    assert how["since"] > 0 and how["of_answers"]


def test_a_bounded_loss_ends_at_twice_the_cross_entropy_of_a_guess(tmp_path):
    """2 log 3 = 2.197: the class-1 image's cross-entropy is 1.551 in the original, and 2.240 where the scale is 2."""
    model = Pixel()
    run = run_of(tmp_path, forget_loss="bounded", forget_weight=0.25)
    split, how = pairs.with_forget_loss(model, RETAIN, FORGET, run)
    expected = (ce(0.2, 0) + ce(0.0, 2)) / 2 + 0.25 * (2 * log(3) - ce(1.0, 1))
    assert asked(model, split, how, [0, 1, 2]) == pytest.approx(expected, rel=1e-5)
    model.scale.data.fill_(2.0)
    assert asked(model, split, how, [0, 1, 2]) == pytest.approx((ce(0.4, 0) + ce(0.0, 2)) / 2, rel=1e-5)


def test_a_residual_loss_moves_the_last_stage_to_the_originals_features_of_d_r(tmp_path):
    """tests/test_rfau.py has the toy's features: (0, 0) and (1, 1.5) of D_r, variance 0.8125. Here the student's are others:
    (x, 3 x), so (0.2, 0.6) of D_f, 0.2 / 0.8125 from the one and 0.725 / 0.8125 from the other. The head says nothing."""
    model = nn.Sequential(OrderedDict(normalize=nn.Identity(), net=Toy()))
    model.net.fc.weight.data.zero_(), model.net.fc.bias.data.zero_()
    retain, forget = split_of([0.0, 1.0], [0, 1]), split_of([0.2], [1])
    run = run_of(tmp_path, forget_loss="residual", forget_weight=2.0)
    split, how = pairs.with_forget_loss(model, retain, forget, run)
    assert not how.get("of_answers")  # whose hooks no cached part would call
    model.net.layer2.conv.bias.data.zero_()
    found = {round(asked(model, split, how, [0, 1, 2]), 4) for _ in range(30)}
    expected = [log(2) + 2 * 0.2 / 0.8125, log(2) + 2 * 0.725 / 0.8125]
    assert sorted(found) == pytest.approx(expected, abs=1e-4)


def test_without_a_loss_on_d_f_nothing_is_looked_at_and_old_files_are_as_they_were(tmp_path, weights):
    assert pairs.with_forget_loss(None, RETAIN, None, run_of(tmp_path)) == (RETAIN, {})
    content = models.load_checkpoint(weights / "digits_resnet8_class3_loraprune2_s0.pth")
    assert not {"forget_loss", "forget_weight"} & {*content["config"], *content["identity"]["settings"]}
    path = call(loraprune, *forgetting_three(weights, 1), "--forget-loss", "delete", "--forget-weight", 0.3,
                "--weights", tmp_path, "--original", weights / "digits_resnet8_original_s0.pth")  # fmt: skip
    content = models.load_checkpoint(path)
    assert content["flags"] == {"--forget-loss": "delete", "--forget-weight": "0.3"} and "forget-loss-delete" in path.name
    assert content["identity"]["settings"]["forget_loss"] == "delete"


def test_flags_that_do_not_go_together_are_refused(tmp_path):
    for flags, message in (
        ({"forget_weight": 0.5}, "--forget-weight: --forget-loss says of what"),
        ({"forget_loss": "residual", "compact": "first"}, "--forget-loss residual: --compact first"),
    ):
        with pytest.raises(UserError, match=message):
            pairs.with_forget_loss(None, RETAIN, FORGET, run_of(tmp_path, **flags))


def test_outputs_of_frozen_layers_are_cached_beside_a_loss_on_answers(few_digits, tmp_path):
    """The same weights come out, but for rounding; of both D_r and D_f, each image's once."""
    states, flags = {}, (*FEW, "--original", few_digits / "vit_micro_original.pth", "--forget-class", 3, "--epochs", 1)
    flags = (*flags, "--batch-size", 32, "--forget-loss", "delete", "--precision", "fp32", "--quiet")
    for cache in (0, 4096):
        shared = Shared(cache)
        path = call(loraprune, *flags, "--output", tmp_path / f"{cache}.pth", shared=shared)
        states[cache] = models.load_checkpoint(path)["state_dict"]
        done = [int(part.done.sum()) for part in shared.features.kept]
        assert done == ([-(-300 // 250)] if cache else [])
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[4096][name], atol=1e-3, rtol=1e-3)
