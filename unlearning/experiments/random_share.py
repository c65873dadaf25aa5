"""TODO unlearning.experiments.random_share."""

from unlearning.experiments import plan, prunelora

# Sample forgetting shows only in networks that remember samples: fewer images, more epochs.
RANDOM_PRESETS = prunelora.PRESETS | {
    "quick": {"model": ["resnet8", "vit_micro"], "subset": 1000, "pretrain": [25, 35], "epochs": [5]}
}


def random(config):
    """The same methods on a random share of the training images, where accuracy alone doesn't saturate."""
    return plan.plan(config, plan.chosen(config, plan.PLAIN), ["--forget-random", str(config.share)])
