"""SSD, selective synaptic dampening: shrink the weights that matter more to D_f than to all images. Nothing is trained.

Foster et al. 2024 ("Fast Machine Unlearning Without Retraining Through Selective Synaptic Dampening"). A weight's importance
is the mean square of the loss's gradient, on D_f (imp_f) and on all training images D (imp_D), in evaluation mode. Where
imp_f > alpha imp_D the weight is multiplied by min(lambda imp_D / imp_f, 1).

The squares are those of a batch's mean gradient, as in the authors' code, and not of each image's, as in their formula: the
published alpha and lambda were chosen for these. So --batch-size is a setting of the method. Batches are drawn at random.
With --retain-subset as small a part of D_f stands for D_f in D: with all of it imp_D would be imp_f for the most part.

    python -m baselines.ssd --dataset cifar10 --model resnet18 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.ssd", file=sys.stderr)
    sys.exit(2)

from functools import partial

import torch
from torch import nn

import data
from data import Split
from unlearning.core.device import Compute, autocast, clock, memory_format, peak_memory_mib, reset_peak_memory, to_float
from unlearning.core.flags import POSITIVE_FLOAT, VIT, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.predict import fresh
from unlearning.vision.run import Run, execute
from unlearning.vision.train import cross_entropy

ALPHA = PerModel({"paper": 10, "vit_small": 5, "vit_micro": 5, VIT: 5})


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Dampen the weights that are important to `forget`; batch-norm statistics stay as they are."""
    settings, device = run.settings, run.compute.device
    reset_peak_memory(device)
    started = clock(device)
    both = (forget, retain.joined(_share_of(forget, retain, len(run.dataset.train))))
    on_forget, on_all = (importances(model, split, settings.batch_size, run.compute) for split in both)
    dampen(trained(model), on_forget, on_all, settings.alpha, settings.dampening)
    seconds = clock(device) - started
    run.cost.update(seconds=seconds, memory_mib=peak_memory_mib(device), trainable=0, steps=0)
    return model


def _share_of(forget: Split, retain: Split, every: int) -> Split:
    """As much of D_f, one image at least, as `retain` is of the images that stay: all of it, or a draw. every: number of all
    training images."""
    share = len(retain) / max(len(retain), every - len(forget))
    return forget if share == 1 else forget.take(torch.randperm(len(forget))[: max(1, round(share * len(forget)))])


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that may be changed: a ViT's fixed position codes may not."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def importances(model: nn.Module, split: Split, batch_size: int, compute: Compute) -> list[torch.Tensor]:
    """For each `trained` parameter the square of a batch's gradient of the mean cross-entropy, float32 of its shape, as a
    mean over random batches of `split`."""
    layout, order = memory_format(model), data.in_batches(torch.randperm(len(split)), batch_size)
    model.to(memory_format=layout).eval()
    parameters = trained(model)
    found = [torch.zeros_like(parameter) for parameter in parameters]
    for images, rows in zip(data.batches(split.images, order), order, strict=True):
        x, y = to_float(images.to(compute.device), layout), split.labels[rows].to(compute.device)
        with autocast(compute.device, compute.precision):
            loss = cross_entropy(fresh(model), x, y, None)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for sum_, gradient in zip(found, gradients, strict=True):
            sum_ += gradient.square() / len(order)
    return found


@torch.no_grad()
def dampen(
    parameters: list[nn.Parameter],
    on_forget: list[torch.Tensor],
    on_all: list[torch.Tensor],
    alpha: float,
    dampening: float,
) -> None:
    """Multiply each weight, in place, by min(lambda imp_D / imp_f, 1) where imp_f > alpha imp_D. on_forget, on_all: imp_f
    and imp_D of each parameter; dampening: lambda."""
    for parameter, f, d in zip(parameters, on_forget, on_all, strict=True):
        chosen = f > alpha * d
        parameter[chosen] *= (dampening * d[chosen] / f[chosen]).clamp(max=1)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=1, lr=1e-3)
    text = f"dampen where the importance on D_f is larger than on D by this factor (default: {ALPHA})"
    parser.add_argument("--alpha", type=POSITIVE_FLOAT, default=ALPHA, help=text)
    text = "the dampening constant lambda (default: 1)"
    parser.add_argument("--dampening", type=POSITIVE_FLOAT, default=1.0, metavar="LAMBDA", help=text)
    return parser


run = partial(execute, "ssd", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
