"""Which layers are pruned and get LoRA, over timm's families of networks."""

import copy
import itertools
import warnings
from collections import OrderedDict

import pytest
import timm
import torch
import torchvision
from peft import PeftModel
from timm.models.metaformer import MetaFormer
from timm.models.mlp_mixer import MlpMixer, ResBlock
from timm.models.vgg import VGG
from torch import nn

import data
import models
import rfau
from baselines import control
from tests.helpers import FP32, finished_run, save_adapter
from unlearning.core.errors import UserError
from unlearning.core.files import Staged
from unlearning.exact import learners
from unlearning.vision import adapter_files, adapters, compaction, forget_losses, layers, pruning
from unlearning.vision.predict import penultimate, predict
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings
from unlearning.vision.train import fit

NORMALIZE = {"mean": [0.5] * 3, "std": [0.2] * 3}
TINY = {"embed_dim": 16, "img_size": 32}
# Timm's own small networks, and what makes one of each family small: arguments, and the side of its images.
SMALL = {name: ({}, 32) for name in timm.list_models("test_*")}
SMALL |= {name: ({"img_size": 32}, 32) for name in SMALL if name.startswith("test_vit")}
SMALL |= {name: ({"img_size": 64}, 64) for name in ("test_coatnet", "test_maxvit")}
SMALL |= {
    "swin_tiny_patch4_window7_224": (TINY | {"depths": (1, 1), "num_heads": (2, 2), "window_size": 4}, 32),
    "vgg": ({"cfg": [8, "M", 32, 32, "M"], "mlp_ratio": 0.01}, 32),
    "densenet121": ({"block_config": (2, 2), "growth_rate": 8}, 32),
    "regnetx_002": ({}, 32),
    "levit_128s": ({"img_size": 64, "embed_dim": (16, 24, 32), "num_heads": (2, 3, 4), "depth": (1, 1, 1)}, 64),
    "mixer": (TINY | {"num_blocks": 2}, 32),
    "resmlp": (TINY | {"num_blocks": 2, "block_layer": ResBlock, "mlp_ratio": 4.0}, 32),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}, 32),
    "deit_tiny_distilled_patch16_224": (TINY | {"depth": 2, "num_heads": 2}, 32),
    "resnetv2_18": ({"layers": (1, 1, 1, 1), "channels": (16, 16, 24, 32), "stem_chs": 16}, 32),
    "skresnet18": ({"layers": (1, 1, 1, 1), "channels": (16, 16, 24, 32), "stem_width": 16}, 32),
    "dla34": ({"levels": (1,) * 6, "channels": (8, 8, 16, 16, 24, 32)}, 32),
}
CLASSES = {
    "vgg": VGG,
    "mixer": MlpMixer,
    "resmlp": MlpMixer,
    "caformer": MetaFormer,
}  # whose names leave their size no argument
COMPACT = {
    "test_byobnet",
    "test_convnext",
    "test_convnext2",
    "test_convnext3",
    "test_efficientnet",
    "test_efficientnet_evos",
}
COMPACT |= {"test_efficientnet_gn", "test_efficientnet_ln", "test_resnet", "vgg", "densenet121", "regnetx_002"}
COMPACT |= {"convnext_atto", "resnetv2_18", "dla34"}


def network(name):
    """A network of random weights whose norms and layer scales let something through (timm starts some of them at zero)."""
    torch.manual_seed(0)
    arguments = SMALL[name][0] | {"num_classes": 10}
    net = CLASSES[name](**arguments) if name in CLASSES else timm.create_model(name, **arguments)
    model = nn.Sequential(OrderedDict(normalize=models.Normalize(**NORMALIZE), net=net))
    for module in model.modules():
        for parameter in (p for p in module.parameters(recurse=False) if p.ndim == 1 or not p.any()):
            nn.init.uniform_(parameter, 0.5, 1.0)
    return model


def images(name, count=4):
    return torch.rand(count, 3, SMALL[name][1], SMALL[name][1])


def settings(**flags):
    return Settings({"compact": None, "regrow": False, "amount": 0.5, "prune_head": False} | flags)


