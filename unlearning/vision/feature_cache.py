"""Caches the outputs of frozen layers, so that each epoch runs only the layers being trained.

What is frozen is read off the network itself: what depends on no trained parameter, no batch norm in training and no
dropout gives the same at each epoch (graph_cut.py). Outputs belong to the frozen weights and the images, not to a run:
networks that have both in common - other ranks, rates, methods, the original itself - share them, in training as in scoring.
"""

import copy
import errno
import hashlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import data
from unlearning.core.device import Compute, autocast, clock, memory_format, to_float
from unlearning.core.words import first_line, say
from unlearning.vision.graph_cut import Cut, cut_at, modules_owning, moving_in_training, unwrap_peft

BLOCK = 250  # images at once, always the same ones together: an output's last bits depend on the images beside it
WORTH = 0.1  # least share of a forward pass's arithmetic for which outputs are cached
ALIKE = 1e-4  # largest difference, over the largest output, of two ways to compute the same
PARTS = 2  # frozen parts whose outputs are cached at a time: that of LoRA, and what the head alone is fitted to

# What runs instead of a network, what it takes for batches of positions, and the seconds that computing all of that took.
Inputs = tuple[Callable, Callable[[Iterable[torch.Tensor]], Iterator], float]


class FeatureCache:
    """Outputs of frozen layers, for as many networks and images as share them.

    limit_mib: memory for them; what is larger goes to a file in the scratch folder; 0 caches nothing.
    """

    def __init__(self, limit_mib: int) -> None:
        self.limit_mib = limit_mib
        self.kept: list[Outputs] = []  # the latest last

    def keep(self, model: nn.Module, split: data.Split, compute: Compute) -> Inputs | None:
        """The tail of `model`, which is in training mode and on its device, and its inputs for the images of `split`.

        Returns (network, inputs, seconds), or None where little is frozen or there is no room: inputs(order), order a
        sequence of batches of positions in split, int64 (B,), yields what network takes for each; seconds: what computing
        all inputs has cost, now or in an earlier run.
        """
        model = unwrap_peft(model)
        if not self.limit_mib or all(p.requires_grad for p in model.parameters()):
            return None
        cut = _cut_worth_it(model, moving_in_training(model), split, compute)
        if cut is None:
            return None
        images, rows = split.source
        same = (o.below for o in self.kept if o.form == _form(cut.below) and o.matches(model, compute))
        known = next(same, None)
        if known is None and not _steady(cut.below, split, compute):
            if not compute.quiet:
                what = "depend on the batch or on training mode, and are not cached"
                say(f"outputs of the frozen part {what}")
            return None
        outputs = self._outputs(known or copy.deepcopy(cut.below).eval(), images, compute)
        return _from_kept(cut.tail, outputs, rows) if outputs else None

    def inputs_for(self, model: nn.Module, split: data.Split, compute: Compute) -> Inputs:
        """What computes `model`, in evaluation mode and on its device, for `split`: as `keep` returns it.

        The tail, where outputs are cached of a part that `model` has with the same weights; else the network and its images.
        """
        model, (images, rows) = unwrap_peft(model), split.source
        for known in reversed(self.kept):
            if known.below is model or not known.matches(model, compute):
                continue
            moved = modules_owning(model, model.state_dict().keys() - known.tensors)
            cut = cut_at(model, moved, _example(model, split, compute))
            if cut and _form(cut.below) == known.form and (outputs := self._outputs(known.below, images, known.compute)):
                return _from_kept(cut.tail, outputs, rows)
        return images_for(model, split, compute)

    def share_between(
        self,
        model: nn.Module,
        own: dict[str, bytes],
        others: Iterable[dict[str, bytes]],
        split: data.Split,
        compute: Compute,
    ) -> None:
        """Enable caching of the layers that `model`, about to be scored, shares with `others`.

        own, others: what `digests` says of the model and of the networks that are scored along. Without this, `inputs_for`
        finds only what training has cached.
        """
        model = unwrap_peft(model)
        if not self.limit_mib or any(outputs.matches(model, compute) for outputs in self.kept):
            return
        differences = {frozenset(n for n in own if own[n] != other[n]) for other in others if own.keys() == other.keys()}
        for names in sorted(differences, key=len, reverse=True):  # the lowest cut serves the most networks
            if 0 < len(names) <= (1 - WORTH) * len(own):
                cut = _cut_worth_it(model, modules_owning(model, names), split, compute)
                if cut and self._outputs(copy.deepcopy(cut.below), split.source[0], compute):
                    return

    def _outputs(
        self, below: fx.GraphModule, images: "torch.Tensor | data.ImageFiles", compute: Compute
    ) -> "Outputs | None":
        """The Outputs of `below` for `images`, new or known; None, with a line that says so, where there is no room."""
        for known in self.kept:
            if known.below is below and known.images is images:
                return known
        parts = list(dict.fromkeys(id(known.below) for known in self.kept if known.below is not below))
        self.kept = [known for known in self.kept if id(known.below) not in parts[: len(parts) + 1 - PARTS]]
        try:
            made = Outputs(below, images, compute, self)  # from those of another part, perhaps, which are then kept before
        except OSError as error:
            say(f"frozen layers run each time, slower and with the same result: {error.strerror or first_line(error)}")
            return None
        self.kept.append(made)
        return made


