"""Train the original network, which knows every class.

The recipe of PruneLoRA (A. Mittal, arXiv 2411.11907) for its two networks: SGD and cosine for CNNs (200 epochs), AdamW
with warm-up, cosine, mixup and clipping for ViTs (90 epochs). The small networks are trained in few epochs by a recipe of
their own, --recipe fast; see unlearning/vision/recipes.py.

    python pretrain.py --dataset cifar10 --model resnet50
"""

from functools import partial

from unlearning.core.flags import Parser, main
from unlearning.vision import recipes
from unlearning.vision.flags import method_parser
from unlearning.vision.run import execute


def parser() -> Parser:
    """The command line."""
    how = {"epochs": recipes.EPOCHS, "lr": recipes.LR, "batch_size": recipes.BATCH_SIZE}
    parser = recipes.add_recipe_flags(method_parser(__doc__, **how, forget=False, original=False))
    text = "also write each training image's mean confidence over the epochs, beside the checkpoint: NAME_confidence.csv"
    parser.add_argument("--confidence", action="store_true", identity=False, help=text)
    return parser


run = partial(execute, "original", recipes.train_original, parser)


if __name__ == "__main__":
    main(run, parser())
