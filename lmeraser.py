"""LMEraser: split private images into clusters, tune a prompt and a head for each, and delete exactly.

Xu, Wu, Wang, Jia, "LMEraser: Large Model Unlearning through Adaptive Prompt Tuning" (arXiv 2404.11056). A backbone that has
seen public data alone is frozen. Its features of some anchor images are clustered (agglomerative, average linkage); every
private image belongs to the nearest centre, by its features without a prompt, once and for all. Each cluster tunes a frame
of pixels and a linear head on its own images. To delete an image its cluster starts again without it; no other has seen it.

    python lmeraser.py train --dataset fashion-mnist --parts 100
    python lmeraser.py delete model_weights/fashion-mnist_tf_efficientnet_lite0_lmeraser100_s0 --ids 17 4032
    python lmeraser.py show model_weights/fashion-mnist_tf_efficientnet_lite0_lmeraser100_s0
"""

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import pairwise_distances_argmin

from unlearning.core.errors import UserError
from unlearning.core.flags import main
from unlearning.exact.command import run_system, system_parser


def split(features, private, anchors, config):
    """The cluster of each image, int64 (N,), and the centres float32 (K, F): the mean features of a cluster's anchors."""
    known = features[anchors].numpy()
    if config.parts > len(known):
        raise UserError(f"--parts {config.parts}: there are {len(known)} anchors")
    if config.parts == 1:
        cluster = np.zeros(len(known), dtype=np.int64)
    else:
        cluster = AgglomerativeClustering(config.parts, linkage=config.linkage).fit_predict(known)
    centres = np.stack([known[cluster == k].mean(0) for k in range(config.parts)])
    return torch.from_numpy(pairwise_distances_argmin(features.numpy(), centres)), torch.from_numpy(centres)


def parser():
    parser, trainer = system_parser(__doc__, parts=100, split_help="clusters, each with a prompt and a head")
    trainer.add_argument(
        "--linkage",
        choices=("average", "ward", "complete"),
        default="average",
        help="how anchors are clustered; ward: clusters more alike in size (default: average, the paper's)",
    )
    return parser


def run(config):
    return run_system("lmeraser", split, config)


if __name__ == "__main__":
    main(run, parser())