def steps(model, optimizer, name):
    """Two optimiser steps; the names of parameters without a gradient in the second (LoRA's A has none before B moves)."""
    learned = {key: p for key, p in model.named_parameters() if p.requires_grad}
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(images(name)), torch.arange(4)).backward()
        without = [key for key, p in learned.items() if p.grad is None or not p.grad.any()]
        optimizer.step()
    return without


@pytest.mark.parametrize("name", SMALL)
def test_what_holds_on_every_network(name):
    """After PruneLoRA's steps: each adapter has got a gradient and none is on the stem, the masked rows are zero, the merged
    network answers as the adapted one, and it can be made smaller if it could before."""
    model = network(name)
    try:
        masks, silent = pruning.prune(model, settings(compact="after"), quiet=True)
        compactable = True
    except UserError as error:
        assert str(error).startswith("--compact") and "\n" not in str(error)
        masks, silent = pruning.prune(model, settings(), quiet=True)  # silent already: nothing changes
        compactable = False
    assert compactable == (name in COMPACT)
    stem, heads = layers.stem(model), layers.heads(model)
    assert not {*heads} & {*masks}
    if name == "test_nfnet":
        with pytest.raises(UserError, match="test_nfnet has no linear layer or convolution for LoRA"):
            adapters.last_and_head(model)
        return
    if name == "dla34":
        with pytest.raises(UserError, match="own `base_layer`"):
            adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1)
        return
    adapted = adapters.attach(model, adapters.last_and_head(model), 4, 8, 0.1)
    keys = (key.removeprefix("base_model.model.").split(".lora_B") for key, _ in adapted.named_parameters())
    with_lora = {key[0] for key in keys if len(key) > 1}
    assert with_lora and not with_lora & stem and "net.patch_embed.proj" not in with_lora
    optimizer = torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2)
    pruning.keep(optimizer, adapted, silent)
    assert steps(adapted, optimizer, name) == []
    adapted, x = adapted.eval().double(), images(name).double()
    with torch.no_grad():
        expected = adapted(x)
        merged = adapters.merge(adapted)
        torch.testing.assert_close(merged(x), expected, atol=1e-9, rtol=1e-9)
    for layer, mask in masks.items():
        assert all((parameter[~mask] == 0).all() for parameter in merged.get_submodule(layer).parameters())
    if compactable:
        compaction.remove(merged.float(), silent)
        with torch.no_grad():
            torch.testing.assert_close(merged(x.float()), expected.float(), atol=1e-4, rtol=1e-4)


def outline(name, **arguments):
    """A network without its weights' numbers."""
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=10, **arguments)
    return nn.Sequential(OrderedDict(net=net))


def of_project_or_timm(name):
    if name not in models.NAMES:
        return outline(name)
    return models.create(name, in_chans=3, img_size=32, num_classes=10, **NORMALIZE)


