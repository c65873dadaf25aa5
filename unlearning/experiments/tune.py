"""Tunings: the methods of PruneLoRA's and of RFAU's table at several learning rates, on validation images."""

from dataclasses import replace
from pathlib import Path

from unlearning.evaluation.collect import score_files
from unlearning.experiments import prunelora, rfau
from unlearning.experiments.plan import both_ways, chosen
from unlearning.experiments.request import Plan, Request, Row, Table
from unlearning.vision.shared import Shared

GRID = ("0.0003", "0.001", "0.003", "0.01")
RFAU_GRID = ("0.0001", *GRID)


def plan_tune(request: Request) -> Plan:
    """Every trained method at each learning rate of GRID, scored on a tenth of the training images."""
    return Plan(both_ways(request, chosen(request), lambda tag: lambda network, method: GRID))


def plan_rfau_tune(request: Request) -> Plan:
    """The trained methods of RFAU's table at each learning rate of RFAU_GRID, scored on a tenth of the training images."""
    return Plan(both_ways(request, chosen(request), lambda tag: lambda network, method: RFAU_GRID))


def score_without_probe(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """Rows for choosing a learning rate, without what is beneath the head."""
    return score_files([*paths, *request.originals.values()], request.scoring, shared, beneath=False)


TUNE = Table(
    "Learning rates of PruneLoRA and its baselines, on a tenth of the training images that no network was trained on.",
    plan_tune,
    prunelora.PRESETS,
    1,
    score_without_probe,
    published=prunelora.add_published,
    pictures=False,
    validation=True,
)
RFAU_TUNE = replace(TUNE, about=TUNE.about.replace("PruneLoRA", "RFAU"), plan=plan_rfau_tune, presets=rfau.PRESETS)
