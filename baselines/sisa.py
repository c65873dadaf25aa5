"""SISA: split private images into random shards, train a learner on each, and let them vote.

Bourtoule et al. 2021 ("Machine Unlearning", sharded and isolated, without slices). The baseline of LMEraser: the same frozen
backbone, and for each shard the same kind of learner, a frame of pixels and a head, so that the two differ in how images
are split and in who answers. To delete an image its shard starts again without it.

    python -m baselines.sisa train --dataset fashion-mnist --parts 20
    python -m baselines.sisa delete model_weights/fashion-mnist_tf_efficientnet_lite0_sisa20_s0 --ids 17 4032
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.sisa", file=sys.stderr)
    sys.exit(2)


import argparse
from pathlib import Path

import torch

from unlearning.core.flags import Parser, main
from unlearning.exact.command import run_system, system_parser
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared


def split(
    features: torch.Tensor, private: torch.Tensor, anchors: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, None]:
    """The shard of each image, int64 (N,), by a draw that no deletion changes; no centres, since all shards vote."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(settings.seed))
    return order % settings.parts, None


def commands() -> tuple[Parser, Parser]:
    """The command line, and the part of it that trains."""
    return system_parser(__doc__, parts=20, split_help="shards, each with a learner")


def parser() -> Parser:
    """The command line."""
    return commands()[0]


def run(args: argparse.Namespace, command: str, shared: Shared | None = None) -> Path:
    """Carry out the command line: the system's folder."""
    return run_system("sisa", split, commands()[1], args, command, shared)


if __name__ == "__main__":
    main(run, parser())
