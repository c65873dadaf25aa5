"""What may stand in a file that is read: rules for its fields, looked at before anything uses one of them.

A file can be damaged, or made by hand. A kind of file has a table of its fields, each with a rule; `check` walks through it
and raises a UserError that names file and field. Fields that no table names are let through: later versions may write them.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError

NAME = 1_000  # characters of a name: the text of a picture or a table's cell
TEXT = 100_000  # of a command or a sentence
LARGEST = 1e24  # of a number that is shown: one of 300 digits is a text that a picture takes a minute for
SEEDS = 2**64  # of torch's generators
DEEP = 64  # lists and dictionaries in each other
SHOWN = 60  # characters of a wrong value that a message says

Rule = Callable[[Any], None]  # raises Misfit


class Misfit(Exception):
    """A value that a rule doesn't take. place: of the value within what was checked, "" for that itself."""

    def __init__(self, what: str, place: str = "") -> None:
        super().__init__(what)
        self.what, self.place = what, place

    def within(self, place: str) -> "Misfit":
        """The same, seen from what holds it as `place`."""
        return Misfit(self.what, f"{place}.{self.place}" if self.place else place)


def check(value: Any, rule: Rule, what: str) -> None:
    """Raise UserError, which names the field, where `value` doesn't fit. what: the file, or of a file the part."""
    try:
        rule(value)
    except Misfit as misfit:
        place = f" its {misfit.place}" if misfit.place else " what it holds"
        raise UserError(f"{what}:{place} {misfit.what}: it is damaged") from None


def parse_json(text: str) -> Any:
    """What a JSON text says. Raises ValueError with one line for what other readers of JSON don't take either: NaN and
    Infinity, a key twice; and for lists too deep in each other, and letters that are none."""
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"its lists lie more than {DEEP} deep in each other") from None
    try:
        plain(value)
    except Misfit as misfit:
        raise ValueError(f"its {misfit.place or 'content'} {misfit.what}") from None
    return value


def read_json(path: str | Path) -> Any:
    """What the JSON file `path` says. Raises OSError, and ValueError as `parse_json` does."""
    return parse_json(Path(path).read_text(encoding="utf-8"))


def _no_constant(name: str) -> Any:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)[:SHOWN]!r} twice")
    return found


def shown(value: Any) -> str:
    """A value as a message says it: short, on one line."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > LARGEST:
        return f"a number of {value.bit_length()} bits"
    text = ascii(value[:SHOWN]) if isinstance(value, str) else repr(value)
    return text[:SHOWN] + (" ..." if isinstance(value, str) and len(value) > SHOWN else "")


def fields(required: Mapping[str, Rule], optional: Mapping[str, Rule] | None = None, *, closed: bool = False) -> Rule:
    """A dictionary with these fields. closed: and with no others."""

    def rule(value: Any) -> None:
        if not isinstance(value, dict):
            raise Misfit(f"is {shown(value)}, not a dictionary")
        if lost := [name for name in required if name not in value]:
            raise Misfit("is missing", lost[0])
        every = {**required, **(optional or {})}
        if closed and (odd := [name for name in value if name not in every]):
            raise Misfit(f"has a field {shown(odd[0])} that nobody knows")
        for name, inner in every.items():
            if name in value:
                inside(inner, value[name], name)

    return rule


def within(name: str, rule: Rule, value: Any) -> None:
    """Look at one more thing of the field `name` of a dictionary."""
    inside(rule, value[name], name)


def inside(rule: Rule, value: Any, place: str) -> None:
    """Look at a value that stands at `place`."""
    try:
        rule(value)
    except Misfit as misfit:
        raise misfit.within(place) from None


def either(*rules: Rule) -> Rule:
    """What one of several rules takes; the complaint is the last one's."""

    def rule(value: Any) -> None:
        for one in rules[:-1]:
            try:
                return one(value)
            except Misfit:
                pass
        rules[-1](value)

    return rule


def optional(rule: Rule) -> Rule:
    """None, or what the rule takes."""

    def inner(value: Any) -> None:
        if value is not None:
            rule(value)

    return inner


def list_of(rule: Rule, least: int = 0) -> Rule:
    """A list, or a tuple, of such values."""

    def inner(value: Any) -> None:
        if not isinstance(value, (list, tuple)):
            raise Misfit(f"is {shown(value)}, not a list")
        if len(value) < least:
            raise Misfit(f"has {len(value)} entries, and needs {least}")
        for place, item in enumerate(value):
            inside(rule, item, str(place))

    return inner


def map_of(rule: Rule, longest: int = NAME) -> Rule:
    """A dictionary from names to such values."""
    name_rule = text(longest, empty=True)

    def inner(value: Any) -> None:
        if not isinstance(value, dict):
            raise Misfit(f"is {shown(value)}, not a dictionary")
        for name, item in value.items():
            try:
                name_rule(name)
            except Misfit as misfit:
                raise Misfit(f"has a name that {misfit.what}") from None
            inside(rule, item, name[:SHOWN])

    return inner


def text(longest: int = NAME, *, empty: bool = False) -> Rule:
    """A text of at most so many characters. Bytes of a file's name that are no text may stand in it as Python holds them;
    other letters that are none may not, and nor may a NUL, which no path can hold."""

    def rule(value: Any) -> None:
        if not isinstance(value, str):
            raise Misfit(f"is {shown(value)}, not a text")
        if not (value or empty):
            raise Misfit("is empty")
        if len(value) > longest:
            raise Misfit(f"has {len(value):,} characters, and may have {longest:,}")
        try:
            value.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            raise Misfit(f"is {shown(value)}, which is no text") from None
        if "\0" in value:
            raise Misfit(f"is {shown(value)}, and holds a NUL")

    return rule


