"""How originals are trained, and Retrain with them."""

from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core import distributed
from unlearning.core.flags import VIT, PerModel
from unlearning.core.words import listed
from unlearning.images.forgetting import class_name
from unlearning.metrics.predictions import accuracy
from unlearning.vision.predict import predict
from unlearning.vision.run import Run

EPOCHS = PerModel(paper=200, vit_small=90, vit_micro=30, resnet8=15, resnet20=15)
LR = PerModel({"paper": 0.1, "vit_small": 1e-3, "vit_micro": 1e-3, VIT: 1e-3})


def train_original(model: nn.Module, retain: data.Split, forget: data.Split, run: Run) -> nn.Module:
    """Train `model` from its start on `retain`, by cross-entropy, and print how many test images it knows; `forget` is never
    looked at."""
    steps = run.settings.epochs * data.steps_of(len(retain), run.settings.batch_size)
    flip = run.dataset.flip and not run.settings.no_flip
    run.fit(model, retain, **paper_recipe(model, steps, run.settings.lr, flip, len(run.dataset.classes)))
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


def paper_recipe(model: nn.Module, steps: int, lr: float, flip: bool, classes: int) -> dict[str, Any]:
    """How PruneLoRA's paper trains an original in `steps` optimiser steps: keyword arguments for `Run.fit`.

    CNN: SGD with momentum 0.9 and weight decay 5e-4, cosine to 0, random crop and flip. ViT: AdamW with weight decay 0.1
    on matrices only, linear warm-up of 10,000 steps (at most a quarter of the run), cosine to 0, flip, mixup 0.2,
    gradient norm at most 1. flip: False leaves mirroring out (digits). classes: number of classes, for mixup.
    """
    if models.is_vit(model):
        from timm.optim import param_groups_weight_decay
        from torchvision.transforms.v2 import MixUp

        warm = min(10_000, steps // 4)
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.1), lr=lr)
        mixup = MixUp(alpha=0.2, num_classes=classes)
        extra = {"augment": data.random_flip if flip else None, "mixup": mixup, "clip": 1.0}
    else:
        warm = 0
        optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
        extra = {"augment": data.crop_and_flip if flip else data.random_crop}
    return {"optimizer": optimizer, "scheduler": warm_up_and_cosine(optimizer, steps, warm), **extra}


def warm_up_and_cosine(optimizer: torch.optim.Optimizer, steps: int, warm: int) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler for `steps` optimiser steps: linear from 0 over the first `warm` of them, then cosine to 0."""
    from transformers.optimization import get_cosine_schedule_with_warmup

    return get_cosine_schedule_with_warmup(optimizer, warm, steps)
