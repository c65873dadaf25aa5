"""LoRA through peft: where the adapters go, merging them into the network, and the small file of their own.

The adapter folder is PEFT's own format. It also holds the batch-norm layers, because their running statistics move while
the network trains in the paper's way, and a mask file where the base was pruned first; without these two the adapter
on the original wouldn't give the logits of the merged network.
"""

import shutil
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import models
import pruning
from errors import RunFailed

MASK_FILE = "mask.safetensors"


def targets(model):
    """(layers that get LoRA, layers trained in full), by name, as in PruneLoRA.

    ViT: the last block's attention output projection and the head get LoRA. CNN: the convolutions of the blocks (not the
    stem, not the shortcuts, not grouped ones) get LoRA and the head is trained in full.
    """
    head = models.head_name(model)
    if models.is_vit(model):
        return [*pruning.prunable(model), head], []
    convolutions = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and name.count(".") > 1 and ".downsample." not in name
    ]
    return convolutions, [head]


def attach(model, rank, alpha, dropout):
    """Wrap `model` with LoRA of the given rank, alpha and dropout rate at `targets`: a PeftModel, the rest frozen."""
    with_lora, trained = targets(model)
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    peft_model = get_peft_model(
        model,
        LoraConfig(
            r=rank,
            lora_alpha=alpha,
            lora_dropout=dropout,
            target_modules=with_lora,
            modules_to_save=trained + norms,
        ),
    )
    for module in peft_model.modules():
        if isinstance(module, nn.BatchNorm2d):  # saved for their statistics; their scale and offset stay frozen
            module.requires_grad_(False)
    return peft_model


def merge(peft_model):
    """The plain network with W + (alpha / r) B A in place of each adapted W."""
    return peft_model.merge_and_unload()


def folder_for(checkpoint):
    """The adapter's folder beside a checkpoint: x.pth to x_adapter."""
    return Path(checkpoint).with_name(Path(checkpoint).stem + "_adapter")


def save(peft_model, folder, masks=None):
    """Write the adapter in PEFT's format, and `masks` beside it, replacing `folder` as a whole. RunFailed on a full disk."""
    part = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    try:
        peft_model.save_pretrained(part)
        if masks:
            save_file(masks, part / MASK_FILE)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RunFailed(f"cannot write {folder}: {error}") from None
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load(original, folder):
    """The adapted network as a PeftModel on a copy-free `original`, pruned first where a mask lies beside the adapter."""
    mask_file = Path(folder) / MASK_FILE
    if mask_file.exists():
        pruning.silence(original, load_file(mask_file))
    return PeftModel.from_pretrained(original, folder).eval()
