"""Systems of parts: private images split into parts, a learner for each, and a folder from which images are deleted exactly.

A learner depends on nothing but the images of its part, and on a start and a seed that no image has a say in. So a part that
is trained again without an image is what it would have been had the image never been there, and the other parts are that
already: bit for bit on the same device with the same number of threads. system.pth names the files that belong to the
system; it is replaced in one step after all new files are written, so a kill leaves the old state or the new one.
lmeraser.py and sisa.py differ in how they split and in who answers.
"""

import argparse
import datetime
import shutil
import sys
from pathlib import Path

import torch

import data
import models
from unlearning.core.device import resolve_device
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch, sha256, write_torch
from unlearning.core.provenance import device_name, versions
from unlearning.exact import learners, learning
from unlearning.exact.backbone import backbone_file, features_of, learner_flops, load_backbone
from unlearning.exact.selection import as_mask, private_and_anchors, requested_ids
from unlearning.vision.flags import data_arguments, data_of, load_data, load_data_by, settings_of
from unlearning.vision.run import variant

SYSTEM = "system.pth"


def train_system(method, split, config):
    """Train a system into a new folder and return its path.

    split: function of features float32 (N, F), a bool mask (N,) of private images, the anchors' positions int64 and config;
    returns the part of each image, int64 (N,), and the parts' centres float32 (K, F), or None where all parts vote.
    A killed training continues with the parts that are missing. Raises UserError when the folder exists.
    """
    dataset = load_data(config)
    config.device = resolve_device(config.device)
    source = backbone_file(dataset, config)
    content = models.load_checkpoint(source)
    private, anchors = private_and_anchors(dataset, content, config)
    without = requested_ids(config, dataset.train.labels, private, torch.empty(0, dtype=torch.int64))
    flags = variant(vars(config) | {"lr_given": False, "parts": None})
    suffix = "".join(flag.replace("--", "-").replace(" ", "-") for flag in flags)
    name = f"{dataset.tag}_{content['network']['name']}_{method}{config.parts}{suffix}_s{config.seed}"
    folder = config.output or config.weights / name.replace("/", "-")
    if folder.exists() and not config.overwrite:
        if getattr(config, "reuse", False) and read_system(folder)["config"] == settings_of(config):
            print(f"skipped, there already: {folder}", file=sys.stderr, flush=True)
            return folder
        raise UserError(f"{folder} exists; --overwrite computes it again")
    backbone = load_backbone(content, source, config.device)
    state = {
        "format": models.FORMAT,
        "method": method,
        "backbone": {"file": str(source), "sha256": sha256(source), "network": content["network"]},
        "config": settings_of(config),
        "data": data_of(config, dataset),
        "shape": list(dataset.train.images.shape[1:]),
        "classes": len(dataset.classes),
        "private": private.nonzero().squeeze(1),
        "anchors": anchors,
        "deleted": without,
        "files": [],
        "ledger": [],
        "seed": config.seed,
        "device": device_name(config.device),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": config.command,
    }
    part = folder.with_name(f".{folder.name}.partial")
    part.mkdir(parents=True, exist_ok=True)
    _split(state, split, backbone, dataset, config)
    state["flops"] = learner_flops(backbone, state)
    state["cost"] = learning.train_parts(part, state, range(len(state["files"])), 0, backbone, dataset, config)
    write_torch(part / SYSTEM, state)
    _sweep(part, state)
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)
    return folder


