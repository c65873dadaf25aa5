"""l1-sparse: fine-tuning on the retain set with a penalty on the sum of all weights' magnitudes.

Jia et al. 2023 ("Model Sparsity Can Simplify Machine Unlearning"), their l1-sparse MU: minimise CE(D_r) + gamma(t) |theta|_1
over all weights, batch norm's and biases too, where gamma(t) = gamma (1 - t / epochs) in epoch t = 0, 1, ... falls linearly
towards 0. SGD with momentum 0.9 and weight decay 5e-4, as in the authors' code. D_f is never looked at.

    python -m baselines.l1sparse --dataset cifar10 --model resnet18 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.l1sparse", file=sys.stderr)
    sys.exit(2)

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.flags import NOT_NEGATIVE_FLOAT, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.run import Run, execute
from unlearning.vision.train import cross_entropy

LR = PerModel(paper=1e-2)
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise cross-entropy on `retain` plus gamma(t) times the weights' l1 norm, starting from the original."""
    gamma, weight = run.settings.gamma, run.settings.gamma

    def before_epoch(epoch):
        nonlocal weight
        weight = gamma * (1 - epoch / run.settings.epochs)

    def objective(model, x, y, rows):
        return cross_entropy(model, x, y, rows) + weight * sum(p.abs().sum() for p in model.parameters())

    optimizer = torch.optim.SGD(model.parameters(), run.settings.lr, MOMENTUM, weight_decay=WEIGHT_DECAY)
    return run.fit(model, retain, optimizer, objective=objective, before_epoch=before_epoch)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=10, lr=LR)
    text = "weight of the penalty in the first epoch (default: 5e-4)"
    parser.add_argument("--gamma", type=NOT_NEGATIVE_FLOAT, default=5e-4, help=text)
    return parser


run = partial(execute, "l1sparse", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
