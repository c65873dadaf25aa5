"""What lies in a folder of weights, as a table."""

from pathlib import Path
from typing import Any

from unlearning.core.content import NAME
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch
from unlearning.core.flags import on_one_line
from unlearning.exact.storage import SYSTEM
from unlearning.images.checkpoints import listed_in

HEADER = ("file", "method", "data", "forget set", "seed", "command")


def listing(folder: Path) -> str:
    """The checkpoints and systems in `folder`, one a line, by name. Raises UserError where there are none."""
    from tabulate import tabulate

    rows = [row for path in sorted(folder.glob("*")) if (row := _row(path))]
    if not rows:
        raise UserError(f"no checkpoints in {folder}")
    return tabulate(rows, HEADER, "plain", disable_numparse=True) + "\n"


def _row(path: Path) -> list[str] | None:
    """A line of the table; None for what is neither a checkpoint nor a system."""
    file = path / SYSTEM if path.is_dir() else path
    if not file.exists() or file.suffix != ".pth":
        return None
    try:
        content: dict[str, Any] = read_torch(file)
        deleted = content.get("deleted")
        forget = content.get("forget_tag") if deleted is None else f"{len(deleted)} images deleted"
        forget = f"{named} ({forget})" if (named := listed_in(content)) else forget
        known = content["method"], content["data"].get("tag"), forget, content.get("seed"), content.get("command")
    except (UserError, KeyError, AttributeError, TypeError):
        known = "?", None, None, None, "not a checkpoint of this project"
    cells = (path.name, *("–" if value is None else str(value)[:NAME] for value in known))
    return list(map(on_one_line, cells))
