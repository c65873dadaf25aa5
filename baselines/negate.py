"""NoT: change the sign of the first layer's weights, then fine-tune on the retain set.

Khalil et al. 2025 ("NoT: Federated Unlearning via Weight Negation", CVPR), without the federation: the weights of the first
convolution, or of a ViT's patch embedding, times -1; its bias stays. What the layers above have learned together no longer
fits; fine-tuning, as `finetune.py` does it, mends that from D_r alone. D_f is never looked at.

    python -m baselines.negate --dataset cifar10 --model resnet18 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.negate", file=sys.stderr)
    sys.exit(2)

from functools import partial
from typing import Any

import torch
from torch import nn

from data import Split
from unlearning.core.errors import UserError
from unlearning.core.flags import Parser, PerModel, main
from unlearning.vision import layers
from unlearning.vision.flags import method_parser
from unlearning.vision.run import Run, execute

LR = PerModel(paper=1e-3, resnet8=1e-2, resnet20=1e-2, vit_micro=1e-3)  # of finetune.py


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Negate the first layer's weights, then minimise cross-entropy on `retain` over all weights."""
    with torch.no_grad():
        first_layer(model).weight.neg_()
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    return run.fit(model, retain, optimizer)


def first_layer(model: nn.Module) -> Any:
    """The first layer of the stem, a convolution or the linear layer of a patch embedding. Raises UserError for one whose
    weights are computed from others, and so can't change their sign."""
    stem = layers.stem(model)
    name, layer = next((name, module) for name, module in model.named_modules() if name in stem)
    if layers.is_parametrised(layer):
        raise UserError(f"NoT changes the sign of the first layer's weights, and {name} {layers.PARAMETRISED}")
    return layer


def parser() -> Parser:
    """The command line."""
    return method_parser(__doc__, epochs=5, lr=LR)


run = partial(execute, "negate", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
