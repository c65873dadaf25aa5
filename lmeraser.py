"""LMEraser: split private images into clusters, tune a prompt and a head for each, and delete exactly.

Xu, Wu, Wang, Jia, "LMEraser: Large Model Unlearning through Adaptive Prompt Tuning" (arXiv 2404.11056). A backbone that has
seen public data alone is frozen. Its features of some anchor images are clustered (agglomerative, average linkage); every
private image belongs to the nearest centre, by its features without a prompt, once and for all. Each cluster tunes a frame
of pixels and a linear head on its own images. To delete an image its cluster starts again without it; no other has seen it.

    python lmeraser.py train --dataset fashion-mnist --parts 100
    python lmeraser.py delete model_weights/fashion-mnist_tf_efficientnet_lite0_lmeraser100_s0 --ids 17 4032
    python lmeraser.py show model_weights/fashion-mnist_tf_efficientnet_lite0_lmeraser100_s0
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from unlearning.core.errors import UserError
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.exact.command import run_system, system_parser
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared


def split(
    features: torch.Tensor, private: torch.Tensor, anchors: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """The cluster of each image, int64 (N,), and the centres float32 (K, F): the mean features of a cluster's anchors, of
    which there is one at least. Where fewer are left than parts, each is a cluster. Raises UserError where none is left."""
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import pairwise_distances_argmin

    known = features[anchors].numpy()
    if not len(known):
        raise UserError("no anchor would be left to put images into parts by: train a system without these (train --ids)")
    count = min(settings.parts, len(known))
    if count == 1:
        cluster = np.zeros(len(known), dtype=np.int64)
    else:
        cluster = AgglomerativeClustering(count, linkage=settings.linkage).fit_predict(known)
    centres = np.stack([known[cluster == k].mean(0) for k in range(count)])
    return torch.from_numpy(pairwise_distances_argmin(features.numpy(), centres)), torch.from_numpy(centres)


def commands() -> tuple[Parser, Parser]:
    """The command line, and the part of it that trains."""
    parser, trainer = system_parser(__doc__, parts=100, split_help="clusters, each with a prompt and a head")
    trainer.add_argument(
        "--linkage",
        choices=("average", "ward", "complete"),
        default="average",
        help="how anchors are clustered; ward: clusters more alike in size (default: average, the paper's)",
    )
    text = "with --head ridge: clusters that answer an image together, the nearest ones (default: 1, the paper's)"
    trainer.add_argument("--nearest", type=POSITIVE_INT, default=1, off=1, help=text)
    return parser, trainer


def parser() -> Parser:
    """The command line."""
    return commands()[0]


def run(args: argparse.Namespace, command: str, shared: Shared | None = None) -> Path:
    """Carry out the command line: the system's folder."""
    if args.action == "train" and not args.list_classes and args.parts > args.anchors:  # before anything is computed
        what = f"--parts {args.parts}: there are {args.anchors} anchors, and each part needs one"
        raise UserError(f"{what}: give more --anchors or fewer --parts")
    if args.action == "train" and args.nearest > 1 and args.head != "ridge":
        raise UserError("--nearest: clusters answer together where their heads have one start: give --head ridge")
    if args.action == "train" and args.nearest > args.parts:
        raise UserError(f"--nearest {args.nearest}: there are {args.parts} parts")
    return run_system("lmeraser", split, commands()[1], args, command, shared)


if __name__ == "__main__":
    main(run, parser())
