"""The frozen part: found from the parameters, run once, shared, and without a trace in any result."""

import copy
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from timm.layers import EvoNorm2dB0
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch._subclasses import FakeTensorMode

import data
import finetune
import lora
import loraprune
import models
import pretrain
from baselines import control
from tests.helpers import FEW, FP32, call, rows_of
from unlearning.vision import adapters, feature_cache, graph_cut
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

SHAPE = {"in_chans": 1, "num_classes": 10, "img_size": 8, "mean": [0.3], "std": [0.3]}
RUNS = {
    "lora": (lora, ()),
    "loraprune": (loraprune, ()),
    "head-only": (control, ("--kind", "head-only")),
    "mask": (control, ("--kind", "mask")),
    "finetune": (finetune, ()),
}


@pytest.fixture
def shared():
    return Shared()


@pytest.fixture
def asked():
    """How many images each kind of module has seen: {class name: count}."""
    counts = {}

    def count(module, inputs, output):
        if isinstance(inputs[0], torch.Tensor):  # torch.fx passes through as well
            name = type(module).__name__
            counts[name] = counts.get(name, 0) + len(inputs[0])

    hook = nn.modules.module.register_module_forward_hook(count)
    yield counts
    hook.remove()


def cut(model):
    model.train()
    return graph_cut.cut_at(model, graph_cut.moving_in_training(model), torch.rand(3, 1, 8, 8))


def adapted(name="vit_micro"):
    torch.manual_seed(0)
    model = models.create(name, **SHAPE)
    return adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1).get_base_model()


def unlearned(row, folder, tmp_path, *flags, model="vit_micro", shared=None):
    script, own = RUNS[row]
    start = next(folder.glob(f"*{model}_original*.pth"))
    common = (*FEW, "--original", start, "--weights", tmp_path, "--forget-class", 3, "--epochs", 2, "--quiet")
    common += () if row == "mask" else ("--batch-size", 32)
    output = tmp_path / f"{row}{''.join(map(str, flags))}.pth"
    return models.load_checkpoint(call(script, *common, *own, *flags, "--output", output, shared=shared))


def test_the_cut_lies_within_the_last_block():
    model = adapted()
    below, tail = cut(model)
    x = torch.rand(5, 1, 8, 8)
    kept = below(x)
    assert [tuple(h.shape) for h in kept] == [(5, 16, 128), (5, 16, 128)]
    block = model.net.blocks[3].eval()
    residual = model.net.blocks[:3](model.net.patch_embed(model.normalize(x)) + model.net.pos_embed)
    torch.testing.assert_close(kept[0], residual)
    inputs = []
    block.attn.proj.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    expected = model.eval()(x)
    torch.testing.assert_close(kept[1], inputs[0])
    torch.testing.assert_close(tail(*kept), expected)
    assert not any(key.startswith("net.blocks.3.attn.proj") for key in below.state_dict())


def test_gradients_of_the_tail_are_the_networks():
    """To fp32 rounding; the backward pass through the kept tensors ends there."""
    model = adapted()
    below, tail = cut(model)
    x, y = torch.rand(6, 1, 8, 8), torch.arange(6)
    trained = [p for p in model.parameters() if p.requires_grad]
    grads = []
    for logits in (lambda: model(x), lambda: tail(*(h.detach() for h in below(x)))):
        torch.manual_seed(1)
        grads.append(torch.autograd.grad(nn.functional.cross_entropy(logits(), y), trained))
    for whole, part in zip(*grads, strict=True):
        torch.testing.assert_close(whole, part)
    assert any(g.abs().max() > 0 for g in grads[0])


def test_outputs_that_are_computed_from_another_parts_are_not_mistaken_for_these():
    """LoRA's part lies below that of the head alone: for further images the one's outputs are made while the other's are."""
    cache, original = FeatureCache(100), models.create("vit_micro", **SHAPE).eval()
    splits = [data.Split(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.arange(6)) for _ in range(3)]
    tuned, headed = copy.deepcopy(original), copy.deepcopy(original).train()
    tuned = adapters.attach(tuned, adapters.last_and_head(tuned), 4, 8, 0.1).train()
    headed.requires_grad_(False)
    headed.net.head.requires_grad_(True)
    assert cache.keep(tuned, splits[0], FP32) and cache.keep(headed, splits[0], FP32)
    for split in splits:
        torch.testing.assert_close(predict(original, split, FP32, cache), original(split.images / 255).detach())
    assert len({id(outputs.below) for outputs in cache.kept}) == 2


