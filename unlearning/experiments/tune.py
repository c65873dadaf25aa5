"""Tuning: every row of the tables of images at as many points of a grid, on validation images, which choose one of them."""

from pathlib import Path
from typing import Any

from unlearning.core.words import say
from unlearning.evaluation.collect import score_files
from unlearning.experiments import audit, prunelora, random_share, rfau, sequence
from unlearning.experiments.choice import ends, mark
from unlearning.experiments.methods import METHODS
from unlearning.experiments.plan import both_ways, chosen
from unlearning.experiments.request import Plan, Request, Row, Table
from unlearning.vision.shared import Shared

OTHERS = {"random": random_share, "rfau": rfau, "audit": audit}  # tables whose presets aren't prunelora's
_SIZES: dict[str, dict[str, Any]] = (
    prunelora.PRESETS
    | {"first": prunelora.PRESETS["first"] | {"without": ()}}
    | {"sequence-first": sequence.SIZES["first"]}  # its others are prunelora's
    | {
        f"{table}-{name}": sizes
        for table, module in OTHERS.items()
        for name, sizes in module.PRESETS.items()
        if sizes is not prunelora.PRESETS.get(name)
    }
)
# How many seeds another table needs says nothing of how many a choice does.
PRESETS = {name: {key: value for key, value in sizes.items() if key != "seeds"} for name, sizes in _SIZES.items()}


def plan_tune(request: Request) -> Plan:
    """Every row at each point of its grid."""
    return Plan(both_ways(request, chosen(request), lambda network, name: METHODS[name].points))


def score(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """The rows, without what is beneath the head, the chosen ones marked, and a line about those at an end of a grid."""
    rows = score_files([*paths, *request.originals.values()], request.scoring, shared, beneath=False)
    mark(rows)
    for line in ends(rows):
        say(line)
    return rows


ABOUT = "Every method at as many points of a grid, on a tenth of the training images that no network was trained on."
TABLE = Table(ABOUT, plan_tune, PRESETS, 3, score, pictures=False, validation=True, diverging=True)
