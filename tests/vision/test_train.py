"""The loop: repeatable bits, its policies, its meters."""

from argparse import Namespace

import pytest
import torch

import data
import lora
import models
import pretrain
from tests.helpers import call, forgetting_three
from unlearning.core.errors import RunFailed
from unlearning.core.files import read_torch
from unlearning.vision import recipes
from unlearning.vision.predict import predict
from unlearning.vision.train import _snapshot, fit


def config(**changes):
    base = {"epochs": 2, "batch_size": 64, "seed": 0, "device": "cpu", "precision": "fp32", "quiet": True, "lr": 0.05}
    return Namespace(**{**base, "snapshot": None, "key": "", "cost": {}, "classes": 10, **changes})


def train(name="resnet8", subset=300, **changes):
    dataset = data.load("digits", subset=subset)
    settings = config(**changes)
    torch.manual_seed(settings.seed)
    model, _ = models.create_for(name, dataset)
    recipe = recipes.paper_recipe(model, len(dataset.train), settings, flip=False)
    return fit(model, dataset.train, config=settings, **recipe), settings


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
def test_same_seed_same_bits(name):
    assert same(train(name, lr=1e-3)[0], train(name, lr=1e-3)[0])
    assert not same(train(name, lr=1e-3)[0], train(name, lr=1e-3, seed=1)[0])


def test_a_snapshot_continues_with_the_same_bits(tmp_path):
    """Stop after the second of four epochs, by an error within the third, and go on."""
    whole, _ = train(epochs=4)
    snapshot = tmp_path / "x.partial"
    real, calls = _snapshot, []

    def fail_later(*arguments):
        real(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    _snapshot = fail_later
    try:
        with pytest.raises(KeyboardInterrupt):
            train(epochs=4, snapshot=snapshot)
    finally:
        _snapshot = real
    assert read_torch(snapshot)["epoch"] == 2
    assert same(train(epochs=4, snapshot=snapshot)[0], whole)


def test_batch_norm_policy(weights, tmp_path):
    common = forgetting_three(weights, 1)
    before = models.load_checkpoint(weights / "digits_resnet8_original_s0.pth")["state_dict"]
    for policy, moves in (("update", True), ("freeze", False)):
        after = models.load_checkpoint(call(lora, *common, "--epochs", 1, "--bn", policy, "--output", tmp_path / policy))[
            "state_dict"
        ]
        for key in before:
            if "running" in key or key.endswith(("bn1.weight", "bn2.bias")):
                assert torch.equal(before[key], after[key]) == (not moves or "running" not in key), key


def test_a_loss_that_is_not_a_number_fails_the_run():
    with pytest.raises(RunFailed, match="the loss is nan"):
        train(lr=1e30)


def test_the_recipe_warms_up_and_ends_at_zero():
    dataset = data.load("digits", subset=640)
    settings = config(epochs=4, lr=1e-3)
    model, _ = models.create_for("vit_micro", dataset)
    recipe = recipes.paper_recipe(model, 640, settings, flip=True)
    rates = []
    for _ in range(40):
        rates.append(recipe["optimizer"].param_groups[0]["lr"])
        recipe["optimizer"].step()
        recipe["scheduler"].step()
    assert rates[0] == 0
    assert max(rates) == rates[10] == 1e-3
    assert rates[-1] < 1e-5
    decay = {g["weight_decay"]: {p.ndim for p in g["params"]} for g in recipe["optimizer"].param_groups}
    assert decay[0.1] >= {2} and not decay[0.1] & {1}
    assert decay[0.0] <= {1}


def test_costs_are_measured():
    _, settings = train()
    assert settings.cost["seconds"] > 0
    assert 100 < settings.cost["memory_mib"] < 4096
    assert settings.cost["trainable"] == sum(p.numel() for p in train()[0].parameters())


def test_predict_gives_the_networks_logits_in_order():
    model, settings = train()
    some = data.load("digits").test.take(slice(130))
    with torch.no_grad():
        expected = model(some.images.float() / 255)
    torch.testing.assert_close(predict(model, some, settings, batch_size=50), expected, atol=1e-4, rtol=1e-4)


def test_pretrain_learns(tmp_path):
    path = call(pretrain, "--dataset", "digits", "--model", "resnet8", "--output", tmp_path / "x", "--epochs", 12, "--quiet")
    model = models.build(models.load_checkpoint(path))
    test = data.load("digits").test
    logits = predict(model, test, config())
    assert (logits.argmax(1) == test.labels).float().mean() > 0.8
