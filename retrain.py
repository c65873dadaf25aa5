"""Retrain: the exact answer to a request to forget, which every other method approximates.

The network is trained from a fresh start, by the original's recipe, on the retain set alone. The start has the original's
seed, so the two differ only in the data.

    python retrain.py --dataset cifar10 --model resnet50 --forget-class 3
"""

from functools import partial

from unlearning.core.flags import Parser, main
from unlearning.vision import recipes
from unlearning.vision.flags import method_parser
from unlearning.vision.run import execute


def parser() -> Parser:
    """The command line."""
    how = {"epochs": recipes.EPOCHS, "lr": recipes.LR, "batch_size": recipes.BATCH_SIZE}
    return recipes.add_recipe_flags(method_parser(__doc__, **how, original=False))


run = partial(execute, "retrain", recipes.train_original, parser)


if __name__ == "__main__":
    main(run, parser())