def _form(below: fx.GraphModule) -> tuple[str, ...]:
    """What a part computes with its weights: its code, and of each layer that this calls what its own code doesn't say, such
    as a stride, or the size to which images are resized."""
    called = (str(node.target) for node in below.graph.nodes if node.op == "call_module")
    return (below.code, *(repr(below.get_submodule(name)) for name in called))


class Outputs:
    """What a frozen part makes of images, computed where first asked for.

    below: the part. images: uint8 (N, C, H, W). cache: the FeatureCache that they are for. Raises OSError where neither
    memory nor the disk has room.
    """

    def __init__(
        self, below: fx.GraphModule, images: "torch.Tensor | data.ImageFiles", compute: Compute, cache: FeatureCache
    ) -> None:
        self.below, self.images, self.compute, self.cache = below, images, compute, cache
        self.tensors, self.form = below.state_dict().keys(), _form(below)
        self.done = torch.zeros(-(-len(images) // BLOCK), dtype=torch.bool)
        self.spent, self.computed = 0.0, 0
        one, _ = next(self._run([torch.arange(min(2, len(images)))]))
        self.mib: float = sum(value[0].nbytes for value in one) * len(images) / 2**20
        self.in_memory: bool = self.mib + sum(other.mib for other in cache.kept if other.in_memory) <= cache.limit_mib
        if not compute.quiet and not self.in_memory and self.mib >= 0.5:  # else it would say 0 MiB
            where = f"in a file in {compute.scratch}: more than --cache leaves"
            say(f"outputs of the frozen part: {self.mib:,.0f} MiB {where}")
        make = _in_memory if self.in_memory else _in_file
        self.values = [make(value, len(images), compute.scratch) for value in one]

    def matches(self, model: nn.Module, compute: Compute) -> bool:
        """True if `model` has this part with the same weights and computes in the same way."""
        if (compute.device, compute.precision) != (self.compute.device, self.compute.precision):
            return False
        theirs = model.state_dict()
        return all(name in theirs and torch.equal(theirs[name], own) for name, own in self.below.state_dict().items())

    def ensure(self, rows: torch.Tensor) -> None:
        """Compute the outputs of the images at the positions `rows`, int64, that aren't there yet."""
        blocks = [block for block in (rows // BLOCK).unique().tolist() if not self.done[block]]
        if not blocks:
            return
        pieces = [torch.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.images))) for block in blocks]
        quiet = self.compute.quiet or None
        bar = tqdm(blocks, desc="frozen part", unit=f" x {BLOCK} images", leave=False, disable=quiet)
        for block, piece, (results, seconds) in zip(bar, pieces, self._run(pieces), strict=True):
            for value, result in zip(self.values, results, strict=True):
                put(value, piece, result)
            self.done[block] = True
            self.spent, self.computed = self.spent + seconds, self.computed + len(piece)

    def rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The outputs for the images at the positions `rows`, on the device: a list of tensors (len(rows), ...)."""
        return [value[rows.to(value.device)].to(self.compute.device) for value in self.values]

    def _run(self, pieces: list[torch.Tensor]) -> Iterator[tuple[tuple[torch.Tensor, ...], float]]:
        """For each of `pieces`, positions of images, the part's outputs and what they cost in seconds."""
        device = self.compute.device
        some = data.Split(self.images, torch.arange(len(self.images))).take(torch.cat(pieces))
        network, inputs, before = self.cache.inputs_for(self.below, some, self.compute)
        batches = inputs(torch.arange(len(some)).split([len(piece) for piece in pieces]))
        for piece in pieces:
            started = clock(device)
            with torch.no_grad(), autocast(device, self.compute.precision):
                results = network(next(batches))
            yield results, before * len(piece) / len(some) + clock(device) - started


def put(value: torch.Tensor, rows: torch.Tensor, result: torch.Tensor) -> None:
    """Write `result` to the positions `rows` of `value`, which in a file is on the CPU, wherever `result` was computed."""
    value[rows.to(value.device)] = result.to(value.device)


def images_for(model: nn.Module, split: data.Split, compute: Compute) -> Inputs:
    """As `FeatureCache.inputs_for` where nothing is cached: the network itself, and images float32 (B, C, H, W)."""
    layout, device = memory_format(model), torch.device(compute.device)
    return model, lambda order: (to_float(x.to(device), layout) for x in data.batches(split.images, order)), 0.0


def digests(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """{name of a tensor: its SHA-256} of a state dict."""
    return {
        name: hashlib.sha256(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().data).digest()
        for name, tensor in state.items()
    }


def _in_memory(value: torch.Tensor, count: int, folder: Path) -> torch.Tensor:
    return torch.empty(count, *value.shape[1:], dtype=value.dtype, device=value.device)


def _in_file(value: torch.Tensor, count: int, folder: Path) -> torch.Tensor:
    """As `_in_memory`, in a temporary file, which vanishes with this process, even a killed one."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    size = count * value[0].nbytes
    with tempfile.TemporaryFile(prefix=".frozen.", dir=folder) as file:  # the mapping outlives it
        _reserve(file, size, folder)
        mapped = torch.frombuffer(mmap.mmap(file.fileno(), size), dtype=value.dtype)
    return mapped.view(count, *value.shape[1:])


def _reserve(file: IO[bytes], size: int, folder: Path) -> None:
    """Make an empty file `size` bytes long, all of them on the disk: a full one would be a bus error later.

    Raises OSError where they don't fit.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    else:
        file.truncate(size)


def _from_kept(tail: Callable, outputs: Outputs, rows: torch.Tensor) -> Inputs:
    """What `FeatureCache.keep` returns, for images at the positions `rows` among those of `outputs`."""
    outputs.ensure(rows)
    seconds = outputs.spent / outputs.computed * len(rows)
    return lambda x: tail(*x), lambda order: (outputs.rows(rows[batch]) for batch in order), seconds


def _cut_worth_it(model: nn.Module, moving: set[nn.Module], split: data.Split, compute: Compute) -> Cut | None:
    """`cut_at`, but None where less than WORTH of a forward pass lies below."""
    if len(split) < 3:
        return None
    x = _example(model, split, compute)
    cut = cut_at(model, moving, x)
    if cut is None:
        return None
    whole = copy.deepcopy(model).eval()  # a forward pass in training mode would move batch statistics
    return cut if _flops(cut.below, x) >= WORTH * _flops(whole, x) else None


def _steady(below: fx.GraphModule, split: data.Split, compute: Compute) -> bool:
    """True if a frozen part, as training runs it, answers an image alike whatever is beside it, and as in evaluation mode.

    A layer may use the batch in training without being a batch norm (EvoNorm), or running statistics in evaluation alone.
    """
    x = _example(below, split, compute)
    part = copy.deepcopy(below)  # running statistics move
    with torch.no_grad():
        both, other = part(x), part(x[[0, 2, 2]])
        asked = part.eval()(x)
    pairs = [(a[0], b[0]) for a, b in zip(both, other, strict=True)] + list(zip(both, asked, strict=True))
    return all((a - b).abs().max() <= ALIKE * a.abs().max() for a, b in pairs)


def _example(model: nn.Module, split: data.Split, compute: Compute) -> torch.Tensor:
    return to_float(split.images[:3].to(compute.device), memory_format(model))


def _flops(network: nn.Module, x: torch.Tensor) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()
