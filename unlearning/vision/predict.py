"""Inference on trained networks: logits, penultimate features, and how fast a forgotten class is learned again."""

import copy
from collections.abc import Sequence

import torch
from torch import nn

import data
import models
from unlearning.core.device import Compute, autocast, memory_format, to_float
from unlearning.vision import feature_cache
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

    Of a system that votes, whose learners each have features of an image, the mean over its learners.
    """
    parts: list[torch.Tensor] = []
    head = model.get_submodule(models.head_name(model))
    hook = head.register_forward_pre_hook(lambda module, inputs: parts.append(inputs[0].float().cpu()))
    predict(model, split, compute, features)
    hook.remove()
    learners = sum(map(len, parts)) // len(split)  # how often the classifier is asked about each batch
    return torch.cat([torch.stack(parts[i : i + learners]).mean(0) for i in range(0, len(parts), learners)])


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
    device, layout = torch.device(compute.device), memory_format(model)
    model = copy.deepcopy(model).to(device).to(memory_format=layout).eval().requires_grad_(True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    images, labels = forget.images[:].to(device), forget.labels.to(device)
    generator = torch.Generator().manual_seed(0)
    reached = []
    for step in range(steps[-1] + 1):
        if step in steps:
            answer = predict(model, test, compute).argmax(1)
            reached.append(100 * (answer == test.labels).double().mean().item())
        batch = torch.randint(len(labels), (batch_size,), generator=generator).to(device)
        with autocast(compute.device, compute.precision):
            logits = model(to_float(images[batch], layout))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), labels[batch]).backward()
        optimizer.step()
    return reached
