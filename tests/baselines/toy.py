"""A network of one layer whose answers are known, images that it doesn't look at, and runs of a method on them."""

from pathlib import Path

import pytest
import torch
from torch import nn

import data
from tests.helpers import FP32
from unlearning.core.files import Staged
from unlearning.vision import run as run_module
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings


class Constant(nn.Module):
    """Answers every image with the same logits, its parameter float32 (classes,)."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def images(*labels):
    """A black image of one pixel for each label."""
    return data.Split(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), torch.tensor(labels))


def run_of(**settings):
    """A run of two classes with these settings, and usual ones."""
    some = images(0, 1)
    dataset = data.Dataset("toy", some, some, ("a", "b"), False, "toy", ((0.5,), (0.5,)))
    usual = {"lr": 0.1, "epochs": 1, "batch_size": 8, "seed": 0}
    network = {"name": "toy", "arguments": {}}
    return Run("x", Settings(usual | settings), FP32, dataset, Staged(Path("x.pth")), record={"network": network})


def handed_to_fit(script, model, retain, forget, **settings):
    """What a method hands to the training loop, which doesn't train: split, optimizer, policy."""
    asked = []

    def fit(model, split, optimizer, **policy):
        asked.append((split, optimizer, policy))
        return {"steps": 0}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "fit", fit)
        script.unlearn(model, retain, forget, run_of(**settings))
    return asked[0]
