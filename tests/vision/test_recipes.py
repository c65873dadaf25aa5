"""The recipes of originals as numbers: PruneLoRA's (arXiv 2411.11907), and the fast one."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.optim import muon as library

import data
import finetune
import lora
import models
import pretrain
import retrain
import rfau
from baselines import gradascent
from tests.helpers import FP32, call
from unlearning.core.errors import UserError
from unlearning.vision import finish, recipes
from unlearning.vision.muon import Muon
from unlearning.vision.predict import predict
from unlearning.vision.train import fit

SHAPE = {"in_chans": 3, "num_classes": 10, "img_size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}


def recipe_of(name, steps, flip=True, crop=None, muon=False):
    model = models.create(name, **SHAPE)
    return model, recipes.paper_recipe(model, steps, 0.25, 7, flip=flip, crop=crop, muon=muon)


def test_a_cnn_is_trained_as_the_papers_resnet():
    model, recipe = recipe_of("resnet8", 8)
    optimizer = recipe["optimizer"]
    assert set(recipe) == {"optimizer", "scheduler", "augment"}  # no mixup, no clipping
    assert type(optimizer) is torch.optim.SGD
    (group,) = optimizer.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}
    assert group["initial_lr"] == 0.25
    assert {key: group[key] for key in ("momentum", "dampening", "weight_decay", "nesterov", "maximize")} == {
        "momentum": 0.9,
        "dampening": 0,
        "weight_decay": 5e-4,
        "nesterov": False,
        "maximize": False,
    }
    assert recipe["augment"] is data.crop_and_flip
    assert recipe_of("resnet8", 8, flip=False)[1]["augment"] is data.random_crop


def test_a_vit_is_trained_as_the_papers():
    model, recipe = recipe_of("vit_micro", 40)
    optimizer = recipe["optimizer"]
    assert set(recipe) == {"optimizer", "scheduler", "augment", "mixup", "clip"}
    assert type(optimizer) is torch.optim.AdamW
    assert recipe["augment"] is data.random_flip and recipe["clip"] == 1.0
    assert recipe_of("vit_micro", 8, flip=False)[1]["augment"] is None
    assert recipe_of("vit_micro", 8, crop=True)[1]["augment"] is data.crop_and_flip
    assert recipe_of("resnet8", 8, crop=False)[1]["augment"] is data.random_flip
    assert recipe_of("resnet8", 8, crop=False, flip=False)[1]["augment"] is None
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():  # matrices alone decay: no bias, no norm; positions aren't trained
        expected = (0.1 if parameter.ndim > 1 else 0.0) if parameter.requires_grad else None
        assert decays.get(id(parameter)) == expected, name
    for group in optimizer.param_groups:
        assert (group["initial_lr"], group["betas"], group["eps"], group["amsgrad"]) == (0.25, (0.9, 0.999), 1e-8, False)


def test_mixup_mixes_images_and_labels_by_one_share_out_of_beta_02():
    """A share of Beta(a, a) has the variance 1 / (4 (2 a + 1)): for a = 0.2 that is 1 / 5.6."""
    _, recipe = recipe_of("vit_micro", 40)
    images, labels, shares = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1), torch.tensor([6, 2]), []
    torch.manual_seed(0)
    for _ in range(700):
        x, y = recipe["mixup"](images, labels)
        torch.testing.assert_close(x[:, 0, 0, 0], y[:, 6])
        assert y.shape == (2, 7) and torch.allclose(y[:, 2] + y[:, 6], torch.ones(2))
        shares.append(x[0].item())
    variance = torch.tensor(shares).double().var().item()
    assert variance == pytest.approx(1 / 5.6, rel=0.1)  # 0.5: 1 / 8; 0.1: 1 / 4.8


@pytest.mark.parametrize(
    ("name", "steps", "warm"), [("resnet8", 8, 0), ("vit_micro", 40, 10), ("vit_micro", 80_000, 10_000)]
)
def test_the_rate_warms_up_and_falls_as_a_cosine_step_by_step(name, steps, warm):
    """A ViT's warm-up takes 10,000 steps, but at most a quarter of the run."""
    _, recipe = recipe_of(name, steps)
    for rate in recipe["scheduler"].lr_lambdas:
        for step in range(0, steps + 1, max(1, steps // 40)):
            cosine = (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2
            assert rate(step) == pytest.approx(step / warm if step < warm else cosine, abs=1e-12), step


def fast(name, steps=8, flip=True, images=50, crop=None, seed=0, muon=False, channels=3):
    model, seen = models.create(name, **SHAPE), torch.zeros(images, channels, 4, 4, dtype=torch.uint8)
    split = data.Split(seen, torch.zeros(images))
    return model, recipes.fast_recipe(model, steps, 0.25, 7, split, seed, flip=flip, crop=crop, muon=muon)


@pytest.mark.parametrize("muon", [True, False])
@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
@pytest.mark.parametrize("how", [fast, recipe_of])
def test_a_recipes_optimiser_and_muon_in_its_place_decay_matrices_alone(how, name, muon):
    """But SGD of the paper's recipe, which has a test of its own."""
    if (how, name, muon) == (recipe_of, "resnet8", False):
        return
    model, recipe = how(name, 8, muon=muon)
    optimizer = recipe["optimizer"]
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decay = 5e-4 if name == "resnet8" else 0.1
    for key, parameter in model.named_parameters():
        expected = (decay if parameter.ndim > 1 else 0.0) if parameter.requires_grad else None
        assert decays.get(id(parameter)) == expected, key
    for group in optimizer.param_groups:
        assert group["initial_lr"] == 0.25
        if muon:
            assert (type(optimizer), group["nesterov"], group["adjust_lr_fn"]) == (Muon, True, "match_rms_adamw")
        elif name == "resnet8":
            assert (type(optimizer), group["momentum"], group["nesterov"]) == (torch.optim.SGD, 0.9, True)
        else:
            assert type(optimizer) is torch.optim.AdamW
    assert recipe.get("clip") == (1.0 if name == "vit_micro" else None)


def test_muon_computes_in_fp32_on_cpus(monkeypatch):
    """By the library's own choice it would be bf16, which CPUs without such units take many times as long for."""
    orthogonal, asked = library.zeropower_via_newtonschulz, []
    monkeypatch.setattr(
        library, "zeropower_via_newtonschulz", lambda *given, **how: asked.append(how["dtype"]) or orthogonal(*given, **how)
    )
    model = torch.nn.Sequential(torch.nn.Linear(8, 6))
    optimizer = Muon(model.parameters(), lr=0.1)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    assert asked == [torch.float32] and library.zeropower_via_newtonschulz.__name__ == "<lambda>"  # it is put back


def test_the_fast_recipes_rate_is_one_triangle():
    _, recipe = fast("resnet8", steps=8)
    for rate in recipe["scheduler"].lr_lambdas:
        assert [rate(step) for step in range(9)] == pytest.approx([0, 0.5, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_the_fast_recipe_smooths_labels_as_pytorchs_cross_entropy_does():
    _, recipe = fast("resnet8")
    logits, y = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)), torch.tensor([6, 2, 0, 0, 3])
    x, soft = recipe["mixup"](logits, y)
    assert x is logits and torch.allclose(soft.sum(1), torch.ones(5))
    smoothed = torch.nn.functional.cross_entropy(logits, y, label_smoothing=0.1)
    torch.testing.assert_close(torch.nn.functional.cross_entropy(logits, soft), smoothed)


def test_the_fast_recipe_mirrors_each_image_in_every_other_epoch():
    """A half of them in the even ones; drawn by the seed."""
    rows = torch.arange(1000)
    mirrored, other = (fast("resnet8", images=1000, seed=seed)[1]["mirrored"] for seed in (0, 1))
    even, odd = mirrored(rows, 0), mirrored(rows, 1)
    assert (
        torch.equal(even, ~odd) and torch.equal(mirrored(rows, 2), even) and torch.equal(mirrored(rows[5:9], 4), even[5:9])
    )
    assert 450 < even.sum() < 550 and not torch.equal(even, other(rows, 0))
    assert "mirrored" not in fast("resnet8", flip=False)[1]


def test_the_fast_recipe_crops_colours_alone_unless_it_is_told():
    assert fast("resnet8")[1]["augment"] is data.random_crop and "augment" not in fast("resnet8", channels=1)[1]
    assert fast("resnet8", crop=True, channels=1)[1]["augment"] is data.random_crop
    assert "augment" not in fast("resnet8", crop=False)[1]


@pytest.mark.parametrize(
    ("model", "grey", "recipe", "changed"),
    [
        ("resnet8", True, "fast", {}),
        ("resnet20", False, "fast", {}),
        ("resnet20", True, "fast", {"crop": True}),
        ("vit_micro", True, "fast", {"muon": True}),
        ("resnet20", True, "paper", {}),
        ("vit_micro", True, "paper", {}),
    ],
)
def test_what_a_recipe_does_since_a_later_version_is_recorded_and_no_part_of_a_name(
    model, grey, recipe, changed, tmp_path, monkeypatch
):
    """Files of earlier versions, which say nothing of it, stay those of the recipes as they were: of grey images without
    crops, and without Muon."""
    shade = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 1 if grey else 3), dtype=np.uint8)
    images, where = np.broadcast_to(shade, (8, 8, 8, 1 if grey else 3)), tmp_path / "c.npz"
    np.savez(where, x_train=images, y_train=np.arange(8) % 2, x_test=images, y_test=np.arange(8) % 2)
    asked, usual = [], getattr(recipes, f"{recipe}_recipe")
    monkeypatch.setattr(recipes, f"{recipe}_recipe", lambda *a, **how: asked.append(how) or usual(*a, **how))
    flags = ("--dataset", f"npz:{where}", "--model", model, "--recipe", recipe, "--epochs", 1, "--weights", tmp_path)
    path = call(pretrain, *flags)
    assert {name: asked[0][name] for name in ("crop", "muon")} == {"crop": None, "muon": False} | changed
    content = models.load_checkpoint(path)
    for said in (content["config"], content["identity"]["settings"]):
        assert {name: said[name] for name in ("crop", "muon") if name in said} == changed
    assert "crop" not in path.name and "muon" not in path.name


def test_a_recipe_by_hand_is_another(tmp_path):
    """Named, but for what earlier versions did, whose files of the same name are not taken for today's."""
    flags = ("--dataset", "digits", "--subset", 40, "--model", "vit_micro", "--epochs", 1, "--weights", tmp_path, "--quiet")
    assert call(pretrain, *flags, "--no-muon", "--crop").name == "digits-40_vit_micro_original-epochs-1-crop_s0.pth"
    with pytest.raises(UserError, match=r"_original-epochs-1-crop_s0.pth was made with other settings \(--muon\)"):
        call(pretrain, *flags, "--crop")


def test_the_rate_moves_with_every_optimiser_step():
    """Two epochs of three batches: 0.25 times the cosine of each of six steps."""
    some = data.load("digits").train.take(slice(6))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    optimizer, rates = torch.optim.SGD(model.parameters(), lr=0.25), []
    optimizer.register_step_pre_hook(lambda *_: rates.append(optimizer.param_groups[0]["lr"]))
    schedule = recipes.warm_up_and_cosine(optimizer, 6, 0)
    fit(model, some, optimizer, epochs=2, batch_size=2, seed=0, compute=FP32, scheduler=schedule)
    assert rates == pytest.approx([0.125 * (1 + math.cos(math.pi * step / 6)) for step in range(6)])
    assert optimizer.param_groups[0]["lr"] == 0


def test_the_line_at_the_end_counts_test_images_and_those_of_forgotten_classes_apart():
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    dataset = SimpleNamespace(test=data.Split(torch.empty(6, 0), labels), classes=("ant", "1", "bee"))
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 1, 1, 2, 0]), 3).float()  # right: 1 of 2, 2 of 3, 0 of 1
    for gone, text in (
        ([], "50.0 % of 6"),
        ([0], "50.0 % of 4 of the kept classes, 50.0 % of 2 of class 0 (ant)"),
        ([1, 2], "50.0 % of 2 of the kept classes, 50.0 % of 4 of classes 1, 2 (bee)"),
        ([0, 1], "0.0 % of 1 of the kept classes, 60.0 % of 5 of classes 0 (ant), 1"),
        ([0, 1, 2], "50.0 % of 6 of classes 0 (ant), 1, 2 (bee)"),
    ):
        assert recipes.known_of_test(logits, dataset, gone) == f"accuracy on test images: {text}"


