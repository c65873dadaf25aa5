"""SCRUB: a student that disobeys its teacher, the original, on D_f, and obeys it on D_r.

Kurmanji et al. 2023 ("Towards Unbounded Machine Unlearning"). Each of the first --msteps epochs begins with a max epoch,
one pass over D_f that raises KL(teacher || student); every epoch is a min epoch over D_r, which lowers

    alpha KL(teacher || student) + gamma CE

with answers at temperature T and the divergence times T^2. As in the authors' code, Adam (weight decay 0.1) makes all steps,
batch norm learns in max epochs too, and the rate falls to a tenth after half, 80 % and 90 % of the epochs. Their code has
D_f in batches of its own size; here both have --batch-size.

    python -m baselines.scrub --dataset cifar10 --model resnet18 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.scrub", file=sys.stderr)
    sys.exit(2)

import copy
from functools import partial

import torch
from torch import nn

import data
from data import Split
from unlearning.core import distributed
from unlearning.core.device import memory_format, to_float
from unlearning.core.flags import NOT_NEGATIVE, NOT_NEGATIVE_FLOAT, POSITIVE_FLOAT, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.run import Run, execute
from unlearning.vision.train import Policy, step

LR = PerModel(paper=5e-4)
WEIGHT_DECAY = 0.1
CUTS = (0.5, 0.8, 0.9)  # parts of the run after which the rate falls to a tenth


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Raise the divergence from the original on `forget`; lower it, with cross-entropy, on `retain`. All weights move."""
    settings = run.settings
    model.to(memory_format=memory_format(model))  # before it is copied: another layout rounds otherwise
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr, weight_decay=WEIGHT_DECAY)

    def objective(model, x, y, rows):
        answers = model(x)
        apart = divergence(teacher(x), answers, settings.temperature)
        return settings.alpha * apart + settings.gamma * nn.functional.cross_entropy(answers.float(), y)

    def before_epoch(epoch):
        optimizer.param_groups[0]["lr"] = settings.lr * 0.1 ** sum(epoch >= cut * settings.epochs for cut in CUTS)
        if epoch < settings.msteps:
            max_epoch(model, teacher, forget, optimizer, run)

    run.fit(model, retain, optimizer, objective=objective, before_epoch=before_epoch)
    run.cost["steps"] += min(settings.msteps, settings.epochs) * data.steps_of(len(forget), settings.batch_size)
    return model


def max_epoch(student: nn.Module, teacher: nn.Module, forget: Split, optimizer: torch.optim.Optimizer, run: Run) -> None:
    """One pass over `forget` in random order whose steps raise KL(teacher || student)."""
    device, layout, shared = run.compute.device, memory_format(student), distributed.shared(student, student)
    policy = Policy(lambda student, x, y, rows: -divergence(teacher(x), student(x), run.settings.temperature))
    order = data.shuffled(len(forget), run.settings.batch_size)
    for rows, images in zip(order, data.batches(forget.images, order), strict=True):
        x, y = to_float(images.to(device), layout), forget.labels[rows]
        step(shared, x, y, rows, optimizer, policy, run.compute)


def divergence(known: torch.Tensor, answers: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 KL(softmax(known / T) || softmax(answers / T)) of logits (B, classes) at temperature T, a float32 scalar: the mean
    over images. T^2 keeps the size of the gradient (Hinton et al. 2015)."""
    taught, given = (nn.functional.log_softmax(logits.float() / temperature, 1) for logits in (known, answers))
    return temperature**2 * nn.functional.kl_div(given, taught, reduction="batchmean", log_target=True)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=10, lr=LR)
    flag = parser.add_argument
    flag("--alpha", type=NOT_NEGATIVE_FLOAT, default=0.5, help="weight of the divergence on D_r (default: 0.5)")
    flag("--gamma", type=NOT_NEGATIVE_FLOAT, default=1.0, help="weight of the cross-entropy on D_r (default: 1)")
    flag("--temperature", type=POSITIVE_FLOAT, default=2.0, metavar="T", help="divides the logits (default: 2)")
    flag("--msteps", type=NOT_NEGATIVE, default=3, metavar="N", help="epochs that begin with a max epoch (default: 3)")
    return parser


run = partial(execute, "scrub", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
