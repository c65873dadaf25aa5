"""Retrain: the exact answer to a request to forget, which every other method approximates.

The network is trained from a fresh start, by the original's recipe, on the retain set alone. The start has the original's
seed, so the two differ only in the data.

    python retrain.py --dataset cifar10 --model resnet50 --forget-class 3
"""

import cli
import pretrain


def parser():
    return cli.parser(__doc__, epochs=pretrain.EPOCHS, lr=pretrain.LR, original=False)


def run(config):
    return cli.execute("retrain", pretrain.train, config)


if __name__ == "__main__":
    cli.main(run, parser())
