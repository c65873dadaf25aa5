"""Several processes that train one network: each takes its part of every batch, and gradients and batch statistics are
those of the whole batch, so that the weights are those of one process, to rounding.

Started by torchrun or accelerate launch, which say in the environment who is who; without them there is one process.

    torchrun --nproc-per-node 2 finetune.py --dataset cifar10 --model resnet50 --forget-class 3

Gradients are averaged by torch's DistributedDataParallel, batch norms on GPUs are torch's SyncBatchNorm; on CPUs, where
torch has none, `_batch_norm` does the same. All that is drawn for a step, dropout too, is drawn alike in every process
for the whole batch, of which each takes its rows.
"""

import atexit
import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from unlearning.core.errors import UserError

# Draw for each number, or each channel of an image, whether it is dropped.
DROPOUTS = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
}
ATTENTION = {  # draw within attention: the place of the rate of dropout among their arguments
    functional.scaled_dot_product_attention: 4,
    functional.multi_head_attention_forward: 10,
}
ONE = "start it without torchrun or accelerate"


class Unconnected(UserError):
    """What torchrun sets is half there: each process says so, for none knows whether it is the only one."""


def count() -> int:
    """Number of processes."""
    return _number("WORLD_SIZE", 1, least=1)


def rank() -> int:
    """Number of this process, from 0."""
    return _number("RANK", 0)


def is_main() -> bool:
    """True on rank 0, the only process that writes files and prints."""
    return rank() == 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return _number("LOCAL_RANK", 0)


def check() -> None:
    """Raise UserError where what torchrun sets is half there, or no number."""
    if rank() >= count():
        raise Unconnected(f"RANK is {rank()} of WORLD_SIZE {count()} processes: {ONE}")
    local_rank()
    if count() > 1 and (lost := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]):
        raise Unconnected(f"WORLD_SIZE is {count()}, and {lost[0]} isn't set: {ONE}, or unset WORLD_SIZE")


def _number(name: str, default: int, least: int = 0) -> int:
    """A whole number that the environment says. Raises UserError for anything else."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < least:
        raise Unconnected(f"{name} is {text!r} in the environment, no number of processes or of one of them: unset it")
    return int(text)


@contextlib.contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connects the processes, by NCCL on GPUs, by gloo on CPUs. No-op for one process."""
    if count() == 1:
        yield
        return
    if not dist.is_initialized():  # once: a group that has been left can't be joined again
        if torch.device(device).type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if torch.device(device).type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    yield
    dist.barrier()  # what one process writes is there before any goes on


def shard(size: int) -> tuple[slice, float]:
    """This process's part of a batch of `size` images, a slice, and the weight of the mean loss over it in the average over
    all processes; batches too small to be shared are computed by all."""
    if size < count():
        return slice(size), 1.0
    first, last = (size * place // count() for place in (rank(), rank() + 1))
    return slice(first, last), (last - first) * count() / size


def mean(total: torch.Tensor, rows: int) -> torch.Tensor:
    """The mean over a whole batch of what sums up to `total`, float of any shape, over this process's `rows` of it, which
    may be none. Differentiable: each process's gradient is its part of the gradient of the average loss."""
    if count() == 1:
        return total / rows
    every = torch.tensor(rows, device=total.device)
    dist.all_reduce(every)
    return _Sum.apply(total) / every


def shared(model: nn.Module, network: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """What computes a loss: shared(size, objective, *args) gives objective(network, *args).

    model: whose parameters are trained. network: it, or a part of it. With several processes, which then start from rank
    0's weights, the gradients of the loss are averaged over them; while it is computed, batch norms see all of a batch of
    `size` images, of which `args` hold this process's part, and dropout draws for all of it.
    """
    caller = _Caller(model, network)
    # Not static_graph=True: where two of these share parameters, as in SCRUB's max epochs, gradients aren't averaged.
    return caller if count() == 1 else DistributedDataParallel(caller, broadcast_buffers=False, find_unused_parameters=True)


class _Caller(nn.Module):
    """A module whose forward pass is an objective, which may call a network twice, in part, or look into it: as long as it
    does so within a forward pass, DistributedDataParallel averages its gradients."""

    def __init__(self, model: nn.Module, network: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.model, self.network = model, network

    def forward(self, size: int, objective: Callable[..., torch.Tensor], *args: Any) -> torch.Tensor:
        with contextlib.nullcontext() if count() == 1 or size < count() else _WholeBatch(size):
            return objective(self.network, *args)


def on_whole_batch(x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """function(x), which draws for each row of x, float (B, ...), and keeps its shape. x may be this process's part of a
    batch: the draws are those of one process that has all rows."""
    if has_torch_function_unary(x):
        return handle_torch_function(on_whole_batch, (x,), x, function)
    return function(x)


class _WholeBatch(TorchFunctionMode):
    """Has batch norms use the statistics of a whole batch of `size` images, of which each process holds a part, and dropout
    and stochastic depth the draws. Raises UserError for draws that have no row for each image."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, (self.part, _) = size, shard(size)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is on_whole_batch:
            return self._rows_of(args[1], args[0])
        if func in DROPOUTS and kwargs.get("p") and kwargs.get("training"):
            return self._rows_of(partial(func, **kwargs), args[0])
        if func is torch.Tensor.bernoulli_ and len(args[0]) == self.part.stop - self.part.start:  # stochastic depth
            return args[0].copy_(self._rows_of(partial(func, **kwargs), args[0], *args[1:]))
        if func in ATTENTION and kwargs.get("training", True):
            dropped = kwargs.get("dropout_p", args[ATTENTION[func]] if len(args) > ATTENTION[func] else 0)
            if dropped:
                raise UserError(f"dropout within attention can't be drawn for a part of a batch: {ONE}")
        return func(*args, **kwargs)

    def _rows_of(self, function, x, *args):
        """This process's rows of function(whole batch), in which x has its place."""
        if len(x) != self.part.stop - self.part.start:
            raise UserError(f"a layer draws at random on a tensor without a row for each image: {ONE}")
        outermost_first = sorted(range(x.ndim), key=lambda dim: -x.stride(dim))  # draws go by the order in memory
        whole = torch.empty_permuted((self.size, *x.shape[1:]), outermost_first, dtype=x.dtype, device=x.device).zero_()
        whole[self.part] = x
        return function(whole, *args)[self.part]


def _batch_norm(x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    """As torch's own, with the mean and the variance of the whole batch; in two passes, for the variance's last digits.

    On a GPU it is what SyncBatchNorm computes, without another module in the network's place.
    """
    if not training:
        return functional.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if x.is_cuda:
        return SyncBatchNorm.apply(x, weight, bias, running_mean, running_var, eps, momentum, dist.group.WORLD, count())
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
