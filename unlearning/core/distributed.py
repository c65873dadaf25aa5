"""Several processes that train one network: each takes its share of every batch, and gradients and batch statistics are
those of the whole batch, so that the weights are those of one process, to rounding.

Started by torchrun or accelerate launch, which say in the environment who is who; without them there is one process.

    torchrun --nproc-per-node 2 finetune.py --dataset cifar10 --model resnet50 --forget-class 3
"""

import atexit
import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def count() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def is_main() -> bool:
    """True on rank 0, the only process that writes files and prints."""
    return rank() == 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connects the processes, by NCCL on GPUs, by gloo on CPUs; batch norms see the whole batch. No-op for one process."""
    if count() == 1:
        yield
        return
    if not dist.is_initialized():  # once: a group that has been left can't be joined again
        if torch.device(device).type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    with _WholeBatchNorm():
        yield
    dist.barrier()  # what one process writes is there before any goes on


def shard(size: int) -> tuple[slice, float]:
    """This process's part of a batch of `size` images, a slice, and the weight of the mean loss over it in the average over
    all processes; batches too small to be shared are computed by all."""
    if size < count():
        return slice(size), 1.0
    first, last = (size * place // count() for place in (rank(), rank() + 1))
    return slice(first, last), (last - first) * count() / size


def average(tensors: Iterable[torch.Tensor]) -> None:
    """Replace each tensor by its mean over the processes, in place."""
    if count() > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor /= count()


class _WholeBatchNorm(TorchFunctionMode):
    """Has every batch norm use the statistics of the whole batch, of which each process holds a part."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if func is functional.batch_norm else func)(*args, **(kwargs or {}))


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """As torch's own, with the mean and the variance of the whole batch; in two passes, for the variance's last digits."""
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    dims, shape, given = [0, *range(2, x.dim())], (1, -1, *[1] * (x.dim() - 2)), x
    x = x.float()
    rows = torch.full((1,), x.numel() / x.shape[1], device=x.device)
    dist.all_reduce(rows)
    mean = _Sum.apply(x.sum(dims)) / rows
    centred = x - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / rows
    if running_mean is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * rows / (rows - 1), momentum)
    x = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        x = x * weight.view(shape) + bias.view(shape)
    return x.to(given.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes; each one's gradient is that of all their losses."""

    @staticmethod
    def forward(context, x):
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(context, gradient):
        total = gradient.clone()
        dist.all_reduce(total)
        return total
