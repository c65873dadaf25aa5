"""L2 structured pruning: choosing output filters, silencing them whole, keeping them silent, and taking them out.

The pruning of PruneLoRA (arXiv 2411.11907). Its public scripts drop the masks before fine-tuning, so the filters grow
back; here a silenced filter stays zero unless `--regrow` asks for the published behaviour.
A set of masks is a dictionary: name of a layer, or of one parameter, to bool (out,), True for the rows that stay.
"""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import models
from unlearning.core.errors import UserError
from unlearning.vision import compaction, layers
from unlearning.vision.settings import Settings

Masks = dict[str, torch.Tensor]


def prune(model: nn.Module, settings: Settings, quiet: bool) -> tuple[Masks, Masks]:
    """Prune as the flags say: (masks of all that is pruned, masks of what training is to keep silent)."""
    if settings.compact and settings.regrow:
        raise UserError("--compact: with --regrow nothing stays silent")
    before = models.zeros(model)
    masks = prune_filters(model, settings.amount, whole=not settings.regrow)
    silent = {} if settings.regrow else masks
    if settings.prune_head:
        masks = masks | zero_head_rows(model, settings.amount)
    if not quiet:
        print(f"zeros among the weights: {before:.1f} % before, {models.zeros(model):.1f} % after pruning")
    if settings.compact == "first":
        silent = compaction.remove(model, silent)
    elif settings.compact:
        compaction.remove(copy.deepcopy(model), silent)  # what can't be made smaller isn't trained first
    return masks, silent


def prune_filters(model: nn.Module, amount: float, whole: bool = True) -> Masks:
    """Zero the `amount` (0..1) of the rows of smallest L2 norm in each prunable layer, in place; return the masks.

    whole: silence also their biases, and the scale and offset of the norm that reads them alone, without which a pruned
    filter still outputs a constant. False: the weights alone, as in the published scripts; only such filters can grow back,
    since behind a batch norm of scale zero they would get no gradient.
    """
    masks, norms = l2_masks(model, amount, layers.prunable(model)), layers.norms_after(model)
    if whole:
        masks |= {norms[name]: mask.clone() for name, mask in masks.items() if name in norms}  # safetensors wants copies
    else:
        masks = {f"{name}.weight": mask for name, mask in masks.items()}
    silence(model, masks)
    return masks


def l2_masks(model: nn.Module, amount: float, names: list[str]) -> Masks:
    """Zero the weights of the `amount` (0..1) of each layer's rows with the smallest L2 norm, in place; return the masks."""
    masks = {}
    for name in names:
        layer = layers.to_prune(model, name)
        torch_prune.ln_structured(layer, "weight", amount, n=2, dim=0)
        masks[name] = layer.weight_mask.flatten(1)[:, 0].bool()
        torch_prune.remove(layer, "weight")
    return masks


def zero_head_rows(model: nn.Module, amount: float) -> Masks:
    """Zero each head's weight rows of smallest L2 norm, as the paper does to its ViT; return the masks. Rows are classes, so
    these masks aren't kept in training: they would delete kept classes for good."""
    return {f"{name}.weight": mask for name, mask in l2_masks(model, amount, layers.heads(model)).items()}


def silence(model: nn.Module, masks: Masks) -> None:
    """Zero weights, biases and batch-norm parameters of masked filters, in place."""
    _zero(dead_rows(model, masks))


def keep(optimizer: torch.optim.Optimizer, model: nn.Module, masks: Masks) -> None:
    """Zero the masked rows again after every step of `optimizer`, so that no update regrows them.

    `model` may be wrapped by PEFT: masking output filters is the same as zero rows in lora_B.
    """
    rows = [(tensor, dead) for tensor, dead in dead_rows(model, masks) if tensor.requires_grad]
    optimizer.register_step_post_hook(lambda *_: _zero(rows))


@torch.no_grad()
def _zero(rows: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for tensor, dead in rows:
        tensor.masked_fill_(dead.view(-1, *[1] * (tensor.ndim - 1)), 0)


def dead_rows(model: nn.Module, masks: Masks) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(parameter, bool (out,) of its dead rows) for each parameter that has a row for every output of a masked layer."""
    for key, tensor in model.named_parameters():
        key = key.removeprefix("base_model.model.")  # PEFT's
        for name, mask in masks.items():
            if f"{key}.".startswith(f"{name}.") and ".lora_A." not in key:
                yield tensor, ~mask.to(tensor.device)
