"""Fine-tuning: train all weights of the original on the retain set and let the forgotten fade.

The first baseline of PruneLoRA (A. Mittal, arXiv 2411.11907): Adam, constant learning rate 1e-3, batch 128,
cross-entropy on D_r, no augmentation, 5 or 10 epochs. D_f is never looked at.

    python finetune.py --dataset cifar10 --model resnet50 --forget-class 3 --epochs 5
"""

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.flags import Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.run import Run, execute

LR = PerModel(paper=1e-3, resnet8=1e-2, resnet20=1e-2, vit_micro=1e-3)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise cross-entropy on `retain` over all weights, starting from the original."""
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    return run.fit(model, retain, optimizer)


def parser() -> Parser:
    """The command line."""
    return method_parser(__doc__, epochs=5, lr=LR)


run = partial(execute, "finetune", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
