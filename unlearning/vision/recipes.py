"""How originals are trained, and Retrain with them."""

import argparse
from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core import distributed
from unlearning.core.flags import GREY, VIT, Parser, PerModel, PerRecipe
from unlearning.core.words import listed
from unlearning.images.forgetting import class_name
from unlearning.metrics.predictions import accuracy
from unlearning.vision.flags import add_flip_flag
from unlearning.vision.predict import predict
from unlearning.vision.run import Run

PAPER, FAST = "paper", "fast"
RECIPE = PerModel(paper=PAPER, resnet8=FAST, resnet20=FAST, vit_micro=FAST)
EPOCHS = PerRecipe(
    paper=PerModel(paper=200, vit_small=90, vit_micro=30, resnet8=15, resnet20=15),
    fast=PerModel(paper=24, resnet8=30, resnet20=30, vit_micro=12),
)
LR = PerRecipe(
    paper=PerModel({"paper": 0.1, "vit_small": 1e-3, "vit_micro": 1e-3, VIT: 1e-3}),
    fast=PerModel({"paper": 0.4, "vit_small": 1e-3, "vit_micro": 3e-3, VIT: 1e-3}),
)
CROP = PerRecipe(paper=PerModel(paper=None), fast=PerModel({"paper": None, f"resnet20{GREY}": True}))
MUON = PerRecipe(
    paper=PerModel(paper=False), fast=PerModel({"paper": False, "vit_small": True, "vit_micro": True, VIT: True})
)
SMOOTHING = 0.1  # of labels, in the fast recipe
BATCH_SIZE = PerRecipe(paper=PerModel(paper=128), fast=PerModel(paper=256))


def train_original(model: nn.Module, retain: data.Split, forget: data.Split, run: Run) -> nn.Module:
    """Train `model` from its start on `retain`, by cross-entropy, and print how many test images it knows; `forget` is never
    looked at."""
    settings, classes = run.settings, len(run.dataset.classes)
    steps = settings.epochs * data.steps_of(len(retain), settings.batch_size)
    how = {"flip": run.dataset.flip and not settings.no_flip, "crop": settings.crop, "muon": settings.muon}
    if settings.recipe == FAST:
        policy = fast_recipe(model, steps, settings.lr, classes, retain, settings.seed, **how)
    else:
        policy = paper_recipe(model, steps, settings.lr, classes, **how)
    run.fit(model, retain, **policy)
    if distributed.is_main():
        gone = sorted(set(forget.labels.tolist()) - set(retain.labels.tolist()))
        print(known_of_test(predict(model, run.dataset.test, run.compute), run.dataset, gone))
    return model


def known_of_test(logits: torch.Tensor, dataset: data.Dataset, gone: list[int]) -> str:
    """How many test images are answered rightly, in a line; those of classes `gone`, which were not trained on, apart.

    logits: float32 (N, C) of the test images of `dataset`.
    """
    labels = dataset.test.labels
    inside = torch.isin(labels, torch.tensor(gone, dtype=torch.int64))
    names = f"class{'es' if len(gone) > 1 else ''} {listed(class_name(dataset.classes, c) for c in gone)}"
    parts = [(~inside, " of the kept classes" if gone else ""), (inside, f" of {names}")]
    shares = [f"{accuracy(logits[rows], labels[rows]):.1f} % of {int(rows.sum()):,}{of}" for rows, of in parts if rows.any()]
    return f"accuracy on test images: {', '.join(shares)}"


