"""Train the original network, which knows every class.

The recipe of PruneLoRA (A. Mittal, arXiv 2411.11907) for its two networks: SGD and cosine for CNNs (200 epochs), AdamW
with warm-up, cosine, mixup and clipping for ViTs (90 epochs); see training.recipe. The small networks use the same
recipes for fewer epochs.

    python pretrain.py --dataset cifar10 --model resnet50
"""

from unlearning.core.flags import main
from unlearning.vision import recipes
from unlearning.vision.run import execute, method_parser


def parser():
    return method_parser(__doc__, epochs=recipes.EPOCHS, lr=recipes.LR, forget=False, original=False)


def run(config):
    return execute("original", recipes.train_original, config)


if __name__ == "__main__":
    main(run, parser())