class Mixing(nn.Module):
    """Adds to each token a mean over all of them, which is 0 until it is trained."""

    def __init__(self, features):
        super().__init__()
        self.layer = nn.Linear(features, features)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return x + self.layer(x).mean(1, keepdim=True)


class OfEach(nn.Linear):
    """A head that answers for each token, of which the first answer counts."""

    def forward(self, x):
        return super().forward(x)[:, 0]


@pytest.mark.parametrize(
    ("kind", "arguments", "own", "tokens"),
    [
        (VisionTransformer, {}, {}, 1),
        (VisionTransformer, {"global_pool": "avg"}, {}, 17),
        (VisionTransformer, {"global_pool": "avg", "class_token": False}, {}, 16),
        (VisionTransformer, {}, {"norm": nn.Sequential(Mixing(16), nn.LayerNorm(16))}, 17),
        (VisionTransformer, {"global_pool": ""}, {"head": OfEach(16, 10)}, 17),  # a probe reads the mean of what it reads
        (VisionTransformer, {"proj_drop_rate": 0.1}, {}, 17),  # drawn for each token
        (VisionTransformerDistilled, {}, {}, 18),  # with a second token that is read
    ],
)
def test_of_a_vit_read_at_its_class_token_that_token_is_cached(kind, arguments, own, tokens, capsys):
    """And trained as it would be among the others, dropout included. Nothing is said of what was tried."""
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2}
    net = kind(num_classes=10, **sizes, **arguments)
    for name, module in copy.deepcopy(own).items():
        setattr(net, name, module)
    targets = ["blocks.1.attn.proj", *([] if "head" in own else ["head"])], []
    tuned = adapters.attach(net, targets, 4, 8, 0.25).train()
    split = data.Split(torch.randint(256, (6, 1, 8, 8), dtype=torch.uint8), torch.arange(6))
    cache = FeatureCache(64)
    network, inputs, _ = cache.keep(tuned, split, FP32)
    assert {value.shape for value in cache.kept[0].values} == {(6, tokens, 16)} and capsys.readouterr() == ("", "")
    if not arguments.get("proj_drop_rate"):  # the part below draws too there, in the whole network alone
        found = []
        for run, x in ((network, next(inputs([torch.arange(6)]))), (tuned, split.images / 255)):
            torch.manual_seed(3)
            tuned.zero_grad()
            logits = run(x)
            nn.functional.cross_entropy(logits, split.labels).backward()
            found.append([logits.detach(), *(p.grad for p in tuned.parameters() if p.requires_grad)])
        torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("row", "model"), [*((row, "vit_micro") for row in ("lora", "loraprune", "head-only")), ("head-only", "resnet8")]
)
def test_weights_are_the_same_with_and_without(row, model, few_digits, tmp_path, asked):
    once = unlearned(row, few_digits, tmp_path, model=model)
    seen = dict(asked)
    whole = unlearned(row, few_digits, tmp_path, "--cache", 0, model=model)
    first, count = "PatchEmbed" if model == "vit_micro" else "Normalize", 300
    assert seen[first] < count + 30 < 2 * (count - len(once["forget"])) <= asked[first] - seen[first]
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(once["state_dict"][key], value, atol=2e-5, rtol=1e-4, msg=key)
    original = models.load_checkpoint(few_digits / f"{model}_original.pth")
    assert models.moved(once["state_dict"], original["state_dict"])


def test_methods_ranks_and_rates_share_the_frozen_part(few_digits, tmp_path, shared, asked):
    unlearned("lora", few_digits, tmp_path, shared=shared)
    seen = asked["PatchEmbed"]
    for row, *flags in (("lora", "--rank", 2, "--lr", 0.001), ("loraprune",), ("head-only",), ("lora", "--seed", 0)):
        cost = unlearned(row, few_digits, tmp_path, *flags, shared=shared)["cost"]
        assert cost["seconds"] >= shared.features.kept[0].spent * 0.8  # what the first run has paid for counts for each
    assert asked["PatchEmbed"] - seen < 100  # some examples, to find the cut
    assert len(shared.features.kept) == 2  # the head's input was made from what LoRA had kept


def test_another_original_shares_nothing(few_digits, tmp_path, shared, asked):
    call(pretrain, *FEW, "--model", "vit_micro", "--epochs", 1, "--seed", 1, "--weights", tmp_path, "--quiet")
    first = unlearned("lora", few_digits, tmp_path, shared=shared)
    seen = asked["PatchEmbed"]
    unlearned("lora", tmp_path, tmp_path, "--seed", 1, shared=shared)
    assert asked["PatchEmbed"] - seen >= 300 - len(first["forget"])


