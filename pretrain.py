"""Train the original network, which knows every class.

The recipe of PruneLoRA (A. Mittal, arXiv 2411.11907) for its two networks: SGD and cosine for CNNs (200 epochs), AdamW
with warm-up, cosine, mixup and clipping for ViTs (90 epochs); see training.recipe. The small networks use the same
recipes for fewer epochs.

    python pretrain.py --dataset cifar10 --model resnet50
"""

import cli
import training

EPOCHS = cli.PerModel(paper=200, vit_small=90, vit_micro=30, resnet8=15, resnet20=15)
LR = cli.PerModel(paper=0.1, vit_small=1e-3, vit_micro=1e-3)


def train(model, retain, forget, config):
    """Train `model` from its start on `retain`, by cross-entropy; `forget` is never looked at."""
    return training.fit(model, retain, config=config, **training.recipe(model, len(retain), config, config.flip))


def parser():
    return cli.parser(__doc__, epochs=EPOCHS, lr=LR, forget=False, original=False)


def run(config):
    return cli.execute("original", train, config)


if __name__ == "__main__":
    cli.main(run, parser())
