"""Lists and portions as messages say them, short however many there are."""

import re
import sys
from collections.abc import Callable, Iterable, Mapping

LISTED = 10  # names or numbers that a line has at most
NAMED = 5  # portions that a line has at most
READ = 2_000  # characters of an error that are looked at
COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
INSTALLED = re.compile(r"[^\s\"'(]*/(?:site|dist)-packages/")
NUMPYS = re.compile(r"\bnp\.\w+\(([^()]*)\)")
UNSAFE = "weights_only"
Say = Callable[[str], object]  # takes a line for the user


def say(line: str) -> None:
    """Print a line to stderr, where all is said that isn't a result."""
    print(line, file=sys.stderr, flush=True)


def silent(line: str) -> None:
    """No-op, in the place of `say`."""


def encoded(text: str) -> bytes:
    """A text in UTF-8. What is no text in it, as a file's name may hold, is written as escapes."""
    return text.encode(errors="backslashreplace")


def listed(words: Iterable[object]) -> str:
    """Words with commas between them, the first LISTED and how many more."""
    every = [str(word) for word in words]
    return ", ".join(every[:LISTED]) + (f" and {len(every) - LISTED:,} more" if len(every) > LISTED else "")


def first_line(error: BaseException | str) -> str:
    """The first line of a library's error, or of what it has said, at most 160 characters, as a user may read it: without
    colours, folders of installed libraries, NumPy's names around values, and advice to read files in a way that runs their
    code."""
    text = COLOURS.sub("", str(error)).strip()
    text = (text.splitlines() or [""])[0][:READ]  # a pattern takes minutes for a line of a hundred thousand letters
    text = NUMPYS.sub(r"\1", INSTALLED.sub("", text))
    text = text.split(". ")[0] if UNSAFE in text else text
    text = "" if UNSAFE in text else text
    return "".join(sign for sign in text if sign.isprintable())[:160].strip() or type(error).__name__


def portions(inside: Mapping[str, int], every: Mapping[str, int], more: str) -> str:
    """Counts by name, the largest NAMED: "all 200 of class 3 (Dress), 120 of class 5 (Sandal) and 90 more classes".

    inside: how many there are of each; every: of how many; names that are equally frequent stay in their order. more: what
    the others are, in the plural.
    """
    order = sorted((name for name, count in inside.items() if count), key=lambda name: -inside[name])
    parts = [f"{'all ' * (inside[name] == every[name])}{inside[name]:,} of {name}" for name in order[:NAMED]]
    return ", ".join(parts) + (f" and {len(order) - NAMED:,} more {more}" if len(order) > NAMED else "")
