"""Takes silent channels out of a network, so that it becomes smaller and answers the same."""

import warnings
from typing import Any

import torch
from torch import nn

import models
from unlearning.core.errors import UserError

MULTIPLE = 8  # numbers in a register: onnxruntime takes longer for 15 channels than for 16
NOTHING = "--compact: nothing to take out, for what is silent is added to channels that are not"


def remove(model: nn.Module, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take silent channels out of `model`, in place, so that its layers are smaller; return the masks of what is left.

    A channel goes where every layer that writes it is silent: those of a block's inner channels that `masks` silence, and
    those of a residual stream on which all its blocks agree; but for a few, so that what stays is a multiple of 8. Raises
    UserError where nothing can go, or where the network would then answer differently, by more than 1e-4 of its largest
    logit.
    """
    import torch_pruning

    if models.is_vit(model):
        raise UserError(NOTHING)
    mean: Any = model.eval().get_buffer("normalize.mean")
    x = torch.rand(4, mean.shape[1], 32, 32, device=mean.device)  # any size: these are convolutions
    with torch.no_grad():
        before = model(x)
    model.requires_grad_(True)  # the library follows the forward pass by its gradients
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of parameters that belong to no layer, which stay as they are
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    names, left = {module: name for name, module in model.named_modules()}, dict(masks)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d) and name in masks and (going := _removable(graph, layer, name, names, left)):
            for writer, rows in _writers(graph, layer, going, names, norms=True):
                if writer in left:
                    stays = torch.ones(len(left[writer]), dtype=torch.bool)
                    stays[rows] = False
                    left[writer] = left[writer][stays]
            graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, going).prune()
    with torch.no_grad():
        off = (model(x) - before).abs().max() / before.abs().max()
    if sum(map(len, left.values())) == sum(map(len, masks.values())):
        raise UserError(NOTHING)
    if not off < 1e-4:
        raise UserError(f"--compact: without its silent channels this network answers differently (by {off:.2g})")
    return left


def _removable(graph, layer, name, names, left):
    """The silent rows of a convolution that can go: every layer that writes their channels is silent there too."""
    dead = (~left[name]).nonzero().squeeze(1).tolist()
    writers = _writers(graph, layer, dead, names) if dead else []
    silent = [all(w in left and not left[w][rows[i]] for w, rows in writers) for i in range(len(dead))]
    going = [row for row, gone in zip(dead, silent, strict=True) if gone]
    return going[(len(going) - layer.out_channels) % MULTIPLE :]


def _writers(graph, layer, rows, names, norms=False):
    """The convolutions, with `norms` their batch norms too, that lose rows if `layer` loses its `rows`: (name, rows)."""
    import torch_pruning

    kinds = (nn.Conv2d, nn.BatchNorm2d) if norms else nn.Conv2d
    group = graph.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, rows)
    return [
        (names[item.target.module], list(lost))
        for item, lost in group
        if isinstance(item.target.module, kinds) and graph.is_out_channel_pruning_fn(item.handler)
    ]
