"""File names that say what a run was, short enough for every file system.

Each part of a name is shortened by itself, so that files of one data set or network begin alike however long the rest is.
"""

import hashlib
import re
from pathlib import Path

LONGEST = {"data": 50, "network": 50, "forget": 30, "flags": 60}  # characters; with the rest below 255 bytes


def part(text: str, kind: str) -> str:
    """`text` as a part of a file's name; what is too long, or holds characters that names can't, ends in 8 hexadecimal
    digits of its SHA-256. kind: a key of LONGEST."""
    safe = re.sub(r'[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]', "-", text)
    if kind == "network" and len(safe) <= LONGEST[kind]:  # timm's names may have a slash; no two differ in that alone
        return safe
    if safe == text and len(text) <= LONGEST[kind]:
        return text
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{safe[: LONGEST[kind] - 9]}-{digest}"


def within(text: str, most: int) -> str:
    """`text` where its UTF-8 has at most so many bytes, else as much of its beginning as leaves room for a "-" and 8
    hexadecimal digits of its SHA-256."""
    raw = text.encode(errors="surrogateescape")
    if len(raw) <= most:
        return text
    return f"{raw[: most - 9].decode(errors='ignore')}-{hashlib.sha256(raw).hexdigest()[:8]}"


def begin(network: str, tag: str) -> str:
    """What the names of all files of a network and its data begin with. tag: the data's."""
    return f"{part(tag, 'data')}_{part(network, 'network')}_"


def suffix(flags: dict[str, str]) -> str:
    """{"--rank": "2", "--regrow": ""} to "-rank-2-regrow"; what is too long becomes 8 hexadecimal digits."""
    text = "".join(f"-{name.removeprefix('--')} {value}".rstrip().replace(" ", "-") for name, value in flags.items())
    safe = part(text, "flags")
    return safe if safe == text else "-" + safe[-8:]


def started_from(file: Path, usual: str, seed: int) -> tuple[str, str]:
    """ "-from-original-epochs-2" for a file to start from that isn't the one that is found by name, and the same as earlier
    versions wrote it, "-from-original-epochs-2_s0", though its seed is the run's own, `seed`, in which the name ends anyway.

    usual: what its name would begin with, and needn't be repeated.
    """
    whole = file.stem.removeprefix(usual)
    today, before = (part(text, "flags") for text in (whole.removesuffix(f"_s{seed}"), whole))
    return f"-from-{today}", f"-from-{before}"
