"""Takes silent channels out of a network, so that it becomes smaller and answers the same."""

import copy
import warnings
from typing import Any

import torch
from torch import nn

import models
from unlearning.core.errors import UserError
from unlearning.core.words import first_line
from unlearning.vision import layers

MULTIPLE = 8  # numbers in a register: onnxruntime takes longer for 15 channels than for 16
NOTHING = "--compact: nothing to take out, for what is silent is added to channels that are not"
SIDES = (32, 64, 128, 256, 512)  # pixels: of these the fewest that a network takes


def remove(model: nn.Module, masks: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take silent channels out of `model`, in place, so that its layers are smaller; return the masks of what is left.

    A channel goes where every layer that writes it is silent: those of a block's inner channels that `masks` silence, and
    those of a residual stream on which all its blocks agree; but for a few, so that what stays is a multiple of 8. What a
    grouped convolution (but for depthwise ones) or a norm over channels reads stays. Raises UserError where nothing can go,
    or where the network that a checkpoint of the smaller weights gives would answer differently, by more than 1e-4 of its
    largest logit.
    """
    if not layers.is_cnn(model):
        raise UserError(NOTHING)
    again = copy.deepcopy(model).eval()
    try:
        x, before = _example(again)
        left = _take_out(model.eval(), masks, x)
        models.shrink(again, model.state_dict())
        again.load_state_dict(model.state_dict())
        with torch.no_grad():
            off = (again(x) - before).abs().max() / before.abs().max()
    except Exception as error:  # the library fails in whatever way it happens to on what it can't follow
        raise UserError(f"--compact: the channels of this network can't be followed ({first_line(error)})") from None
    if sum(map(len, left.values())) == sum(map(len, masks.values())):
        raise UserError(NOTHING)
    if not off < 1e-4:
        raise UserError(f"--compact: without its silent channels this network answers differently (by {off:.2g})")
    return left


def _take_out(model, masks, x):
    """Do what `remove` says: the masks of what is left."""
    import torch_pruning

    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    model.requires_grad_(True)  # the library follows the forward pass by its gradients
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # of parameters that belong to no layer, which stay as they are
        graph = torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)
    names, left = {module: name for name, module in model.named_modules()}, dict(masks)
    for name, layer in model.named_modules():
        if isinstance(layer, layers.WEIGHTED) and name in masks and (going := _removable(graph, layer, name, names, left)):
            group = _group(graph, layer, going)
            for writer, rows in _writers(graph, group, names):
                if writer in left:
                    stays = torch.ones(len(left[writer]), dtype=torch.bool)
                    stays[rows] = False
                    left[writer] = left[writer][stays]
            group.prune()
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    return left


def _example(model):
    """Four images of random pixels of the fewest sides that `model` takes, and its logits."""
    mean: Any = model.get_buffer("normalize.mean")
    own = torch.Generator().manual_seed(0)  # what is drawn after a trial is what is drawn without one
    for side in SIDES:
        x = torch.rand(4, mean.shape[1], side, side, generator=own).to(mean.device)
        try:
            with torch.no_grad():
                return x, model(x)
        except RuntimeError:  # fewer pixels than its windows have
            if side == SIDES[-1]:
                raise


def _removable(graph, layer, name, names, left):
    """The silent rows of a layer that can go: every layer that writes their channels is silent there too, and so is every
    batch norm that they pass, which would make a constant of them (of a residual stream, where a block begins with one)."""
    dead = (~left[name]).nonzero().squeeze(1).tolist()
    group = _group(graph, layer, dead) if dead else []
    if not all(_shrinks(item.target.module) for item, _ in group):
        return []
    writers = _writers(graph, group, names)
    silent = [all(w in left and not left[w][rows[i]] for w, rows in writers) for i in range(len(dead))]
    going = [row for row, gone in zip(dead, silent, strict=True) if gone]
    return going[(len(going) - len(layer.weight)) % MULTIPLE :]


def _group(graph, layer, rows):
    """All that gets smaller if `layer` loses its `rows`."""
    return graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, rows)


def _shrinks(module):
    """True for what stays the same function without its silent channels; what the library has made itself holds nothing."""
    if isinstance(module, nn.Conv2d):
        return module.groups in (1, module.in_channels) and module.groups in (1, module.out_channels)
    own = isinstance(module, nn.Parameter) or any(True for _ in module.parameters())
    return isinstance(module, (nn.Linear, nn.BatchNorm2d)) or not own


def _writers(graph, group, names):
    """The layers and batch norms that lose rows with the `group`: (name, rows)."""
    kinds = (*layers.WEIGHTED, nn.BatchNorm2d)
    return [
        (names[item.target.module], list(lost))
        for item, lost in group
        if isinstance(item.target.module, kinds) and graph.is_out_channel_pruning_fn(item.handler)
    ]
