"""LoRA: every targeted layer learns, merging changes nothing, and PEFT reads what was written."""

import copy
import warnings
from collections import OrderedDict

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

import lora
import loraprune
import models
from tests.helpers import FEW, call
from unlearning.vision import adapter_files, adapters, pruning
from unlearning.vision.dropout import Dropout

SHAPE = {"in_chans": 3, "num_classes": 10, "img_size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}
COUNT = {"resnet8": 6, "resnet20": 18, "resnet50": 48, "vit_micro": 2, "vit_small": 2}


def network(name):
    """timm starts each block's last batch-norm scale at zero, which blocks gradients; trained networks have it elsewhere."""
    model = models.create(name, **SHAPE)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.ones_(module.weight)
    return model


def attach(name, rank, alpha):
    model = network(name)
    return adapters.attach(model, adapters.last_and_head(model), rank, alpha, 0.1)


@pytest.mark.parametrize("name", COUNT)
def test_every_targeted_layer_gets_a_gradient(name):
    """B learns from the first step, A from the second (its gradient is a multiple of B, which starts at zero)."""
    torch.manual_seed(0)
    adapted = attach(name, 4, 8).train()
    learned = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
    assert sum("lora_B" in key for key in learned) == COUNT[name]
    assert not any("bn" in key or "downsample" in key or "net.conv1" in key for key in learned)
    optimizer = torch.optim.Adam(learned.values(), lr=1e-3)
    for step in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(adapted(torch.rand(8, 3, 32, 32)), torch.arange(8)).backward()
        for key, parameter in learned.items():
            if step == 1 or "lora_A" not in key:
                assert parameter.grad is not None, key
                assert parameter.grad.abs().max() > 0, key
        optimizer.step()


@pytest.mark.parametrize("name", ["resnet8", "resnet50", "vit_micro", "vit_small"])
def test_the_merged_network_equals_the_adapted_one(name):
    torch.manual_seed(0)
    adapted = attach(name, 8, 16).eval().double()  # fp32 rounds by more than 1e-5 on some CPUs
    for key, parameter in adapted.named_parameters():
        if "lora_B" in key:
            torch.nn.init.normal_(parameter, std=0.01)
    x = torch.rand(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = adapted(x)
        merged = adapters.merge(copy.deepcopy(adapted)).eval()
        torch.testing.assert_close(merged(x), expected, atol=1e-9, rtol=1e-9)
        with adapted.disable_adapter():
            assert (adapted(x) - expected).abs().max() > 1e-3  # the adapters did something


CASES = [(lora, []), (loraprune, []), (loraprune, ["--prune-head"]), (loraprune, ["--regrow"]), (lora, ["--bn", "freeze"])]


@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
@pytest.mark.parametrize(("script", "flags"), CASES)
def test_the_saved_adapter_on_the_original_gives_the_merged_logits(few_digits, tmp_path, name, script, flags):
    common = ("--quiet", "--forget-class", 3, "--epochs", 1, "--batch-size", 32, "--precision", "fp32")
    original = few_digits / f"{name}_original.pth"
    path = call(script, *FEW, *common, "--original", original, "--output", tmp_path / "x.pth", *flags)
    merged = models.build(models.load_checkpoint(path))
    folder = adapter_files.folder_for(path)
    base = models.build(models.load_checkpoint(original))
    mask = folder / adapter_files.MASK_FILE
    assert mask.exists() == (script is loraprune)
    if mask.exists():
        pruning.silence(base.net, load_file(mask))
    x = torch.rand(16, 1, 8, 8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")  # PEFT's only word where names don't fit
        logits = PeftModel.from_pretrained(base.net, folder).eval()(base.normalize(x))
        torch.testing.assert_close(logits, merged(x), atol=1e-4, rtol=1e-4)
        untouched = models.build(models.load_checkpoint(original))
        torch.testing.assert_close(adapter_files.load(untouched, folder)(x), logits)


def test_prunelora_adapts_the_papers_layers():
    """Of a CNN the convolutions of its blocks, no stem, no shortcuts; of a ViT the last projection and the head."""
    convolutions = [f"net.layer{stage}.0.conv{k}" for stage in (1, 2, 3) for k in (1, 2)]
    norms = ["net.bn1", "net.layer1.0.bn1", "net.layer1.0.bn2"]
    for stage in (2, 3):
        norms += [f"net.layer{stage}.0.bn1", f"net.layer{stage}.0.bn2", f"net.layer{stage}.0.downsample.1"]
    assert adapters.last_and_head(network("resnet8")) == (convolutions, ["net.fc", *norms])
    assert adapters.last_and_head(network("vit_micro")) == (["net.blocks.3.attn.proj", "net.head"], [])


def test_an_adapter_adds_alpha_over_rank_times_b_a():
    model = nn.Sequential(OrderedDict(fc=nn.Linear(3, 2), head=nn.Linear(2, 2)))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    adapted = adapters.attach(model, (["fc"], ["head"]), 2, 5)
    down, up = (dict(adapted.named_parameters())[f"base_model.model.fc.lora_{x}.default.weight"] for x in "AB")
    assert (up == 0).all() and down.shape == (2, 3) and up.shape == (2, 2)
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 6 + 4 + 6  # A, B and the whole head
    with torch.no_grad():
        down.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]]))
        up.copy_(torch.tensor([[1.0, 2.0], [-3.0, 0.5]]))
    change = 5 / 2 * torch.tensor([[1.0, 0.0, 11.0], [-3.0, -6.5, -7.0]])
    merged = adapters.merge(adapted).state_dict()
    torch.testing.assert_close(merged["fc.weight"], before["fc.weight"] + change)
    assert all(torch.equal(merged[key], before[key]) for key in before if key != "fc.weight")