@pytest.mark.parametrize("name", [*models.NAMES, "tf_efficientnet_lite0", "resnet34", "seresnet50", "resnext50_32x4d"])
def test_the_papers_networks_have_the_papers_layers(name):
    """As older adapters have them: a ViT's last projection, or a CNN's convolutions but the stem, shortcuts and the last."""
    model = of_project_or_timm(name)
    convolutions = [(key, module) for key, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    depth = {"vit_micro": 4, "vit_small": 12}.get(name)
    if depth:
        last = [f"net.blocks.{depth - 1}.attn.proj"]
        assert adapters.last_and_head(model) == ([*last, "net.head"], []) and layers.prunable(model) == last
        blocks = [f"net.blocks.{block}.attn.{part}" for block in range(depth) for part in ("qkv", "proj")]
        assert layers.in_every_block(model) == blocks
        return
    inner = [k for k, m in convolutions if m.groups == 1 and k.count(".") > 1 and ".downsample." not in k]
    norms = [key for key, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    head = "net.classifier" if "lite" in name else "net.fc"
    assert adapters.last_and_head(model) == (inner, [head, *norms]) and layers.in_every_block(model) == inner
    assert layers.prunable(model) == [key for key, _ in convolutions]
    every = [key for key, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    pairs = [pair for pair in itertools.pairwise(every) if pair[0] not in norms and pair[1] in norms]
    assert layers.norms_after(model) == dict(pairs)


STEMS = {
    "resnet18d": "conv1.0 conv1.3 conv1.6",
    "inception_v3": "Conv2d_1a_3x3.conv Conv2d_2a_3x3.conv Conv2d_2b_3x3.conv Conv2d_3b_1x1.conv Conv2d_4a_3x3.conv",
    "vgg11": "features.0",
    "densenet121": "features.conv0",
    "convnext_atto": "stem.0",
    "regnetx_002": "stem.conv",
    "swin_tiny_patch4_window7_224": "patch_embed.proj",
    "test_maxvit": "stem.conv1 stem.conv2",
    "dla34": "base_layer.0 level0.0 level1.0",
    "repvgg_a0": "stem.conv_kxk.conv stem.conv_1x1.conv",
}


@pytest.mark.parametrize("name", STEMS)
def test_stems(name):
    assert layers.stem(outline(name)) == {f"net.{layer}" for layer in STEMS[name].split()}


def test_the_stages_whose_outputs_are_features():
    """A ViT's blocks, a CNN's stages; not the stem, not the stage that a CIFAR ResNet lacks."""
    expected = {
        "resnet8": "layer1 layer2 layer3",
        "resnet20": "layer1 layer2 layer3",
        "resnet18": "layer1 layer2 layer3 layer4",
        "resnet50": "layer1 layer2 layer3 layer4",
        "vit_micro": "blocks.0 blocks.1 blocks.2 blocks.3",
        "vit_small": " ".join(f"blocks.{block}" for block in range(12)),
        "tf_efficientnet_lite0": "blocks.0 blocks.1 blocks.2 blocks.4 blocks.6",
        "seresnet50": "layer1 layer2 layer3 layer4",
        "deit_tiny_patch16_224": " ".join(f"blocks.{block}" for block in range(12)),
        "test_byobnet": "stages.0 stages.1 stages.2 stages.3",
        "densenet121": " ".join(f"features.denseblock{block}" for block in (1, 2, 3, 4)),
        "ghostnet_050": "blocks.1 blocks.3 blocks.5 blocks.7 blocks.9",
        "dla34": "level2 level3 level4 level5",
        "rexnet_100": "features.0 features.2 features.4 features.10 features.15 features.16",
        "lowformer_b0": "stages.0 stages.1 stages.2 stages.3 in_conv",
    }
    assert {*models.NAMES} < {*expected}
    for name, names in expected.items():
        assert layers.stages(of_project_or_timm(name)) == [f"net.{stage}" for stage in names.split()], name


BELOW = ("test_byobnet", "densenet121", "rexnet_100", "lowformer_b0", "levit_128s", "edgenext_xx_small")


@pytest.mark.parametrize("name", [*BELOW, "volo_d1_224", "beit_base_patch16_224"])
def test_every_adapter_is_below_the_last_stage_and_none_is_idle(name):
    """So RFAU's features, the last of which --shift head takes alone, give every adapter a gradient."""
    model = outline(name)
    side = model.net.pretrained_cfg["input_size"][-1]
    adapted = adapters.attach(model, rfau.every_block(model), 4, 8).to("meta")
    features = forget_losses.outputs(
        adapted.get_base_model(), layers.stages(model), torch.zeros(2, 3, side, side, device="meta")
    )
    learned = [p for p in adapted.parameters() if p.requires_grad]
    assert all(feature.requires_grad for feature in features)
    assert len(torch.autograd.grad(features[-1].sum(), learned)) == len(learned) > 0  # raises where one has none


def test_transformers_are_known_by_their_attention_and_lack_of_batch_norms():
    timms = {"vit_tiny_patch16_224": True, "swin_tiny_patch4_window7_224": True, "beit_base_patch16_224": True}
    timms |= {"mobilevit_s": False, "levit_128s": False, "resnet18": False, "mixer_s32_224": False, "convnext_atto": False}
    assert {name: layers.is_transformer(outline(name)) for name in timms} == timms
    with torch.device("meta"):
        theirs = {name: torchvision.models.get_model(name) for name in ("vit_b_32", "swin_t", "convnext_tiny", "resnet18")}
    found = [layers.is_transformer(nn.Sequential(OrderedDict(net=net))) for net in theirs.values()]
    assert found == [True, True, False, False]


@pytest.mark.parametrize("name", ["vgg11", "mvitv2_tiny", "twins_pcpvt_small"])
def test_a_network_without_named_stages_is_refused(name):
    """timm names VGG's pooling layers, whose outputs no adapter above them moves, and of others what isn't there."""
    with pytest.raises(UserError, match=r"doesn't say which these are: finetune.py"):
        layers.stages(outline(name))


def test_projections_are_those_of_the_last_block():
    """Attention's where there is any; in a mixer the last linear layer; in a CNN all convolutions are pruned."""
    expected = {
        "test_maxvit": "net.stages.3.blocks.0.attn_grid.attn.proj",
        "test_coatnet": "net.stages.3.blocks.0.attn.proj",
        "swin_tiny_patch4_window7_224": "net.layers.3.blocks.1.attn.proj",
        "levit_128s": "net.stages.2.blocks.3.attn.proj.ln.linear",
        "mixer_s16_224": "net.blocks.7.mlp_channels.fc2",
        "visformer_tiny": "net.stage3.3.attn.proj",
    }
    for name, last in expected.items():
        model = outline(name)
        assert layers.prunable(model) == layers.adaptable(model) == [last]
    swin = layers.in_every_block(outline("swin_tiny_patch4_window7_224"))
    assert len(swin) == 24 and all(name.endswith((".attn.qkv", ".attn.proj")) for name in swin)
    assert "net.stages.0.blocks.0.conv.conv1_1x1" in layers.in_every_block(outline("test_maxvit"))
    convnext = outline("convnext_tiny")  # its 1x1 convolutions are linear layers
    assert len(layers.adaptable(convnext)) == 36 and len(layers.prunable(convnext)) == 58


def test_a_norm_follows_what_it_alone_reads():
    """In pre-activation networks the norm that is registered after a convolution belongs to the next one."""
    dense = layers.norms_after(outline("densenet121", block_config=(2, 1)))
    inner = [f"net.features.denseblock{block}.denselayer{layer}" for block, layer in ((1, 1), (1, 2), (2, 1))]
    assert dense == {"net.features.conv0": "net.features.norm0"} | {f"{at}.conv1": f"{at}.norm2" for at in inner}
    before = layers.norms_after(outline("resnetv2_18"))
    blocks = [f"net.stages.{stage}.blocks.{block}" for stage in range(4) for block in range(2)]
    assert before == {f"{at}.conv1": f"{at}.norm2" for at in blocks}

    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + x

    class Branch(Fork):
        def forward(self, x):
            return self.norm(self.conv(x)) if x.sum() > 0 else self.norm(self.conv(-x))

    assert layers.norms_after(Fork()) == layers.norms_after(Branch()) == {}

    class Unread(Fork):
        def forward(self, x):
            self.norm(x)
            return self.conv(x)

    assert layers.norms_after(Unread()) == {}  # as DLA's trees of depth one compute what only deeper ones read
    assert layers.norms_after(nn.Sequential(*Fork().children())) == {"0": "1"}


def test_a_network_without_blocks_is_refused():
    """What is left would be the stem."""

    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)

        def get_classifier(self):
            return self.fc

    for rule, what in ((layers.prunable, "prune"), (layers.adaptable, "LoRA"), (layers.in_every_block, "LoRA")):
        with pytest.raises(UserError, match=f"Flat has no .*{what}"):
            rule(nn.Sequential(OrderedDict(net=Flat())))


class Blocks(nn.Module):
    """A stem, blocks of one convolution each, of these arguments, and a head."""

    def __init__(self, *convolutions):
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 3, **given)) for given in convolutions])

    def get_classifier(self):
        return self.fc


