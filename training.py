"""The one training loop, with resuming, and clock and memory meters.

Each epoch starts from a seed of its own, so an interrupted run that continues from its last epoch draws the same
batches, crops and dropout masks as one that was never interrupted.
"""

import argparse
import contextlib
import copy
import math
import resource
import sys
import time
from pathlib import Path

import torch
from timm.optim import param_groups_weight_decay
from torch import nn
from torchvision.transforms import v2
from tqdm import tqdm

import data
import models
from errors import RunFailed, UserError


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

    objective: function of the model, images float32 (B, C, H, W), their labels and their positions in `split`, int64 (B,);
    the mean loss of the batch, a scalar. augment: function of uint8 (B, C, H, W), run on each batch. mixup: alpha of its
    Beta distribution, 0 for none. clip: largest gradient norm, None for no clipping. freeze_norm: batch-norm statistics
    stay as they are. since: what `now` said when the method began to prepare, so that its clock includes that.
    Reads from config: epochs, batch_size, seed, device, precision, quiet, snapshot (the file to continue from, or None), key
    (what such a file must belong to) and overwrite (then one of other settings is dropped). Writes to config.cost: seconds,
    memory_mib, trainable, steps. Raises RunFailed when the loss is no longer finite.
    """
    device, layout = torch.device(config.device), memory_format(model)
    model.to(device, memory_format=layout)
    images, labels = split.images.to(device), split.labels.to(device)
    trained = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    first, seconds = _resume(model, optimizer, scheduler, config)
    if since is not None and not first:  # a resumed run has counted its preparation already
        seconds += now(device) - since
    reset_peak_memory(device)
    for epoch in range(first, config.epochs):
        torch.manual_seed(config.seed * 1_000_003 + epoch)
        model.train()
        if freeze_norm:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        started, total = now(device), torch.zeros((), device=device)
        order = torch.randperm(len(labels)).to(device)
        bar = _progress(len(labels), f"epoch {epoch + 1}/{config.epochs}", config.quiet)
        for step, batch in enumerate(order.split(config.batch_size)):
            x, y = images[batch], labels[batch]
            x = to_float(augment(x) if augment else x, layout)
            if mixup:
                x, y = v2.MixUp(alpha=mixup, num_classes=config.classes)(x, y)
            with autocast(device, config.precision):
                loss = objective(model, x, y, batch)
            optimizer.zero_grad()
            loss.backward()
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
        mean_loss = total.item() / len(labels)
        spent = now(device) - started
        seconds += spent
        if not math.isfinite(mean_loss):
            raise RunFailed(f"the loss is {mean_loss} in epoch {epoch + 1}: try a smaller --lr or --precision fp32")
        if bar.disable and not config.quiet:
            line = f"epoch {epoch + 1}/{config.epochs}  loss {mean_loss:.4f}  {len(labels) / spent:,.0f} images/s"
            print(line, file=sys.stderr, flush=True)
        _snapshot(model, optimizer, scheduler, config, epoch + 1, seconds)
    config.cost.update(
        seconds=seconds,
        memory_mib=peak_memory_mib(device),
        trainable=sum(p.numel() for p in trained),
        steps=config.epochs * math.ceil(len(labels) / config.batch_size),
    )
    return model.eval()


def recipe(model, count, config, flip):
    """How the paper trains an original (and Retrain) on `count` images: keyword arguments for `fit`.

    CNN: SGD with momentum 0.9 and weight decay 5e-4, cosine to 0, random crop and flip. ViT: AdamW with weight decay 0.1
    on matrices only, linear warm-up of 10,000 steps (at most a quarter of the run), cosine to 0, flip, mixup 0.2,
    gradient norm at most 1. `flip` False leaves mirroring out (digits).
    """
    steps = config.epochs * math.ceil(count / config.batch_size)
    if models.is_vit(model):
        warm = min(10_000, steps // 4)
        optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.1), lr=config.lr)
        extra = {"augment": data.random_flip if flip else None, "mixup": 0.2, "clip": 1.0}
    else:
        warm = 0
        optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=5e-4)
        extra = {"augment": data.crop_and_flip if flip else data.random_crop}
    return {"optimizer": optimizer, "scheduler": warm_up_and_cosine(optimizer, steps, warm), **extra}


def warm_up_and_cosine(optimizer, steps, warm):
    """A scheduler for `steps` optimiser steps: linear from 0 over the first `warm` of them, then cosine to 0."""

    def factor(step):
        return step / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def predict(model, images, config, batch_size=1000):
    """Logits float32 (N, classes) on the CPU, for uint8 images (N, C, H, W); one pass in evaluation mode."""
    device, layout = torch.device(config.device), memory_format(model)
    model.to(device, memory_format=layout).eval()  # not in inference mode: moved there, weights could never be trained again
    parts = []
    for batch in images.split(batch_size):
        with torch.inference_mode(), autocast(device, config.precision):
            parts.append(model(to_float(batch.to(device), layout)).float())
    return torch.cat(parts).cpu()


def penultimate(model, images, config):
    """What the classifier gets to see: float32 (N, features) on the CPU, for uint8 images (N, C, H, W)."""
    parts = []
    head = model.get_submodule(models.head_name(model))
    hook = head.register_forward_pre_hook(lambda module, inputs: parts.append(inputs[0].float().cpu()))
    predict(model, images, config)
    hook.remove()
    return torch.cat(parts)


def relearn(model, forget, test, config, steps, lr=1e-3, batch_size=32):
    """Accuracy in percent on `test` (T_f) after each number of optimiser steps on `forget` (D_f): list of float.

    steps: ascending, from 0. A copy of `model` is trained by Adam, batch-norm statistics fixed; batches are drawn with
    seed 0. A bias of minus infinity, with which a class is masked, is set to 0 first: whoever wants the class back would.
    """
    device, layout = torch.device(config.device), memory_format(model)
    model = copy.deepcopy(model).to(device, memory_format=layout).eval().requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    images, labels = forget.images.to(device), forget.labels.to(device)
    generator = torch.Generator().manual_seed(0)
    reached = []
    for step in range(steps[-1] + 1):
        if step in steps:
            answer = predict(model, test.images, config).argmax(1)
            reached.append(100 * (answer == test.labels).double().mean().item())
        batch = torch.randint(len(labels), (batch_size,), generator=generator).to(device)
        with autocast(device, config.precision):
            logits = model(to_float(images[batch], layout))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), labels[batch]).backward()
        optimizer.step()
    return reached


def to_float(images, layout=torch.contiguous_format):
    """uint8 0..255 to float32 in [0, 1]."""
    return images.to(torch.float32).div_(255).contiguous(memory_format=layout)


def memory_format(model):
    """channels_last for convolutions, where it measures faster; contiguous for the rest."""
    return torch.channels_last if models.is_convolutional(model) else torch.contiguous_format


def autocast(device, precision):
    """bf16 where `precision` says so; the weights stay fp32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def best_precision(model, device):
    """bf16 where benchmarks/throughput.py measures it faster: on GPUs, and for CNNs on CPUs with AMX."""
    if torch.device(device).type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    cpu = Path("/proc/cpuinfo")
    amx = cpu.exists() and "amx_bf16" in cpu.read_text()
    return "bf16" if amx and models.is_convolutional(model) else "fp32"


