"""RFAU: residual feature alignment unlearning, by LoRA alone.

Qin, Zhu, Wang, Zhou, "Machine Unlearning on Pre-trained Models by Residual Feature Alignment Using LoRA" (arXiv 2411.08443).
Adapters split each intermediate feature into the original's and a residual, r(x) = h(x; adapters on) - h(x; adapters off),
which is zero at the start. On D_r the residual is to stay zero; on D_f it is to carry the feature to a target t:

    L = mean over layers of  MSE(r(x_r), 0) / v  +  lambda * MSE(h(x_f), t) / v

The paper has no public code. Choices of this project: the layers (a ViT's blocks, a CNN's stages), MSE (the gradient of a
norm is NaN at the zero start), v (the variance over images of the original's feature, so that no layer dominates by its
scale), the targets of --shift, rank 8, alpha 16, AdamW, one epoch over D_f in batches of 8 with as many images of D_r.
Head, norms and batch-norm statistics stay the original's: without its adapter the network is the original again.

    python rfau.py --dataset fashion-mnist --model vit_micro --forget-class 3
"""

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core import distributed
from unlearning.core.device import clock, memory_format, to_float
from unlearning.core.errors import UserError
from unlearning.core.flags import LORA_RANK, NOT_NEGATIVE_FLOAT, POSITIVE_FLOAT, Parser, PerModel, main
from unlearning.core.locks import check_place, locked
from unlearning.core.paths import output_file
from unlearning.core.seals import check_own
from unlearning.core.words import say
from unlearning.vision import adapter_files, adapters, forget_losses
from unlearning.vision.flags import add_targets_flag, method_parser
from unlearning.vision.layers import in_every_block, stages
from unlearning.vision.run import Run, execute

LR = PerModel(paper=1e-3)
CACHE_MIB = 2048  # most memory for the original's features of all of D_r


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Align the residuals in few steps over `forget`, then merge the adapters."""
    adapter_files.check_replaceable(run)
    _check_plot(run)
    settings, started = run.settings, clock(run.compute.device)
    draw = _same_class(retain.labels, forget.labels) if settings.shift == "unseen" else _any(len(retain))
    model.to(memory_format=memory_format(model))  # before it is copied: another layout rounds otherwise
    original, layers, targets = copy.deepcopy(model).eval(), stages(model), every_block(model)
    sample = forget_losses.features(
        original, layers, retain, torch.randperm(len(retain))[: forget_losses.REFERENCE], run.compute
    )
    variances, means = [forget_losses.variance(h) for h in sample], [h.mean(0, keepdim=True) for h in sample]
    cache = None
    if _all_of_it_pays(sample, retain, forget, settings):
        cache = forget_losses.features(original, layers, retain, torch.arange(len(retain)), run.compute)
    adapted = adapters.attach(model, targets, settings.rank, settings.alpha)
    student, residuals = adapted.get_base_model(), run.snapshot.history if run.snapshot else []

    def objective(_, x, y, kept):
        images = torch.cat([_floats(retain, kept, model, x.device), x])
        after_r, after_f = _halves(forget_losses.outputs(student, layers, images))
        if cache is None or settings.plot:
            with torch.no_grad():
                before_r, before_f = _halves(forget_losses.outputs(original, layers, images))
        if cache is not None:
            before_r = [h[kept.to(h.device)] for h in cache]
        to_retain = forget_losses.mse(after_r, before_r, variances)
        to_forget = forget_losses.mse(after_f, means if settings.shift == "mean" else before_r, variances)
        if settings.plot:
            residuals.append([to_retain.tolist(), forget_losses.mse(after_f, before_f, variances).tolist()])
        return to_retain.mean() + settings.forget_weight * (to_forget[-1] if settings.shift == "head" else to_forget.mean())

    optimizer = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=settings.lr)
    run.fit(adapted, forget, optimizer, objective=objective, draw=draw, freeze_norm=True, since=started)
    if settings.plot:
        _draw(residuals, layers, run)
    adapter_files.save(adapted, run)
    return adapters.merge(adapted)


def _draw(residuals: list[list[list[float]]], layers: list[str], run: Run) -> None:
    """Draw --plot. residuals: of each step on D_r and on D_f, a number for each of `layers`; there are none of steps that an
    interrupted run has made without --plot."""
    if not distributed.is_main():
        return
    from unlearning.reports import paper_figures

    found = [step for step in residuals if [len(side) for side in step] == 2 * [len(layers)]]
    if missing := int(run.cost["steps"]) - len(found):
        say(f"--plot: {missing} of {run.cost['steps']} steps were made without it, and aren't drawn")
    with locked(run.settings.plot):
        paper_figures.residuals(found, layers, run.settings.plot)


def _check_plot(run: Run) -> None:
    """Raise UserError where the picture would replace a file: one that was not drawn here, or without --overwrite."""
    plot, again = run.settings.plot, run.snapshot and run.snapshot.overwrite
    if not plot:
        return
    if (
        plot.resolve() == run.staged.main.resolve()
        or adapter_files.folder_for(run.staged.main).resolve() in plot.resolve().parents
    ):
        raise UserError(f"--plot {plot} is where the checkpoint or its adapter goes")
    if plot.exists() and not again:
        raise UserError(f"--plot {plot} is there already: --overwrite replaces it")
    check_place(plot)
    check_own([plot])


def every_block(model: nn.Module) -> adapters.Layers:
    """The layers that get LoRA, by name: those of `layers.in_every_block`; head and norms stay as they are."""
    return in_every_block(model), []


def _all_of_it_pays(sample, retain, forget, settings):
    """True if one pass over D_r costs less than the images that the steps draw from it, and its features fit into memory.

    With lambda 0 every bit counts, and the last bits of a feature depend on the images beside it.
    """
    cheaper = settings.forget_weight and settings.epochs * len(forget) > len(retain)
    return cheaper and sum(h[0].nbytes for h in sample) * len(retain) <= CACHE_MIB * 2**20


def _floats(split: Split, rows: torch.Tensor, model: nn.Module, device: str | torch.device) -> torch.Tensor:
    return to_float(split.images[rows].to(device), memory_format(model))


def _halves(features):
    """The features of a batch's first half, and of its second: two lists."""
    return zip(*(h.chunk(2) for h in features), strict=True)


