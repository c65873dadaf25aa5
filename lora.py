"""LoRA: keep the original frozen and learn a low-rank change of it on the retain set.

A baseline of PruneLoRA (A. Mittal, arXiv 2411.11907): W' = W + (alpha / r) B A with rank r, B zero at the start. CNN: r 8,
alpha 16 on the convolutions of every block, the head trained in full. ViT: r 16, alpha 32 on the last block's attention
output projection and the head. Adam 1e-3, dropout 0.1. Beside the merged checkpoint lies the adapter in PEFT's format.

    python lora.py --dataset cifar10 --model vit_small --forget-class 3 --epochs 5
"""

import torch
from peft.helpers import disable_input_dtype_casting

from unlearning.core.flags import main
from unlearning.vision import adapters
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import fit


def unlearn(model, retain, forget, config):
    """Minimise cross-entropy on `retain` over the adapters (and a CNN's head), then merge them into the network."""
    adapted = adapters.attach(model, adapters.last_and_head(model), config.rank, config.alpha, config.dropout)
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=config.lr)
    with disable_input_dtype_casting(adapted):  # else PEFT turns every bf16 input into fp32 and autocast turns it back
        fit(adapted, retain, optimizer, config, freeze_norm=config.bn == "freeze")
    adapters.save(adapted, adapters.folder_for(config.output))
    return adapters.merge(adapted)


def parser():
    return adapters.add_lora_flags(method_parser(__doc__, epochs=5, lr=adapters.LR))


def run(config):
    return execute("lora", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
