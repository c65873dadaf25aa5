"""TODO unlearning.vision.recipes."""

import math

import torch
from timm.optim import param_groups_weight_decay

import data
import models
from unlearning.core.flags import PerModel
from unlearning.vision.train import fit

EPOCHS = PerModel(paper=200, vit_small=90, vit_micro=30, resnet8=15, resnet20=15)
LR = PerModel(paper=0.1, vit_small=1e-3, vit_micro=1e-3)


def train_original(model, retain, forget, config):
    """Train `model` from its start on `retain`, by cross-entropy; `forget` is never looked at."""
    return fit(model, retain, config=config, **paper_recipe(model, len(retain), config, config.flip))


def paper_recipe(model, count, config, flip):
    """How the paper trains an original (and Retrain) on `count` images: keyword arguments for `fit`.

    CNN: SGD with momentum 0.9 and weight decay 5e-4, cosine to 0, random crop and flip. ViT: AdamW with weight decay 0.1
    on matrices only, linear warm-up of 10,000 steps (at most a quarter of the run), cosine to 0, flip, mixup 0.2,
    gradient norm at most 1. `flip` False leaves mirroring out (digits).
    """
    steps = config.epochs * math.ceil(count / config.batch_size)
    if models.is_vit(model):
        warm = min(10_000, steps // 4)
        optimizer = torch.optim.AdamW(param_groups_weight_decay(model, 0.1), lr=config.lr)
        extra = {"augment": data.random_flip if flip else None, "mixup": 0.2, "clip": 1.0}
    else:
        warm = 0
        optimizer = torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9, weight_decay=5e-4)
        extra = {"augment": data.crop_and_flip if flip else data.random_crop}
    return {"optimizer": optimizer, "scheduler": warm_up_and_cosine(optimizer, steps, warm), **extra}


def warm_up_and_cosine(optimizer, steps, warm):
    """A scheduler for `steps` optimiser steps: linear from 0 over the first `warm` of them, then cosine to 0."""

    def factor(step):
        return step / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / (steps - warm))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
