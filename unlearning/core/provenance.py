"""Where a number comes from: date, versions, hardware."""

import ast
import datetime
import hashlib
import inspect
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
CODE = ("*.py", "*.jinja", "pyproject.toml", "requirements*.txt")  # what makes the numbers


def provenance(command: str, hardware: str) -> dict[str, object]:
    """What every result file says of where its numbers come from."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "hardware": hardware,
        "versions": versions(),
    }


def commit() -> str:
    """The commit of this project's code, its first twelve digits, with "+ changes" where the code differs from it; "unknown"
    outside a clone of its own."""
    found, changed = _git("rev-parse", "--show-toplevel", "--short=12", "HEAD"), _git("status", "--porcelain", "--", *CODE)
    if found is None or changed is None:
        return "unknown"
    top, digits = found.rsplit("\n", 1)
    if Path(top).resolve() != ROOT:
        return "unknown"
    return f"{digits} + changes" if changed else digits


def code_digest() -> str:
    """SHA-256 of this project's code as it lies there, changed or not."""
    found = hashlib.sha256()
    for path in sorted([*ROOT.glob("*.py"), *(ROOT / "unlearning").rglob("*.py")]):
        found.update(f"{path.relative_to(ROOT).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _git(*words: str) -> str | None:
    """What git says about the folder of this project; None where there is no git or no clone."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # they may name another clone
    try:
        done = subprocess.run(["git", "-C", ROOT, *words], env=own, capture_output=True, check=True, encoding="utf-8")
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that make the numbers."""
    names = ("torch", "torchvision", "timm", "peft", "scikit-learn", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def device_name(device: str | torch.device) -> str:
    """The device in words: the GPU's name, or the CPU's with the number of threads."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"


def script_of(function: Any) -> str:
    """16 hexadecimal digits of a SHA-256 of the file in which a function is written, comments and layout aside; "" where it
    is in none."""
    code = getattr(inspect.unwrap(getattr(function, "func", function)), "__code__", None)
    if code is None:
        return ""
    try:
        text = ast.unparse(ast.parse(Path(code.co_filename).read_text(encoding="utf-8")))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return ""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
