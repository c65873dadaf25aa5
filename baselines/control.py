"""Four controls that any class-forgetting table needs: trivial edits of the head that score like unlearning.

mask      the forgotten classes' logits at minus infinity: the head's bias, b_c = -inf
zero-row  the forgotten classes' rows of the head at zero: w_c = 0, b_c = 0
bias      one constant k off the forgotten classes' biases, b_c - k: the least with which none of them is the answer to an
          image of D_f, k = max over D_f of (largest forgotten logit - largest kept one), and a margin for ties and rounding:
          a thousandth, doubled until it is enough. k asks neither Retrain nor D_r, and is never below 0
head-only the head alone fitted on the retain set; everything below it stays the original's
A metric on which these tie with a method says nothing about what the network below the head still knows.

    python -m baselines.control --kind mask --dataset cifar10 --model resnet50 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.control", file=sys.stderr)
    sys.exit(2)


import argparse
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data import Split
from unlearning.core.device import clock, peak_memory_mib
from unlearning.core.errors import UserError
from unlearning.core.flags import Parser, PerModel, main
from unlearning.vision import layers
from unlearning.vision.flags import method_parser
from unlearning.vision.predict import predict
from unlearning.vision.run import Run, execute
from unlearning.vision.shared import Shared

MARGIN = 1e-3  # of a logit
# What the edits of a head need of it, and which control to take where it hasn't got that.
NEEDS = {"mask": ("bias", "zero-row"), "bias": ("bias", "zero-row"), "zero-row": ("weight", "head-only")}
LR = PerModel(paper=1e-3, resnet8=1e-2, resnet20=1e-2, vit_micro=1e-2)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Edit or fit the original's head; nothing below it moves."""
    heads: list[Any] = [model.get_submodule(name) for name in layers.heads(model)]
    kind = run.settings.kind
    model.requires_grad_(False)
    if kind == "head-only":
        trained = [parameter.requires_grad_(True) for head in heads for parameter in head.parameters()]
        optimizer = torch.optim.Adam(trained, lr=run.settings.lr)
        return run.fit(model, retain, optimizer, freeze_norm=True)
    started = clock(run.compute.device)
    classes = sorted(set(forget.labels.tolist()) - set(retain.labels.tolist()))
    if not classes:
        raise UserError(f"--kind {kind} needs --forget-class: no class is forgotten as a whole")
    count = len(run.dataset.classes)
    row, way = NEEDS[kind]
    if not all(_has_rows(head, row, count) for head in heads):
        what = "bias" if row == "bias" else "row of weights"
        raise UserError(f"--kind {kind}: this network's head has no {what} for each class; {way} needs none")
    if kind == "bias":
        shift(model, [head.bias for head in heads], forget, classes, run)
    for head in heads if kind != "bias" else ():
        if kind == "zero-row":
            head.weight[classes] = 0
        if _has_rows(head, "bias", count):
            head.bias[classes] = 0 if kind == "zero-row" else float("-inf")
    seconds = clock(run.compute.device) - started
    run.cost.update(seconds=seconds, memory_mib=peak_memory_mib(run.compute.device), trainable=0, steps=0)
    return model


def shift(model: nn.Module, biases: list[torch.Tensor], forget: Split, classes: list[int], run: Run) -> None:
    """Subtract the least constant from the biases of `classes`, in place, with which none of these is the answer to an image
    of `forget`. biases: of each head, float32 (all classes,)."""
    usual, margin = [bias[classes] for bias in biases], MARGIN
    k = now = lead(predict(model, forget, run.compute), classes)
    while now >= 0:
        for bias, before in zip(biases, usual, strict=True):
            bias[classes] = before - (k + margin)
        margin, now = 2 * margin, lead(predict(model, forget, run.compute), classes)


def lead(logits: torch.Tensor, classes: list[int]) -> float:
    """How far the largest logit of `classes` is above the largest other one, at most over images. logits: float32 (N, all
    classes)."""
    gone = torch.isin(torch.arange(logits.shape[1]), torch.tensor(classes))
    return (logits[:, gone].amax(1) - logits[:, ~gone].amax(1)).max().item()


def _has_rows(head, key, count):
    """True if a head's parameter of this name has one row for each of `count` classes."""
    return isinstance(tensor := getattr(head, key, None), torch.Tensor) and tensor.ndim > 0 and len(tensor) == count


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=5, lr=LR)
    text = "which control"  # identified as the method that the checkpoint is of
    parser.add_argument(
        "--kind", choices=("mask", "zero-row", "bias", "head-only"), required=True, identity="method", help=text
    )
    return parser


def run(args: argparse.Namespace, command: str, shared: Shared | None = None) -> Path:
    """Carry out the command line: the checkpoint's path."""
    return execute(args.kind, unlearn, parser, args, command, shared)


if __name__ == "__main__":
    main(run, parser())
