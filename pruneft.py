"""Prune + fine-tune: zero half of the filters, then train all remaining weights on the retain set.

A baseline of PruneLoRA (A. Mittal, arXiv 2411.11907). For each pruned layer with weight rows w_1..w_n, the rows with the
smallest ||w_i||_2 are silenced (CNN: every Conv2d, with the norm that reads it alone; ViT: the last attention output
projection). They stay silent, and --compact takes a CNN's out; --regrow lets them grow back, as in the published scripts.

    python pruneft.py --dataset cifar10 --model resnet50 --forget-class 3 --epochs 5
"""

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.flags import Parser, PerModel, main
from unlearning.vision import compaction, pruning
from unlearning.vision.flags import add_pruning_flags, method_parser
from unlearning.vision.run import Run, execute

LR = PerModel(paper=1e-3, resnet8=1e-3, resnet20=1e-3, vit_micro=1e-3)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Silence the weakest filters of the original, then minimise cross-entropy on `retain` over the others."""
    _, silent = pruning.prune(model, run.settings, run.compute.quiet)
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    pruning.keep(optimizer, model, silent)
    run.fit(model, retain, optimizer)
    if run.settings.compact == "after":
        compaction.remove(model, silent)
    return model


def parser() -> Parser:
    """The command line."""
    return add_pruning_flags(method_parser(__doc__, epochs=5, lr=LR))


run = partial(execute, "pruneft", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