def path(value: Any) -> None:
    """A path that a system can be asked about: no part of more than 255 bytes, 4,096 in all."""
    text(4096)(value)
    longest = max(len(part.encode(errors="surrogateescape")) for part in re.split(r"[/\\]", value))
    if longest > 255:
        raise Misfit(f"is {shown(value)}, no path: a part of it has {longest} bytes")


def one_of(*values: Any) -> Rule:
    """One of these values, of its type."""

    def rule(value: Any) -> None:
        if not any(type(value) is type(one) and value == one for one in values):
            raise Misfit(f"is {shown(value)}, not {' or '.join(map(repr, values))}")

    return rule


def whole(least: int = 0, most: int = 2**53) -> Rule:
    """A whole number in a range, both ends included."""

    def rule(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Misfit(f"is {shown(value)}, not a whole number from {least} to {most}")

    return rule


def number(least: float = -LARGEST, most: float = LARGEST, above: float | None = None) -> Rule:
    """A finite number in a range, both ends included. above: it has to be larger than this."""

    def rule(value: Any) -> None:
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most
        if not right or not math.isfinite(value) or (above is not None and value <= above):
            low = f"above {above:g}" if above is not None else f"from {least:g}"
            raise Misfit(f"is {shown(value)}, not a number {low} to {most:g}")

    return rule


def yes_or_no(value: Any) -> None:
    """True or False."""
    if not isinstance(value, bool):
        raise Misfit(f"is {shown(value)}, neither true nor false")


def plain(value: Any, deep: int = DEEP) -> None:
    """What JSON can hold, at most `deep` lists and dictionaries in each other: texts, finite numbers, truth values."""
    if isinstance(value, (dict, list, tuple)):
        if not deep:
            raise Misfit(f"holds lists more than {DEEP} deep in each other")
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in pairs:
            plain(name, 0)
            try:
                plain(item, deep - 1)
            except Misfit as misfit:  # of what lies deep the beginning of its place
                raise (misfit if misfit.place.count(".") > 4 else misfit.within(str(name)[:SHOWN])) from None
    elif isinstance(value, str):
        text(10 * TEXT, empty=True)(value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise Misfit(f"is {value}")
    elif isinstance(value, int) and value.bit_length() > 1024:
        raise Misfit(f"is {shown(value)}")
    elif not (value is None or isinstance(value, (bool, int, float))):
        raise Misfit(f"is {shown(value)}, which is no plain value")


def tensor(dtype: torch.dtype, *shape: int | None, finite: bool = True) -> Rule:
    """A dense tensor of this type and shape. shape: None for any length. finite: without NaN and infinity."""

    def rule(value: Any) -> None:
        dense(value)
        if (
            value.dtype != dtype
            or value.ndim != len(shape)
            or any(n not in (None, have) for n, have in zip(shape, value.shape, strict=True))
        ):
            wanted = ", ".join("any" if n is None else str(n) for n in shape)
            raise Misfit(f"is {shown(value)}, not of {str(dtype).removeprefix('torch.')} and shape ({wanted})")
        if finite and not value.isfinite().all():
            raise Misfit("holds NaN or infinity")

    return rule


def dense(value: Any) -> None:
    """A tensor whose numbers lie there as such."""
    if not isinstance(value, torch.Tensor):
        raise Misfit(f"is {shown(value)}, not a tensor")
    if odd := "complex" if value.is_complex() else odd_kind(value):
        raise Misfit(f"is {odd}, not an ordinary tensor")


def odd_kind(value: torch.Tensor) -> str | None:
    """In a word how a tensor keeps its numbers otherwise than as such; None where it keeps them so."""
    if value.is_meta:
        return "on the meta device, without numbers"
    return "sparse" if value.layout != torch.strided else "quantised" if value.is_quantized else None


def positions(count: int | None = None) -> Rule:
    """Ascending int64 positions (N,), each once. count: of what they are positions in, where that is known."""

    def rule(value: Any) -> None:
        tensor(torch.int64, None)(value)
        if not len(value):
            return
        low, high = int(value.min()), int(value.max())
        if low < 0 or (count is not None and high >= count):
            most = f" to {count - 1}" if count is not None else ""
            raise Misfit(f"holds position {low if low < 0 else high}, and they run from 0{most}")
        if not (value[1:] > value[:-1]).all():
            raise Misfit("are no ascending positions, each once")

    return rule


def numbered(least: int, most: int, count: int | None = None) -> Rule:
    """An int64 tensor (N,) of numbers in a range, both ends included. count: its length."""

    def rule(value: Any) -> None:
        tensor(torch.int64, count)(value)
        if len(value) and (value.min() < least or value.max() > most):
            raise Misfit(f"holds a number outside {least} to {most}")

    return rule


def anything(value: Any) -> None:
    """Whatever it is: another rule looks at it."""


def check_within(value: torch.Tensor, count: int, place: str) -> None:
    """Raise Misfit, which names `place`, where ascending int64 positions reach beyond `count` of them."""
    last = int(value[-1]) if len(value) else -1
    require(last < count, place, f"holds position {last}, and they run from 0 to {count - 1}")


def require(right: bool, place: str, what: str) -> None:
    """Raise Misfit where several fields together aren't right."""
    if not right:
        raise Misfit(what, place)


def every(*rules: Rule) -> Rule:
    """What all of several rules take, in their order."""

    def inner(value: Any) -> None:
        for one in rules:
            one(value)

    return inner
