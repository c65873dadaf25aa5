"""Inference on trained networks: logits, penultimate features, and how fast a forgotten class is learned again, from all of
its images or from few."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

import data
from unlearning.core.device import Compute, autocast, memory_format, to_float
from unlearning.metrics import predictions
from unlearning.vision import feature_cache, layers
from unlearning.vision.feature_cache import FeatureCache


def predict(
    model: nn.Module,
    split: data.Split,
    compute: Compute,
    features: FeatureCache | None = None,
    batch_size: int = feature_cache.BLOCK,
) -> torch.Tensor:
    """Logits float32 (N, classes) on the CPU for the images of `split`, in evaluation mode.

    features: where outputs of layers of this network are cached, the layers above them alone are run.
    """
    # Not in inference mode: moved there, weights could never be trained again.
    model.to(compute.device).to(memory_format=memory_format(model)).eval()
    parts = []
    network, inputs, _ = (features.inputs_for if features else feature_cache.images_for)(model, split, compute)
    for x in inputs(torch.arange(len(split)).split(batch_size)):
        with torch.inference_mode(), autocast(compute.device, compute.precision):
            parts.append(network(x).float())
    return torch.cat(parts).cpu()


def penultimate(model: nn.Module, split: data.Split, compute: Compute, features: FeatureCache | None = None) -> torch.Tensor:
    """Features before the classifier, float32 (N, features) on the CPU, for the images of `split`.

    Of a network with several heads those of each, one beside the other, but once where two heads read the same. Of a head
    that reads features of each place or token, their mean. Of a system that votes, whose learners each have features of an
    image, the mean over its learners.
    """
    heads = {name: model.get_submodule(name) for name in layers.heads(model)}
    parts: dict[str, list[torch.Tensor]] = {name: [] for name in heads}

    def keep(read, module, inputs):
        read.append(_pooled(inputs[0]).float().cpu())

    hooks = [head.register_forward_pre_hook(partial(keep, parts[name])) for name, head in heads.items()]
    predict(model, split, compute, features)
    for hook in hooks:
        hook.remove()
    found: list[torch.Tensor] = []
    for read in parts.values():
        learners = sum(map(len, read)) // len(split)  # how often the classifier is asked about each batch
        mean = torch.cat([torch.stack(read[i : i + learners]).mean(0) for i in range(0, len(read), learners)])
        if not any(torch.equal(mean, other) for other in found):
            found.append(mean)
    return torch.cat(found, 1)


def _pooled(features):
    """Features (B, F), of a convolution (B, F, H, W) or of tokens (B, T, F), as (B, F)."""
    return features.mean((2, 3)) if features.ndim == 4 else features.mean(1) if features.ndim == 3 else features


def relearn(
    model: nn.Module,
    forget: data.Split,
    test: data.Split,
    compute: Compute,
    steps: Sequence[int],
    lr: float = 1e-3,
    batch_size: int = 32,
) -> list[float]:
    """Accuracy in percent on `test` (T_f) after each number of optimiser steps on `forget` (D_f): list of float.

    steps: ascending, from 0. A copy of `model` is trained by Adam, batch-norm statistics fixed; batches are drawn with
    seed 0. A bias of minus infinity, with which a class is masked, is set to 0 first: whoever wants the class back would.
    """
    model, optimizer = _to_train(model, compute, lr)
    images, labels = forget.images[:].to(compute.device), forget.labels.to(compute.device)
    generator = torch.Generator().manual_seed(0)
    reached = []
    for step in range(steps[-1] + 1):
        if step:
            batch = torch.randint(len(labels), (batch_size,), generator=generator).to(compute.device)
            _step(model, optimizer, [(images[batch], labels[batch])], compute)
        if step in steps:
            reached.append(predictions.accuracy(predict(model, test, compute), test.labels))
    return reached


def recover(
    model: nn.Module,
    shots: data.Split,
    kept: data.Split,
    test: data.Split,
    compute: Compute,
    steps: int = 10,
    lr: float = 1e-3,
    batch_size: int = 32,
) -> float:
    """Accuracy in percent on `test` (T_f) after `steps` optimiser steps on few images of D_f, `shots`.

    A copy of `model`, head and all below it, is trained by Adam, batch-norm statistics fixed, infinite biases set to 0 as by
    `relearn`. Each step minimises the mean cross-entropy on all of `shots` plus that on as many images of `kept` (D_r), but
    at least `batch_size`, drawn with seed 0: without them any network would soon give every image the forgotten class.
    """
    model, optimizer = _to_train(model, compute, lr)
    device, generator = compute.device, torch.Generator().manual_seed(0)
    few = shots.images[:].to(device), shots.labels.to(device)
    for _ in range(steps):
        rows = torch.randint(len(kept), (max(batch_size, len(shots)),), generator=generator)
        _step(model, optimizer, [few, (kept.images[rows].to(device), kept.labels[rows].to(device))], compute)
    return predictions.accuracy(predict(model, test, compute), test.labels)


def _to_train(model, compute, lr):
    """A copy of `model` on its device, with weights that are no numbers at 0, batch-norm statistics fixed, and Adam over all
    of it."""
    model = copy.deepcopy(model).to(compute.device).to(memory_format=memory_format(model)).eval().requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return model, torch.optim.Adam(model.parameters(), lr=lr)


def fresh(model: nn.Module) -> nn.Module:
    """`model` in evaluation mode, without what it keeps from one batch to the next: networks as timm's LeViT keep their
    attention biases, and how these were computed, through which no second gradient can be taken."""
    return model.train().eval()


def _step(model, optimizer, batches, compute):
    """One optimiser step on the sum of the mean cross-entropies of batches: images uint8 (B, C, H, W), labels int64 (B,)."""
    losses = []
    for images, labels in batches:
        with autocast(compute.device, compute.precision):
            logits = fresh(model)(to_float(images, memory_format(model)))
        losses.append(nn.functional.cross_entropy(logits.float(), labels))
    optimizer.zero_grad()
    sum(losses).backward()
    optimizer.step()
