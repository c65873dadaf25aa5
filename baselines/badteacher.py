"""Bad teacher: imitate the original on D_r and an untrained network on D_f.

Chundawat et al. 2023 ("Can Bad Teaching Induce Forgetting?"): the student starts from the original and minimises
KL(teacher || student) at temperature 1, the teacher being the original for images of D_r and a randomly initialised network
of the same kind for images of D_f; a random 30 % of D_r take part. The teachers' answers never change, so they are
computed once; the KL divergence to a fixed answer has the gradient of the cross-entropy with it.

    python -m baselines.badteacher --dataset fashion-mnist --model resnet20 --forget-class 3
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.badteacher", file=sys.stderr)
    sys.exit(2)

import copy
from dataclasses import replace
from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.device import clock
from unlearning.core.flags import FRACTION, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.predict import predict
from unlearning.vision.run import Run, execute

LR = PerModel(paper=1e-4, resnet20=1e-3)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise the divergence from the two teachers' answers over all weights, starting from the original."""
    started = clock(run.compute.device)
    random_teacher = copy.deepcopy(model)
    for module in random_teacher.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    some = retain.take(torch.randperm(len(retain))[: round(run.settings.retain_share * len(retain))])
    pairs = ((model, some), (random_teacher, forget))
    taught = [
        replace(split, labels=predict(teacher, split, run.compute, run.features).softmax(1)) for teacher, split in pairs
    ]
    both = taught[0].joined(taught[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    return run.fit(model, both, optimizer, since=started)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=5, lr=LR)
    parser.add_argument("--retain-share", type=FRACTION, default=0.3, help="share of D_r that takes part (default: 0.3)")
    return parser


run = partial(execute, "badteacher", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
