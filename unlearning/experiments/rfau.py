"""TODO unlearning.experiments.rfau."""

import argparse
from pathlib import Path

import models
from unlearning.experiments import plan
from unlearning.reports import results

RFAU = (*plan.PLAIN[:2], "mask", "head-only", "finetune", "loraprune", "gradascent", "gradascent --retain-weight 0.9")
RFAU += tuple(m for m in plan.METHODS if m.startswith(("randomlabel", "badteacher", "rfau")))
TUNED = Path(__file__).parents[2] / "results"  # where the committed tunings lie, wherever --results are written
RFAU_PRESETS = {
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
    "gpu": {"model": ["resnet18", "vit_small"], "subset": None, "pretrain": [15, 20], "epochs": [5]},
}


def plan_rfau(config):
    """RFAU and its baselines, forgetting a class and a share of the images, each with its rate in the tuning's result."""
    return plan.both_ways(config, plan.chosen(config, RFAU), lambda tag: _tuned(config, tag))


def _tuned(config, tag):
    """The rate of a network and method that came closest to Retrain on validation images, forgetting `tag`: a function as
    `plan` wants it. None where the committed result of rfau-tune doesn't have the network or the method."""
    path = TUNED / f"{plan.name(argparse.Namespace(**vars(config) | {'table': 'rfau-tune'}))}.json"
    gaps = {}
    for row in results.read(path)["rows"] if path.exists() else []:
        method, _, rate = row["method"].partition(" --lr ")
        if rate and row["forget"] == tag:
            gaps.setdefault((row["model"], method), {})[rate] = row["metrics"]["gap"]["mean"]

    def rates(network, method):
        found = gaps.get((network, method.partition(" --shift ")[0]))  # a target's ablation has RFAU's rate
        return (min(found, key=found.get) if found else None,)

    return rates
