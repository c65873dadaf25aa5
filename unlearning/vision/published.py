"""The names of tensors in LoRA-Unlearn's own files, and those of this project's networks.

Its base files are `{"net": ...}` (ResNet-50) and `{"state_dict": ...}` (ViT), its unlearned ones bare state dicts. Its
scripts pre-train the ResNet with other deviations (.2023, .1994, .2010) than they unlearn and evaluate with (.2471, .2435,
.2616): here all have the latter.
"""

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]
PREFIXES = ("module.", "base_model.model.")


def recognised(tensors: Tensors) -> str | None:
    """ "resnet50" or "vit_small" for the names of LoRA-Unlearn's files, with or without LoRA; None for others."""
    names = set(_unwrapped(tensors))
    names |= {name.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".") for name in names}
    if {"conv_proj.weight", "heads.head.weight", "pos_embedding"} <= names:
        return "vit_small" if _shape_of(tensors, "conv_proj.weight") == (384, 3, 4, 4) else None
    return "resnet50" if {"linear.weight", "layer4.2.conv3.weight", "layer1.0.shortcut.0.weight"} <= names else None


def classes(tensors: Tensors) -> int:
    """How many classes such a file knows."""
    ends = [
        f"{head}.{layer}weight" for head in ("linear", "heads.head") for layer in ("", "base_layer.", "original_module.")
    ]
    return next(len(value) for name, value in tensors.items() if name.endswith(tuple(ends)))


def _shape_of(tensors: Tensors, end: str) -> tuple[int, ...]:
    """The shape of the tensor whose name ends so."""
    return next(tuple(value.shape) for name, value in tensors.items() if name.endswith(end))


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
