"""Tunings."""

import pytest

from tests.experiments.tables import planned
from unlearning.experiments import tune


@pytest.mark.parametrize(("table", "grid"), [("tune", tune.GRID), ("rfau-tune", tune.RFAU_GRID)])
def test_tuning_uses_validation_images(table, grid):
    """In every run, that of the original and of Retrain too: a tenth that no network has seen."""
    runs = planned(table, "--methods", "finetune")
    assert {script for script, _ in runs} == {"pretrain", "retrain", "finetune"}
    assert all(arguments[arguments.index("--validation") + 1] == "0.1" for _, arguments in runs)
    network = runs[0][1][1]
    chosen = [a for script, a in runs if script == "finetune" and network in a and "--forget-class" in a]
    assert [arguments[arguments.index("--lr") + 1] for arguments in chosen] == list(grid)
