"""The fields of an unfinished run's file, and whether they fit the run."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from unlearning.core import content
from unlearning.core.content import fields, list_of, map_of, number, require, text, whole
from unlearning.vision.epoch_scores import EpochScores

# What optimisers keep of each parameter, of those whose own code fails without it.
ADAM = ("step", "exp_avg", "exp_avg_sq")
KEPT: dict[type, tuple[str, ...]] = {torch.optim.Adam: ADAM, torch.optim.AdamW: ADAM, torch.optim.SGD: ("momentum_buffer",)}


def _history(value: Any) -> None:
    """Lists of lists of numbers, as many and as long in each."""
    list_of(list_of(list_of(number())))(value)
    sizes = {tuple(map(len, step)) for step in value}
    require(len(sizes) < 2, "", f"has entries of {len(sizes)} sizes")


STATE = fields(
    {"key": text(), "epoch": whole(1, 10**9), "seconds": number(0), "model": map_of(content.dense), "scheduler": whole()}
    | {"optimizer": fields({"state": fields({}), "param_groups": list_of(fields({"params": list_of(whole())}), 1)})},
    {"history": _history, "made_by": map_of(text()), "script": text(empty=True)},
)


def check(state: Any, model: nn.Module, optimizer: Optimizer, path: Path, scores: Iterable[EpochScores] = ()) -> None:
    """Raise UserError, which names the field, unless the content of `path` can be given to network, optimiser and scores."""

    def rule(value: Any) -> None:
        STATE(value)
        own = model.state_dict()
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        require(trained <= value["model"].keys() <= own.keys(), "model", "has other tensors than the network")
        for name, tensor in value["model"].items():
            alike = (tensor.shape, tensor.dtype) == (own[name].shape, own[name].dtype)
            require(alike, f"model.{name}", f"is {content.shown(tensor)}, and the network's {content.shown(own[name])}")
        _groups(value["optimizer"], optimizer)
        for each in scores:
            if each.FIELD in value:
                content.within(each.FIELD, partial(each.check, epochs=value["epoch"]), value)

    content.check(state, rule, f"{path} (delete it to begin again)")


def _groups(saved: Any, optimizer: Optimizer) -> None:
    """Raise Misfit where the optimiser has other groups of parameters, or another kind of state."""
    own = optimizer.state_dict()["param_groups"]
    groups, place = saved["param_groups"], "optimizer.param_groups"
    require(len(groups) == len(own), place, f"are {len(groups)}, and the optimiser has {len(own)}")
    for group, mine in zip(groups, own, strict=True):
        require(group["params"] == mine["params"], place, "name other parameters")
        for name, value in mine.items():
            require(_alike(group.get(name), value), f"{place}.{name}", f"is {content.shown(group.get(name))}")
    muon = _is_muon(optimizer)
    shapes = [parameter.shape for group in optimizer.param_groups for parameter in group["params"]]
    for number_, state in saved["state"].items():
        known = isinstance(number_, int) and 0 <= number_ < len(shapes) and isinstance(state, dict)
        require(known, "optimizer.state", f"has {content.shown(number_)}, which is no parameter")
        lost = [name for name in _needed(optimizer, state) if name not in state]
        require(not lost, f"optimizer.state.{number_}", f"has no {', '.join(lost)}")
        for name, value in state.items():
            place, shape = f"optimizer.state.{number_}.{name}", shapes[number_]
            if isinstance(value, torch.Tensor):
                content.inside(content.dense, value, place)
            right = _kept_by_muon(value, name, shape) if muon else _kept(value, name, shape, type(optimizer) in KEPT)
            require(right, place, f"is {content.shown(value)}")


def _is_muon(optimizer: Optimizer) -> bool:
    """True for timm's Muon, without the second that its import takes."""
    return all("ns_steps" in group for group in optimizer.param_groups)


def _needed(optimizer: Optimizer, state: dict[str, Any]) -> tuple[str, ...]:
    """What an optimiser's own code needs of a parameter's state. timm's Muon says in it which of two ways is the
    parameter's."""
    if _is_muon(optimizer):
        return ("use_muon", *(("momentum_buffer",) if state.get("use_muon") is True else ADAM))
    return KEPT.get(type(optimizer), ())


def _kept(value: Any, name: str, shape: torch.Size, known: bool) -> bool:
    """True for what an optimiser may keep as `name` of a parameter of this shape: tensors like it, counters. known: whether
    it is of KEPT; others may keep other things."""
    if isinstance(value, torch.Tensor):
        if name == "step":
            return value.shape == torch.Size([])
        return (value.shape == shape and value.is_floating_point()) or (not known and value.shape == torch.Size([]))
    if value is None:
        return name not in ADAM
    counts = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < content.LARGEST
    return counts and (name == "step" or not known)


def _kept_by_muon(value: Any, name: str, shape: torch.Size) -> bool:
    """True for what timm's Muon may keep as `name`: which way is the parameter's, a matrix's alone its own; tensors."""
    if name == "use_muon":
        return value is False or (value is True and len(shape) > 1)
    return isinstance(value, torch.Tensor) and _kept(value, name, shape, known=True)


def _alike(value: Any, own: Any) -> bool:
    """True for a value of the same kind as the optimiser's own: a number that is finite, a tuple as long, the same else."""
    if isinstance(own, bool) or own is None or isinstance(own, str):
        return type(value) is type(own) and value == own
    if isinstance(own, (tuple, list)):
        return isinstance(value, (tuple, list)) and len(value) == len(own) and all(map(_alike, value, own))
    if isinstance(own, (int, float)):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < content.LARGEST
    return isinstance(value, type(own))