def test_lora_leaves_out_convolutions_that_its_own_are_unlike():
    """PEFT's A has the convolution's kernel, stride and padding, but neither its dilation nor its kind of padding."""

    plain, others = {"stride": 2, "padding": 1}, [{"dilation": (1, 2)}, {"padding": 1, "padding_mode": "circular"}]
    for rule in (layers.adaptable, layers.in_every_block):
        for other in others:
            model = nn.Sequential(OrderedDict(net=Blocks(plain, other, plain)))
            assert rule(model) == ["net.blocks.0.0", "net.blocks.2.0"]
        with pytest.raises(UserError, match=r"Blocks has no .* LoRA: its blocks.1.0 .* dilated"):
            rule(nn.Sequential(OrderedDict(net=Blocks(plain, *others))))


def share(blocks, modules):
    """Give the second block the first one's weight, or its module."""
    if modules:
        blocks[1][0] = blocks[0][0]
    else:
        blocks[1][0].weight = blocks[0][0].weight


class Cosine(nn.Conv2d):
    """A layer of which W + B A gives something else than W and B A do, each by itself."""

    def forward(self, x):
        return nn.functional.conv2d(x, nn.functional.normalize(self.weight), self.bias)


class CosineLinear(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(nn.functional.normalize(x, dim=-1), nn.functional.normalize(self.weight))


def own_forward(layer):
    """Give one layer, and no class, another forward pass."""
    layer.forward = lambda x: nn.functional.conv2d(x, layer.weight.sign(), layer.bias)


ODD = {
    "own class": (lambda blocks: setattr(blocks[0][0], "__class__", Cosine), "has a forward pass of its own"),
    "own forward": (lambda blocks: own_forward(blocks[0][0]), "has a forward pass of its own"),
    "one weight": (lambda blocks: share(blocks, modules=False), "shares its weights with another module"),
    "one module": (lambda blocks: share(blocks, modules=True), "shares its weights with another module"),
    "weight norm": (lambda blocks: nn.utils.parametrizations.weight_norm(blocks[0][0]), "computes its weights from others"),
    "old weight norm": (lambda blocks: nn.utils.weight_norm(blocks[0][0]), "computes its weights from others"),
    "spectral norm": (
        lambda blocks: nn.utils.parametrizations.spectral_norm(blocks[0][0]),
        "computes its weights from others",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("odd", ODD)
def test_layers_whose_weights_arent_their_own_get_no_lora(odd):
    """Merging would add both changes to a weight that two layers have, and lose those of one that is computed anew."""
    change, why = ODD[odd]
    model = nn.Sequential(OrderedDict(net=Blocks({}, {})))
    change(model.net.blocks)
    for rule in (layers.adaptable, layers.in_every_block, adapters.last_and_head):
        with pytest.raises(UserError, match=f"Blocks has no .* LoRA: its blocks.0.0 {why}"):
            rule(model)
    with pytest.raises(UserError, match=f"Blocks: blocks.0.0 {why}"):
        adapters.attach(model, (["net.blocks.0.0"], []), 2, 4)
    model.layer_names = models.LayerNames(lora=("net.blocks.0.0",))
    with pytest.raises(UserError, match=f"--lora-targets net.blocks.0.0: this layer of Blocks {why}"):
        layers.adaptable(model)
    if "norm" in odd:
        with pytest.raises(UserError, match=f"Blocks: blocks.0.0 {why}.* pruned"):
            pruning.prune_filters(model, 0.5)


def test_no_layer_with_a_forward_pass_of_its_own_is_left_out_silently():
    """Be it one of many; timm's own linear layer, which differs for TorchScript alone, is like any other."""
    model = nn.Sequential(OrderedDict(net=Blocks({}, {}, {}, {})))
    model.net.blocks[3][0] = nn.Sequential(timm.layers.Linear(4, 4), CosineLinear(4, 4))
    for rule in (layers.adaptable, layers.in_every_block):
        with pytest.raises(UserError, match=r"Blocks has no .* LoRA: its blocks.3.0.1 has a forward pass of its own"):
            rule(model)
        model.net.blocks[3][0][1] = nn.Linear(4, 4)
        assert rule(model) == [f"net.blocks.{name}" for name in ("0.0", "1.0", "2.0", "3.0.0", "3.0.1")]
        model.net.blocks[3][0][1] = CosineLinear(4, 4)


def test_a_head_of_several_layers_is_no_block():
    """With which the stem would end, and the network's only block be a part of it."""
    model = nn.Sequential(OrderedDict(net=Blocks({})))
    del model.net.fc
    model.net.fc = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))  # behind the block, as it is registered
    assert layers.stem(model) == {"net.stem"} and layers.adaptable(model) == ["net.blocks.0.0"]


def test_a_head_that_is_no_layer_gets_no_lora():
    """A transformer's head gets LoRA; a CNN's is saved whole, whatever it is."""

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 4))

    model = nn.Sequential(OrderedDict(net=Blocks({}, {})))
    model.net.fc = Head()
    model.layer_names = models.LayerNames(head=("net.fc",))
    assert adapters.last_and_head(model) == (["net.blocks.0.0", "net.blocks.1.0"], ["net.fc"])
    with pytest.raises(UserError, match=r"fc is a Head, neither a Conv2d nor a Linear layer, so LoRA .*; finetune.py"):
        adapters.attach(model, (["net.fc"], []), 2, 4)
    with pytest.raises(UserError, match=r"fc is a Head, neither .* rows can't be pruned"):
        pruning.zero_head_rows(model, 0.5)


