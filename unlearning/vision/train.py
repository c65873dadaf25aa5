"""The one training loop, with resuming, and what asks a trained network.

Each epoch starts from a seed of its own, so an interrupted run that continues from its last epoch draws the same
batches, crops and dropout masks as one that was never interrupted.
"""

import math
import sys
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import v2
from tqdm import tqdm

import data
from unlearning.core import distributed
from unlearning.core.device import autocast, clock, memory_format, peak_memory_mib, reset_peak_memory, to_float
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.vision import feature_cache


def cross_entropy(model, x, y, rows):
    """Mean cross-entropy of the answers on x: labels y int64 (B,), or probabilities float32 (B, classes)."""
    return nn.functional.cross_entropy(model(x).float(), y)


def fit(
    model,
    split,
    optimizer,
    config,
    *,
    objective=cross_entropy,
    scheduler=None,
    augment=None,
    mixup=0.0,
    clip=None,
    freeze_norm=False,
    since=None,
):
    """Minimise `objective` on `split` for `config.epochs` epochs; trains `model` in place and returns it.

    Where `objective` is cross-entropy on the images as they are, what of the model is frozen runs once (frozen.py).

    objective: function of the model, images float32 (B, C, H, W), their labels and their positions in `split`, int64 (B,);
    the mean loss of the batch, a scalar. augment: function of uint8 (B, C, H, W), run on each batch. mixup: alpha of its
    Beta distribution, 0 for none. clip: largest gradient norm, None for no clipping. freeze_norm: batch-norm statistics
    stay as they are. since: what `devices.now` said when the method began to prepare, so that its clock includes that.
    Reads from config: epochs, batch_size, seed, device, precision, quiet, snapshot (the file to continue from, or None), key
    (what such a file must belong to), overwrite (then one of other settings is dropped), cache and weights (for the frozen
    part). Writes to config.cost: seconds (with the frozen part's, even if an earlier run has computed it), memory_mib,
    trainable, steps. Raises RunFailed when the loss is no longer finite.
    """
    device, layout = torch.device(config.device), memory_format(model)
    model.to(device, memory_format=layout)
    labels = split.labels.to(device)
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    first, seconds = _resume(model, optimizer, scheduler, config)
    if since is not None and not first:  # a resumed run has counted its preparation already
        seconds += clock(device) - since
    reset_peak_memory(device)
    if distributed.count() > 1 and objective is not cross_entropy:
        raise UserError("this method runs in one process: start it without torchrun")
    model.train()
    if freeze_norm:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    repeats = objective is cross_entropy and not augment and not mixup  # the same images at each epoch, asked once
    kept = feature_cache.keep(model, split, config) if repeats else None
    if kept:
        network, inputs, cost = kept
        seconds += 0 if first else cost
    else:
        network, images = model, split.images.to(device)

        def inputs(order):
            for x in data.batches(images, order):
                x = x.to(device)
                yield to_float(augment(x) if augment else x, layout)

    for epoch in range(first, config.epochs):
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        started, total = clock(device), torch.zeros((), device=device)
        bar = _progress(len(labels), f"epoch {epoch + 1}/{config.epochs}", config.quiet)
        batches = torch.randperm(len(labels)).split(config.batch_size)
        for step, (batch, x) in enumerate(zip(batches, inputs(batches), strict=True)):
            y = labels[batch.to(device)]
            if mixup:
                x, y = v2.MixUp(alpha=mixup, num_classes=config.classes)(x, y)
            piece, weight = distributed.shard(len(batch))
            x = [h[piece] for h in x] if kept else x[piece]
            with autocast(device, config.precision):
                loss = weight * objective(network, x, y[piece], batch[piece])
            optimizer.zero_grad()
            loss.backward()
            distributed.average(p.grad for p in trained if p.grad is not None)
            if clip:
                nn.utils.clip_grad_norm_(trained, clip)
            optimizer.step()
            if scheduler:
                scheduler.step()
            total += loss.detach() * len(batch)
            if not bar.disable and step % 20 == 0:  # reading the loss makes a GPU wait, so not at every step
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
            bar.update(len(batch))
        bar.close()
        distributed.average([total])
        mean_loss = total.item() / len(labels)
        spent = clock(device) - started
        seconds += spent
        if not math.isfinite(mean_loss):
            raise RunFailed(f"the loss is {mean_loss} in epoch {epoch + 1}: try a smaller --lr or --precision fp32")
        if bar.disable and not config.quiet:
            line = f"epoch {epoch + 1}/{config.epochs}  loss {mean_loss:.4f}  {len(labels) / spent:,.0f} images/s"
            print(line, file=sys.stderr, flush=True)
        if epoch + 1 < config.epochs:  # after the last one comes the checkpoint
            _snapshot(model, optimizer, scheduler, config, epoch + 1, seconds)
    config.cost.update(
        seconds=seconds,
        memory_mib=peak_memory_mib(device),
        trainable=sum(p.numel() for p in trained),
        steps=config.epochs * math.ceil(len(labels) / config.batch_size),
    )
    return model.eval()


def _progress(total, text, quiet):
    return tqdm(total=total, desc=text, unit=" images", unit_scale=True, leave=False, disable=quiet or None)


def _snapshot(model, optimizer, scheduler, config, epoch, seconds):
    if config.snapshot and distributed.is_main():
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        state = {
            "key": config.key,
            "epoch": epoch,
            "seconds": seconds,
            "model": {name: tensor for name, tensor in model.state_dict().items() if name not in fixed},
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.last_epoch if scheduler else 0,
        }
        write_torch(config.snapshot, state)


def _resume(model, optimizer, scheduler, config):
    """Continue from the snapshot if there is one: (epochs done, seconds spent)."""
    if not (config.snapshot and Path(config.snapshot).exists()):
        return 0, 0.0
    state = read_torch(config.snapshot)
    if not isinstance(state, dict) or state.get("key") != config.key:
        if config.overwrite:
            return 0, 0.0
        raise UserError(f"{config.snapshot} is an unfinished run with other settings; delete it or give --overwrite")
    model.load_state_dict(model.state_dict() | state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scheduler:
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": state["scheduler"]})
    if not config.quiet:
        print(f"continuing after epoch {state['epoch']}", file=sys.stderr, flush=True)
    return state["epoch"], state["seconds"]
