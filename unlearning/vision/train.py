"""Resumable training loop.

Each epoch starts from a seed of its own, so a run that continues draws the same batches, crops and dropout masks.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from tqdm import tqdm

import data
from unlearning.core import distributed
from unlearning.core.device import Compute, autocast, clock, memory_format, peak_memory_mib, reset_peak_memory, to_float
from unlearning.core.errors import Diverged
from unlearning.core.words import say
from unlearning.vision.failures import if_not_finite
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.snapshots import Snapshot


def cross_entropy(model: Callable, x: Any, y: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
    """Mean cross-entropy of the answers on x: labels y int64 (B,), or probabilities float32 (B, classes)."""
    return nn.functional.cross_entropy(model(x).float(), y)


@dataclass(frozen=True)
class Policy:
    """How a batch is learned from.

    objective: function of the model, images float32 (B, C, H, W), labels and positions int64 (B,); the mean loss, a scalar.
    Processes share a batch, and average losses over their images; what is no mean over images asks `distributed.mean`.
    draw: function of a batch's positions: what the objective gets in their place, drawn before a batch is shared.
    of_answers: True if it needs no more of network and images than model(x). scheduler: stepped with the optimiser. batches:
    function of the number of images and the batch size: the positions of an epoch's batches. mirrored: function of positions
    and epoch: which images are, bool (B,). augment: function of images uint8, then. mixup: function of images and labels.
    clip: largest gradient norm. before_epoch: called with each epoch's number, from 0, before its first step.
    """

    objective: Callable[[Callable, Any, torch.Tensor, torch.Tensor], torch.Tensor] = cross_entropy
    of_answers: bool = False
    scheduler: Any = None
    mirrored: Callable[[torch.Tensor, int], torch.Tensor] | None = None
    augment: Callable[[torch.Tensor], torch.Tensor] | None = None
    mixup: Callable | None = None
    clip: float | None = None
    batches: Callable[[int, int], list[torch.Tensor]] = data.shuffled
    draw: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows
    before_epoch: Callable[[int], object] = lambda epoch: None


def fit(
    model: nn.Module,
    split: data.Split,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    compute: Compute,
    freeze_norm: bool = False,
    since: float | None = None,
    snapshot: Snapshot | None = None,
    features: FeatureCache | None = None,
    **how: Any,
) -> dict[str, float]:
    """Minimise an objective on `split`, in place, and return the cost; `model` is left in evaluation mode.

    how: the fields of Policy. freeze_norm: batch-norm statistics stay as they are. since: what `clock` said when the method
    began to prepare, so that its seconds include that. snapshot: the file to continue from. features: where answers to the
    images as they are decide the loss, outputs of frozen layers are cached there.
    Cost: seconds (with the cached outputs', even if an earlier run has computed them), memory_mib, trainable, steps.
    Raises Diverged when the loss is no longer finite.
    """
    policy, device = Policy(**how), compute.device
    model.to(device).to(memory_format=memory_format(model))
    first, seconds = snapshot.restore(model, optimizer, policy.scheduler, epochs, compute.quiet) if snapshot else (0, 0.0)
    if since is not None and not first:  # a resumed run has counted its preparation already
        seconds += clock(device) - since
    reset_peak_memory(device)
    model.train()
    for norm in (m for m in model.modules() if freeze_norm and isinstance(m, _BatchNorm)):
        norm.eval()
    advice = if_not_finite(model)
    network, inputs, cost = _inputs(model, split, compute, features, policy)
    seconds += 0 if first else cost
    labels, shared = split.labels.to(device), distributed.shared(model, network)
    for epoch in range(first, epochs):
        torch.manual_seed(seed * 1_000_003 + epoch)
        started = clock(device)
        policy.before_epoch(epoch)
        batches, title = policy.batches(len(labels), batch_size), f"epoch {epoch + 1}/{epochs}"
        _epoch(title, shared, batches, inputs(batches, epoch), labels, optimizer, policy, compute, advice)
        seconds += clock(device) - started
        if snapshot:
            snapshot.after_epoch(model, optimizer, policy.scheduler, epoch + 1, epochs, seconds)
    model.eval()
    steps, trainable = epochs * len(batches), sum(p.numel() for p in _trained(optimizer))
    return {"seconds": seconds, "memory_mib": peak_memory_mib(device), "trainable": trainable, "steps": steps}


def _inputs(model, split, compute, features, policy):
    """What runs in training, a function of batches of positions and of the epoch that yields what it takes, and seconds
    spent: cached outputs of frozen layers where every epoch sees the same images, else the images, float32 (B, C, H, W)."""
    asked = policy.of_answers or policy.objective is cross_entropy
    repeats = asked and not (policy.mirrored or policy.augment or policy.mixup)
    if features and repeats and (kept := features.keep(model, split, compute)):
        tail, outputs, seconds = kept
        return tail, lambda order, epoch: outputs(order), seconds
    images, layout = split.images.to(compute.device), memory_format(model)

    def inputs(order, epoch):
        for rows, x in zip(order, data.batches(images, order), strict=True):
            x = x.to(compute.device)
            if policy.mirrored:
                x = data.mirror(x, policy.mirrored(rows, epoch))
            yield to_float(policy.augment(x) if policy.augment else x, layout)

    return model, inputs, 0.0


def _epoch(title, shared, batches, inputs, labels, optimizer, policy, compute, advice):
    """One pass over all batches, and a line about it. Raises Diverged if the mean loss isn't finite."""
    started, total, count = clock(compute.device), torch.zeros((), device=compute.device), sum(map(len, batches))
    bar = tqdm(total=count, desc=title, unit=" images", unit_scale=True, leave=False, disable=compute.quiet or None)
    for place, (batch, x) in enumerate(zip(batches, inputs, strict=True)):
        y = labels[batch.to(compute.device)]
        x, y = policy.mixup(x, y) if policy.mixup else (x, y)
        loss = step(shared, x, y, batch, optimizer, policy, compute)
        total += loss * len(batch)
        if not bar.disable and place % 20 == 0:  # reading the loss makes a GPU wait, so not at every step
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        bar.update(len(batch))
    bar.close()
    mean, speed = distributed.mean(total, count).item(), count / (clock(compute.device) - started)
    if not math.isfinite(mean):
        raise Diverged(f"the loss is {mean} in {title}: {advice}")
    if bar.disable and not compute.quiet:
        say(f"{title}  loss {mean:.4f}  {speed:,.0f} images/s")


def step(
    shared: Callable, x: Any, y: torch.Tensor, batch: torch.Tensor, optimizer: Optimizer, policy: Policy, compute: Compute
) -> torch.Tensor:
    """One optimiser step on a batch, or on this process's part of it: its loss, detached. shared: `distributed.shared`."""
    part, weight = distributed.shard(len(batch))
    x = x[part] if isinstance(x, torch.Tensor) else [h[part] for h in x]  # a list: cached outputs
    with autocast(compute.device, compute.precision):
        loss = weight * shared(len(batch), policy.objective, x, y[part], policy.draw(batch)[part])
    optimizer.zero_grad()
    loss.backward()
    if policy.clip:
        nn.utils.clip_grad_norm_(_trained(optimizer), policy.clip)
    optimizer.step()
    if policy.scheduler:
        policy.scheduler.step()
    return loss.detach()


def _trained(optimizer):
    return [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
