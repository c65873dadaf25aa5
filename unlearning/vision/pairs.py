"""D_f beside D_r: steps that take a batch of one and some images of the other, and a loss of both.

An epoch goes once through the first of two splits; beside each batch of B of it come

    min(B, ceil(B * images of the other / images of the first))

images of the other, drawn at random: about one pass over it for one over the first, at least one image in a step, and at
most twice the images that the first alone would take. All of a step go through the network together.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from data import Split, in_batches
from unlearning.core.device import clock
from unlearning.core.errors import UserError
from unlearning.core.flags import POSITIVE_FLOAT, Parser
from unlearning.vision import forget_losses, layers
from unlearning.vision.graph_cut import unwrap_peft
from unlearning.vision.predict import predict
from unlearning.vision.run import Run

WEIGHT = 0.1  # tuned here; GS-LoRA's are 0.05 to 0.15
BOUND = 2.0  # times the cross-entropy of a guess

# Logits float32 (B, classes), labels int64 (B,), positions int64 (B,) in the split that they are of: a scalar, of the whole
# batch. B may be 0: processes share a step's images as they come, so that one may have none of a split. Means are therefore
# those of `distributed.mean`.
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy, a `Loss`."""
    return forget_losses.cross_entropy(logits, labels)


def batches_beside(first: int, count: int, size: int) -> list[torch.Tensor]:
    """The batches of an epoch over the first `first` of `count` images, each followed by its share of the others: a list of
    positions int64."""
    others = count - first
    batches = in_batches(torch.randperm(first), size)
    shares = [min(len(batch), -(-len(batch) * others // first)) for batch in batches]
    return [torch.cat([batch, torch.randint(first, count, (share,))]) for batch, share in zip(batches, shares, strict=True)]


def beside(first: Split, other: Split, on_first: Loss, on_other: Loss) -> tuple[Split, dict[str, Any]]:
    """What `Run.fit` trains on, and how, to minimise on_first + on_other: a split, and a policy."""

    def objective(network, x, y, rows):
        part = int((rows < len(first)).sum())
        logits, places = network(x).float(), rows.to(y.device)
        on_both = on_first(logits[:part], y[:part], places[:part])
        return on_both + on_other(logits[part:], y[part:], places[part:] - len(first))

    policy = {"objective": objective, "of_answers": True, "batches": partial(batches_beside, len(first))}
    return first.joined(other), policy


def with_forget_loss(model: nn.Module, retain: Split, forget: Split, run: Run) -> tuple[Split, dict[str, Any]]:
    """What --forget-loss makes of cross-entropy on `retain`: a split and a policy for `Run.fit`; `retain` as it is without.

    model: the original, as yet unchanged. Raises UserError where flags don't go together, or where images are gone.
    """
    settings, started = run.settings, clock(run.compute.device)
    kind, weight = settings.forget_loss, settings.forget_weight
    if kind is None:
        if weight != WEIGHT:
            raise UserError("--forget-weight: --forget-loss says of what")
        return retain, {}
    if kind == "residual":
        if settings.compact == "first":
            raise UserError("--forget-loss residual: --compact first leaves fewer features than the original's")
        return _with_residual(model, retain, forget, run)
    targets: torch.Tensor | None = None
    if kind == "delete":
        answers = predict(model, forget, run.compute)
        targets = forget_losses.without_true_class(answers, forget.labels).to(run.compute.device)
    bound = BOUND * math.log(len(run.dataset.classes))

    def on_forget(logits, labels, rows):
        if targets is None:
            return weight * forget_losses.bounded(logits, labels, bound)
        return weight * forget_losses.divergence(logits, targets[rows])

    split, policy = beside(retain, forget, cross_entropy, on_forget)
    return split, policy | {"since": started}


def _with_residual(model, retain, forget, run):
    """As `with_forget_loss`, of the output of the last stage alone: a ViT's LoRA lies in its last block. It is read inside
    of the network, so that no outputs of frozen layers are cached."""
    started, last = clock(run.compute.device), layers.stages(model)[-1:]
    some = torch.randperm(len(retain))[: forget_losses.REFERENCE]
    (reference,) = forget_losses.features(model.eval(), last, retain, some, run.compute)
    variance, weight = forget_losses.variance(reference), run.settings.forget_weight

    def objective(network, x, y, rows):
        part = int((rows < len(retain)).sum())
        with forget_losses.recorded(unwrap_peft(network), last) as features:
            logits = network(x).float()
        moved, drawn = features[0][part:], rows[part:] - len(retain)
        on_forget = forget_losses.mse([moved], [reference[drawn.to(reference.device)]], [variance])[0]
        return forget_losses.cross_entropy(logits[:part], y[:part]) + weight * on_forget

    def draw(rows):  # in the place of positions in D_f, which nobody asks for, those of references
        drawn = torch.randint(len(retain), len(retain) + len(reference), ((rows >= len(retain)).sum(),))
        return torch.cat([rows[rows < len(retain)], drawn])

    policy = {"objective": objective, "draw": draw, "batches": partial(batches_beside, len(retain)), "since": started}
    return retain.joined(forget), policy


def add_forget_loss_flags(parser: Parser) -> Parser:
    """--forget-loss and --forget-weight."""
    parser.add_argument(
        "--forget-loss",
        choices=("bounded", "delete", "residual"),
        off=None,
        help="a loss on D_f beside the cross-entropy on D_r: of GS-LoRA, DELETE or RFAU (default: none)",
    )
    text = f"weight of --forget-loss (default: {WEIGHT:g})"
    parser.add_argument("--forget-weight", type=POSITIVE_FLOAT, default=WEIGHT, off=WEIGHT, metavar="LAMBDA", help=text)
    return parser
