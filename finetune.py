"""Fine-tuning: train all weights of the original on the retain set and let the forgotten fade.

The first baseline of PruneLoRA (A. Mittal, arXiv 2411.11907): Adam, constant learning rate 1e-3, batch 128,
cross-entropy on D_r, no augmentation, 5 or 10 epochs. D_f is never looked at.

    python finetune.py --dataset cifar10 --model resnet50 --forget-class 3 --epochs 5
"""

import torch

from unlearning.core.flags import PerModel, main
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import fit

LR = PerModel(paper=1e-3, resnet8=1e-2, resnet20=1e-2, vit_micro=1e-3)


def unlearn(model, retain, forget, config):
    """Minimise cross-entropy on `retain` over all weights, starting from the original."""
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    return fit(model, retain, optimizer, config)


def parser():
    return method_parser(__doc__, epochs=5, lr=LR)


def run(config):
    return execute("finetune", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
