"""LoRA: keep the original frozen and learn a low-rank change of it on the retain set.

A baseline of PruneLoRA (A. Mittal, arXiv 2411.11907): W' = W + (alpha / r) B A with rank r, B zero at the start. CNN: r 8,
alpha 16 on the convolutions of every block, the head trained in full. ViT: r 16, alpha 32 on the last block's attention
output projection and the head. Adam 1e-3, dropout 0.1. Beside the merged checkpoint lies the adapter in PEFT's format.

    python lora.py --dataset cifar10 --model vit_small --forget-class 3 --epochs 5
"""

import torch
from peft.helpers import disable_input_dtype_casting

import adapters
import cli
import training

LR = cli.PerModel(paper=1e-3, resnet8=3e-3, resnet20=3e-3, vit_micro=1e-2)
RANK = cli.PerModel(paper=8, vit_small=16, vit_micro=16)
ALPHA = cli.PerModel(paper=16, vit_small=32, vit_micro=32)


def unlearn(model, retain, forget, config):
    """Minimise cross-entropy on `retain` over the adapters (and a CNN's head), then merge them into the network."""
    adapted = adapters.attach(model, adapters.last_and_head(model), config.rank, config.alpha, config.dropout)
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=config.lr)
    with disable_input_dtype_casting(adapted):  # else PEFT turns every bf16 input into fp32 and autocast turns it back
        training.fit(adapted, retain, optimizer, config, freeze_norm=config.bn == "freeze")
    adapters.save(adapted, adapters.folder_for(config.output))
    return adapters.merge(adapted)


def add_lora_flags(parser):
    """The flags that lora and loraprune share."""
    parser.add_argument("--rank", type=cli.positive_int, default=RANK, help=f"rank of the update (default: {RANK})")
    parser.add_argument("--alpha", type=cli.positive_float, default=ALPHA, help=f"its scale times r (default: {ALPHA})")
    parser.add_argument("--dropout", type=float, default=0.1, help="dropout before the adapter, 0 to 1 (default: 0.1)")
    parser.add_argument(
        "--bn", choices=("update", "freeze"), default="update", help="batch-norm statistics (default: update, as published)"
    )
    return parser


def parser():
    return add_lora_flags(cli.parser(__doc__, epochs=5, lr=LR))


def run(config):
    return cli.execute("lora", unlearn, config)


if __name__ == "__main__":
    cli.main(run, parser())
