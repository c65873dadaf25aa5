"""A system's folder as it is read: its state, and all of its parts as one network."""

from pathlib import Path
from typing import Any

import torch

import models
from unlearning.core.content import check
from unlearning.core.errors import UserError
from unlearning.core.files import is_interrupted, read_torch, sha256
from unlearning.exact import fields, learners, ridge, storage
from unlearning.exact.storage import SYSTEM
from unlearning.images import forgetting
from unlearning.vision.identity import forget_identity, identity, of_checkpoint, own_of


def read_system(folder: str | Path) -> dict[str, Any]:
    """The state of a system. Raises UserError for any other folder."""
    if not (Path(folder) / SYSTEM).exists():
        if is_interrupted(Path(folder).resolve()):
            raise UserError(f"{folder} was being replaced when its process was killed: the same command completes it")
        raise UserError(f"{folder} is no system of lmeraser.py or baselines.sisa: it has no {SYSTEM}")
    state = read_torch(Path(folder) / SYSTEM)
    version = state.get("format") if isinstance(state, dict) else None
    if not isinstance(version, int) or version != models.FORMAT or "ledger" not in state:
        raise UserError(f"{folder} is not a system of this project (format {models.FORMAT})")
    check(state, fields.system, str(Path(folder) / SYSTEM))
    return state


def assemble(folder: str | Path) -> dict[str, Any]:
    """A system as one checkpoint dictionary, as evaluate.py wants it; `private` says which training images it is about.

    Raises UserError without the backbone that it was trained on.
    """
    state = read_system(folder)
    there = [k for k, name in enumerate(state["files"]) if name]
    if not there:
        raise UserError(f"{folder} can't answer: all its images are deleted")
    trained = [_learner(Path(folder) / state["files"][k], state, k) for k in there]
    source = models.load_checkpoint(backbone_of(state, folder))
    arguments = source["network"]["arguments"]
    if state["shape"] != [arguments["in_chans"], arguments["img_size"], arguments["img_size"]]:
        raise UserError(f"{folder}: its shape {state['shape']} doesn't fit its backbone: it is damaged")
    network = learners.Backbone(models.build(source, state["backbone"]["file"]), state["shape"][-1])
    _check_fitting(network, trained, state, folder)
    weights = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    weights |= {"prompts": torch.stack([learner["prompt"] for learner in trained])}
    weights |= {f"heads.{key}": torch.stack([learner[key] for learner in trained]) for key in ("weight", "bias")}
    routed = state["centres"] is not None
    weights |= {"centres": state["centres"][there]} if routed else {}
    arguments = {key: state[key] for key in ("shape", "classes")} | {"learners": len(there), "routed": routed}
    nearest = min(state["config"].get("nearest", 1), len(there))
    arguments |= {"nearest": nearest, "prompted": not ridge.is_asked_for(state["config"])}
    weights |= dict(zip(("base.weight", "base.bias"), ridge.base(state["start"]), strict=True)) if nearest > 1 else {}
    cost = state["ledger"][-1] if state["ledger"] else state["cost"]
    numbers = sum(learner[key].numel() for learner in trained for key in ("prompt", "weight", "bias"))
    inside = torch.isin(state["private"], state["deleted"]).nonzero().squeeze(1)  # positions among the private images
    return {
        **{key: state[key] for key in ("format", "method", "config", "data", "seed", "command", "device", "private")},
        "network": {"name": learners.PROMPTED, "arguments": {"backbone": source["network"], **arguments}},
        "state_dict": weights,
        "forget": inside,
        "forget_tag": forgetting.tag_of_ids(state["deleted"]) if len(inside) else None,
        "classes": state["data"].get("classes"),
        "cost": {key: cost[key] for key in ("seconds", "memory_mib", "steps")} | {"trainable": numbers, "moved": numbers},
        "key": str(state["ledger"]),
        **_identified(state, source),
    }


def _learner(file: Path, state: dict[str, Any], number: int) -> dict[str, Any]:
    """What the file of part `number` holds. Raises UserError where it is another part's, or another system's."""
    learner = read_torch(file)
    check(learner, fields.part, str(file))
    if len(learner["bias"]) != state["classes"]:
        raise UserError(f"{file}: its head has {len(learner['bias'])} logits for {state['classes']} classes: it is damaged")
    members = (state["part"] == number).nonzero().squeeze(1)
    own = {**storage.known(state), "part": number}  # files of earlier versions say less
    if any(learner.get(name, value) != value for name, value in own.items()) or not torch.equal(
        learner.get("members", members), members
    ):
        raise UserError(f"{file} is another part's, or another system's")
    return learner


def _check_fitting(
    backbone: learners.Backbone, trained: list[dict[str, Any]], state: dict[str, Any], folder: str | Path
) -> None:
    """Raise UserError where the parts' learners, or their centres, don't fit the backbone."""
    shapes = _shapes(backbone, state)
    wrong = [name for name, shape in shapes.items() if any(tuple(each[name].shape) != shape for each in trained)]
    if state["centres"] is not None and state["centres"].shape[1] != backbone.features:
        wrong.append("centres")
    if wrong:
        raise UserError(f"{folder}: its {wrong[0]} doesn't fit its backbone {state['backbone']['file']}: it is damaged")


def check_start(backbone: learners.Backbone, state: dict[str, Any], folder: Path) -> None:
    """Raise UserError where what the parts start from doesn't fit the backbone."""
    if "start" not in state:
        return
    shapes, features = _shapes(backbone, state), backbone.features
    shapes |= {"bias": shapes["weight"][:1], "mean": (features,), "scale": (features,)}
    shapes |= {"inverse": (features, features), "solution": shapes["weight"][::-1]}
    if wrong := [name for name, value in state["start"].items() if tuple(value.shape) != shapes[name]]:
        raise UserError(f"{folder}: {wrong[0]} of its start doesn't fit its backbone: it is damaged")


def _shapes(backbone: learners.Backbone, state: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes that a learner's prompt and weight have on the backbone."""
    numbers = learners.frame_of(backbone, state["shape"]).numbers
    return {
        "prompt": (0 if ridge.is_asked_for(state["config"]) else numbers,),
        "weight": (state["classes"], backbone.features),
    }


def backbone_of(state: dict[str, Any], folder: str | Path) -> Path:
    """The file of a system's backbone. Raises UserError where it is missing or another one."""
    file = Path(state["backbone"]["file"])
    if not file.exists() or sha256(file) != state["backbone"]["sha256"]:
        raise UserError(f"the backbone {file} is missing or not the file that {folder} was trained on")
    return file


def _identified(state: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """Identity and flags, by what is deleted now. source: the backbone's checkpoint."""
    gone, backbone = forget_identity(state["deleted"]), of_checkpoint(source)
    named = {"model": source["network"]["name"]}  # a file of ImageNet weights records no settings
    parent = backbone | {"settings": backbone["settings"] | named}
    own = state.get("own") or own_of(state["config"])
    known = identity(state["method"], own, state["data"]["fingerprint"], gone, parent)
    return {"identity": known, "flags": state.get("flags", {}), "origin": None}
