"""What checkpoints and systems of parts have forgotten, in the words of a request."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from unlearning.core.content import TEXT, Misfit, Rule, either, fields, list_of, number, optional, text, whole
from unlearning.images.catalogue import Catalogue


def is_one(content: Any) -> bool:
    """True for what a checkpoint's file holds, or a system's."""
    return isinstance(content, dict) and "data" in content and bool({"state_dict", "ledger"} & content.keys())


def words_of(content: dict[str, Any], catalogue: Catalogue) -> Sequence[int | str]:
    """What a checkpoint of this project, or a system of parts, has forgotten: numbers in the full training set, or names.

    Numbers hold for the images that it was made with; where others are loaded, names do, and numbers in the full set of the
    same name. Earlier versions' files have neither. Raises ValueError where it can't be said.
    """
    gone = content.get("deleted", content.get("forget"))
    if not isinstance(gone, torch.Tensor) or gone.dtype != torch.int64 or gone.ndim != 1:
        raise ValueError("it doesn't say what it has forgotten")
    if not len(gone):
        raise ValueError("it has forgotten nothing")
    made_with = _part(content, "data")
    if made_with.get("fingerprint") == catalogue.fingerprint:
        return catalogue.positions[_checked(gone, len(catalogue.positions))].tolist()
    if (names := content.get("forget_names")) and catalogue.files:
        _check(list_of(text(TEXT)), names, "forget_names")
        return names
    # Of the same part of the same data set only other images have another fingerprint.
    changed = bool(catalogue.flags) and all(made_with.get(flag) == value for flag, value in catalogue.flags.items())
    alike = made_with.get("dataset") == catalogue.dataset and not changed
    if "forget_images" in content and not catalogue.files and alike:
        return _checked(content["forget_images"], catalogue.count).tolist()
    of = made_with.get("tag")
    raise ValueError(f"it was made with other images ({of}), and can't say which of these it has forgotten")


def called(content: dict[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """The tag and the draw of a checkpoint's forget set, where it was made with these very images."""
    tag = content.get("forget_tag")
    _check(optional(text()), tag, "forget_tag")
    if _part(content, "data").get("fingerprint") != catalogue.fingerprint or not isinstance(tag, str):
        return {}
    share, known = _part(content, "config").get("forget_random"), _part(_part(content, "identity"), "forget")
    if not known and share:  # earlier versions store no identity
        known = {"random": share, "seed": 0}
    _check(forgotten, known or {"positions": "-"}, "identity.forget")
    return {"tag": tag, "draw": None if not known or "positions" in known else known}


def listed_in(content: Mapping[str, Any]) -> str | None:
    """The name of the file that named all that a checkpoint has forgotten; None where it was named in another way, or has a
    better name (a class, a draw), or where its original had forgotten something before."""
    if not str(content.get("forget_tag")).startswith("file"):
        return None
    file, before = _part(content, "config").get("forget_file"), _part(_part(content, "identity"), "parent").get("forget")
    return Path(file).name if isinstance(file, str) and not before else None


def forgotten(value: Any) -> None:
    """The rule for what an identity says of a forget set: its digest, or what makes the draw again."""
    drawn = {"seed": whole(), "of": list_of(whole())}
    either(
        fields({"positions": text()}, closed=True),
        fields({"count": whole()}, drawn, closed=True),
        fields({"random": number(0, 1)}, drawn, closed=True),
    )(value)


def _check(rule: Rule, value: Any, name: str) -> None:
    """Raise ValueError where a field of a checkpoint isn't what it may be."""
    try:
        rule(value)
    except Misfit as misfit:
        raise ValueError(f"its {misfit.within(name).place} {misfit.what}: it is damaged") from None


def _part(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A dictionary within a checkpoint; an empty one where there is none."""
    part = content.get(name)
    return part if isinstance(part, dict) else {}


def _checked(numbers: Any, count: int) -> torch.Tensor:
    """Numbers of a checkpoint, if they are int64 from 0 to below `count`."""
    fitting = isinstance(numbers, torch.Tensor) and numbers.dtype == torch.int64 and numbers.ndim == 1
    if not fitting or bool(((numbers < 0) | (numbers >= count)).any()):
        raise ValueError(f"its forget set doesn't fit {count:,} training images: it is damaged")
    return numbers
