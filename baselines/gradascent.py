"""Gradient ascent, and NegGrad+: climb the loss on D_f, with --retain-weight while descending it on D_r.

Gradient ascent (Golatkar et al. 2020; Thudi et al. 2022) minimises -CE(D_f). NegGrad+ (Kurmanji et al. 2023, SCRUB, their
equation for the baseline) minimises w CE(D_r) - (1 - w) CE(D_f). A step takes a batch of D_f and, with w above 0, as many
random images of D_r; an epoch is one pass over D_f. Batch-norm statistics are kept: a batch of one class isn't what the
network will see.

    python -m baselines.gradascent --dataset fashion-mnist --model resnet20 --forget-class 3
    python -m baselines.gradascent --dataset fashion-mnist --model resnet20 --forget-class 3 --retain-weight 0.9
"""

import torch

from unlearning.core.device import memory_format, to_float
from unlearning.core.flags import PerModel, fraction, main
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import cross_entropy, fit

LR = PerModel(paper=1e-4)


def unlearn(model, retain, forget, config):
    """Minimise w CE(D_r) - (1 - w) CE(D_f) over all weights, starting from the original."""
    weight, layout = config.retain_weight, memory_format(model)

    def objective(model, x, y, rows):
        loss = -(1 - weight) * cross_entropy(model, x, y, rows)
        if weight:
            kept = torch.randint(len(retain), (len(y),))
            images = to_float(retain.images[kept].to(x.device), layout)
            loss = loss + weight * cross_entropy(model, images, retain.labels[kept].to(x.device), kept)
        return loss

    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    return fit(model, forget, optimizer, config, objective=objective, freeze_norm=True)


def parser():
    parser = method_parser(__doc__, epochs=1, lr=LR, batch_size=8)
    parser.add_argument(
        "--retain-weight", type=fraction, default=0.0, metavar="W", help="w, between 0 and 1, for NegGrad+ (default: 0)"
    )
    return parser


def run(config):
    return execute("gradascent", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
