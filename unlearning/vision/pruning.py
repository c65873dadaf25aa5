"""L2 structured pruning: choosing output filters, silencing them whole, keeping them silent, and taking them out.

The pruning of PruneLoRA (arXiv 2411.11907). Its public scripts drop the masks before fine-tuning, so the filters grow
back; here a silenced filter stays zero unless `--regrow` asks for the published behaviour.
A set of masks is a dictionary: name of a layer, or of one parameter, to bool (out,), True for the rows that stay.
"""

import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

import models
from unlearning.core.errors import UserError
from unlearning.core.flags import fraction
from unlearning.vision import compaction


def prune(model, config):
    """Prune as the flags say: (the masks of all that is pruned, the masks of what training is to keep silent)."""
    if config.compact and config.regrow:
        raise UserError("--compact: with --regrow nothing stays silent")
    before = zeros(model)
    masks = prune_filters(model, config.amount, whole=not config.regrow)
    silent = {} if config.regrow else masks
    if config.prune_head:
        masks = masks | zero_head_rows(model, config.amount)
    if not config.quiet:
        print(f"zeros among the weights: {before:.1f} % before, {zeros(model):.1f} % after pruning")
    if config.compact == "first":
        silent = compaction.remove(model, silent)
    return masks, silent


def add_pruning_flags(parser):
    """The flags that pruneft and loraprune share."""
    parser.add_argument("--amount", type=fraction, default=0.5, help="share of rows to prune (default: 0.5)")
    parser.add_argument("--regrow", action="store_true", help="prune weights alone and drop the masks, as published")
    parser.add_argument(
        "--compact",
        nargs="?",
        const="after",
        choices=("first", "after"),
        help="make the network smaller by taking silent channels out, before or after it unlearns (default: after)",
    )
    parser.add_argument("--prune-head", action="store_true", help="also zero rows of the head, free to regrow (paper)")
    return parser


def prunable(model):
    """Names of the layers that the paper prunes: every Conv2d, or a ViT's last attention output projection."""
    if models.is_vit(model):
        return [f"net.blocks.{len(model.net.blocks) - 1}.attn.proj"]
    return [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]


def prune_filters(model, amount, whole=True):
    """Zero the `amount` (0..1) of the rows of smallest L2 norm in each prunable layer, in place; return the masks.

    whole: silence also their biases, and the scale and offset of the batch norm that follows, without which a pruned
    filter still speaks. False: the weights alone, as in the published scripts; only such filters can grow back, since
    behind a batch norm of scale zero they would get no gradient.
    """
    masks, norms = l2_masks(model, amount, prunable(model)), _following_norms(model)
    if whole:
        # Copies, because safetensors refuses tensors that share memory.
        masks |= {norms[name]: mask.clone() for name, mask in masks.items() if name in norms}
    else:
        masks = {f"{name}.weight": mask for name, mask in masks.items()}
    silence(model, masks)
    return masks


def l2_masks(model, amount, names):
    """Zero the weights of the `amount` (0..1) of each layer's rows with the smallest L2 norm, in place; return the masks."""
    masks = {}
    for name in names:
        layer = model.get_submodule(name)
        torch_prune.ln_structured(layer, "weight", amount, n=2, dim=0)
        masks[name] = layer.weight_mask.flatten(1)[:, 0].bool()
        torch_prune.remove(layer, "weight")
    return masks


def zero_head_rows(model, amount):
    """Zero the head's weight rows of smallest L2 norm, as the paper does to its ViT; return the mask. Rows are classes, so
    this mask isn't kept in training: it would delete kept classes for good."""
    name = models.head_name(model)
    return {f"{name}.weight": l2_masks(model, amount, [name])[name]}


def silence(model, masks):
    """Zero all that the masked rows own (weights, biases, batch-norm scale and offset), in place."""
    with torch.no_grad():
        for tensor, dead in dead_rows(model, masks):
            tensor[dead] = 0


def keep(optimizer, model, masks):
    """Zero the masked rows again after every step of `optimizer`, so that no update regrows them.

    `model` may be wrapped by PEFT: masking output filters is the same as zero rows in lora_B.
    """
    rows = [(tensor, dead) for tensor, dead in dead_rows(model, masks) if tensor.requires_grad]

    @torch.no_grad()
    def zero_again(*_):
        for tensor, dead in rows:
            tensor.masked_fill_(dead.view(-1, *[1] * (tensor.ndim - 1)), 0)

    optimizer.register_step_post_hook(zero_again)


def zeros(model):
    """Share of exact zeros among the weights of convolutions and linear layers, in percent."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return 100 * sum((w == 0).sum().item() for w in weights) / sum(w.numel() for w in weights)


def dead_rows(model, masks):
    """(parameter, bool (out,) of its dead rows) for each parameter that has a row for every output of a masked layer."""
    for key, tensor in model.named_parameters():
        key = key.removeprefix("base_model.model.")  # PEFT's
        for name, mask in masks.items():
            if f"{key}.".startswith(f"{name}.") and ".lora_A." not in key:
                yield tensor, ~mask.to(tensor.device)


def _following_norms(model):
    """Convolution name to the name of the batch norm after it; timm's blocks register the two one after the other."""
    norms, previous = {}, None
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            previous = name
        elif isinstance(module, nn.BatchNorm2d) and previous is not None:
            norms[previous], previous = name, None
    return norms
