"""Which filters go, that they are silent, and that they stay silent."""

import copy

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import export
import loraprune
import models
import pruneft
from tests.helpers import call, forgetting_three, one_line, rows_of
from unlearning.core.errors import UserError
from unlearning.vision import adapter_files, adapters, compaction, layers, pruning
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings

SHAPE = {"in_chans": 1, "num_classes": 10, "img_size": 8, "mean": [0.3], "std": [0.3]}


def network(name):
    torch.manual_seed(0)
    model = models.create(name, **SHAPE)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    return model


def test_the_paper_prunes_every_convolution_or_the_last_projection():
    assert len(layers.prunable(models.create("resnet50", **(SHAPE | {"img_size": 32})))) == 53
    assert layers.prunable(network("vit_micro")) == ["net.blocks.3.attn.proj"]


@pytest.mark.parametrize("amount", [0.25, 0.5])
def test_the_rows_of_smallest_norm_go(amount):
    model = network("resnet8")
    name = "net.layer2.0.conv1"
    norms = model.get_submodule(name).weight.detach().flatten(1).norm(dim=1)
    masks = pruning.l2_masks(model, amount, [name])
    dead = (~masks[name]).nonzero().squeeze(1).tolist()
    assert dead == sorted(norms.argsort()[: round(amount * len(norms))].tolist())


def test_a_pruned_filter_is_silent_behind_its_batch_norm():
    model = network("resnet8").train()
    masks = pruning.prune_filters(copy.deepcopy(model), 0.5)
    pruning.l2_masks(model, 0.5, layers.prunable(model))
    heard = {}
    for name in ("net.bn1", "net.layer1.0.bn2", "net.layer3.0.downsample.1"):
        model.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: heard.__setitem__(name, o.clone()))
    model(torch.rand(5, 1, 8, 8))
    assert all((heard[name][:, ~masks[name]] != 0).any() for name in heard)  # weights alone don't silence
    pruning.silence(model, masks)
    for _ in range(2):
        model(torch.rand(5, 1, 8, 8))
        for name, output in heard.items():
            assert (output[:, ~masks[name]] == 0).all()
            assert (output[:, masks[name]] != 0).any()


@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
@pytest.mark.parametrize("lora", [False, True])
def test_the_mask_is_kept_in_training_and_after_merging(name, lora):
    model = network(name)
    masks = pruning.prune_filters(model, 0.5)
    before = models.zeros(model)
    trained = adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1) if lora else model
    optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    pruning.keep(optimizer, trained, masks)
    take_steps(trained, optimizer)
    result = adapters.merge(trained) if lora else trained
    assert models.zeros(result) >= before
    for layer, mask in masks.items():
        for parameter in result.get_submodule(layer).parameters():
            assert (parameter[~mask] == 0).all()
            assert (parameter[mask] != 0).any() or parameter.ndim == 1  # a fresh bias is zero anyway


@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
@pytest.mark.parametrize("lora", [False, True])
def test_without_keeping_the_filters_grow_back(name, lora):
    """The published behaviour: a few Adam steps and the zeros are gone (LoRA leaves the stem and the shortcuts alone)."""
    model = network(name)
    masks = pruning.prune_filters(model, 0.5, whole=False)
    before = models.zeros(model)
    trained = adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1) if lora else model
    take_steps(trained, torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=1e-2))
    result = adapters.merge(trained) if lora else trained
    assert models.zeros(result) < before / 2
    assert all(key.endswith(".weight") for key in masks)


def test_zeros_counts_weights():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    model[0].weight.data[:2] = 0
    assert models.zeros(model) == pytest.approx(100 * 8 / 30)


def test_zeroed_head_rows_are_half_of_the_classes():
    model = network("vit_micro")
    mask = pruning.zero_head_rows(model, 0.5)["net.head.weight"]
    assert mask.sum() == 5
    assert (model.net.head.weight[~mask] == 0).all()
    assert (model.net.head.weight[mask] != 0).all()