def test_what_is_saved_whole_is_no_other_modules_too():
    """Of a head that shares its weight a checkpoint would give one of two back."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[0].weight = net[1].weight
    with pytest.raises(UserError, match="Sequential: 1 shares its weights with another module"):
        adapters.attach(nn.Sequential(OrderedDict(net=net)), ([], ["net.1"]), 2, 4)


TWO_HEADS = ("deit_tiny_distilled_patch16_224", "levit_128s")


def test_heads():
    expected = {
        "deit_tiny_distilled_patch16_224": ["head", "head_dist"],
        "levit_128s": ["head.linear", "head_dist.linear"],
        "repvit_m0_9": ["head.head.l", "head.head_dist.l"],
        "efficientformer_l1": ["head", "head_dist"],
        "caformer_s18": ["head.fc.fc2"],
        "volo_d1_224": ["aux_head", "head"],
        "resnetv2_18": ["head.fc"],
        "test_vit": ["head"],
    }
    for name, names in expected.items():
        assert layers.heads(outline(name)) == [f"net.{head}" for head in names], name


@pytest.mark.parametrize("name", TWO_HEADS)
@pytest.mark.parametrize("kind", ["mask", "zero-row", "bias", "head-only"])
def test_the_controls_edit_both_heads(name, kind, tmp_path):
    model = network(name)
    pixels = torch.randint(256, (8, 3, SMALL[name][1], SMALL[name][1]), dtype=torch.uint8)
    retain, forget = data.Split(pixels[:6], torch.arange(6)), data.Split(pixels[6:], torch.tensor([7, 7]))
    dataset = data.Dataset("toy", retain, retain, tuple("0123456789"), False, "toy", ((0.5,) * 3, (0.5,) * 3))
    flags = Settings({"kind": kind, "lr": 0.1, "epochs": 1, "batch_size": 6, "seed": 0})
    with torch.no_grad():
        for head in layers.heads(model):
            model.get_submodule(head).bias[7] += 9  # the answer to every image
    before, logits = models.state(model), predict(model, retain, FP32)
    edited = control.unlearn(model, retain, forget, Run(kind, flags, FP32, dataset, Staged(tmp_path / "x.pth")))
    found = predict(edited, retain, FP32)
    moved = {key for key, value in models.state(edited).items() if not torch.equal(value, before[key])}
    heads = {f"{head}.{own}" for head in layers.heads(model) for own in ("weight", "bias")}
    assert moved == ({key for key in heads if key.endswith("bias")} if kind in ("mask", "bias") else heads)
    kept = torch.arange(10) != 7
    if kind != "head-only":
        assert (found[:, 7] == (0 if kind == "zero-row" else -torch.inf)).all() or kind == "bias"
        assert torch.equal(found[:, kept], logits[:, kept])
    if kind == "bias":  # off both heads, whose mean is the answer
        answers = predict(edited, forget, FP32)
        assert (answers[:, 7] - answers[:, kept].amax(1)).max().item() == pytest.approx(-control.MARGIN, abs=1e-5)


@pytest.mark.parametrize("name", [*TWO_HEADS, "resnetv2_18"])
def test_penultimate_features_are_what_the_heads_read(name):
    model = network(name)
    pixels = torch.randint(256, (5, 3, SMALL[name][1], SMALL[name][1]), dtype=torch.uint8)
    split = data.Split(pixels, torch.zeros(5, dtype=torch.int64))
    features = penultimate(model, split, FP32)
    assert features.ndim == 2
    heads = [model.get_submodule(head) for head in layers.heads(model)]
    given = [
        part.view(5, -1, *head.weight.shape[2:]) for head, part in zip(heads, features.chunk(len(heads), 1), strict=True)
    ]
    logits = torch.stack([head(part).flatten(1) for head, part in zip(heads, given, strict=True)])
    torch.testing.assert_close(logits.mean(0).detach(), predict(model, split, FP32), atol=1e-5, rtol=1e-5)


def test_what_two_heads_read_alike_is_a_feature_once():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(12, 2), nn.Linear(12, 2)

        def get_classifier(self):
            return self.one, self.other

        def forward(self, x):
            return self.one(x.flatten(1)) + self.other(x.flatten(1))

    split = data.Split(torch.randint(256, (5, 3, 2, 2), dtype=torch.uint8), torch.zeros(5, dtype=torch.int64))
    assert layers.heads(Twins()) == ["one", "other"]
    assert penultimate(Twins(), split, FP32).shape == (5, 12)


@pytest.mark.parametrize("name", ["levit_128s", "test_resnet", "test_vit"])
def test_an_adapter_is_saved_whole(name, tmp_path):
    """LeViT's batch norms are of tokens, and their statistics move as well. Beside a `fc` that is saved whole PEFT takes any
    layer whose name ends so, as beside LowFormer's `classifier` its `pre_classifier`; of a ViT the last `head` gets LoRA."""
    original = network(name)
    if name == "test_resnet":
        original.net.maxpool = nn.Sequential(OrderedDict(pre_fc=nn.Conv2d(32, 32, 1)))
    if name == "test_vit":
        original.net.fc_norm = nn.Sequential(OrderedDict(head=nn.Linear(64, 64)))
    before = copy.deepcopy(original)
    adapted = adapters.attach(original, adapters.last_and_head(original), 4, 8)
    steps(adapted, torch.optim.Adam([p for p in adapted.parameters() if p.requires_grad], lr=1e-2), name)
    save_adapter(adapted, finished_run(tmp_path / "x.pth", name))
    x, plain = images(name), copy.deepcopy(before)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = adapters.merge(adapted).eval()(x)
        assert (before.eval()(x) - expected).abs().max() > 1e-2
        torch.testing.assert_close(adapter_files.load(before, tmp_path / "x_adapter")(x), expected, atol=1e-5, rtol=1e-5)
        by_peft = PeftModel.from_pretrained(plain.net, tmp_path / "x_adapter").eval()
        torch.testing.assert_close(by_peft(plain.normalize(x)), expected, atol=1e-5, rtol=1e-5)