def test_a_run_ends_with_its_accuracy_and_warns_of_few_steps_though_it_is_quiet(tmp_path, monkeypatch, capsys):
    """The accuracy is that of what was written; 120 images are 4 batches of 32."""
    assert (finish.FEW_AFRESH, finish.FEW) == (100, 10)
    flags = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--batch-size", 32, "--epochs", 1, "--quiet")
    flags += ("--precision", "fp32", "--weights", tmp_path)
    path = call(pretrain, *flags)
    out, err = capsys.readouterr()
    test = data.load("digits").test
    right = (predict(models.build(models.load_checkpoint(path)), test, FP32).argmax(1) == test.labels).double().mean()
    assert out.splitlines()[0] == f"accuracy on test images: {100 * right:.1f} % of 364"
    assert out.splitlines()[1].startswith(f"{path}  (") and len(out.splitlines()) == 2
    few = "a smaller --batch-size (it is 32) or more --epochs (1) makes more of them"
    assert err == f"warning: 4 optimiser steps in all, few to learn in: {few}\n"
    monkeypatch.setattr(finish, "FEW_AFRESH", 4)
    call(retrain, *flags, "--forget-class", 3, 5, "--batch-size", 16)  # 6 steps
    out, err = capsys.readouterr()
    begin = r"accuracy on test images: \S+ % of 290 of the kept classes, 0.0 % of 74 of classes 3, 5\n"
    assert re.match(begin, out) and err == ""
    monkeypatch.undo()
    unlearn = (*flags[:6], "--forget-class", 3, "--original", path, "--precision", "fp32", "--weights", tmp_path, "--quiet")
    for script, images, size in ((finetune, 108, 128), (lora, 108, 128), (gradascent, 12, 8), (rfau, 12, 8)):
        for epochs in (1, -(-10 // -(-images // size))):  # as many as make ten steps: none is warned of
            call(script, *unlearn, "--epochs", epochs)
            few = f"a smaller --batch-size (it is {size}) or more --epochs ({epochs}) makes more of them"
            steps = -(-images // size)
            line = f"warning: {steps} optimiser step{'s' * (steps > 1)} in all, few to learn in: {few}\n"
            assert capsys.readouterr().err == (line if epochs == 1 else "")