def test_scores_are_the_same_bits_and_cheaper(few_digits, asked, tmp_path):
    """Original, mask, LoRA and PruneLoRA have nearly everything in common; fine-tuning leaves nothing as it was."""
    methods = ("mask", "lora", "loraprune", "finetune")
    for method in methods:
        unlearned(method, few_digits, tmp_path, *(() if method == "mask" else ("--epochs", 1)))
    files = [few_digits / "vit_micro_original.pth", *sorted(tmp_path.glob("*.pth"))]
    tables = []
    for more in (["--cache", "0"], []):
        before = asked["PatchEmbed"]
        rows = rows_of(*files, "--weights", tmp_path, *more, beneath=False)
        tables.append((rows, asked["PatchEmbed"] - before))
    (whole, all_images), (shared, fewer) = tables
    assert json.dumps(whole) == json.dumps(shared)
    assert all_images - fewer > 2 * (300 + 364)  # of training and of test images


def test_what_moves_is_not_kept():
    """Nothing frozen; a batch norm in training at the very start; a dropout at the very start."""
    split = data.load("digits").train
    assert FeatureCache(4096).keep(models.create("vit_micro", **SHAPE).train(), split, FP32) is None
    assert FeatureCache(4096).keep(adapted("resnet8").train(), split, FP32) is None
    model = adapted()
    model.net.pos_drop.p = 0.5
    below, _ = cut(model)
    assert [key for key in below.state_dict() if "blocks" in key] == []
    assert FeatureCache(4096).keep(model.train(), split, FP32) is None


class Centred(nn.Module):
    """Takes the batch's mean away in training, as a layer of one's own may."""

    def forward(self, x):
        return x - x.mean(0) if self.training else x


@pytest.mark.parametrize(
    ("layer", "cached"),
    [
        (lambda: EvoNorm2dB0(8), False),
        (lambda: nn.InstanceNorm2d(8, track_running_stats=True), False),
        (Centred, False),
        (lambda: nn.GroupNorm(2, 8), True),
        (lambda: nn.BatchNorm2d(8).eval(), True),
    ],
)
def test_a_part_that_depends_on_the_batch_or_on_the_mode_is_not_cached(layer, cached, capsys):
    torch.manual_seed(0)
    norm = layer()
    below = [nn.Conv2d(1, 8, 3, padding=1), norm, nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)]
    model = nn.Sequential(*below, nn.Flatten(), nn.Linear(512, 10)).requires_grad_(False).train()
    norm.train(norm.training and not isinstance(norm, nn.BatchNorm2d))
    model[-1].requires_grad_(True)
    kept = FeatureCache(100).keep(model, data.load("digits", subset=50).train, replace(FP32, quiet=False))
    assert bool(kept) == cached
    assert ("not cached" in capsys.readouterr().err) != cached


def test_a_network_that_cannot_be_followed_is_run_as_it_is():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.head = nn.Linear(4, 4).requires_grad_(False), nn.Linear(4, 2)

        def forward(self, x):
            h = self.below(x.flatten(1)[:, :4])
            return self.head(h if h.sum() > 0 else -h)

    class Noisy(Branches):
        def forward(self, x):
            return self.head(self.below(x.flatten(1)[:, :4]) + torch.rand(len(x), 4))

    for network in (Branches(), Noisy()):
        assert graph_cut.cut_at(network, {network.head}, torch.rand(3, 1, 8, 8)) is None


