"""Which filters go, that they are silent, and that they stay silent."""

import copy

import pytest
import torch
from torch import nn

import adapters
import models
import pruning

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
    assert len(pruning.prunable(models.create("resnet50", **(SHAPE | {"img_size": 32})))) == 53
    assert pruning.prunable(network("vit_micro")) == ["net.blocks.3.attn.proj"]


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
    pruning.l2_masks(model, 0.5, pruning.prunable(model))
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
    before = pruning.zeros(model)
    trained = adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1) if lora else model
    optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    pruning.keep(optimizer, trained, masks)
    take_steps(trained, optimizer)
    result = adapters.merge(trained) if lora else trained
    assert pruning.zeros(result) >= before
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
    before = pruning.zeros(model)
    trained = adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1) if lora else model
    take_steps(trained, torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=1e-2))
    result = adapters.merge(trained) if lora else trained
    assert pruning.zeros(result) < before / 2
    assert all(key.endswith(".weight") for key in masks)


def test_zeros_counts_weights():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 2))
    model[0].weight.data[:2] = 0
    assert pruning.zeros(model) == pytest.approx(100 * 8 / 30)


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
