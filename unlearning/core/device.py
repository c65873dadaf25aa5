"""Where and how a network computes - device, precision, memory layout - and the clock and memory meters."""

import argparse
import contextlib
import functools
import resource
import time
from pathlib import Path

import torch
from torch import nn

from unlearning.core import distributed
from unlearning.core.errors import UserError

UNITS = {"amx_bf16", "avx512_bf16"}  # flags of a CPU that multiplies in bf16
WIDE = 192  # numbers a token; measured at 128, where fp32 trains 1.6 times as fast, and from 192 on, where bf16 wins


def to_float(images, layout=torch.contiguous_format):
    """uint8 0..255 to float32 in [0, 1]."""
    return images.to(torch.float32).div_(255).contiguous(memory_format=layout)


def memory_format(model):
    """channels_last for convolutions, where it measures faster; contiguous for the rest."""
    return torch.channels_last if is_convolutional(model) else torch.contiguous_format


def autocast(device, precision):
    """bf16 where `precision` says so; the weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def best_precision(model, device):
    """bf16 where benchmarks/throughput.py measures it faster: on GPUs; on CPUs that multiply in it, for wide transformers
    and for CNNs, but those with depthwise convolutions, which take twice as long to train."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    if UNITS.isdisjoint(_cpu_flags()):
        return "fp32"
    if is_convolutional(model):
        depthwise = any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())
        return "fp32" if depthwise else "bf16"
    # The outermost that has a width is timm's network: `net`, or in a system of prompts further within.
    width = next((m.num_features for m in model.modules() if hasattr(m, "num_features")), 0)
    return "bf16" if width >= WIDE else "fp32"


@functools.cache
def _cpu_flags():
    """What the CPU can do, by Linux's names; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return frozenset(path.read_text().split()) if path.exists() else frozenset()


def placed(model, config):
    """`config` with the device and the precision that `model` computes with in place of what the flags say."""
    device = resolve_device(config.device)
    return argparse.Namespace(
        **vars(config) | {"device": device, "precision": config.precision or best_precision(model, device)}
    )


def resolve_device(name):
    """`auto` to the first GPU, with several processes to this one's own, or the CPU. UserError for one that isn't there."""
    if name == "auto":
        several = f":{distributed.local_rank()}" if distributed.count() > 1 else ""
        return f"cuda{several}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


@contextlib.contextmanager
def threads(count):
    """Compute with `count` threads while the context lasts; None: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock(device):
    """Seconds on a monotonic clock, after the device has finished what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def reset_peak_memory(device):
    """Start a new measurement for `peak_memory_mib`."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory_mib(device):
    """Peak MiB since `reset_peak_memory`: allocated on a GPU, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def is_convolutional(model):
    """Whether spatial convolutions do the work, so that channels_last pays, and bf16 on CPUs that multiply in it."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
