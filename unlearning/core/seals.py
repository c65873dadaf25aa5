"""A seal in every text and picture that this project writes for people: the SHA-256 of all the rest of the file.

People add notes to pages, columns to tables and arrows to pictures. A file whose seal fits is as it was written here, and
the command that wrote it may replace it; any other is somebody's own, and stays. The seal stands where readers of the format
pass over it:

JSON       a last field, "seal", which `reports.results` takes out when it reads
Markdown   a comment at the end, as in HTML
LaTeX      a comment at the end
CSV        the name of one more column, of which no line has a cell
PNG        a text chunk before the last one
"""

import hashlib
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path

from unlearning.core.errors import UserError

FIELD = "seal"  # of JSON
WORDS = b"unlearning-sha256:"
HASH = rb"([0-9a-f]{64})"
JSON, COMMENT, LATEX, CSV = b',\n "seal": "%b%b"', b"<!-- %b%b -->\n", b"%% %b%b\n", b",%b%b"
PNG, LAST = b"tEXtSeal\0%b%b", 12  # bytes of the chunk that ends a PNG file
SEALS = re.compile(
    b"|".join(form % (WORDS, HASH) for form in (JSON, COMMENT, LATEX, CSV, b".{4}" + PNG + b".{4}")), re.DOTALL
)
FOREIGN = "isn't as this project wrote it, and isn't replaced: move or delete it"  # what to say of such a file
LARGEST = 2**28  # bytes of a file that is looked at: nothing that is written here comes near


def sealed(content: bytes | memoryview, form: str) -> bytes:
    """A file's content with its seal. form: "json", "markdown", "html", "latex", "csv" or "png"."""
    content = bytes(content)
    words = WORDS, hashlib.sha256(content).hexdigest().encode()
    if form == "json":
        end = content.rindex(b"\n}")
        return content[:end] + JSON % words + content[end:]
    if form == "csv":
        end = content.index(b"\n")
        return content[:end] + CSV % words + content[end:]
    if form == "png":
        chunk = PNG % words
        whole = (len(chunk) - 4).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
        return content[:-LAST] + whole + content[-LAST:]
    return content + (LATEX if form == "latex" else COMMENT) % words


def split(content: bytes) -> tuple[bytes, str | None]:
    """A file's content without its seal, and the digest that this says; None where there is not exactly one seal."""
    found = list(SEALS.finditer(content))
    if len(found) != 1:
        return content, None
    (digest,) = filter(None, found[0].groups())
    return content[: found[0].start()] + content[found[0].end() :], digest.decode()


def is_column(name: str) -> bool:
    """True for the name of a table's column that is a CSV file's seal."""
    return re.fullmatch(WORDS + HASH, name.encode()) is not None


def is_whole(content: bytes) -> bool:
    """True for content that is as `sealed` gave it."""
    rest, digest = split(content)
    return digest is not None and hashlib.sha256(rest).hexdigest() == digest


def is_own(path: Path) -> bool:
    """True for a file that is as this project wrote it. A link isn't, nor what can't be read."""
    try:
        return path.is_file() and not path.is_symlink() and path.stat().st_size <= LARGEST and is_whole(path.read_bytes())
    except OSError:
        return False


def is_changed(path: Path) -> bool:
    """True for a file with a seal that doesn't fit: it was written here, and changed since."""
    return path.stat().st_size <= LARGEST and split(path.read_bytes())[1] is not None and not is_own(path)


def check_own(paths: Iterable[Path]) -> None:
    """Raise UserError for the first of these files that is there and isn't as this project wrote it."""
    for path in paths:
        if os.path.lexists(path) and not is_own(path):
            raise UserError(f"{path} {FOREIGN}")
