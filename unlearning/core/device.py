"""Where and how a network computes - device, precision, memory layout - and the clock and memory meters."""

import argparse
import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearning.core import distributed
from unlearning.core.errors import UserError
from unlearning.core.words import first_line

WIDE = 192  # numbers a token; measured at 128, where fp32 trains 1.6 times as fast, and from 192 on, where bf16 wins


@dataclass(frozen=True)
class Compute:
    """Where and how to compute: what training, predicting and scoring read.

    device: a torch device's name. precision: "fp32" or "bf16"; None: the faster one for each network (`placed`). scratch:
    folder for what doesn't fit into memory. quiet: no progress.
    """

    device: str
    precision: str | None
    scratch: Path
    quiet: bool = False

    @classmethod
    def from_flags(cls, args: argparse.Namespace, scratch: Path | None = None) -> "Compute":
        """What the flags ask for; scratch: --weights unless given. Raises UserError for a device that isn't there."""
        quiet = args.quiet or not distributed.is_main()
        return cls(resolve_device(args.device), getattr(args, "precision", None), scratch or args.weights, quiet)

    def placed(self, model: nn.Module) -> "Compute":
        """The same with the precision that `model` computes with."""
        return dataclasses.replace(self, precision=self.precision or best_precision(model, self.device))


def to_float(images: torch.Tensor, layout: torch.memory_format = torch.contiguous_format) -> torch.Tensor:
    """uint8 0..255 to float32 in [0, 1]."""
    return images.to(torch.float32).div_(255).contiguous(memory_format=layout)


def memory_format(model: nn.Module) -> torch.memory_format:
    """channels_last for convolutions, where it measures faster; contiguous for the rest."""
    return torch.channels_last if is_convolutional(model) else torch.contiguous_format


def autocast(device: str | torch.device, precision: str | None) -> torch.autocast:
    """bf16 where `precision` says so; the weights stay fp32."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")


def best_precision(model: nn.Module, device: str | torch.device) -> str:
    """bf16 where benchmarks/throughput.py measures it faster: on GPUs; on CPUs that multiply in it, for wide transformers
    and for CNNs, but those with depthwise convolutions, which take twice as long to train."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if not multiplies_bf16():
        return "fp32"
    if is_convolutional(model):
        depthwise = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())
        return "fp32" if depthwise else "bf16"
    # The outermost that has a width is timm's network: `net`, or in a system of prompts further within.
    width: Any = next((m.num_features for m in model.modules() if hasattr(m, "num_features")), 0)
    return "bf16" if width >= WIDE else "fp32"


def multiplies_bf16() -> bool:
    """True if the CPU has instructions that multiply in bf16."""
    capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch doesn't say
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def resolve_device(name: str) -> str:
    """`auto` to the first GPU, with several processes to this one's own, or the CPU. UserError for one that isn't there.

    On GPUs attention is computed by PyTorch's own kernels: cuDNN's gave NaN gradients in bf16 after four epochs of vit_small
    (H200, PyTorch 2.11).
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    if name == "auto":
        several = f":{distributed.local_rank()}" if distributed.count() > 1 else ""
        return f"cuda{several}" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=name).item()  # the meta device has no numbers
    except (RuntimeError, AssertionError, ImportError, NotImplementedError) as error:
        raise UserError(f"--device {name}: {first_line(error)}") from None
    return name


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads while the context lasts; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock(device: str | torch.device) -> float:
    """Seconds on a monotonic clock, after the device has finished what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak_memory(device: str | torch.device) -> None:
    """Start a new measurement for `peak_memory_mib`."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory_mib(device: str | torch.device) -> float:
    """Peak MiB since `reset_peak_memory`: allocated on a GPU, resident on the CPU."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        if sys.platform == "win32":
            import psutil  # there the standard library has no meter

            return psutil.Process().memory_info().peak_wset / 2**20
        import resource  # Unix alone has it

        unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def is_convolutional(model: nn.Module) -> bool:
    """True for CNNs, where channels_last pays, and bf16 on CPUs that multiply in it."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