def test_sizes_are_asked_again_in_the_tail():
    """A batch's size is no image's feature: the tail finds it out for the batch that it gets."""

    class Reshapes(nn.Module):
        def __init__(self):
            super().__init__()
            self.below, self.head = nn.Linear(8, 6).requires_grad_(False), nn.Linear(12, 2)

        def forward(self, x):
            h = self.below(x)
            batch, _, height, _ = h.shape
            return self.head(h.view(batch * 4, 12)).view(batch, height // 2, 2).sum(1)

    network = Reshapes()
    below, tail = graph_cut.cut_at(network, {network.head}, torch.rand(3, 1, 8, 8))
    x = torch.rand(7, 1, 8, 8)
    torch.testing.assert_close(tail(*below(x)), network(x))


def test_changed_weights_are_never_taken_for_the_kept_ones(few_digits, tmp_path, shared):
    unlearned("lora", few_digits, tmp_path, shared=shared)
    dataset = data.load("digits", subset=300)
    model = models.build(models.load_checkpoint(few_digits / "vit_micro_original.pth"))
    before = predict(model, dataset.train, FP32, shared.features)
    with torch.no_grad():
        model.net.blocks[0].mlp.fc1.weight[0, 0] += 1
    after = predict(model, dataset.train, FP32, shared.features)
    assert not torch.equal(before, after)
    with torch.no_grad():
        torch.testing.assert_close(after, model(dataset.train.images.float() / 255))


@pytest.mark.parametrize("kept", ["fp32", "bf16"])
def test_outputs_of_one_precision_are_never_taken_for_the_others(kept):
    """Rounding would pass for a result: in one process, after training has cached the frozen part in the one."""
    split, features, model = data.load("digits", subset=100).train, FeatureCache(100), adapted()
    one, other = (replace(FP32, precision=precision) for precision in (kept, "bf16" if kept == "fp32" else "fp32"))
    _, inputs, _ = features.keep(model.train(), split, one)
    assert len(list(inputs([torch.arange(100)]))) == 1 and features.kept[0].done.all()
    model.eval()
    found = [predict(model, split, compute, features) for compute in (one, other)]
    without = [predict(model, split, compute) for compute in (one, other)]
    assert not torch.equal(*without) and torch.equal(found[1], without[1])
    assert features.kept[0].matches(model, one) and not features.kept[0].matches(model, other)


def test_outputs_of_one_input_size_are_never_taken_for_the_others():
    """Of the same weights: a layer without any, such as the one that resizes, has a part in them too."""
    split, features = data.load("digits", subset=100).train, FeatureCache(100)
    small = models.create("resnet8", **SHAPE, input_size=16).eval()
    large = models.create("resnet8", **SHAPE, input_size=24).eval()
    large.load_state_dict(small.state_dict())
    own = {name: tensor.numpy().tobytes() for name, tensor in small.state_dict().items()}
    other = own | {"net.fc.weight": b"", "net.fc.bias": b""}
    features.share_between(small, own, [other], split, FP32)
    assert len(features.kept) == 1
    assert not torch.allclose(predict(small, split, FP32), predict(large, split, FP32), atol=1e-3)
    for model in (small, large, small):
        torch.testing.assert_close(predict(model, split, FP32, features), predict(model, split, FP32))


def test_one_image_alone_is_cached_too():
    split, features, model = data.load("digits", subset=100).train, FeatureCache(100), adapted()
    assert features.keep(model.train(), split, FP32)
    one = data.Split(split.images[:1], split.labels[:1])
    torch.testing.assert_close(predict(model.eval(), one, FP32, features), predict(model, one, FP32))
    assert len(features.kept) == 2


def test_outputs_of_some_images_are_never_taken_for_others(shared):
    """Of one network in one precision, as many of them."""
    digits, model = data.load("digits"), adapted().eval()
    for split in (digits.train.take(slice(100)), digits.test.take(slice(100)), digits.train.take(slice(100, 200))):
        shared.features.keep(model.train(), split, FP32)
        torch.testing.assert_close(predict(model.eval(), split, FP32, shared.features), predict(model, split, FP32))
    assert len(shared.features.kept) == 2  # of the training images, and of the test images


def test_larger_than_the_budget_goes_to_a_file_without_a_name(few_digits, tmp_path, monkeypatch, shared):
    """Where Unix has one allocated, and elsewhere."""
    in_memory = unlearned("lora", few_digits, tmp_path, "--epochs", 1, shared=shared)
    assert shared.features.kept[0].in_memory
    for flags in (("--precision", "fp32"), ("--device", "cpu")):  # so that they have names of their own
        small = Shared(1)
        in_file = unlearned("lora", few_digits, tmp_path, "--epochs", 1, *flags, shared=small)
        assert not small.features.kept[0].in_memory
        assert not list(tmp_path.glob(".frozen*"))
        assert all(torch.equal(in_file["state_dict"][key], value) for key, value in in_memory["state_dict"].items())
        monkeypatch.delattr(os, "posix_fallocate", raising=False)


@pytest.mark.parametrize("unix", [True, False])
def test_without_room_it_says_so_and_runs_all(few_digits, tmp_path, monkeypatch, capsys, unix):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    if unix:
        monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    else:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    found = unlearned("lora", few_digits, tmp_path, "--cache", 1)
    assert "slower" in (said := capsys.readouterr().err) and "No space left" in said
    assert found["cost"]["moved"] > 0
    assert not list(tmp_path.glob(".frozen*"))


def test_what_a_gpu_computes_goes_into_a_file_in_memory_of_the_cpu():
    """Fake tensors know devices that aren't there, and refuse what these refuse."""
    with FakeTensorMode():
        kept, computed = torch.empty(6, 2), torch.ones(3, 2, device="cuda")
        feature_cache.put(kept, torch.arange(3), computed)
        assert kept.device.type == "cpu"
