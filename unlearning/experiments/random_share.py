"""PruneLoRA's methods on a random share of the training images."""

from unlearning.experiments import prunelora
from unlearning.experiments.image_estimate import estimated
from unlearning.experiments.plan import both_ways, chosen
from unlearning.experiments.request import Plan, Request, Table

# Sample forgetting shows only in networks that remember samples: fewer images, more epochs.
PRESETS = prunelora.PRESETS | {"quick": {"subset": 1000, "pretrain": {"resnet8": 25, "vit_micro": 35}, "epochs": [5]}}


def plan_random(request: Request) -> Plan:
    """The same methods on a random share of the training images, where accuracy alone doesn't saturate."""
    return Plan(both_ways(request, chosen(request)))


ABOUT = "PruneLoRA and its baselines: a random share of the training images is forgotten."
TABLE = Table(ABOUT, plan_random, PRESETS, 3, prunelora.score, estimated=estimated)
