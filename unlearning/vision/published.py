"""The names of tensors in LoRA-Unlearn's own files, and those of this project's networks.

Its base files are `{"net": ...}` (ResNet-50) and `{"state_dict": ...}` (ViT), its unlearned ones bare state dicts. Its
scripts pre-train the ResNet with other deviations (.2023, .1994, .2010) than they unlearn and evaluate with (.2471, .2435,
.2616): here all have the latter.
"""

import re

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
PREFIXES = ("module.", "base_model.model.")
BLOCK = re.compile(r"(layer\d+\.\d+\.|encoder\.layers\.\w+\.)")


def recognised(tensors: Tensors) -> str | None:
    """ "resnet50" or "vit_small" for the names of LoRA-Unlearn's files, with or without LoRA; None for others."""
    plain = {}
    for name, value in _unwrapped(tensors).items():
        plain[name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")] = tuple(value.shape)
    # Others give their networks these names too: what tells them apart is how many blocks there are, and how wide.
    if any(len(shape) != 2 for name, shape in plain.items() if name in ("linear.weight", "heads.head.weight")):
        return None
    blocks = {match[1] for match in map(BLOCK.match, plain) if match}
    if {"conv_proj.weight", "heads.head.weight", "pos_embedding"} <= plain.keys():
        whole = blocks == {f"encoder.layers.encoder_layer_{i}." for i in range(12)} and "class_token" not in plain
        return "vit_small" if whole and plain["conv_proj.weight"] == (384, 3, 4, 4) else None
    if blocks != {f"layer{i}.{j}." for i, count in zip((1, 2, 3, 4), (3, 4, 6, 3), strict=True) for j in range(count)}:
        return None
    shapes = {"conv1.weight": (64, 3, 3, 3), "layer1.0.shortcut.0.weight": (256, 64, 1, 1)}
    shapes |= {"layer1.0.conv2.weight": (64, 64, 3, 3), "layer4.2.conv3.weight": (2048, 512, 1, 1)}
    return "resnet50" if "linear.weight" in plain and shapes.items() <= plain.items() else None


def classes(tensors: Tensors) -> int:
    """How many classes such a file knows."""
    ends = [
        f"{head}.{layer}weight" for head in ("linear", "heads.head") for layer in ("", "base_layer.", "original_module.")
    ]
    return next(len(value) for name, value in tensors.items() if name.endswith(tuple(ends)))


def converted(tensors: Tensors, net: nn.Module) -> Tensors:
    """The tensors of such a file by the names of `net`, this project's resnet50 or vit_small.

    Unmerged LoRA is merged (alpha / r is 16/8 for the ResNet, 32/16 for the ViT: 2 in both).
    """
    state = _merge_lora(_unwrapped(tensors), scale=2.0)
    if "pos_embedding" not in state:
        return {_resnet_key(key): value for key, value in state.items()}
    wanted = net.get_parameter("pos_embed").shape
    if state["pos_embedding"].numel() == wanted.numel():
        state["pos_embedding"] = state["pos_embedding"].reshape(wanted)
    return {_vit_key(key): value for key, value in state.items()}


def _unwrapped(tensors):
    for prefix in PREFIXES:
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def _merge_lora(state, scale):
    """W + scale * B A for every `base_layer` in the state dict; a `modules_to_save` copy replaces its original."""
    merged = {}
    for key, value in state.items():
        if ".lora_" in key or ".original_module." in key:
            continue
        key = key.replace(".modules_to_save.default.", ".")
        layer = key.removesuffix(".base_layer.weight")
        if f"{layer}.lora_A.default.weight" in state and layer != key:
            down, up = state[f"{layer}.lora_A.default.weight"], state[f"{layer}.lora_B.default.weight"]
            value = value + scale * (up.flatten(1) @ down.flatten(1)).view_as(value)
        merged[key.replace(".base_layer.", ".")] = value
    return merged


def _resnet_key(key):
    return key.replace("shortcut", "downsample").replace("linear.", "fc.")


def _vit_key(key):
    for theirs, ours in (
        ("pos_embedding", "pos_embed"),
        ("conv_proj", "patch_embed.proj"),
        ("encoder.layers.encoder_layer_", "blocks."),
        ("encoder.ln", "norm"),
        (".ln_1.", ".norm1."),
        (".ln_2.", ".norm2."),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj", "attn.proj"),
        ("mlp.0.", "mlp.fc1."),
        ("mlp.3.", "mlp.fc2."),
        ("heads.head", "head"),
    ):
        key = key.replace(theirs, ours)
    return key
