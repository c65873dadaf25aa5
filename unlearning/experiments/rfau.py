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
        "subset": 1000,
        "test": 2000,
        "pretrain": {"resnet20": 25, "vit_micro": 35, models.EFFICIENTNET: 10},
        "epochs": [5],
        # In batches of 128 these are too few steps.
        "scratch": {model: ["--batch-size", "32"] for model in ("resnet20", models.EFFICIENTNET)},
    },
    "small": {"subset": 10_000, "pretrain": {"resnet20": 15, "vit_micro": 25, models.EFFICIENTNET: 4}, "epochs": [5]},
    "gpu": {"subset": None, "pretrain": {"resnet18": 15, "vit_small": 20}, "epochs": [5], "scratch": SHORT},
    "paper": {"dataset": "cifar10", "subset": None, "pretrain": {"resnet18": 200, "vit_small": 90}, "epochs": [5]},
}


def plan_rfau(request: Request) -> Plan:
    """RFAU and its baselines, forgetting a class and a share of the images."""
    return Plan(both_ways(request, chosen(request)))


ABOUT = "RFAU and its baselines: a class is forgotten, then a random share of the training images."
TABLE = Table(ABOUT, plan_rfau, PRESETS, 3, prunelora.score, published=prunelora.add_published, estimated=estimated)