def _any(count: int) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda rows: torch.randint(count, (len(rows),))


def _same_class(labels: torch.Tensor, wanted: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """A function of positions in `wanted`, the labels of D_f, int64 (B,): for each a random position in `labels`, those of
    D_r, of the same class."""
    if missing := set(wanted.tolist()) - set(labels.tolist()):
        raise UserError(f"--shift unseen: D_r has no image of class {min(missing)}; random, mean and head need none")
    order, counts = labels.argsort(stable=True), labels.bincount()
    first = counts.cumsum(0) - counts

    def draw(rows):
        y = wanted[rows]
        return order[first[y] + (torch.rand(len(y), dtype=torch.float64) * counts[y]).long()]

    return draw


def parser() -> Parser:
    """The command line."""
    parser = method_parser(__doc__, epochs=1, lr=LR, batch_size=8)
    parser.add_argument(
        "--shift",
        choices=("random", "mean", "unseen", "head"),
        default="random",
        help="where features of D_f go: to those of random images of D_r, to their mean, to those of images of their class "
        "in D_r, or as random but in the last layer alone (default: random)",
    )
    text = "lambda (default: 1)"
    parser.add_argument("--forget-weight", type=NOT_NEGATIVE_FLOAT, default=1.0, metavar="LAMBDA", help=text)
    add_targets_flag(parser, "lora", "get LoRA")
    parser.add_argument("--rank", type=LORA_RANK, default=8, help="rank of the update (default: 8)")
    parser.add_argument("--alpha", type=POSITIVE_FLOAT, default=16, help="its scale times r (default: 16)")
    parser.add_argument(
        "--plot", type=output_file, identity=False, metavar="FILE", help="draw the residuals on D_r and D_f, layer by layer"
    )
    return parser


run = partial(execute, "rfau", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