def delete_images(folder, split, config):
    """Delete the images that the flags name from the system in `folder`: train their parts again, write, add to the ledger.

    Raises UserError, with nothing changed, for images that are unknown, named twice, gone already or public.
    """
    state = read_system(folder)
    config = argparse.Namespace(**state["config"] | vars(config))
    config.device = resolve_device(config.device)
    dataset = load_data_by(*data_arguments(state["data"], config.data_dir))
    if dataset.fingerprint != state["data"]["fingerprint"]:
        raise UserError(f"{folder} was trained on other data than this {dataset.tag}: their fingerprints differ")
    private = as_mask(state["private"], len(dataset.train))
    ids = requested_ids(config, dataset.train.labels, private, state["deleted"])
    if not len(ids):
        raise UserError("nothing to delete: give --ids, --ids-file or --class")
    source = Path(state["backbone"]["file"])
    if not source.exists() or sha256(source) != state["backbone"]["sha256"]:
        raise UserError(f"the backbone {source} is missing or not the file that {folder} was trained on")
    backbone = load_backbone(models.load_checkpoint(source), source, config.device)
    state["deleted"] = torch.cat([state["deleted"], ids]).sort().values
    if torch.isin(ids, state["anchors"]).any():  # private ones have shaped the parts, so all begin again
        _split(state, split, backbone, dataset, config)
        hit = list(range(len(state["files"])))
    else:
        hit = state["part"][ids].unique().tolist()
        state["part"][ids] = -1
    # Files of a new generation, so that none of those that system.pth names is touched.
    cost = learning.train_parts(Path(folder), state, hit, len(state["ledger"]) + 1, backbone, dataset, config)
    left = int((state["part"] >= 0).sum())
    state["ledger"].append(
        {
            "date": datetime.date.today().isoformat(),
            "command": config.command,
            "ids": ids.tolist(),
            "parts": hit,
            "full_sample_epochs": left * config.epochs,
            **cost,
        }
    )
    write_torch(Path(folder) / SYSTEM, state)  # until here the old state holds
    _sweep(folder, state)
    return state["ledger"][-1]


def read_system(folder):
    """The state of a system. Raises UserError for any other folder."""
    state = read_torch(Path(folder) / SYSTEM)
    if not isinstance(state, dict) or state.get("format") != models.FORMAT or "ledger" not in state:
        raise UserError(f"{folder} is not a system of this project (format {models.FORMAT})")
    return state


def assemble(folder):
    """A system as one checkpoint dictionary, as evaluate.py wants it; `private` says which training images it is about."""
    state = read_system(folder)
    there = [k for k, name in enumerate(state["files"]) if name]
    trained = [read_torch(Path(folder) / state["files"][k]) for k in there]
    source = models.load_checkpoint(state["backbone"]["file"])
    network = learners.Backbone(models.build(source, state["backbone"]["file"]))
    weights = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    weights |= {"prompts": torch.stack([learner["prompt"] for learner in trained])}
    weights |= {f"heads.{key}": torch.stack([learner[key] for learner in trained]) for key in ("weight", "bias")}
    routed = state["centres"] is not None
    weights |= {"centres": state["centres"][there]} if routed else {}
    arguments = {key: state[key] for key in ("shape", "classes")} | {"learners": len(there), "routed": routed}
    cost = state["ledger"][-1] if state["ledger"] else state["cost"]
    numbers = sum(learner[key].numel() for learner in trained for key in ("prompt", "weight", "bias"))
    inside = torch.isin(state["private"], state["deleted"]).nonzero().squeeze(1)  # positions among the private images
    return {
        **{key: state[key] for key in ("format", "method", "config", "data", "seed", "command", "device", "private")},
        "network": {"name": learners.PROMPTED, "arguments": {"backbone": source["network"], **arguments}},
        "state_dict": weights,
        "forget": inside,
        "forget_tag": data.tag_of_ids(state["deleted"]) if len(inside) else None,
        "cost": {key: cost[key] for key in ("seconds", "memory_mib", "steps")} | {"trainable": numbers, "moved": numbers},
        "key": str(state["ledger"]),
    }


def _split(state, split, backbone, dataset, config):
    """Put images into parts, by what isn't deleted: fills state's part (-1: in none) and centres."""
    private, gone = (as_mask(state[key], len(dataset.train)) for key in ("private", "deleted"))
    anchors = state["anchors"][~gone[state["anchors"]]]
    features = features_of(backbone, dataset.train.images, config)
    part, state["centres"] = split(features, private, anchors, config)
    state["part"] = torch.where(private & ~gone, part, -1)
    state["files"] = [None] * (int(part.max()) + 1)


def _sweep(folder, state):
    """Remove files that don't belong to the state any more, or never came to."""
    for file in Path(folder).glob("part_*.pth"):
        if file.name not in state["files"]:
            file.unlink()
