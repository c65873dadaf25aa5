"""Three controls that any class-forgetting table needs: trivial edits of the head that score like unlearning.

mask      the forgotten classes' logits at minus infinity: the head's bias, b_c = -inf
zero-row  the forgotten classes' rows of the head at zero: w_c = 0, b_c = 0
head-only the head alone fitted on the retain set; everything below it stays the original's
A metric on which these tie with a method says nothing about what the network below the head still knows.

    python -m baselines.control --kind mask --dataset cifar10 --model resnet50 --forget-class 3
"""

import time

import torch

import models
from unlearning.core.device import peak_memory_mib
from unlearning.core.errors import UserError
from unlearning.core.flags import PerModel, main
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import fit

LR = PerModel(paper=1e-3, resnet8=1e-2, resnet20=1e-2, vit_micro=1e-2)


def unlearn(model, retain, forget, config):
    """Edit or fit the original's head; nothing below it moves."""
    head = model.get_submodule(models.head_name(model))
    model.requires_grad_(False)
    if config.kind == "head-only":
        head.requires_grad_(True)
        optimizer = torch.optim.Adam(head.parameters(), lr=config.lr)
        return fit(model, retain, optimizer, config, freeze_norm=True)
    started = time.perf_counter()
    classes = sorted(set(forget.labels.tolist()) - set(retain.labels.tolist()))
    if not classes:
        raise UserError(f"--kind {config.kind} needs --forget-class: no class is forgotten as a whole")
    if config.kind == "mask":
        head.bias[classes] = float("-inf")
    else:
        head.weight[classes], head.bias[classes] = 0, 0
    seconds = time.perf_counter() - started
    config.cost.update(seconds=seconds, memory_mib=peak_memory_mib(head.weight.device), trainable=0, steps=0)
    return model


def parser():
    parser = method_parser(__doc__, epochs=5, lr=LR)
    parser.add_argument("--kind", choices=("mask", "zero-row", "head-only"), required=True, help="which control")
    return parser


def run(config):
    return execute(config.kind, unlearn, config)


if __name__ == "__main__":
    main(run, parser())
