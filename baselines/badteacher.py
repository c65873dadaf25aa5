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
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

import models
from data import Split
from unlearning.core.device import clock
from unlearning.core.errors import UserError
from unlearning.core.flags import FRACTION, Parser, PerModel, main
from unlearning.vision.flags import method_parser
from unlearning.vision.predict import predict
from unlearning.vision.run import Run, execute

LR = PerModel(paper=1e-4, resnet20=1e-3)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise the divergence from the two teachers' answers over all weights, starting from the original."""
    started = clock(run.compute.device)
    some = retain.take(torch.randperm(len(retain))[: max(1, round(run.settings.retain_share * len(retain)))])
    pairs = ((model, some), (untrained(model, run.record["network"]), forget))
    taught = [replace(split, labels=predict(teacher, split, run.compute).softmax(1)) for teacher, split in pairs]
    both = taught[0].joined(taught[1])
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.lr)
    return run.fit(model, both, optimizer, since=started)


def untrained(model: nn.Module, network: Mapping[str, Any]) -> nn.Module:
    """A network of the same shapes whose weights are drawn anew. network: as a checkpoint names it.

    Layers draw their own; what lies beside layers, as a class token, comes from a network made anew. Raises UserError where
    that is the user's own, whose function isn't at hand.
    """
    teacher = copy.deepcopy(model)
    beside: list[str] = []
    for name, module in teacher.named_modules():
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if reset:
            reset()
        else:
            beside += [f"{name}.{key}" for key, _ in module.named_parameters(recurse=False)]
    if beside and ".py:" in network["name"]:
        raise UserError(f"{beside[0]} isn't drawn anew by its module: give that a method reset_parameters")
    if beside:
        fresh, state = models.create(network["name"], **network["arguments"]).state_dict(), teacher.state_dict()
        for name in beside:  # as large as in a network that was made smaller
            state[name].copy_(fresh[name][tuple(map(slice, state[name].shape))])
    return teacher


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=5, lr=LR)
    parser.add_argument("--retain-share", type=FRACTION, default=0.3, help="share of D_r that takes part (default: 0.3)")
    return parser


run = partial(execute, "badteacher", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
