"""Prune + fine-tune: zero half of the filters, then train all remaining weights on the retain set.

A baseline of PruneLoRA (A. Mittal, arXiv 2411.11907). For each pruned layer with weight rows w_1..w_n, the rows with the
smallest ||w_i||_2 are silenced (CNN: every Conv2d, with the batch norm that follows; ViT: the last attention output
projection). They stay silent, and --compact takes a CNN's out; --regrow lets them grow back, as in the published scripts.

    python pruneft.py --dataset cifar10 --model resnet50 --forget-class 3 --epochs 5
"""

import torch

import cli
import pruning
import training
from errors import UserError

LR = cli.PerModel(paper=1e-3, resnet8=1e-3, resnet20=1e-3, vit_micro=1e-3)


def unlearn(model, retain, forget, config):
    """Silence the weakest filters of the original, then minimise cross-entropy on `retain` over the others."""
    _, silent = prune(model, config)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    pruning.keep(optimizer, model, silent)
    training.fit(model, retain, optimizer, config)
    if config.compact == "after":
        pruning.remove(model, silent)
    return model


def prune(model, config):
    """Prune as the flags say: (the masks of all that is pruned, the masks of what training is to keep silent)."""
    if config.compact and config.regrow:
        raise UserError("--compact: with --regrow nothing stays silent")
    before = pruning.zeros(model)
    masks = pruning.prune_filters(model, config.amount, whole=not config.regrow)
    silent = {} if config.regrow else masks
    if config.prune_head:
        masks = masks | pruning.zero_head_rows(model, config.amount)
    if not config.quiet:
        print(f"zeros among the weights: {before:.1f} % before, {pruning.zeros(model):.1f} % after pruning")
    if config.compact == "first":
        silent = pruning.remove(model, silent)
    return masks, silent


def add_pruning_flags(parser):
    """The flags that pruneft and loraprune share."""
    parser.add_argument("--amount", type=cli.share, default=0.5, help="share of rows to prune (default: 0.5)")
    parser.add_argument("--regrow", action="store_true", help="prune weights alone and drop the masks, as published")
    parser.add_argument(
        "--compact",
        nargs="?",
        const="after",
        choices=("first", "after"),
        help="make the network smaller by taking silent channels out, before or after it unlearns (default: after)",
    )
    parser.add_argument("--prune-head", action="store_true", help="also zero rows of the head, free to regrow (paper)")
    return parser


def parser():
    return add_pruning_flags(cli.parser(__doc__, epochs=5, lr=LR))


def run(config):
    return cli.execute("pruneft", unlearn, config)


if __name__ == "__main__":
    cli.main(run, parser())
