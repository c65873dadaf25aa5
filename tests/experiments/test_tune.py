"""Tunings."""

from tests.experiments.tables import planned
from unlearning.experiments import tune


def test_tuning_uses_validation_images():
    runs = planned("tune", "--methods", "finetune")
    assert all("--validation" in arguments for _, arguments in runs)
    rates = [a[a.index("--lr") + 1] for s, a in runs if s == "finetune" and "resnet8" in a]
    assert rates == list(tune.GRID)
