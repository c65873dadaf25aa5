"""The fields of a checkpoint, and what each may be. Files of earlier versions lack those that are optional here."""

from typing import Any

import torch

from unlearning.core import content
from unlearning.core.content import fields, list_of, map_of, number, optional, plain, require, text, whole
from unlearning.images.checkpoints import forgotten

SIDE, CHANNELS, CLASSES = 4096, 1024, 1_000_000  # of images in pixels, of their channels, of classes: the most
# Arguments of timm.create_model that could make it read or fetch something, and endings of what it could read.
FETCHING = ("cache_dir", "model_name", "scriptable", "exportable", "no_jit", "features_only", "file", "url")
FILES = (".bin", ".npz", ".pt", ".pth", ".safetensors", ".tar")
GENERATIONS = 200  # of identities: a network that was unlearned again and again has a parent for each time


def network(value: Any) -> None:
    """A network's name and the arguments of `models.create`; of learners on a backbone those of `learners.Prompted`."""
    prompted = isinstance(value, dict) and isinstance(value.get("arguments"), dict) and "backbone" in value["arguments"]
    names = list_of(text())
    further = {"layers": map_of(names), "code": text(), "compact": content.yes_or_no}
    fields({"name": text(), "arguments": _PROMPTED if prompted else _arguments}, further)(value)
    if "layers" in value:
        fields({}, dict.fromkeys(("head", "lora", "prune", "unheard"), names), closed=True)(value["layers"])


def _arguments(value: Any) -> None:
    channels = list_of(number(), 1)
    deviations = list_of(number(above=0), 1)
    needed = {"in_chans": whole(1, CHANNELS), "num_classes": whole(1, CLASSES), "img_size": whole(1, SIDE)}
    further = {"input_size": whole(1, SIDE), "small_stem": content.yes_or_no, "config": plain_map, "model_args": _model_args}
    fields(needed | {"mean": channels, "std": deviations}, further, closed=True)(value)
    alike = len(value["mean"]) == len(value["std"]) == value["in_chans"]
    require(alike, "mean", f"and std have {len(value['mean'])} and {len(value['std'])} numbers for the channels")


def _model_args(value: Any) -> None:
    plain_map(value)
    for name, inner in value.items():
        require(is_harmless(name, inner), name, f"is {content.shown(inner)}: nothing that a file may ask of timm")


def is_harmless(name: Any, value: Any) -> bool:
    """True for an argument of timm.create_model by which no file is read or fetched: numbers, words, lists of them."""
    if name in FETCHING or str(name).startswith(("pretrained", "hf_", "checkpoint")):
        return False
    if isinstance(value, (list, tuple)):
        return all(is_harmless("", inner) for inner in value)
    if isinstance(value, str):
        return not any(part in value for part in ("/", "\\", ":", "~")) and not value.endswith(FILES)
    return value is None or isinstance(value, (bool, int, float))


def plain_map(value: Any) -> None:
    """A dictionary of plain values by name."""
    map_of(content.anything)(value)
    plain(value)


_PROMPTED = fields(
    {
        "backbone": network,
        "shape": list_of(whole(1, SIDE), 3),
        "classes": whole(1, CLASSES),
        "learners": whole(1),
        "routed": content.yes_or_no,
    },
    {"nearest": whole(1), "prompted": content.yes_or_no},
)


def identity(value: Any, generations: int = GENERATIONS) -> None:
    """What `vision.identity.identity` makes, or the digest of a parent of which no more is known."""
    require(generations > 0, "", f"has more than {GENERATIONS} parents")
    if isinstance(value, dict) and "settings" not in value and "sha256" in value:
        return fields({"sha256": text()})(value)
    own = {"method": text(), "settings": plain_map, "data": optional(text()), "forget": optional(forgotten)}
    fields(own)(value)

    def parent(inner: Any) -> None:
        if inner is not None:
            identity(inner, generations - 1)

    return fields({"parent": parent})(value)


def cost(value: Any) -> None:
    """Numbers by name, what a run has cost."""
    map_of(number(0, 1e18))(value)


def epochs(config: Any) -> None:
    """Settings with a number of epochs, where they say one."""
    plain_map(config)
    fields({}, {"epochs": optional(whole(0, 10**9)), "forget_random": optional(number(0, 1))})(config)


def data_of(value: Any) -> None:
    """What `data.Source.described` writes of images; None in the place of the fingerprint where there are none."""
    needed = {"fingerprint": optional(text())}
    if isinstance(value, dict) and value.get("fingerprint") is not None:
        needed |= {"tag": text()}
    more = optional(whole(1))
    further = {"dataset": content.path, "subset": more, "test_subset": more, "validation": number(0, 0.999999999)}
    further |= {"img_size": whole(1, SIDE), "side": whole(1, SIDE), "train": whole(1), "test": whole()}
    fields(needed, further)(value)
    if "files" not in value:  # else records.Known looks
        fields({}, {"classes": list_of(content.either(text(), whole()))})(value)


REQUIRED = {
    "network": network,
    "state_dict": content.every(map_of(content.dense), lambda value: require(len(value) > 0, "", "is empty")),
    "method": text(),
    "config": epochs,
    "data": data_of,
    "forget": content.positions(),
    "forget_tag": optional(text()),
    "seed": whole(0, content.SEEDS),
    "cost": cost,
    "key": text(10 * content.TEXT),
}
OPTIONAL = {
    "command": text(content.TEXT),
    "device": text(),
    "date": optional(text()),
    "versions": map_of(text()),
    "flags": map_of(text(content.TEXT, empty=True)),
    "classes": optional(list_of(content.either(text(), whole()))),
    "identity": identity,
    "parent": optional(text()),
    "origin": optional(text()),
    "elsewhere": optional(content.path),
    "private": optional(content.positions()),
    "forget_images": content.tensor(torch.int64, None),
    "forget_names": list_of(text(content.TEXT)),
}


def checkpoint(value: Any) -> None:
    """All of a checkpoint's fields, each by itself and together."""
    fields(REQUIRED, OPTIONAL)(value)
    count = len(value["forget"])
    for name in ("forget_images", "forget_names"):
        require(len(value.get(name, value["forget"])) == count, name, f"doesn't name the {count} images of forget")
    require(count == 0 or value["forget_tag"] is not None, "forget_tag", "is missing, though images are forgotten")
    private, every = value.get("private"), value["data"].get("train")
    most = every if private is None else len(private)
    if most is not None:
        content.check_within(value["forget"], most, "forget")
    if private is not None and every is not None:
        content.check_within(private, every, "private")
    arguments, classes = value["network"]["arguments"], value.get("classes")
    known = arguments.get("num_classes", arguments.get("classes"))
    require(classes is None or len(classes) == known, "classes", f"has {len(classes or ())} names for {known} logits")
    if value["data"]["fingerprint"] is not None:  # else it is a backbone of lmeraser.py, which nobody has trained here
        fields({"seconds": number(0), "trainable": number(0)})(value["cost"])
