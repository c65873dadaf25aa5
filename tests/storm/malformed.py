"""Files that are damaged in one field: of each kind of file a sound one, and what is made of it.

`faults(content)` walks through every field of a sound file's content, and yields for each what may stand in its place.
tests/storm/test_malformed.py lets the commands read some of them in `make test`; `cases` has all.
"""

import copy
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unlearning.core.files import read_torch

GONE = object()  # in the place of a value: the field isn't there


def nested(depth: int) -> list[Any]:
    """A list in a list in a list ..."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


WRONG: dict[str, Any] = {
    "gone": GONE,
    "none": None,
    "true": True,
    "minus": -1,
    "large": 10**400,
    "1e308": 1e308,
    "nan": float("nan"),
    "empty": "",
    "long": "x" * 100_000,
    "path": "../../x\0",
    "signs": "$x^{ \\input{/etc/passwd} <script>alert(1)</script> | ` \n\x1b[31m",
    "surrogate": "\ud800",
    "list": [],
    "dict": {},
    "nested": nested(600),
}
TENSORS = {
    "half": torch.zeros(2, 3, dtype=torch.float16),
    "numbers": torch.tensor([-1, 5, 5, 2**60]),
    "nans": torch.full((4,), float("nan")),
    "sparse": torch.eye(3).to_sparse(),
    "scalar": torch.tensor(0),
}


class Case(NamedTuple):
    """A damaged file. kind: of file; field, fault: what is wrong; write: puts it into a folder, a copy of a sound one."""

    kind: str
    field: str
    fault: str
    write: Callable[[Path], None]


def fields_of(content: Any, place: tuple[Any, ...] = (), most: int = 2) -> Iterator[tuple[Any, ...]]:
    """The places of all values within dictionaries and lists; of a list, and of a dictionary of tensors, the first two."""
    if place:
        yield place
    items: list[Any] = []
    if isinstance(content, dict):
        items = list(content.items())
        items = items[:most] if all(isinstance(value, torch.Tensor) for value in content.values()) else items
    elif isinstance(content, list):
        items = list(enumerate(content))[:most]
    for name, value in items:
        yield from fields_of(value, (*place, name), most)


def damaged(content: Any, place: tuple[Any, ...], wrong: Any) -> Any:
    """A copy of the content with another value at `place`."""
    found = copy.deepcopy(content)
    inner = found
    for name in place[:-1]:
        inner = inner[name]
    if wrong is GONE:
        del inner[place[-1]]
    else:
        inner[place[-1]] = wrong
    return found


def write_torch(content: Any, file: Path) -> None:
    """torch.save, of lists however deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        torch.save(content, file)
    finally:
        sys.setrecursionlimit(limit)


def write_json(content: Any, file: Path) -> None:
    """JSON as Python writes it, with NaN and lone surrogates, of lists however deep."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        file.write_text(json.dumps(content), encoding="utf-8")
    finally:
        sys.setrecursionlimit(limit)


def cases(kind: str, sound: Path, name: str) -> Iterator[Case]:
    """All damaged files of a kind. sound: a folder that holds a sound one called `name`, .json or of torch.save."""
    of_torch = not name.endswith(".json")
    content = read_torch(sound / name) if of_torch else json.loads((sound / name).read_text(encoding="utf-8"))
    write = write_torch if of_torch else write_json
    for place in fields_of(content):
        for fault, wrong in (WRONG | (TENSORS if of_torch else {})).items():

            def make(folder: Path, place: tuple[Any, ...] = place, wrong: Any = wrong) -> None:
                write(damaged(content, place, wrong), folder / name)

            yield Case(kind, ".".join(map(str, place)), fault, make)
    if not of_torch:
        yield from _texts(kind, (sound / name).read_text(encoding="utf-8"), name)


def broken(kind: str, sound: Path, name: str) -> Iterator[Case]:
    """Files of no fields: cut, empty, of another kind, and with a byte that has flipped."""
    content = (sound / name).read_bytes()
    whole = {"cut": content[: len(content) // 2], "empty": b"", "zeros": bytes(1000), "text": b"mine", "twice": 2 * content}
    for place in range(0, len(content), -(-len(content) // 20)):
        whole[f"byte {place}"] = content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]
    for fault, wrong in whole.items():

        def make(folder: Path, wrong: bytes = wrong) -> None:
            (folder / name).write_bytes(wrong)

        yield Case(kind, "bytes", fault, make)


def _texts(kind: str, text: str, name: str) -> Iterator[Case]:
    """Files whose text no writer of JSON makes."""
    whole = {"deep": "[" * 100_000, "cut": text[: len(text) // 2], "empty": "", "twice": '{"rows": 1, ' + text.strip()[1:]}
    whole |= {"number": "5", "list": "[]", "digits": '{"rows": ' + "9" * 5000 + "}", "infinity": '{"rows": Infinity}'}
    for fault, wrong in whole.items():

        def make(folder: Path, wrong: str = wrong) -> None:
            (folder / name).write_text(wrong, encoding="utf-8")

        yield Case(kind, "text", fault, make)
