"""Which checkpoints are the same but for their seed: rows of a table put these together, and nothing else.

The identity of a checkpoint: its method, the settings that make the result but the seed, the data's fingerprint, the
forget set, and the identity of the checkpoint that it started from. Device, cache, paths and versions are no part of it.
"""

import hashlib
import json
from typing import Any

import torch

import data

BEFORE = (
    "seed",
    "lr_given",
    "dataset",
    "subset",
    "test_subset",
    "validation",
    "img_size",
    "backbone",
)  # see `of_checkpoint`


def forget_identity(forget: torch.Tensor, request: data.ForgetRequest | None = None) -> dict[str, Any] | None:
    """A forget set, int64 positions: a random draw by its share and seed, any other by a digest; None for an empty one."""
    if request is not None and request.share is not None:
        return {"random": request.share, "seed": 0}
    return {"positions": hashlib.sha256(forget.numpy().tobytes()).hexdigest()} if len(forget) else None


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
        return checkpoint["identity"]
    named = {
        name for name in checkpoint["config"] if name.startswith(("forget_class", "forget_random", "forget_file", "ids"))
    }
    own = {name: value for name, value in checkpoint["config"].items() if name not in named | set(BEFORE)}
    forget = forget_identity(torch.as_tensor(checkpoint["forget"]))
    return identity(checkpoint["method"], own, checkpoint["data"]["fingerprint"], forget, None)


def key(*parts: object) -> str:
    """A SHA-256 of plain values, by which a finished or an unfinished run knows its settings again."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
