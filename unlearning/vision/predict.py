"""TODO unlearning.vision.predict."""

import copy

import torch
from torch import nn

import models
from unlearning.core.device import autocast, memory_format, to_float
from unlearning.vision import feature_cache


def predict(model, split, config, batch_size=feature_cache.BLOCK):
    """Logits float32 (N, classes) on the CPU for the images of `split`; one pass in evaluation mode, or what is left of one
    where the outputs of a part of the network are kept."""
    device, layout = torch.device(config.device), memory_format(model)
    model.to(device, memory_format=layout).eval()  # not in inference mode: moved there, weights could never be trained again
    parts = []
    network, inputs, _ = feature_cache.inputs_for(model, split, config)
    for x in inputs(torch.arange(len(split)).split(batch_size)):
        with torch.inference_mode(), autocast(device, config.precision):
            parts.append(network(x).float())
    return torch.cat(parts).cpu()


def penultimate(model, split, config):
    """What the classifier gets to see: float32 (N, features) on the CPU, for the images of `split`."""
    parts = []
    head = model.get_submodule(models.head_name(model))
    hook = head.register_forward_pre_hook(lambda module, inputs: parts.append(inputs[0].float().cpu()))
    predict(model, split, config)
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
    images, labels = forget.images[:].to(device), forget.labels.to(device)
    generator = torch.Generator().manual_seed(0)
    reached = []
    for step in range(steps[-1] + 1):
        if step in steps:
            answer = predict(model, test, config).argmax(1)
            reached.append(100 * (answer == test.labels).double().mean().item())
        batch = torch.randint(len(labels), (batch_size,), generator=generator).to(device)
        with autocast(device, config.precision):
            logits = model(to_float(images[batch], layout))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits.float(), labels[batch]).backward()
        optimizer.step()
    return reached