def placed(model, config):
    """Where and how `model` computes by config.device and config.precision: a namespace, as `predict` wants it."""
    device = resolve_device(config.device)
    return argparse.Namespace(device=device, precision=config.precision or best_precision(model, device))


def resolve_device(name):
    """`auto` to the first GPU or the CPU. Raises UserError for a device that isn't there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: {str(error).splitlines()[0]}") from None
    return name


def now(device):
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


def _progress(total, text, quiet):
    return tqdm(total=total, desc=text, unit=" images", unit_scale=True, leave=False, disable=quiet or None)


def _snapshot(model, optimizer, scheduler, config, epoch, seconds):
    if config.snapshot:
        state = {
            "key": config.key,
            "epoch": epoch,
            "seconds": seconds,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": scheduler.last_epoch if scheduler else 0,
        }
        models.write_atomically(config.snapshot, state)


def _resume(model, optimizer, scheduler, config):
    """Continue from the snapshot if there is one: (epochs done, seconds spent)."""
    if not (config.snapshot and Path(config.snapshot).exists()):
        return 0, 0.0
    state = models.read(config.snapshot)
    if not isinstance(state, dict) or state.get("key") != config.key:
        if config.overwrite:
            return 0, 0.0
        raise UserError(f"{config.snapshot} is an unfinished run with other settings; delete it or give --overwrite")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    if scheduler:
        scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": state["scheduler"]})
    if not config.quiet:
        print(f"continuing after epoch {state['epoch']}", file=sys.stderr, flush=True)
    return state["epoch"], state["seconds"]
