"""ReGUn: learn D_r, and answer to D_f as the original does, on average, to held-out images of the same classes.

Mirlach et al. 2026 (arXiv 2603.11210): (1 - w) CE(D_r) + w KL(q || student(D_f)) over all weights, where q, one for all of
a batch's images of D_f, is the original's mean softmax on held-out images with the same histogram of classes. Theirs were
never trained on; here only the test images weren't, and those score: a tenth of D_r is put aside, which the original has
seen. A class that is forgotten as a whole has no such image, and gets the mean over all of them. SGD with momentum 0.9 and
0.01 for 10 epochs; an epoch is one pass over the rest of D_r, with D_f's share beside each batch.

    python -m baselines.regun --dataset fashion-mnist --model resnet20 --forget-random 0.1
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.regun", file=sys.stderr)
    sys.exit(2)

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core import distributed
from unlearning.core.device import clock
from unlearning.core.errors import UserError
from unlearning.core.flags import BELOW_ONE, FRACTION, Parser, PerModel, main
from unlearning.vision import forget_losses, pairs
from unlearning.vision.flags import method_parser
from unlearning.vision.predict import predict
from unlearning.vision.run import Run, execute

LR = PerModel(paper=0.01)


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise both terms over all weights, starting from the original; the held-out images of `retain` aren't learned."""
    started, weight = clock(run.compute.device), run.settings.forget_weight
    order = torch.randperm(len(retain))
    aside = min(max(1, round(run.settings.held_out * len(retain))), len(retain) - 1)
    if not aside:
        raise UserError("one image stays: none can be held out beside one that is learned from")
    held_out, learned = retain.take(order[:aside]), retain.take(order[aside:])
    answers = predict(model, held_out, run.compute).softmax(1)
    means = forget_losses.class_means(answers, held_out.labels).to(run.compute.device)

    def on_retain(logits, labels, rows):
        return (1 - weight) * pairs.cross_entropy(logits, labels, rows)

    def on_forget(logits, labels, rows):
        q = distributed.mean(means[labels].sum(0), len(labels))
        return weight * forget_losses.divergence(logits, q.expand_as(logits))

    images, how = pairs.beside(learned, forget, on_retain, on_forget)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.settings.lr, momentum=0.9)
    return run.fit(model, images, optimizer, since=started, **how)


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=10, lr=LR)
    parser.add_argument(
        "--forget-weight", type=BELOW_ONE, default=0.5, metavar="W", help="w, between 0 and 1 (default: 0.5)"
    )
    text = "share of D_r that is put aside (default: 0.1)"
    parser.add_argument("--held-out", type=FRACTION, default=0.1, metavar="SHARE", help=text)
    return parser


run = partial(execute, "regun", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
