"""The frozen part of a network runs once: its outputs are kept, and only the tail above it is trained or asked again.

What is frozen is read off the network itself. torch.fx follows its forward pass into every module that moves in part, and
what depends on no trained parameter, no batch norm in training and no dropout gives the same at each epoch. The cut may lie
within a block: where a ViT's last attention projection is adapted, that projection's input and the residual that passes it
by are kept. Outputs belong to the frozen weights and the images, not to a run: networks that have both in common - other
ranks, rates, methods, the original itself - share them, in training as in scoring.
"""

import copy
import hashlib
import os
import sys
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import data
from unlearning.core.device import autocast, clock, memory_format, to_float
from unlearning.vision import graph_cut

BLOCK = 250  # images at once, always the same ones together: an output's last bits depend on the images beside it
WORTH = 0.1  # least share of a forward pass's arithmetic for which outputs are kept
PARTS = 2  # frozen parts whose outputs are kept at a time: that of LoRA, and what the head alone is fitted to
_kept = []  # Outputs, the latest last


def keep(model, split, config):
    """The tail of `model`, which is in training mode and on its device, and its inputs for the images of `split`.

    Returns (network, inputs, seconds), or None where little is frozen or there is no room: inputs(order), order a sequence
    of batches of positions in split, int64 (B,), yields what network takes for each; seconds: what computing all inputs has
    cost, now or in an earlier run.
    Reads from config: cache (MiB of memory, what is larger goes to a file in `weights`; 0 for nothing), device, precision,
    quiet.
    """
    model = unwrap_peft(model)
    if not config.cache or all(p.requires_grad for p in model.parameters()):
        return None
    cut = _cut_worth_it(model, graph_cut.moving_in_training(model), split, config)
    if cut is None:
        return None
    images, rows = split.source
    known = (o.below for o in _kept if o.below.code == cut.below.code and o.belongs(model, config))
    outputs = _outputs(next(known, None) or copy.deepcopy(cut.below).eval(), images, config)
    if outputs is None:
        return None
    return _from_kept(cut.tail, outputs, rows)


def inputs_for(model, split, config):
    """What gives the outputs of `model`, in evaluation mode and on its device, for `split`: as `keep`.

    The tail, where outputs are kept of a part that `model` has with the same weights; else the network and its images.
    """
    model, (images, rows) = unwrap_peft(model), split.source
    for known in reversed(_kept):
        if known.below is model or not known.belongs(model, config):
            continue
        cut = graph_cut.cut_at(
            model, graph_cut.modules_owning(model, model.state_dict().keys() - known.tensors), _example(model, split, config)
        )
        if cut and cut.below.code == known.below.code and (outputs := _outputs(known.below, images, known.config)):
            return _from_kept(cut.tail, outputs, rows)
    layout, device = memory_format(model), torch.device(config.device)
    return model, lambda order: (to_float(x.to(device), layout) for x in data.batches(split.images, order)), 0.0


def share_between(model, own, others, split, config):
    """See that the outputs of what `model`, about to be scored, has in common with some of `others` will be kept.

    own, others: what `digests` says of the model and of the networks that are scored along. config: as for `keep`. Without
    this, `source` finds only what training has kept.
    """
    model = unwrap_peft(model)
    if not config.cache or any(outputs.belongs(model, config) for outputs in _kept):
        return
    differences = {frozenset(n for n in own if own[n] != other[n]) for other in others if own.keys() == other.keys()}
    for names in sorted(differences, key=len, reverse=True):  # the lowest cut serves the most networks
        if 0 < len(names) <= (1 - WORTH) * len(own):
            cut = _cut_worth_it(model, graph_cut.modules_owning(model, names), split, config)
            if cut and _outputs(copy.deepcopy(cut.below), split.source[0], config):
                return


def digests(state):
    """{name of a tensor: its SHA-256} of a state dict."""
    return {
        name: hashlib.sha256(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy()).digest()
        for name, tensor in state.items()
    }


def clear():
    """Drop all that is kept."""
    _kept.clear()


