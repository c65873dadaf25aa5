"""Networks out of the published LoRA-Unlearn files."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core.errors import UserError
from unlearning.core.files import first_line

FROM_SCRATCH_STD = (0.2023, 0.1994, 0.2010)  # with which their ResNet was pre-trained, not unlearned or evaluated


def from_published(state: Any, path: str | Path) -> tuple[nn.Module, str]:
    """A network out of one of LoRA-Unlearn's own files: (module in evaluation mode, "resnet50" or "vit_small").

    state: what `read` returned for `path`.
    Accepts bare state dicts, `{"net": ...}` and `{"state_dict": ...}`, `module.` and `base_model.model.` prefixes, and
    unmerged LoRA, which is merged here (alpha / r is 16/8 for the ResNet, 32/16 for the ViT: 2 in both).
    """
    from_scratch = isinstance(state, dict) and "net" in state
    for wrapper in ("net", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is neither a checkpoint of this project nor a state dict")
    state = {key.removeprefix("module.").removeprefix("base_model.model."): value for key, value in state.items()}
    state = _merge_lora(state, scale=2.0)
    if "conv_proj.weight" in state:
        name, rename = "vit_small", _vit_key
    elif "linear.weight" in state and "layer4.2.conv3.weight" in state:
        name, rename = "resnet50", _resnet_key
    else:
        raise UserError(f"{path}: neither LoRA-Unlearn's ResNet-50 nor its ViT, nor a checkpoint of this project")
    mean, std = data.NORMALISATION["cifar10"]
    std = FROM_SCRATCH_STD if from_scratch else std
    classes = len(state["heads.head.weight" if name == "vit_small" else "linear.weight"])
    model: Any = models.create(name, in_chans=3, num_classes=classes, img_size=32, mean=mean, std=std)
    if "pos_embedding" in state:
        state["pos_embedding"] = state["pos_embedding"].reshape(model.net.pos_embed.shape)
    try:
        model.net.load_state_dict({rename(key): value for key, value in state.items()})
    except RuntimeError as error:
        raise UserError(f"{path}: keys like LoRA-Unlearn's, but {first_line(error)}") from None
    return model.eval(), name


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
