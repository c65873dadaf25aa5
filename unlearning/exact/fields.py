"""The fields of system.pth and of the files of parts. Those of earlier versions lack what is optional here."""

import re
from typing import Any

import torch

from unlearning.core import content
from unlearning.core.content import Misfit, fields, list_of, map_of, number, optional, require, tensor, text, whole
from unlearning.exact import ridge
from unlearning.networks import checkpoint_fields

PART_FILE = re.compile(r"part_\d{4,9}_\d{4,9}\.pth")
COST = {"seconds": number(0), "memory_mib": number(0), "steps": whole(), "images": whole(), "sample_epochs": whole()}
SETTINGS = {"epochs": whole(0, 10**9), "batch_size": whole(1), "parts": whole(1), "seed": whole(0, content.SEEDS)}
SETTINGS |= {"lr": number(above=0), "head_lr": number(above=0), "backbone": text(content.TEXT)}
FURTHER = {"no_flip": content.yes_or_no, "precision": optional(content.one_of("fp32", "bf16"))}
FURTHER |= {"linkage": content.one_of("average", "ward", "complete"), "input_size": whole(1, checkpoint_fields.SIDE)}
FURTHER |= {"start": content.one_of("random", "public"), "head": content.one_of("sgd", "ridge"), "nearest": whole(1)}


def _part_file(value: Any) -> None:
    if value is None:
        return
    text()(value)
    if not PART_FILE.fullmatch(value):
        raise Misfit(f"is {content.shown(value)}, no file of a part")


def _settings(value: Any) -> None:
    checkpoint_fields.epochs(value)
    fields(SETTINGS, FURTHER)(value)


LEDGER = fields(
    {"date": text(), "command": text(content.TEXT), "ids": list_of(whole()), "parts": list_of(whole())}
    | {"full_sample_epochs": whole()}
    | COST,
    {"flops": whole(0, 10**30)},
)
LEARNED = {"prompt": tensor(torch.float32, None), "weight": tensor(torch.float32, None, None)}
LEARNED |= {"bias": tensor(torch.float32, None)}
PUBLIC = {name: tensor(torch.float64, None) for name in ("mean", "scale")}
PUBLIC |= {name: tensor(torch.float64, None, None) for name in ("inverse", "solution")}
START = content.either(fields(LEARNED, closed=True), fields(PUBLIC, closed=True))  # of ridge.public
BACKBONE = fields({"file": content.path, "sha256": text()}, {"network": checkpoint_fields.network})
SYSTEM = fields(
    {
        "method": text(),
        "backbone": BACKBONE,
        "config": _settings,
        "data": checkpoint_fields.data_of,
        "shape": list_of(whole(1, checkpoint_fields.SIDE), 3),
        "classes": whole(1, checkpoint_fields.CLASSES),
        "seed": whole(0, content.SEEDS),
        "device": text(),
        "command": text(content.TEXT),
        "files": list_of(_part_file),
        "private": content.positions(),
        "deleted": content.positions(),
        "anchors": content.positions(),
        "part": tensor(torch.int64, None),
        "ledger": list_of(LEDGER),
        "cost": fields(COST),
        "flops": whole(0, 10**30),
        "centres": optional(tensor(torch.float32, None, None)),
    },
    {
        "own": checkpoint_fields.plain_map,
        "flags": map_of(text(content.TEXT, empty=True)),
        "versions": map_of(text()),
        "date": text(),
        "numbers": content.positions(),
        "start": START,
    },
)


def system(value: Any) -> None:
    """All fields of system.pth, each by itself and together."""
    SYSTEM(value)
    parts, images = len(value["files"]), len(value["part"])
    content.within("part", content.numbered(-1, parts - 1), value)
    for name in ("private", "deleted", "anchors"):
        content.check_within(value[name], images, name)
    require(value["data"].get("train", images) == images, "part", f"has {images} numbers, one for each training image")
    require(len(value.get("numbers", value["part"])) == images, "numbers", f"isn't {images} numbers, one for each image")
    for name in ("fingerprint", "dataset"):
        require(value["data"].get(name) is not None, f"data.{name}", "is missing")
    inside = bool(torch.isin(value["deleted"], value["private"]).all())
    require(inside, "deleted", "holds images that aren't private")
    centres = value.get("centres")
    require(centres is None or len(centres) == parts, "centres", f"aren't those of {parts} parts")
    require(value["method"] != "lmeraser" or centres is not None, "centres", "are missing")
    require(len(value["shape"]) == 3, "shape", "isn't channels, height and width")
    config = value["config"]
    require(("start" in value) == (config.get("start") == "public"), "start", "doesn't fit its config")
    require(("inverse" in value.get("start", ())) == ridge.is_asked_for(config), "start", "doesn't fit its config")
    require(config.get("nearest", 1) == 1 or ridge.is_asked_for(config), "config.nearest", "doesn't fit its head")
    named = value["data"].get("classes")
    require(named is None or len(named) == value["classes"], "classes", "isn't the number of classes of its data")
    deleted, once = set(value["deleted"].tolist()), max(parts, value["config"].get("parts", parts))  # fewer anchors, fewer
    for place, entry in enumerate(value["ledger"]):
        require(set(entry["ids"]) <= deleted, f"ledger.{place}.ids", "holds images that aren't deleted")
        require(all(part < once for part in entry["parts"]), f"ledger.{place}.parts", f"holds more than {once} parts")


def part(value: Any) -> None:
    """What the file of a trained part holds."""
    tensors = LEARNED | {"members": content.positions()}
    costs = {"seconds": number(0), "memory_mib": number(0), "steps": whole()}
    fields(tensors | costs, {"part": whole(), "seed": whole(), "backbone": text(), "data": text(), "elapsed": number(0)})(
        value
    )
    checkpoint_fields.plain_map(value.get("config", {}))
    require(len(value["weight"]) == len(value["bias"]), "bias", "doesn't fit its weight")
