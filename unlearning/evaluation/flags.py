"""The flags that say how checkpoints are scored."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import data
from unlearning.core.device import Compute
from unlearning.core.flags import QUIET, Parser, add_cache_flag, add_device_flags
from unlearning.evaluation.unfinished import Unfinished
from unlearning.images import forgetting
from unlearning.vision.flags import forget_request, source_of
from unlearning.vision.originals import Told

ATTACKS = ("svc", "lora-unlearn", "unlearn-sparse")  # of network.ATTACKS, which takes seconds to import


@dataclass(frozen=True)
class Scoring:
    """How checkpoints are scored.

    weights: folder in which Original and Retrain are looked for. attack: one of ATTACKS. every_attack: also each attack
    feature with each attacker. source, forget: for files that don't say on which data, and to forget what. told: what
    networks from elsewhere don't say. kept: scores of a killed run of the same command. recovery: also few-shot recovery.
    references: RMIA's reference networks. images: how many training and how many test images are scored at most, all classes
    alike; None for all.
    """

    compute: Compute
    weights: Path
    data_dir: Path
    attack: str = "svc"
    every_attack: bool = False
    source: data.Source | None = None
    forget: forgetting.ForgetRequest | None = None
    told: Told = field(default_factory=Told)
    kept: Unfinished = field(default_factory=Unfinished)
    recovery: bool = False
    references: tuple[Path, ...] = ()
    images: int | None = None

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "Scoring":
        """What the flags of evaluate.py ask for."""
        compute = Compute.from_flags(args)
        return cls(
            compute,
            args.weights,
            args.data_dir,
            args.mia,
            args.every_attack,
            source_of(args) if args.dataset else None,
            forget_request(args),
            Told.from_flags(args, args.model),
            recovery=args.recovery,
            references=tuple(args.references),
            images=args.images,
        )


def add_scoring_flags(parser: Parser) -> None:
    """The flags that evaluate and reproduce share."""
    parser.add_argument("--mia", choices=ATTACKS, default="svc", help="membership attack (default: svc)")
    parser.add_argument(
        "--every-attack", action="store_true", help="also every attack feature with both attackers (minutes a file)"
    )
    parser.add_argument(
        "--recovery", action="store_true", help="also accuracy after training on 1, 5 and 10 images of each forgotten class"
    )
    parser.add_argument("--quiet", action="store_true", help=QUIET)
    add_device_flags(parser)
    add_cache_flag(parser)