def test_frozen_batch_norms_of_tokens_stay():
    model = network("levit_128s")
    before = models.state(model)
    split = data.Split(torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8), torch.arange(4))
    optimizer = torch.optim.SGD(model.net.head.parameters(), lr=0.1)
    fit(model, split, optimizer, epochs=1, batch_size=4, seed=0, compute=FP32, freeze_norm=True)
    moved = [key for key, value in models.state(model).items() if not torch.equal(value, before[key])]
    assert moved and not any("running" in key for key in moved)


WIDTHS = {"deit_tiny_distilled_patch16_224": 16, "levit_128s": 32, "resnetv2_18": 32}


@pytest.mark.parametrize("name", WIDTHS)
def test_a_backbone_has_the_features_that_its_heads_have_read(name):
    model = network(name).eval()
    backbone = learners.Backbone(model, SMALL[name][1])
    assert backbone(images(name)).shape == (4, backbone.features) == (4, WIDTHS[name])
    trained = learners.Backbone(network(name).train(), SMALL[name][1]).train()
    assert not model.training and not any(module.training for module in trained.modules())  # frozen is frozen


def test_a_backbone_is_as_wide_as_what_it_gives():
    """MetaFormer's head is an MLP whose last layer reads four times as many numbers; CrossViT has heads of two widths."""
    former = MetaFormer(num_classes=10, depths=(1, 1, 1, 1), dims=(8, 8, 16, 24), use_mlp_head=True)
    small = {"embed_dim": (16, 24), "depth": ((1, 1, 0),), "num_heads": (2, 2), "mlp_ratio": (2, 2, 1)}
    for net, side, width in ((former, 32, 24), (timm.create_model("crossvit_tiny_240", **small), 240, 16 + 24)):
        model = nn.Sequential(OrderedDict(normalize=models.Normalize(**NORMALIZE), net=net)).eval()
        backbone = learners.Backbone(model, side)
        assert backbone(torch.zeros(2, 3, side, side)).shape == (2, backbone.features) == (2, width)
