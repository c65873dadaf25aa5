"""RFAU and its baselines: a class is forgotten, then a share of all images."""

from typing import Any

import models
from unlearning.experiments import prunelora
from unlearning.experiments.image_estimate import estimated
from unlearning.experiments.plan import SHORT, both_ways, chosen
from unlearning.experiments.request import Plan, Request, Table

PRESETS: dict[str, dict[str, Any]] = {
    "first": prunelora.PRESETS["first"],
    "quick": {
        "model": ["resnet20", "vit_micro", models.EFFICIENTNET],
        "subset": 1000,
        "test": 2000,
        "pretrain": [25, 35, 10],
        "epochs": [5],
        # In batches of 128 these are too few steps.
        "scratch": {model: ["--batch-size", "32"] for model in ("resnet20", models.EFFICIENTNET)},
    },
    "small": {
        "model": ["resnet20", "vit_micro", models.EFFICIENTNET],
        "subset": 10_000,
        "pretrain": [15, 25, 4],
        "epochs": [5],
    },
    "gpu": {"model": ["resnet18", "vit_small"], "subset": None, "pretrain": [15, 20], "epochs": [5], "scratch": SHORT},
    "paper": {
        "dataset": "cifar10",
        "model": ["resnet18", "vit_small"],
        "subset": None,
        "pretrain": [200, 90],
        "epochs": [5],
    },
}


def plan_rfau(request: Request) -> Plan:
    """RFAU and its baselines, forgetting a class and a share of the images."""
    return Plan(both_ways(request, chosen(request)))


ABOUT = "RFAU and its baselines: a class is forgotten, then a random share of the training images."
TABLE = Table(ABOUT, plan_rfau, PRESETS, 3, prunelora.score, published=prunelora.add_published, estimated=estimated)
