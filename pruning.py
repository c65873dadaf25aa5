"""L2 structured pruning: choosing output filters, silencing them whole, keeping them silent, and taking them out.

The pruning of PruneLoRA (arXiv 2411.11907). Its public scripts drop the masks before fine-tuning, so the filters grow
back; here a silenced filter stays zero unless `--regrow` asks for the published behaviour.
A set of masks is a dictionary: name of a layer, or of one parameter, to bool (out,), True for the rows that stay.
"""

import warnings

import torch
import torch_pruning
from torch import nn
from torch.nn.utils import prune

import models
from errors import UserError

MULTIPLE = 8  # numbers in a register: onnxruntime takes longer for 15 channels than for 16


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
        prune.ln_structured(layer, "weight", amount, n=2, dim=0)
        masks[name] = layer.weight_mask.flatten(1)[:, 0].bool()
        prune.remove(layer, "weight")
    return masks


def zero_head_rows(model, amount):
    """Zero the head's weight rows of smallest L2 norm, as the paper does to its ViT; return the mask. Rows are classes, so
    this mask isn't kept in training: it would delete kept classes for good."""
    name = models.head_name(model)
    return {f"{name}.weight": l2_masks(model, amount, [name])[name]}


def silence(model, masks):
    """Zero all that the masked rows own (weights, biases, batch-norm scale and offset), in place."""
    with torch.no_grad():
        for tensor, dead in _dead_rows(model, masks):
            tensor[dead] = 0


def keep(optimizer, model, masks):
    """Zero the masked rows again after every step of `optimizer`, so that no update regrows them.

    `model` may be wrapped by PEFT: masking output filters is the same as zero rows in lora_B.
    """
    rows = [(tensor, dead) for tensor, dead in _dead_rows(model, masks) if tensor.requires_grad]

    @torch.no_grad()
    def zero_again(*_):
        for tensor, dead in rows:
            tensor.masked_fill_(dead.view(-1, *[1] * (tensor.ndim - 1)), 0)

    optimizer.register_step_post_hook(zero_again)


def remove(model, masks):
    """Take silent channels out of `model`, in place, so that its layers are smaller; return the masks of what is left.

    A channel goes where every layer that writes it is silent: those of a block's inner channels that `masks` silence, and
    those of a residual stream on which all its blocks agree; but for a few, so that what stays is a multiple of 8. Raises
    UserError where nothing can go, or where the network would then answer differently, by more than 1e-4 of its largest
    logit.
    """
    nothing = "--compact: nothing to take out, for what is silent is added to channels that are not"
    if models.is_vit(model):
        raise UserError(nothing)
    mean = model.eval().normalize.mean
    x = torch.rand(4, mean.shape[1], 32, 32, device=mean.device)  # any size: these are convolutions
    with torch.no_grad():
        before = model(x)
    model.requires_grad_(True)  # the library follows the forward pass by its gradients
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of parameters that belong to no layer, which stay as they are
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    names, left = {module: name for name, module in model.named_modules()}, dict(masks)
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d) or name not in masks:
            continue
        dead = (~left[name]).nonzero().squeeze(1).tolist()
        writers = _writers(graph, layer, dead, names) if dead else []
        silent = [all(w in left and not left[w][rows[i]] for w, rows in writers) for i in range(len(dead))]
        going = [row for row, gone in zip(dead, silent, strict=True) if gone]
        going = going[(len(going) - layer.out_channels) % MULTIPLE :]
        if going:
            for writer, rows in _writers(graph, layer, going, names, norms=True):
                if writer in left:
                    stays = torch.ones(len(left[writer]), dtype=torch.bool)
                    stays[rows] = False
                    left[writer] = left[writer][stays]
            graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, going).prune()
    with torch.no_grad():
        off = (model(x) - before).abs().max() / before.abs().max()
    if sum(map(len, left.values())) == sum(map(len, masks.values())):
        raise UserError(nothing)
    if not off < 1e-4:
        raise UserError(f"--compact: without its silent channels this network answers differently (by {off:.2g})")
    return left


def _writers(graph, layer, rows, names, norms=False):
    """The convolutions, with `norms` their batch norms too, that lose rows if `layer` loses its `rows`: (name, rows)."""
    kinds = (nn.Conv2d, nn.BatchNorm2d) if norms else nn.Conv2d
    group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, rows)
    return [
        (names[item.target.module], list(lost))
        for item, lost in group
        if isinstance(item.target.module, kinds) and graph.is_out_channel_pruning_fn(item.handler)
    ]


def zeros(model):
    """Share of exact zeros among the weights of convolutions and linear layers, in percent."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return 100 * sum((w == 0).sum().item() for w in weights) / sum(w.numel() for w in weights)


def _dead_rows(model, masks):
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
