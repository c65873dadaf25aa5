"""Random labels, and SalUn: train D_f on wrong answers and D_r on right ones.

Random labels (Golatkar et al. 2020): each image of D_f gets another class, drawn once; all weights are trained on D_f and
D_r together. SalUn (Fan et al. 2024, --saliency 0.5): only the weights whose gradient of the original's loss on D_f is among
the largest half in magnitude are trained (their equation 3, the threshold being the median). Its control, --random-mask,
trains as many weights drawn at random by the seed, with the same wrong labels: what SalUn gains over it is due to the choice
of the weights.

    python -m baselines.randomlabel --dataset fashion-mnist --model resnet20 --forget-class 3
    python -m baselines.randomlabel --dataset fashion-mnist --model resnet20 --forget-class 3 --saliency 0.5
    python -m baselines.randomlabel --dataset fashion-mnist --model resnet20 --forget-class 3 --saliency 0.5 --random-mask
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.randomlabel", file=sys.stderr)
    sys.exit(2)

from dataclasses import replace
from functools import partial

import torch
from torch import nn

import data
from data import Split
from unlearning.core.device import Compute, autocast, clock, memory_format, to_float
from unlearning.core.errors import UserError
from unlearning.core.flags import FRACTION, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.predict import fresh
from unlearning.vision.run import Run, execute
from unlearning.vision.train import cross_entropy

LR = PerModel(paper=1e-3, resnet20=3e-4)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise cross-entropy on D_r and on D_f with wrong labels, over all weights or the salient ones."""
    started, share = clock(run.compute.device), run.settings.saliency
    classes = len(run.dataset.classes)
    if classes < 2:
        raise UserError("randomlabel needs a second class: there is no wrong label in data of one")
    if run.settings.random_mask and share == 1:
        raise UserError("--random-mask needs --saliency SHARE, the share of the weights that it lets train")
    wrong = (forget.labels + torch.randint(1, classes, forget.labels.shape)) % classes
    both = retain.joined(replace(forget, labels=wrong))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=run.settings.lr)
    if run.settings.random_mask:
        train_alone(optimizer, trained, largest([torch.rand(p.shape).to(p.device) for p in trained], share))
    elif share < 1:
        train_alone(optimizer, trained, salient(model, trained, forget, share, run.compute))
    return run.fit(model, both, optimizer, since=started)


def salient(
    model: nn.Module, parameters: list[nn.Parameter], forget: Split, share: float, compute: Compute
) -> list[torch.Tensor]:
    """Where the loss on D_f has its largest gradients: for each of `parameters` a bool mask of its shape, which together
    cover the share `share` of all numbers."""
    layout = memory_format(model)
    model.eval().zero_grad()
    rows = torch.arange(len(forget)).split(500)
    for images, labels in zip(data.batches(forget.images, rows), forget.labels.split(500), strict=True):
        x, y = to_float(images.to(compute.device), layout), labels.to(compute.device)
        with autocast(compute.device, compute.precision):
            loss = cross_entropy(fresh(model), x, y, None)
        (loss * len(y) / len(forget)).backward()
    sizes = [torch.zeros_like(p) if p.grad is None else p.grad.abs() for p in parameters]  # None: in no answer
    model.zero_grad()
    return largest(sizes, share)


def largest(sizes: list[torch.Tensor], share: float) -> list[torch.Tensor]:
    """Where the numbers in `sizes` are among the share `share` of the largest of all: bool masks of their shapes."""
    every = torch.cat([size.flatten() for size in sizes])
    threshold = every.kthvalue(max(1, round((1 - share) * len(every)))).values
    return [size > threshold for size in sizes]


def train_alone(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], masks: list[torch.Tensor]) -> None:
    """Drop the gradient outside of `masks` before each step of `optimizer`, which must have no weight decay."""

    def drop(*_):
        for parameter, mask in zip(parameters, masks, strict=True):
            if parameter.grad is not None:
                parameter.grad *= mask

    optimizer.register_step_pre_hook(drop)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=5, lr=LR)
    parser.add_argument(
        "--saliency", type=FRACTION, default=1.0, metavar="SHARE", help="train this share of the weights (default: all)"
    )
    text = "draw these weights at random, a control for SalUn's choice"
    parser.add_argument("--random-mask", action="store_true", off=False, help=text)
    return parser


run = partial(execute, "randomlabel", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