def test_the_adapter_is_small(weights):
    path = weights / "digits_vit_micro_class3_lora2_s0.pth"
    small = sum(file.stat().st_size for file in adapter_files.folder_for(path).iterdir())
    assert small < path.stat().st_size / 20


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropouts_cheap_masks(layout):
    """They drop at the rate asked for, keep the mean, and the gradient passes where the value did."""
    dropout = Dropout(0.1)
    x = torch.ones(50, 8, 25, 33).contiguous(memory_format=layout).requires_grad_()
    torch.manual_seed(0)
    y = dropout(x)
    zero = y == 0
    assert abs(zero.double().mean().item() - 0.1) < 5 * (0.09 / x.numel()) ** 0.5
    assert torch.allclose(y[~zero], torch.tensor(1 / 0.9), rtol=1e-4)
    for axis in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):  # no image, channel, row or column is favoured
        share = zero.double().mean(axis)
        assert (share - 0.1).abs().max() < 5 * (0.09 / (x.numel() / len(share))) ** 0.5
    assert (zero[:, :, :, :-1] & zero[:, :, :, 1:]).double().mean().item() == pytest.approx(0.01, abs=0.001)
    assert y.is_contiguous(memory_format=layout)
    y.sum().backward()
    torch.testing.assert_close(x.grad, y.detach())
    torch.manual_seed(0)
    assert torch.equal(dropout(x), y)
    again = dropout(x) == 0  # the next step drops others, and as many of the same as chance has it
    assert (zero & again).double().mean().item() == pytest.approx(0.01, abs=0.001)
    assert torch.equal(dropout.eval()(x), x)


def test_lora_drops_out_with_the_cheap_masks():
    for name, count in (("resnet8", 6), ("vit_micro", 2)):
        found = [module for module in attach(name, 4, 8).modules() if isinstance(module, torch.nn.Dropout) and module.p]
        assert len(found) == count
        assert all(isinstance(module, Dropout) and module.p == 0.1 for module in found)
