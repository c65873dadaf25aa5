"""DELETE: on D_f alone, answer as the original does without the true class.

Zhou et al. 2025 (CVPR, "Decoupled Distillation to Erase"). An image's target is the softmax of the original's logits with
that of the true class at minus infinity, and all weights minimise KL(target || student), which has the gradient of the
cross-entropy with that target. What the original knows of how the other classes resemble the image stays. SGD with
momentum 0.9, 20 epochs in batches of 128; batch-norm statistics are kept: a batch of one class isn't what the network will
see.

    python -m baselines.delete --dataset fashion-mnist --model resnet20 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.delete", file=sys.stderr)
    sys.exit(2)

from dataclasses import replace
from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.device import clock
from unlearning.core.flags import VIT, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.forget_losses import without_true_class
from unlearning.vision.predict import predict
from unlearning.vision.run import Run, execute

LR = PerModel({"paper": 1e-4, "vit_small": 5e-5, "resnet8": 1e-3, "resnet20": 1e-3, "vit_micro": 1e-3, VIT: 5e-5})


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise the divergence from the original's answers without the true class over all weights; D_r isn't looked at."""
    started = clock(run.compute.device)
    targets = without_true_class(predict(model, forget, run.compute), forget.labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.settings.lr, momentum=0.9)
    return run.fit(model, replace(forget, labels=targets), optimizer, freeze_norm=True, since=started)


def parser() -> Parser:
    """The command line."""
    return method_parser(__doc__, epochs=20, lr=LR)


run = partial(execute, "delete", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