class Outputs:
    """What a frozen part makes of images, computed where first asked for.

    below: the part, an fx.GraphModule. images: uint8 (N, C, H, W). config: as for `keep`. Raises OSError where neither
    memory nor the disk has room.
    """

    def __init__(self, below, images, config):
        self.below, self.images, self.config = below, images, config
        self.tensors = below.state_dict().keys()
        self.done = torch.zeros(-(-len(images) // BLOCK), dtype=torch.bool)
        self.spent, self.computed = 0.0, 0
        one, _ = next(self._run([torch.arange(2)]))
        self.mib = sum(value[0].nbytes for value in one) * len(images) / 2**20
        self.in_memory = self.mib + sum(other.mib for other in _kept if other.in_memory) <= config.cache
        if not config.quiet:
            place = "in memory" if self.in_memory else f"in a file in {config.weights}"
            print(f"outputs of the frozen part: {self.mib:,.0f} MiB {place}", file=sys.stderr, flush=True)
        self.values = [(_in_memory if self.in_memory else _in_file)(value, len(images), config) for value in one]

    def belongs(self, model, config):
        """Whether `model` has this part with the same weights and computes in the same way."""
        if (config.device, config.precision) != (self.config.device, self.config.precision):
            return False
        theirs = model.state_dict()
        return all(name in theirs and torch.equal(theirs[name], own) for name, own in self.below.state_dict().items())

    def compute(self, rows):
        """See that the outputs of the images at the positions `rows`, int64, are there."""
        blocks = [block for block in (rows // BLOCK).unique().tolist() if not self.done[block]]
        if not blocks:
            return
        pieces = [torch.arange(block * BLOCK, min((block + 1) * BLOCK, len(self.images))) for block in blocks]
        bar = tqdm(blocks, desc="frozen part", unit=f" x {BLOCK} images", leave=False, disable=self.config.quiet or None)
        for block, piece, (results, seconds) in zip(bar, pieces, self._run(pieces), strict=True):
            for value, result in zip(self.values, results, strict=True):
                value[piece.to(value.device)] = result
            self.done[block] = True
            self.spent, self.computed = self.spent + seconds, self.computed + len(piece)

    def rows(self, rows):
        """The outputs for the images at the positions `rows`, on the device: a list of tensors (len(rows), ...)."""
        return [value[rows.to(value.device)].to(self.config.device) for value in self.values]

    def _run(self, pieces):
        """For each of `pieces`, positions of images, the part's outputs and what they cost in seconds."""
        some = data.Split(self.images, torch.arange(len(self.images))).take(torch.cat(pieces))
        network, inputs, before = inputs_for(self.below, some, self.config)
        batches = inputs(torch.arange(len(some)).split([len(piece) for piece in pieces]))
        for piece in pieces:
            started = clock(self.config.device)
            with torch.no_grad(), autocast(torch.device(self.config.device), self.config.precision):
                results = network(next(batches))
            yield results, before * len(piece) / len(some) + clock(self.config.device) - started


def _outputs(below, images, config):
    """The Outputs of the part `below` for `images`, new or known; None, with a line that says so, where there is no room."""
    for known in _kept:
        if known.below is below and known.images is images:
            return known
    parts = list(dict.fromkeys(id(known.below) for known in _kept if known.below is not below))
    _kept[:] = [known for known in _kept if id(known.below) not in parts[: len(parts) + 1 - PARTS]]
    try:
        _kept.append(Outputs(below, images, config))
    except OSError as error:
        print(f"outputs of the frozen part are not kept: {error}", file=sys.stderr, flush=True)
        return None
    return _kept[-1]


def _in_memory(value, count, config):
    return torch.empty(count, *value.shape[1:], dtype=value.dtype, device=value.device)


def _in_file(value, count, config):
    """As `_in_memory`, in a file without a name, which vanishes with this process, even a killed one."""
    path = Path(config.weights) / f".frozen.{os.getpid()}.tmp"
    path.parent.mkdir(parents=True, exist_ok=True)
    size = count * value[0].numel()
    try:
        with open(path, "wb") as file:  # all of it at once, else a full disk would be a bus error later
            os.posix_fallocate(file.fileno(), 0, size * value.element_size())
        mapped = torch.from_file(str(path), shared=True, size=size, dtype=value.dtype)
    finally:
        path.unlink(missing_ok=True)
    return mapped.view(count, *value.shape[1:])


def _from_kept(tail, outputs, rows):
    """What `keep` returns, for images at the positions `rows` among those of `outputs`."""
    outputs.compute(rows)
    seconds = outputs.spent / outputs.computed * len(rows)
    return lambda x: tail(*x), lambda order: (outputs.rows(rows[batch]) for batch in order), seconds


def _cut_worth_it(model, moving, split, config):
    """`cut_at`, but None where less than WORTH of a forward pass lies below."""
    if len(split) < 3:
        return None
    x = _example(model, split, config)
    cut = graph_cut.cut_at(model, moving, x)
    if cut is None:
        return None
    whole = copy.deepcopy(model).eval()  # a forward pass in training mode would move batch statistics
    return cut if _flops(cut.below, x) >= WORTH * _flops(whole, x) else None


def _example(model, split, config):
    return to_float(split.images[:3].to(config.device), memory_format(model))


def _flops(network, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    return counter.get_total_flops()


def unwrap_peft(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model
