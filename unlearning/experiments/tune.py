"""TODO unlearning.experiments.tune."""

from unlearning.evaluation import collect
from unlearning.experiments import plan, rfau

GRID = ("0.0003", "0.001", "0.003", "0.01")
RFAU_GRID = ("0.0001", *GRID)


def tune_rfau(config):
    """The trained methods of RFAU's table at each learning rate of RFAU_GRID, scored on a tenth of the training images."""
    config.validation = 0.1
    methods = plan.chosen(config, [row for row in rfau.RFAU if "--shift" not in row and row != "mask"])
    return plan.both_ways(config, methods, lambda tag: lambda network, method: RFAU_GRID)


def tune(config):
    """Every trained method at each learning rate of GRID, scored on a tenth of the training images."""
    config.validation = 0.1
    return plan.plan(config, plan.chosen(config, plan.PLAIN), plan.class_flags(config), lambda network, method: GRID)


def score_without_probe(paths, config):
    """Rows for choosing a learning rate, without what is beneath the head."""
    return collect.score_files(paths, config, beneath=False)
