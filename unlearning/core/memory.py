"""How much memory there is, and lower bounds of what networks and files need: what can't fit is refused beforehand."""

import lzma
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import torch
from torch import nn

from unlearning.core.errors import UserError

# Where Linux says what a group of processes may use, by version: its folder, limit, use, and cached files among that.
GROUPS = {
    2: ("", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}

# What reading arrays and archives of foreign bytes raises beside OSError; RuntimeError where they are encrypted, or packed
# in a way that Python lacks.
UNREADABLE = (ValueError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)


def available(root: Path = Path("/")) -> float:
    """Bytes that can still be had: of the machine's and of what its control groups allow; infinity where nobody says.

    root: of the file system.
    """
    kilobytes = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    rooms = [int(kilobytes[1]) * 1024 if kilobytes else math.inf]
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, kinds, place = line.split(":", 2)
        if number != "0" and "memory" not in kinds.split(","):
            continue
        top, limit, used, cached = GROUPS[2 if number == "0" else 1]
        folder = root / "sys/fs/cgroup" / top / place.lstrip("/")
        for group in (folder, *folder.parents):
            most, now = _text(group / limit).strip(), _text(group / used).strip()
            if most.isdecimal() and now.isdecimal():
                free = re.search(rf"^{cached} (\d+)", _text(group / "memory.stat"), re.MULTILINE)
                rooms.append(int(most) - int(now) + (int(free[1]) if free else 0))
    return max(0, min(rooms))


def check(needed: float, what: str, way: str = "") -> None:
    """Raise UserError where so many bytes are more than there are. what: needs them; way: out, to be said after that."""
    if needed > (free := available()):
        raise UserError(f"{what} needs at least {_gib(needed)} of memory, of which {_gib(free)} are free{way}")


def check_archive(file: str | Path | BinaryIO, path: str | Path = "") -> None:
    """`check` for what a zip file unpacks to, of which PyTorch's and NumPy's are; any other file passes. path: of an open
    one."""
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return
    check(size, f"{path or file}: what it unpacks to")


def network_bytes(make: Callable[[], nn.Module]) -> int:
    """Bytes of the parameters and buffers of the network that `make` makes, which are not allocated for it; 0 where it can't
    be made so."""
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = make()
    except Exception:  # some networks compute with numbers as they are made; what else is wrong will be said
        return 0
    return weight_bytes(network)


def weight_bytes(network: nn.Module) -> int:
    """Bytes of a network's parameters and buffers."""
    return sum(tensor.nbytes for tensor in network.state_dict(keep_vars=True).values() if isinstance(tensor, torch.Tensor))


def layer_bytes(network: nn.Module, shape: Sequence[int]) -> int:
    """The most that one layer of a network takes in and gives, in bytes, for images float32 of this shape (B, C, H, W): a
    lower bound of what it needs to answer them. Nothing is computed or allocated; 0 for a network that can't do without.
    """
    most = [4 * math.prod(shape)]

    def measure(layer, given, answer):
        some = [*given, answer] if isinstance(layer, (nn.Conv2d, nn.Linear)) else [answer]  # others may answer in place
        most.append(sum(tensor.nbytes for tensor in some if isinstance(tensor, torch.Tensor)))

    layers = [module for module in network.modules() if not any(module.children())]
    hooks = [layer.register_forward_hook(measure) for layer in layers]
    training = {module: module.training for module in network.modules()}
    try:
        weights = {key: value.to("meta") for key, value in network.state_dict(keep_vars=True).items()}
        with torch.no_grad():
            torch.func.functional_call(network.eval(), weights, (torch.empty(*shape, device="meta"),))
    except Exception:
        return 0
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in training.items():
            module.training = mode
    return max(most)


def _gib(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
