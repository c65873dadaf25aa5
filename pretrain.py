"""Train the original network, which knows every class.

The recipe of PruneLoRA (A. Mittal, arXiv 2411.11907) for its two networks: SGD and cosine for CNNs (200 epochs), AdamW
with warm-up, cosine, mixup and clipping for ViTs (90 epochs); see vision/recipes.py. The small networks use the same
recipes for fewer epochs.

    python pretrain.py --dataset cifar10 --model resnet50
"""

import argparse
from pathlib import Path

from unlearning.core.flags import Parser, main
from unlearning.vision import recipes
from unlearning.vision.flags import method_parser
from unlearning.vision.run import execute
from unlearning.vision.shared import Shared


def parser() -> Parser:
    """The command line."""
    return method_parser(__doc__, epochs=recipes.EPOCHS, lr=recipes.LR, forget=False, original=False)


def run(args: argparse.Namespace, command: str, shared: Shared | None = None) -> Path:
    """Carry out the command line: the checkpoint's path."""
    return execute("original", recipes.train_original, parser(), args, command, shared)


if __name__ == "__main__":
    main(run, parser())
