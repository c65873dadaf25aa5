"""Networks, checkpoints, and the published LoRA-Unlearn files."""

import copy
import os
import pickle
from collections import OrderedDict

import pytest
import torch
import torchvision
from peft import LoraConfig, get_peft_model
from torch import nn
from torchvision.models.vision_transformer import EncoderBlock

import data
import models
import pretrain
from tests.helpers import one_line
from unlearning.core import memory
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.vision import foreign

SHAPE = {"in_chans": 3, "num_classes": 10, "img_size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]}
SOUND = {
    "format": 1,
    "network": {
        "name": "resnet8",
        "arguments": {"in_chans": 1, "num_classes": 10, "img_size": 8, "mean": [0.5], "std": [0.5]},
    },
    "state_dict": {"w": torch.zeros(1)},
    "method": "lora",
    "config": {},
    "data": {"fingerprint": "f", "tag": "digits", "train": 1433},
    "forget": torch.tensor([3, 8]),
    "forget_tag": "list2",
    "seed": 0,
    "cost": {"seconds": 1.0, "trainable": 5},
    "key": "k",
}


@pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20), ("resnet18", 18), ("resnet50", 50)])
def test_resnets_have_the_layers_of_their_name(name, layers):
    model = models.create(name, **SHAPE)
    weighted = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "downsample" not in n]
    assert len(weighted) == layers
    assert model.net.conv1.stride == (1, 1)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


def test_sizes_of_the_papers_networks():
    """kuangliu's CIFAR ResNet-50 has 23,520,842 parameters; the SimpleViT's count follows from its widths."""
    assert sum(p.numel() for p in models.create("resnet50", **SHAPE).parameters()) == 23_520_842
    width, hidden, tokens = 384, 1536, 64
    block = 4 * width + 3 * width * (width + 1) + width * (width + 1) + 2 * width * hidden + width + hidden
    expected = 3 * 16 * width + width + 12 * block + 2 * width + 10 * (width + 1)
    vit = models.create("vit_small", **SHAPE)
    assert sum(p.numel() for p in vit.parameters() if p.requires_grad) == expected
    assert vit.net.pos_embed.shape == (1, tokens, width)
    assert not vit.net.pos_embed.requires_grad
    assert vit.net.norm.eps == 1e-6


def test_a_network_that_is_larger_than_the_memory_is_refused_before_it_is_made(monkeypatch):
    """Of 1.8 billion weights, for which its making would draw numbers."""
    monkeypatch.setattr(memory, "available", lambda: 2.0**31)
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=r"^vit_gigantic_patch14_224 needs at least 6\.\d GiB of memory, of which 2\.0 GiB"):
        models.create("vit_gigantic_patch14_224", **SHAPE | {"img_size": 224})
    with pytest.raises(UserError, match=r"^test_vit, with what it is trained with, needs at least 4\.5 GiB"):
        models.create("test_vit", **SHAPE, copies=4000)
    assert torch.equal(torch.get_rng_state(), before)
    models.create("test_vit", **SHAPE, copies=1000)


def test_a_network_for_larger_images_says_so_alone(recwarn):
    """Not that layers for no patches are left as they are."""
    arguments = SHAPE | {"img_size": 8}
    mixer = models.create("mixer_s32_224", **arguments)
    with pytest.raises(UserError, match=r"^mixer takes no images of 8 pixels: give another --input-size"):
        models.try_images(mixer, "mixer", arguments)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:vit_b_16", "torchvision's vit_b_16 can't be made for images of 33 pixels: give another --input-size"),
        ("hf:vit", "hf:vit is made from its folder"),
    ],
)
def test_a_network_of_another_library_that_cannot_be_made_is_one_line(name, message):
    with pytest.raises(UserError, match=message):
        models.create(name, **SHAPE | {"img_size": 33})


def test_normalisation_is_in_the_network():
    model = models.create("resnet8", **SHAPE).eval()
    x = torch.rand(4, 3, 32, 32)
    normalised = torchvision.transforms.functional.normalize(x, SHAPE["mean"], SHAPE["std"])
    torch.testing.assert_close(model(x), model.net(normalised))


def test_any_timm_name_and_no_other():
    model = models.create("tf_efficientnet_lite0", **SHAPE)
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(UserError, match="unknown model 'resnet9000'"):
        models.create("resnet9000", **SHAPE)
    with pytest.raises(UserError, match="give a timm name"):
        models.create("resnet8", **SHAPE, pretrained="data")