def take_steps(model, optimizer, steps=3):
    model.train()
    for step in range(steps):
        torch.manual_seed(step)
        loss = nn.functional.cross_entropy(model(torch.rand(16, 1, 8, 8)), torch.randint(0, 10, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", ["resnet8", "resnet18", "resnet50", "tf_efficientnet_lite0"])
def test_without_its_silent_channels_a_network_answers_alike(name):
    model = network(name).eval()
    masks = pruning.prune_filters(model, 0.5)
    images = torch.rand(4, 1, 16, 16)
    with torch.no_grad():
        expected = model(images)
        count = sum(p.numel() for p in model.parameters())
        left = compaction.remove(model, masks)
        torch.testing.assert_close(model(images), expected, atol=1e-4, rtol=1e-4)
    assert sum(p.numel() for p in model.parameters()) < 0.65 * count
    for layer, mask in left.items():  # what the masks of the smaller network silence is silent, and nothing else
        weight = model.get_submodule(layer).weight
        assert len(mask) == len(weight)
        assert (weight[~mask] == 0).all() and (weight[mask] != 0).any()
    assert model.get_submodule(layers.heads(model)[0]).out_features == 10


def test_a_channel_that_one_writer_still_uses_stays():
    """Of the stream that bn1, both blocks' last norms and the shortcut write, only what all silence may go."""
    model = network("resnet8").eval()
    masks = {name: torch.ones(len(model.get_submodule(name).weight), dtype=torch.bool) for name in ("net.conv1", "net.bn1")}
    for mask in masks.values():
        mask[:9] = False
    both = masks | {"net.layer1.0.conv2": masks["net.conv1"], "net.layer1.0.bn2": masks["net.bn1"]}
    pruning.silence(model, both)
    with pytest.raises(UserError, match="nothing to take out"):
        compaction.remove(copy.deepcopy(model), masks)
    left = compaction.remove(model, both)
    assert model.net.conv1.out_channels == model.net.layer1[0].conv2.out_channels == 8  # of 7 that speak
    assert all(len(mask) == 8 and mask.sum() == 7 for mask in left.values())


def test_what_still_speaks_is_not_taken_out():
    model = network("resnet8").eval()
    masks = pruning.l2_masks(model, 0.5, ["net.layer1.0.conv1"])  # the batch norm behind it still speaks
    with pytest.raises(UserError, match="nothing to take out"):
        compaction.remove(copy.deepcopy(model), masks)
    with pytest.raises(UserError, match="answers differently"):  # masks of what was never silenced
        compaction.remove(model, pruning.prune_filters(copy.deepcopy(model), 0.5))


def test_a_vision_transformer_has_nothing_to_take_out():
    model = network("vit_micro")
    with pytest.raises(UserError, match="nothing to take out"):
        compaction.remove(model, pruning.prune_filters(model, 0.5))


@pytest.mark.parametrize("script", [pruneft, loraprune])
def test_what_cant_be_made_smaller_is_not_trained_first(script, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Run, "fit", lambda *_, **__: pytest.fail("it was trained"))
    arguments = (*forgetting_three(weights, 1, "vit_micro"), "--compact", "--output", tmp_path / "x.pth")
    code, line = one_line(script, capsys, *arguments)
    assert code == 2 and "--compact: nothing to take out" in line and not list(tmp_path.iterdir())


def test_a_trial_of_compaction_draws_nothing():
    """With --compact the adapters start from the same numbers as without it."""
    draws = []
    for compact in (None, "after"):
        model = network("resnet8")
        flags = {"compact": compact, "regrow": False, "amount": 0.5, "prune_head": False}
        pruning.prune(model, Settings(flags), quiet=True)
        assert model.net.layer1[0].conv1.out_channels == 16
        draws.append(torch.rand(3))
    assert torch.equal(*draws)


@pytest.mark.parametrize("script", [pruneft, loraprune])
@pytest.mark.parametrize("when", ["first", "after"])
def test_a_compact_checkpoint_is_one_like_any_other(script, when, weights, tmp_path, capsys):
    common = forgetting_three(weights, 2)
    masked = call(script, *common, "--output", tmp_path / "masked.pth")
    small = call(script, *common, "--compact", when, "--output", tmp_path / "small.pth")
    assert small.stat().st_size < 0.75 * masked.stat().st_size
    one, other = rows_of(masked, small, "--weights", tmp_path, beneath=False)
    assert other["method"] == f"{script.__name__} --compact {when}"
    for metric in ("UA", "RA", "TA"):
        values = [row["metrics"][metric]["mean"] for row in (one, other)]
        assert values[0] == pytest.approx(values[1], abs=1e-9 if when == "after" else 12), metric
    if script is loraprune:
        original = models.build(models.load_checkpoint(next(weights.glob("digits_resnet8_original*"))))
        alone = adapter_files.load(original, adapter_files.folder_for(small if when == "first" else masked))
        images = torch.rand(5, 1, 8, 8)
        with torch.no_grad():
            expected = models.build(models.load_checkpoint(small))(images)
            torch.testing.assert_close(alone(images), expected, atol=1e-4, rtol=1e-4)


def test_compact_and_regrow_contradict(weights, capsys):
    common = ("--dataset", "digits", "--model", "resnet8", "--weights", weights, "--forget-class", 3, "--quiet")
    code, line = one_line(pruneft, capsys, *common, "--regrow", "--compact")
    assert code == 2 and "--regrow" in line


def test_an_exported_network_answers_alike(weights, tmp_path, capsys):
    """A compact one, from one image to many; the file is replaced only when asked to."""
    common = forgetting_three(weights, 1)
    path = call(pruneft, *common, "--compact", "--output", tmp_path / "small.pth")
    file = tmp_path / "small.onnx"
    call(export, path, "--onnx", file)
    session = onnxruntime.InferenceSession(file)
    images = torch.rand(3, 1, 8, 8)
    (answers,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = models.build(models.load_checkpoint(path))(images)
    torch.testing.assert_close(torch.from_numpy(answers), expected, atol=1e-4, rtol=1e-4)
    before, _ = file.read_bytes(), capsys.readouterr()
    assert call(export, path, "--onnx", file) == file
    assert capsys.readouterr().err == f"there already: {file}\n" and file.read_bytes() == before
    other = weights / "digits_resnet8_class3_mask2_s0.pth"
    code, line = one_line(export, capsys, other, "--onnx", file)
    assert code == 2 and "--overwrite" in line and file.read_bytes() == before
    (tmp_path / "mine.onnx").write_text("mine", encoding="utf-8")
    code, line = one_line(export, capsys, other, "--onnx", tmp_path / "mine.onnx")
    assert code == 2 and "--overwrite" in line and (tmp_path / "mine.onnx").read_text(encoding="utf-8") == "mine"


def test_a_mask_is_exported_with_its_infinite_logits(weights, tmp_path):
    path = weights / "digits_resnet8_class3_mask2_s0.pth"
    file = call(export, path, "--onnx", tmp_path / "mask.onnx")
    session = onnxruntime.InferenceSession(file)
    (answers,) = session.run(None, {session.get_inputs()[0].name: np.zeros((2, 1, 8, 8), dtype=np.float32)})
    assert (answers[:, 3] == -np.inf).all() and np.isfinite(np.delete(answers, 3, 1)).all()


def test_an_export_never_replaces_its_checkpoint_or_a_folder(weights, tmp_path, capsys):
    copied = tmp_path / "a.pth"
    copied.write_bytes((weights / "digits_resnet8_original_s0.pth").read_bytes())
    before = copied.read_bytes()
    for target, said in ((copied, "the checkpoint itself"), (tmp_path, "a folder")):
        code, line = one_line(export, capsys, copied, "--onnx", target, "--overwrite")
        assert code == 2 and said in line and copied.read_bytes() == before


def test_what_is_frozen_stays_so_where_channels_are_taken_out():
    model = network("resnet8")
    stem = next(name for name, _ in model.named_parameters())
    model.get_parameter(stem).requires_grad_(False)
    masks = pruning.prune_filters(model, 0.5)
    compaction.remove(model, masks)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == [stem]
