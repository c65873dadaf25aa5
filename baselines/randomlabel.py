"""Random labels, and SalUn: train D_f on wrong answers and D_r on right ones.

Random labels (Golatkar et al. 2020): each image of D_f gets another class, drawn once; all weights are trained on D_f and
D_r together. SalUn (Fan et al. 2024, --saliency 0.5): only the weights whose gradient of the original's loss on D_f is among
the largest half in magnitude are trained (their equation 3, the threshold being the median).

    python -m baselines.randomlabel --dataset fashion-mnist --model resnet20 --forget-class 3
    python -m baselines.randomlabel --dataset fashion-mnist --model resnet20 --forget-class 3 --saliency 0.5
"""

import torch

import data
from unlearning.core.device import autocast, clock, memory_format, to_float
from unlearning.core.flags import PerModel, fraction, main
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import cross_entropy, fit

LR = PerModel(paper=1e-3, resnet20=3e-4)


def unlearn(model, retain, forget, config):
    """Minimise cross-entropy on D_r and on D_f with wrong labels, over all weights or the salient ones."""
    started = clock(config.device)
    wrong = (forget.labels + torch.randint(1, config.classes, forget.labels.shape)) % config.classes
    both = data.Split(data.concatenate(retain.images, forget.images), torch.cat([retain.labels, wrong]))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=config.lr)
    if config.saliency < 1:
        train_alone(optimizer, trained, salient(model, trained, forget, config))
    return fit(model, both, optimizer, config, since=started)


def salient(model, parameters, forget, config):
    """Where the loss on D_f has its largest gradients: for each of `parameters` a bool mask of its shape, which together
    cover the share `config.saliency` of all numbers."""
    layout, device = memory_format(model), torch.device(config.device)
    model.eval().zero_grad()
    rows = torch.arange(len(forget)).split(500)
    for images, labels in zip(data.batches(forget.images, rows), forget.labels.split(500), strict=True):
        x, y = to_float(images.to(device), layout), labels.to(device)
        with autocast(device, config.precision):
            loss = cross_entropy(model, x, y, None)
        (loss * len(y) / len(forget)).backward()
    sizes = [parameter.grad.abs() for parameter in parameters]
    model.zero_grad()
    every = torch.cat([size.flatten() for size in sizes])
    threshold = every.kthvalue(max(1, round((1 - config.saliency) * len(every)))).values
    return [size > threshold for size in sizes]


def train_alone(optimizer, parameters, masks):
    """Drop the gradient outside of `masks` before each step of `optimizer`, which must have no weight decay."""

    def drop(*_):
        for parameter, mask in zip(parameters, masks, strict=True):
            parameter.grad *= mask

    optimizer.register_step_pre_hook(drop)


def parser():
    parser = method_parser(__doc__, epochs=5, lr=LR)
    parser.add_argument(
        "--saliency", type=fraction, default=1.0, metavar="SHARE", help="train this share of the weights (default: all)"
    )
    return parser


def run(config):
    return execute("randomlabel", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
