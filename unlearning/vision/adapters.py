"""LoRA through peft: where the adapters go, merging them into the network, and the small file of their own.

The adapter folder is PEFT's own format. It also holds the batch-norm layers, because their running statistics move while
the network trains in the paper's way, and a mask file where the base was pruned first; without these two the adapter
on the original wouldn't give the logits of the merged network.
"""

import shutil
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import models
from unlearning.core import distributed
from unlearning.core.errors import RunFailed
from unlearning.core.flags import PerModel, positive_float, positive_int
from unlearning.vision import compaction, pruning

MASK_FILE = "mask.safetensors"


def last_and_head(model):
    """PruneLoRA's choice: (layers that get LoRA, layers to save whole), by name.

    ViT: the last block's attention output projection and the head get LoRA. CNN: the convolutions of the blocks get LoRA and
    the head is trained in full; batch norms are saved because their statistics move.
    """
    head = models.head_name(model)
    if models.is_vit(model):
        return [*pruning.prunable(model), head], []
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return _convolutions(model), [head, *norms]


def every_block(model):
    """RFAU's choice: (layers that get LoRA, nothing), by name: a ViT's qkv and attention output projections, or the
    convolutions of a CNN's blocks; head and norms stay as they are."""
    if models.is_vit(model):
        blocks = range(len(model.net.blocks))
        return [f"net.blocks.{block}.attn.{layer}" for block in blocks for layer in ("qkv", "proj")], []
    return _convolutions(model), []


def _convolutions(model):
    """A CNN's convolutions within blocks: not the stem, not the shortcuts, not grouped ones."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1 and name.count(".") > 1 and ".downsample." not in name
    ]


def attach(model, layers, rank, alpha, dropout=0.0):
    """Wrap `model` with LoRA of the given rank, alpha and dropout rate: a PeftModel, the rest frozen.

    layers: what `last_and_head` or `every_block` returns, (names that get LoRA, names to save whole).
    """
    with_lora, saved = layers
    peft_model = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=with_lora, modules_to_save=saved or None),
    )
    for module in peft_model.modules():
        if isinstance(module, nn.BatchNorm2d):  # saved for their statistics; their scale and offset stay frozen
            module.requires_grad_(False)
        if dropout and isinstance(module, LoraLayer):
            module.lora_dropout = nn.ModuleDict({name: Dropout(dropout) for name in module.lora_dropout})
    return peft_model


class Dropout(nn.Dropout):
    """nn.Dropout, but on a CPU a mask takes 16 random bits an element, so that p counts in 65,536ths.

    torch draws a number for each element, one after the other, which is a third of the time of a CNN with LoRA.
    """

    def forward(self, x):
        """x: floats of any shape; the same, zero with probability p, else divided by 1 - p."""
        dropped = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 2**16:
            return super().forward(x)
        generator = np.random.SFC64(torch.randint(2**62, ()).item())  # torch's own is a third as fast
        draws = generator.random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
        kept = torch.from_numpy((draws >= dropped - 2**15).view(np.uint8)).to(x.dtype)
        layout = torch.empty_like(x).stride()  # a mask in another one than x would be slow
        return x * kept.mul_(2**16 / (2**16 - dropped)).as_strided(x.shape, layout)


def merge(peft_model):
    """The plain network with W + (alpha / r) B A in place of each adapted W."""
    return peft_model.merge_and_unload()


def folder_for(checkpoint):
    """The adapter's folder beside a checkpoint: x.pth to x_adapter."""
    return Path(checkpoint).with_name(Path(checkpoint).stem + "_adapter")


def save(peft_model, folder, masks=None, notes=None, compact=False):
    """Write the adapter in PEFT's format, and `masks` beside it, replacing `folder` as a whole. RunFailed on a full disk.

    notes: texts to lie beside it, by file name. compact: whether the base was made smaller by these masks first.
    """
    if not distributed.is_main():
        return
    part = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    try:
        peft_model.save_pretrained(part)
        if masks:
            save_file(masks, part / MASK_FILE, {"compact": str(compact)})
        for name, text in (notes or {}).items():
            (part / name).write_text(text)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(part, ignore_errors=True)
        raise RunFailed(f"cannot write {folder}: {error}") from None
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def load(original, folder):
    """The adapted network as a PeftModel on a copy-free `original`, pruned first where a mask lies beside the adapter, and
    made smaller where it was."""
    mask_file = Path(folder) / MASK_FILE
    if mask_file.exists():
        with safe_open(mask_file, "pt") as file:
            compact = (file.metadata() or {}).get("compact")
        masks = load_file(mask_file)
        pruning.silence(original, masks)
        if compact == "True":
            compaction.remove(original, masks)
    return PeftModel.from_pretrained(original, folder).eval()


LR = PerModel(paper=1e-3, resnet8=3e-3, resnet20=3e-3, vit_micro=1e-2)
RANK = PerModel(paper=8, vit_small=16, vit_micro=16)
ALPHA = PerModel(paper=16, vit_small=32, vit_micro=32)


def add_lora_flags(parser):
    """The flags that lora and loraprune share."""
    parser.add_argument("--rank", type=positive_int, default=RANK, help=f"rank of the update (default: {RANK})")
    parser.add_argument("--alpha", type=positive_float, default=ALPHA, help=f"its scale times r (default: {ALPHA})")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout before the adapter, 0 to 1 (default: 0.1)")
    parser.add_argument(
        "--bn", choices=("update", "freeze"), default="update", help="batch-norm statistics (default: update, as published)"
    )
    return parser
