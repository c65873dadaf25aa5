"""Layers that a user names, and what a network's layers give when it answers images."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn

from unlearning.core.errors import UserError
from unlearning.vision.layers import WEIGHTED, called


def named(model: nn.Module, wanted: Sequence[str], flag: str) -> tuple[str, ...]:
    """Names of the convolutions and linear layers that a user means by `wanted`: whole names, ends of names, or patterns
    with * and ?. Raises UserError for one that means none, naming `flag`."""
    layers = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    found: dict[str, None] = {}
    for word in wanted:
        meant = [n for n in layers if n in (word, f"net.{word}")]
        meant = meant or [n for n in layers if _is_like(n, word)]
        if not meant:
            some = ", ".join(name.removeprefix("net.") for name in (*layers[:2], *layers[-2:]))
            raise UserError(f"{flag} {word}: {called(model)} has no convolution or linear layer of this name; it has {some}")
        found |= dict.fromkeys(meant)
    return tuple(found)


def heads_by_hand(model: nn.Module, wanted: Sequence[str], images: torch.Tensor) -> tuple[str, ...]:
    """Names of the modules that a user means by --head: such as `named` finds, or else modules of any kind. Where one of
    several layers ends in a layer whose outputs are its own, it is that layer.

    Raises UserError for one that isn't called when the network answers `images` (B, C, H, W), in evaluation mode.
    """
    modules = {n: m for n, m in model.named_modules() if n.startswith("net.") and next(m.parameters(), None) is not None}
    found: dict[str, None] = {}
    for word in wanted:
        meant = [name for name in modules if name == word or name == f"net.{word}"]
        layers_of_it = [] if meant else [n for n, m in modules.items() if isinstance(m, WEIGHTED) and _is_like(n, word)]
        meant = meant or layers_of_it or [name for name in modules if _is_like(name, word)]
        found |= dict.fromkeys(meant or named(model, [word], "--head"))
    inside = [name for name in modules if any(f"{name}.".startswith(f"{head}.") for head in found)]
    _, heard = _outputs(model, images, inside)
    if idle := [name for name in found if name not in heard]:
        raise UserError(f"--head {idle[0].removeprefix('net.')}: {called(model)} never calls this layer for its answer")
    return tuple(dict.fromkeys(_last_within(modules, heard, head) for head in found))


def unheard(model: nn.Module, images: torch.Tensor) -> tuple[str, ...]:
    """Names of the convolutions and linear layers that aren't called when the network answers `images`, in evaluation mode:
    functions that read their weights directly, as PyTorch's own attention does, would read past LoRA."""
    _, heard = _outputs(model, images)
    return tuple(name for name, module in model.named_modules() if isinstance(module, WEIGHTED) and name not in heard)


def gives(model: nn.Module, name: str, images: torch.Tensor, classes: int) -> bool:
    """True if what the module of this name gives for `images` (B, C, H, W), in evaluation mode, has one number for each of
    `classes`, of a convolution one for each and place."""
    given: Any = _outputs(model, images, [name])[1].get(name)
    return isinstance(given, torch.Tensor) and given.ndim > 1 and classes in (given.shape[1], given.shape[-1])


def giving(model: nn.Module, images: torch.Tensor) -> str | None:
    """Name of the convolution or linear layer whose output, of a convolution its mean over places, is what the network
    answers to `images`, in evaluation mode; None where there is none, or where what it gives is changed again."""
    answers, heard = _outputs(model, images)
    for name, output in reversed(heard.items()):
        logits = output.flatten(2).mean(2) if output.ndim == 4 else output
        if logits.numel() == answers.numel() and torch.allclose(logits.reshape_as(answers), answers, 1e-4, 1e-5):
            return name
    return None


def averaged(model: nn.Module, images: torch.Tensor) -> tuple[str, ...]:
    """Names of the layers whose mean output is what the network answers to `images`, in evaluation mode, as of distilled
    networks that have a head for the labels and one for their teacher's; none where there are no two of them."""
    answers, heard = _outputs(model, images)
    like = {name: output for name, output in heard.items() if output.shape == answers.shape}
    several = len(like) > 1 and torch.allclose(torch.stack([*like.values()]).mean(0), answers, 1e-4, 1e-5)
    return tuple(like) if several else ()


def _is_like(name, word):
    """True for a name that ends as a word or pattern says."""
    return fnmatchcase(name, word) or fnmatchcase(name, f"*.{word}")


def _last_within(modules, heard, name):
    """The last convolution or linear layer in the module of this name, if what it gave is what the module gave; else this
    name. heard: outputs by name, in the order of the calls."""
    last = next((n for n in reversed(heard) if f"{n}.".startswith(f"{name}.") and isinstance(modules[n], WEIGHTED)), name)
    alike = isinstance(heard[name], torch.Tensor) and torch.equal(heard[last], heard[name])
    return last if alike else name


def _outputs(model, images, names=None):
    """The network's answers to `images` in evaluation mode, and what its convolutions and linear layers, or the modules of
    these names, gave, by name, in the order of their last calls."""
    heard: dict[str, torch.Tensor] = {}

    def keep(name, module, inputs, output):
        heard.pop(name, None)
        heard[name] = output.clone() if isinstance(output, torch.Tensor) else output  # which may be changed in place

    asked = [(n, m) for n, m in model.named_modules() if (isinstance(m, WEIGHTED) if names is None else n in names)]
    hooks = [module.register_forward_hook(partial(keep, name)) for name, module in asked]
    with torch.no_grad():
        answers = model.eval()(images)
    for hook in hooks:
        hook.remove()
    return answers, heard
