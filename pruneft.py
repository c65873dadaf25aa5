"""Prune + fine-tune: zero half of the filters, then train all remaining weights on the retain set.

A baseline of PruneLoRA (A. Mittal, arXiv 2411.11907). For each pruned layer with weight rows w_1..w_n, the rows with the
smallest ||w_i||_2 are silenced (CNN: every Conv2d, with the batch norm that follows; ViT: the last attention output
projection). They stay silent, and --compact takes a CNN's out; --regrow lets them grow back, as in the published scripts.

    python pruneft.py --dataset cifar10 --model resnet50 --forget-class 3 --epochs 5
"""

import torch

from unlearning.core.flags import PerModel, main
from unlearning.vision import compaction, pruning
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import fit

LR = PerModel(paper=1e-3, resnet8=1e-3, resnet20=1e-3, vit_micro=1e-3)


def unlearn(model, retain, forget, config):
    """Silence the weakest filters of the original, then minimise cross-entropy on `retain` over the others."""
    _, silent = pruning.prune(model, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    pruning.keep(optimizer, model, silent)
    fit(model, retain, optimizer, config)
    if config.compact == "after":
        compaction.remove(model, silent)
    return model


def parser():
    return pruning.add_pruning_flags(method_parser(__doc__, epochs=5, lr=LR))


def run(config):
    return execute("pruneft", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
