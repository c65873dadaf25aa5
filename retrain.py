"""Retrain: the exact answer to a request to forget, which every other method approximates.

The network is trained from a fresh start, by the original's recipe, on the retain set alone. The start has the original's
seed, so the two differ only in the data.

    python retrain.py --dataset cifar10 --model resnet50 --forget-class 3
"""

from unlearning.core.flags import main
from unlearning.vision import recipes
from unlearning.vision.run import execute, method_parser


def parser():
    return method_parser(__doc__, epochs=recipes.EPOCHS, lr=recipes.LR, original=False)


def run(config):
    return execute("retrain", recipes.train_original, config)


if __name__ == "__main__":
    main(run, parser())
