"""RFAU and its baselines: a class is forgotten, then a share of all images."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import models
from unlearning.experiments import prunelora
from unlearning.experiments.plan import SHORT, Rates, both_ways, chosen
from unlearning.experiments.request import Plan, Request, Table
from unlearning.reports import results
from unlearning.reports.folders import FILES

TUNED = Path(__file__).parents[2] / "results"  # where the committed tunings lie, wherever --results are written
PRESETS: dict[str, dict[str, Any]] = {
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
}


def plan_rfau(request: Request) -> Plan:
    """RFAU and its baselines, forgetting a class and a share of the images, each with its rate in the tuning's result."""
    return Plan(both_ways(request, chosen(request), lambda tag: _tuned(request, tag)))


def _tuned(request: Request, tag: str) -> Rates:
    """The rate of a network and method that came closest to Retrain on validation images, forgetting `tag`: a function as
    `plan` wants it. None where the committed result of rfau-tune doesn't have the network or the method."""
    path = replace(request, table="rfau-tune", results=TUNED).folder / FILES["json"]
    gaps: dict[tuple, dict[str, float]] = {}
    for row in results.read(path)["rows"] if path.exists() else []:
        method, _, rate = row["method"].partition(" --lr ")
        if "flags" in row:  # the label names only the flags in which rows of that table differ
            own = [flag for flag in row["flags"] if not flag.startswith("--lr ")]
            method = " ".join([method.partition(" --")[0], *own])
        if rate and row["forget"] == tag:
            gaps.setdefault((row["model"], method), {})[rate] = row["metrics"]["gap"]["mean"]

    def rates(network: str, method: str) -> tuple[str | None]:
        tuned = method.partition(" --shift ")[0].removesuffix(" --random-mask")  # ablations have RFAU's and SalUn's rates
        found = gaps.get((network, tuned))
        return (min(found, key=found.__getitem__) if found else None,)

    return rates


ABOUT = "RFAU and its baselines: a class is forgotten, then a random share of the training images."
TABLE = Table(ABOUT, plan_rfau, PRESETS, 3, prunelora.score, published=prunelora.add_published)
