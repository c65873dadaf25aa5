"""Gradient ascent, and NegGrad+: climb the loss on D_f, with --retain-weight while descending it on D_r.

Gradient ascent (Golatkar et al. 2020; Thudi et al. 2022) minimises -CE(D_f). NegGrad+ (Kurmanji et al. 2023, SCRUB, their
equation for the baseline) minimises w CE(D_r) - (1 - w) CE(D_f). A step takes a batch of D_f and, with w above 0, as many
random images of D_r; an epoch is one pass over D_f. Batch-norm statistics are kept: a batch of one class isn't what the
network will see.

    python -m baselines.gradascent --dataset fashion-mnist --model resnet20 --forget-class 3
    python -m baselines.gradascent --dataset fashion-mnist --model resnet20 --forget-class 3 --retain-weight 0.9
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.gradascent", file=sys.stderr)
    sys.exit(2)

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.device import memory_format, to_float
from unlearning.core.flags import BELOW_ONE, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.run import Run, execute
from unlearning.vision.train import cross_entropy

LR = PerModel(paper=1e-4)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise w CE(D_r) - (1 - w) CE(D_f) over all weights, starting from the original."""
    weight, layout = run.settings.retain_weight, memory_format(model)

    def objective(model, x, y, kept):
        loss = -(1 - weight) * cross_entropy(model, x, y, None)
        if weight:
            images = to_float(retain.images[kept].to(x.device), layout)
            loss = loss + weight * cross_entropy(model, images, retain.labels[kept].to(x.device), kept)
        return loss

    def draw(rows):
        return torch.randint(len(retain), (len(rows),)) if weight else rows

    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    return run.fit(model, forget, optimizer, objective=objective, draw=draw, freeze_norm=True)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=1, lr=LR, batch_size=8)
    parser.add_argument(
        "--retain-weight", type=BELOW_ONE, default=0.0, metavar="W", help="w, between 0 and 1, for NegGrad+ (default: 0)"
    )
    return parser


run = partial(execute, "gradascent", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