def paper_recipe(
    model: nn.Module, steps: int, lr: float, classes: int, *, flip: bool, crop: bool | None, muon: bool
) -> dict[str, Any]:
    """How PruneLoRA's paper trains an original in `steps` optimiser steps: keyword arguments for `Run.fit`.

    CNN: SGD with momentum 0.9 and weight decay 5e-4, cosine to 0, random crop and flip. ViT: AdamW with weight decay 0.1
    on matrices only, linear warm-up of 10,000 steps (at most a quarter of the run), cosine to 0, flip, mixup 0.2,
    gradient norm at most 1. classes: number of classes, for mixup. flip: False leaves mirroring out (digits). crop: whether
    images are cropped; None: as said. muon: True has Muon in the optimiser's place.
    """
    is_vit = models.is_vit(model)
    crop = not is_vit if crop is None else crop
    augment = {(True, True): data.crop_and_flip, (True, False): data.random_crop, (False, True): data.random_flip}
    extra: dict[str, Any] = {"augment": augment.get((crop, flip))}
    warm = min(10_000, steps // 4) if is_vit else 0
    if is_vit:
        from torchvision.transforms.v2 import MixUp

        extra |= {"mixup": MixUp(alpha=0.2, num_classes=classes), "clip": 1.0}
    if is_vit or muon:
        optimizer = _optimizer(model, lr, muon)
    else:  # biases decay, too
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    return {"optimizer": optimizer, "scheduler": warm_up_and_cosine(optimizer, steps, warm), **extra}


def fast_recipe(
    model: nn.Module,
    steps: int,
    lr: float,
    classes: int,
    retain: data.Split,
    seed: int,
    *,
    flip: bool,
    crop: bool | None,
    muon: bool,
) -> dict[str, Any]:
    """How a small network is trained well in few epochs, after airbench (K. Jordan, arXiv 2404.00498): keyword arguments for
    `Run.fit`.

    The rate rises linearly over the first quarter of `steps` and falls linearly to 0; labels are smoothed by 0.1; an image
    is mirrored in every other epoch, a half of them, drawn by `seed`, in the even ones. CNN: SGD with Nesterov momentum 0.9,
    weight decay 5e-4 on matrices only. ViT: AdamW, weight decay 0.1 on matrices only, gradient norm at most 1. retain: what
    is trained on; it is its positions that are mirrored. crop: whether images are cropped at random; None: those with
    colours. muon: True has Muon (K. Jordan et al., 2024) in the optimiser's place, with Nesterov momentum 0.95, its steps as
    long as AdamW's, and NAdamW for what is no matrix.
    """
    from transformers.optimization import get_linear_schedule_with_warmup

    optimizer = _optimizer(model, lr, muon)
    extra: dict[str, Any] = {"clip": 1.0} if models.is_vit(model) else {}
    if flip:
        even = torch.rand(len(retain), generator=torch.Generator().manual_seed(seed)) < 0.5
        extra["mirrored"] = lambda rows, epoch: even[rows] ^ bool(epoch % 2)
    if retain.images.shape[1] > 1 if crop is None else crop:
        extra["augment"] = data.random_crop

    def smoothed(x, y):
        return x, nn.functional.one_hot(y, classes) * (1 - SMOOTHING) + SMOOTHING / classes

    scheduler = get_linear_schedule_with_warmup(optimizer, steps // 4, steps)
    return {"optimizer": optimizer, "scheduler": scheduler, "mixup": smoothed, **extra}


def _optimizer(model, lr, muon):
    """Muon, or else AdamW for a ViT and Nesterov's SGD for a CNN; weights decay in matrices only."""
    from timm.optim import param_groups_weight_decay

    is_vit = models.is_vit(model)
    groups = param_groups_weight_decay(model, 0.1 if is_vit else 5e-4)
    if muon:
        from unlearning.vision.muon import Muon

        return Muon(groups, lr=lr, nesterov=True)
    return torch.optim.AdamW(groups, lr=lr) if is_vit else torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)


def add_recipe_flags(parser: Parser) -> Parser:
    """--recipe, --crop and --muon."""
    text = "paper: PruneLoRA's; fast: in few epochs (default: fast for resnet8, resnet20 and vit_micro, else paper)"
    parser.add_argument("--recipe", choices=(PAPER, FAST), default=RECIPE, off=PAPER, help=text)
    text = "crop images at random (default: for CNNs by the paper's recipe; by the fast one if they have colours, for "
    text += "resnet20 grey ones too)"
    parser.add_argument("--crop", action=argparse.BooleanOptionalAction, default=CROP, off=None, help=text)
    text = "train matrices by Muon, in SGD's or AdamW's place (default: by the fast recipe for transformers)"
    parser.add_argument("--muon", action=argparse.BooleanOptionalAction, default=MUON, off=False, help=text)
    return parser


def left_out() -> dict[str, Any]:
    """The settings of a recipe that files leave out where they are off, with what that means."""
    parser = add_recipe_flags(Parser())
    add_flip_flag(parser)
    return parser.off_values()


def warm_up_and_cosine(optimizer: torch.optim.Optimizer, steps: int, warm: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler for `steps` optimiser steps: linear from 0 over the first `warm` of them, then cosine to 0."""
    from transformers.optimization import get_cosine_schedule_with_warmup

    return get_cosine_schedule_with_warmup(optimizer, warm, steps)
