"""PruneLoRA's table (arXiv 2411.11907): a class is forgotten, with controls that edit its row of the head."""

from pathlib import Path
from typing import Any

import data
from unlearning.evaluation.collect import score_files
from unlearning.experiments.image_estimate import estimated
from unlearning.experiments.plan import SHORT, both_ways, chosen
from unlearning.experiments.request import Plan, Request, Row, Table
from unlearning.vision.shared import Shared

# "pretrain" says for how many epochs each network is trained. A preset may name its data set, its number of seeds, how many
# images methods learn from ("retain-subset") and are scored on ("images"), and rows that only --methods adds ("without").
PRESETS: dict[str, dict[str, Any]] = {
    "first": {
        "dataset": "fashion-mnist",
        "subset": None,
        "pretrain": {"resnet8": 30},  # as those that come with this project, which aren't trained again
        "epochs": [3],
        "seeds": 1,
        # Long ones, and variants of rows that are there: without them it takes five minutes on slow cores.
        "without": [
            *("negate", "neglora --prune", "neglora --bound 5", "gradascent --retain-weight 0.9", "rfau"),
            *("randomlabel --saliency 0.5", "randomlabel --saliency 0.5 --random-mask"),
            *(f"loraprune --forget-loss {loss}" for loss in ("bounded", "delete", "residual")),
            "loraprune --amount 0.05 --forget-loss delete",
        ],
        "retain-subset": 6000,
        "images": 2000,
    },
    "quick": {"subset": 10_000, "pretrain": {"resnet8": 10, "vit_micro": 12}, "epochs": [5]},
    "small": {"subset": None, "pretrain": {"resnet20": 12, "vit_micro": 12}, "epochs": [3]},
    "full": {"subset": None, "pretrain": {"resnet8": 30, "resnet20": 30}, "epochs": [5]},
    "gpu": {"subset": None, "pretrain": {"resnet50": 15, "vit_small": 20}, "epochs": [5, 10], "scratch": SHORT},
    "paper": {"subset": None, "pretrain": {"resnet50": 200, "vit_small": 90}, "epochs": [5, 10]},
}
# Figure 1 of arXiv 2411.11907: CIFAR-10, class 3, one run; (network, method, epochs): UA, RA, TA, MIA-Efficacy.
PUBLISHED = {
    ("resnet50", "retrain", None): (100, 98.02, 96.70, 100),
    ("resnet50", "finetune", 5): (100, 92.52, 88.29, 100),
    ("resnet50", "finetune", 10): (100, 96.27, 91.44, 100),
    ("resnet50", "pruneft", 5): (100, 94.92, 90.79, 100),
    ("resnet50", "pruneft", 10): (100, 95.68, 90.72, 100),
    ("resnet50", "lora", 5): (97.22, 96.90, 95.03, 100),
    ("resnet50", "lora", 10): (100, 97.19, 93.49, 100),
    ("resnet50", "loraprune", 5): (99.78, 97.96, 95.18, 97.68),
    ("resnet50", "loraprune", 10): (99.98, 98.00, 95.41, 97.89),
    ("vit_small", "retrain", None): (100, 96.90, 84.92, 100),
    ("vit_small", "finetune", 5): (100, 87.64, 79.79, 100),
    ("vit_small", "finetune", 10): (100, 86.80, 79.94, 100),
    ("vit_small", "pruneft", 5): (100, 84.76, 78.81, 100),
    ("vit_small", "pruneft", 10): (100, 86.14, 79.53, 100),
    ("vit_small", "lora", 5): (87.66, 97.72, 85.33, 98.14),
    ("vit_small", "lora", 10): (95.58, 97.81, 85.16, 99.58),
    ("vit_small", "loraprune", 5): (100, 97.39, 85.53, 100),
    ("vit_small", "loraprune", 10): (100, 97.63, 85.34, 100),
}


def add_published(rows: list[Row], dataset: data.Dataset) -> None:
    """Put the paper's numbers beside rows of the same data set, network and forgotten class, made with default flags."""
    for row in rows:
        key = (row["model"], row["method"], None if row["method"] == "retrain" else row["epochs"])
        if dataset.is_cifar10 and row["forget"] == "class3" and key in PUBLISHED and not row.get("flags"):
            row["published"] = dict(zip(("UA", "RA", "TA", "MIA"), PUBLISHED[key], strict=True))


def plan_prunelora(request: Request) -> Plan:
    """PruneLoRA's table with controls: class forgetting."""
    return Plan(both_ways(request, chosen(request)))


def score(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """The rows, with what is left beneath the head."""
    return score_files([*paths, *request.originals.values()], request.scoring, shared)


ABOUT = "PruneLoRA and its baselines: a class is forgotten."
TABLE = Table(ABOUT, plan_prunelora, PRESETS, 3, score, published=add_published, estimated=estimated)
