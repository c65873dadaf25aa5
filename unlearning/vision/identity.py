"""Which checkpoints are the same but for their seed: rows of a table put these together, and nothing else.

The identity of a checkpoint: its method, the settings that make the result but the seed, the data's fingerprint, the
forget set, and the identity of the checkpoint that it started from. Device, cache, paths and versions are no part of it.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch

import data
from unlearning.core.flags import plain

# Of the settings that a file records, those that `identity` knows in another way, or that earlier versions recorded besides.
ELSEWHERE = (*data.FLAGS, "seed", "lr_given", "action", "backbone")
# And those that begin so.
REQUESTS = ("forget_class", "forget_subclass", "forget_random", "forget_file", "forget_count", "of_class", "ids")


def forget_identity(forget: torch.Tensor, draw: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """A forget set, int64 positions: a random draw by what makes it, any other by a digest; None for an empty one."""
    return draw or ({"positions": digest(forget)} if len(forget) else None)


def digest(forget: torch.Tensor) -> str:
    """The SHA-256 of a forget set, int64 positions."""
    return hashlib.sha256(forget.numpy().tobytes()).hexdigest()


def identity(
    method: str,
    settings: dict[str, Any],
    fingerprint: str | None,
    forget: dict[str, Any] | None,
    parent: dict[str, Any] | None,
) -> dict[str, Any]:
    """What a checkpoint stores as its "identity".

    settings: of its flags those that make another row (`Parser.own_settings`). forget: of `forget_identity`. parent: the
    identity of the checkpoint that it started from.
    """
    return {"method": method, "settings": settings, "data": fingerprint, "forget": forget, "parent": parent}


def of_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The identity that a checkpoint stores; of an earlier version's, which stores none, made from what it says."""
    if "identity" in checkpoint:
        return _normalised(checkpoint["identity"], checkpoint)
    own = for_each_channel(own_of(checkpoint["config"]), checkpoint)
    share, parent = checkpoint["config"].get("forget_random"), checkpoint.get("parent")
    draw = {"random": share, "seed": 0} if share else None
    forget = forget_identity(torch.as_tensor(checkpoint["forget"]), draw)
    unknown = parent and {"sha256": parent}  # `with_parent` says what it was
    return identity(checkpoint["method"], own, checkpoint["data"]["fingerprint"], forget, unknown)


def _normalised(known: dict[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """An identity whose first parent, or itself where it has none, names the constants of the checkpoint's network."""
    known = known | {"settings": for_each_channel(known["settings"], checkpoint)}
    if not known["parent"]:
        return known | {"settings": with_normalisation(known["settings"], checkpoint)}
    return known | {"parent": _normalised(known["parent"], checkpoint)} if "settings" in known["parent"] else known


def first_parent(known: dict[str, Any]) -> dict[str, Any]:
    """The identity that one descends from, as far as it is known: an original's, or itself where it has no parent."""
    return first_parent(known["parent"]) if known["parent"] and "settings" in known["parent"] else known


def with_normalisation(settings: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a network trained from a fresh start with its mean and standard deviation, which earlier versions
    didn't record: they took them from all training images."""
    arguments = checkpoint["network"]["arguments"]
    return {name: plain(arguments[name]) for name in ("mean", "std") if name in arguments} | dict(settings)


def for_each_channel(settings: Mapping[str, Any], checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with a number for each channel in the place of one that stands for all, as a user may type --mean and --std
    and earlier versions recorded them."""
    arguments = checkpoint["network"]["arguments"]
    alike = {name: settings[name] for name in ("mean", "std") if name in arguments and len(settings.get(name) or ()) == 1}
    return dict(settings) | {name: value * len(arguments[name]) for name, value in alike.items()}


def own_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings that a file records those that make another row, where it doesn't say so itself."""
    return {name: value for name, value in config.items() if name not in ELSEWHERE and not name.startswith(REQUESTS)}


def with_parent(known: dict[str, Any], files: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """An identity whose parent is known by its SHA-256 alone, completed from the identities of `files` by SHA-256; where it
    isn't among them, files that started from it are told from all others."""
    digest = (known["parent"] or {}).get("sha256")
    if digest is None:
        return known
    stranger = identity(f"original {digest[:8]}", {}, known["data"], None, None)
    return known | {"parent": files.get(digest, stranger)}


def of_row(known: dict[str, Any], precision: bool) -> dict[str, Any]:
    """An identity as rows of a table compare it: without the precision, which by default is the machine's, as the device
    is. precision: whether it was given by hand, and so makes another row; nobody records that of a parent."""
    own = {name: value for name, value in known["settings"].items() if precision or name != "precision"}
    parent = known["parent"]
    return known | {"settings": own, "parent": of_row(parent, False) if parent and "settings" in parent else parent}


def canonical(known: dict[str, Any]) -> str:
    """An identity as text, equal for equal identities: whole numbers count as what they are, be they 16 or 16.0."""
    return json.dumps(plain(known), sort_keys=True)


def key(same: dict[str, Any]) -> str:
    """A SHA-256 of plain values, by which an unfinished run knows its settings again."""
    return hashlib.sha256(canonical(same).encode()).hexdigest()