@pytest.mark.parametrize(("name", "size"), [("test_vit", None), ("ghostnetv3_050", 32), ("levit_128s", 100)])
def test_images_of_a_size_that_a_network_does_not_take_are_refused_in_one_line(name, size, tmp_path, capsys):
    flags = ("--input-size", size) if size else ()
    common = ("--dataset", "digits", "--subset", 100, "--model", name, "--weights", tmp_path, "--quiet")
    code, line = one_line(pretrain, capsys, *common, *flags)
    assert code == 2 and f"{name} takes no images of {size or 8} pixels: give another --input-size (" in line
    assert not list(tmp_path.iterdir())


def test_trying_a_network_changes_nothing():
    """Not its batch norms, its mode or torch's random numbers, and a ghost's dropout draws some in training."""
    dataset = data.load("digits", subset=100)
    torch.manual_seed(0)
    model, arguments = models.create_for("ghostnet_050", dataset, input_size=64)
    after = torch.rand(3)
    torch.manual_seed(0)
    fresh = models.create("ghostnet_050", **arguments)
    assert torch.equal(torch.rand(3), after)
    assert all(torch.equal(value, fresh.state_dict()[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.pth"
    write_torch(path, {"a": torch.ones(3)})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="No space left"):
        write_torch(path, {"a": torch.zeros(3)})
    assert torch.equal(read_torch(path)["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


class Evil:
    def __reduce__(self):
        return eval, ("open('/tmp/owned', 'w')",)


def test_no_stranger_runs_code(tmp_path):
    path, witness = tmp_path / "evil.pth", tmp_path / "owned"
    Evil.__reduce__ = lambda self: (open, (str(witness), "w"))
    torch.save({"format": 1, "net": Evil()}, path)
    with pytest.raises(UserError, match=r"only running code could read: save the state_dict\(\) alone"):
        models.load_checkpoint(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_torch(path)
    assert not witness.exists()


def test_unreadable_and_foreign_files(tmp_path):
    path = tmp_path / "x.pth"
    with pytest.raises(UserError, match="no file"):
        read_torch(path)
    write_torch(path, {"weights": torch.ones(1000)})
    with pytest.raises(UserError, match=r"x\.pth"):
        models.checked(read_torch(path), path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_torch(path)


def their_resnet():
    net = torchvision.models.resnet50(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def resnet_keys(state):
    return {key.replace("downsample", "shortcut").replace("fc.", "linear."): value for key, value in state.items()}


class TheirViT(nn.Module):
    """SimpleViT on nn.MultiheadAttention: no class token, fixed positions, final norm, mean over tokens."""

    def __init__(self, width=384):
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, 4, stride=4)
        self.register_buffer("pos_embedding", torch.randn(64, width))
        self.encoder = nn.Module()
        norm = lambda d: nn.LayerNorm(d, eps=1e-6)  # noqa: E731
        blocks = [(f"encoder_layer_{i}", EncoderBlock(6, width, 1536, 0.0, 0.0, norm)) for i in range(12)]
        self.encoder.layers = nn.Sequential(OrderedDict(blocks))
        self.encoder.ln = norm(width)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, 10)))

    def forward(self, x):
        x = self.conv_proj(x).flatten(2).transpose(1, 2) + self.pos_embedding
        return self.heads(self.encoder.ln(self.encoder.layers(x)).mean(1))


def randomise(module):
    """Give every tensor a value of its own, so that no key can be swapped with another unnoticed."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not name.endswith("lora_A.default.weight"):
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.add_(noise * (0.05 if tensor.ndim > 1 else 0.3) * (tensor.std() if tensor.ndim > 1 else 1))


def with_lora(net, targets, rank, alpha, saved):
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.1, target_modules=targets, modules_to_save=saved)
    adapted = get_peft_model(net, config)
    for name, parameter in adapted.named_parameters():
        # PyTorch's attention reads out_proj.weight past the LoRA layer, so their B has no gradient and stays zero there.
        if "lora_B" in name and "out_proj" not in name:
            nn.init.normal_(parameter, std=0.02)
        if "modules_to_save" in name:
            parameter.data.add_(0.1)
    return adapted


def check(tmp_path, net, state, std, wrap=lambda state: state):
    path = tmp_path / "published.pth"
    torch.save(wrap(state), path)
    found = foreign.read(path)
    name, mean = found.name, (0.4914, 0.4822, 0.4465)
    loaded = models.create(name, **SHAPE | {"mean": mean, "std": found.constants[1]})
    foreign.load(loaded, found, path)
    loaded.eval()
    x = torch.rand(4, 3, 32, 32)
    normalised = torchvision.transforms.functional.normalize(x, (0.4914, 0.4822, 0.4465), std)  # red, green, blue
    with torch.no_grad():
        torch.testing.assert_close(loaded(x), net.eval()(normalised), atol=1e-4, rtol=1e-4)
    return name


STD = (0.2471, 0.2435, 0.2616)  # of their unlearning scripts, with which all of their files are evaluated


def test_published_resnet_original_and_unlearned(tmp_path):
    net = their_resnet()
    randomise(net)
    state = resnet_keys(net.state_dict())
    assert check(tmp_path, net, state, STD) == "resnet50"
    parallel = {f"module.{key}": value for key, value in state.items()}
    assert check(tmp_path, net, parallel, STD, wrap=lambda state: {"net": state}) == "resnet50"


@pytest.mark.parametrize("prefixed", [True, False])
def test_published_resnet_lora_is_merged(tmp_path, prefixed):
    net = their_resnet()
    randomise(net)
    targets = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and "." in n and "downsample" not in n]
    assert len(targets) == 48
    adapted = with_lora(net, targets, 8, 16, ["fc"])
    state = resnet_keys(adapted.state_dict())
    if not prefixed:
        state = {key.removeprefix("base_model.model."): value for key, value in state.items()}
    assert check(tmp_path, adapted, state, STD) == "resnet50"


def test_published_vit_original_and_unlearned(tmp_path):
    net = TheirViT()
    randomise(net)
    assert check(tmp_path, net, net.state_dict(), STD) == "vit_small"
    assert check(tmp_path, net, net.state_dict(), STD, wrap=lambda state: {"state_dict": state}) == "vit_small"


def test_published_vit_lora_is_merged(tmp_path):
    net = TheirViT()
    randomise(net)
    adapted = with_lora(net, ["encoder.layers.encoder_layer_11.self_attention.out_proj", "heads.head"], 16, 32, None)
    assert any("out_proj.lora_A" in key for key in adapted.state_dict())
    assert check(tmp_path, adapted, adapted.state_dict(), STD) == "vit_small"


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("network", "arguments", "model_args"),
            {"pretrained": True},
            "network.arguments.model_args.pretrained is True: nothing that a file",
        ),
        (
            ("network", "arguments", "model_args"),
            {"act_layer": "~/x"},
            "network.arguments.model_args.act_layer is '~/x': nothing that a file",
        ),
        (("network", "arguments", "pretrained"), "/tmp", "network.arguments has a field 'pretrained' that nobody knows"),
        (("network", "arguments", "std"), [0.0], "network.arguments.std.0 is 0.0, not a number above 0"),
        (("network", "arguments", "mean"), [0.1, 0.2], "network.arguments.mean and std have 2 and 1 numbers"),
        (("forget",), torch.tensor([5, 4]), "forget are no ascending positions, each once"),
        (("forget",), torch.tensor([4, 5000]), "forget holds position 5000, and they run from 0 to 1432"),
        (("forget_names",), ["a"], "forget_names doesn't name the 2 images of forget"),
        (("forget_tag",), None, "forget_tag is missing, though images are forgotten"),
        (("classes",), ["a"], "classes has 1 names for 10 logits"),
        (("cost", "seconds"), float("nan"), "cost.seconds is nan, not a number from 0"),
        (("seed",), 2**64 + 1, "seed is 18446744073709551617, not a whole number from 0"),
        (("flags",), {"--rank": 2}, "flags.--rank is 2, not a text"),
        (("identity",), {"method": "a"}, "identity.settings is missing"),
        (("state_dict",), {}, "state_dict is empty"),
        (("state_dict", "w"), torch.zeros(2, dtype=torch.complex64), "state_dict.w is complex, not an ordinary tensor"),
    ],
    ids=str,
)
def test_a_checkpoint_is_refused_by_the_name_of_its_field(place, value, message):
    sound = copy.deepcopy(SOUND)
    models.checked(sound, "x.pth")
    inner = sound
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(UserError) as error:
        models.checked(sound, "x.pth")
    assert str(error.value).startswith(f"x.pth: its {message}") and str(error.value).endswith(": it is damaged")


def test_a_chain_of_parents_may_be_long_but_not_endless():
    """Of a network that was unlearned again and again each request has a parent more."""

    def chained(count):
        known = None
        for _ in range(count):
            known = {"method": "lora", "settings": {}, "data": "d", "forget": None, "parent": known}
        return SOUND | {"identity": known}

    models.checked(chained(150), "x.pth")
    with pytest.raises(UserError, match="has more than 200 parents"):
        models.checked(chained(201), "x.pth")
