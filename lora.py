"""LoRA: keep the original frozen and learn a low-rank change of it on the retain set.

A baseline of PruneLoRA (A. Mittal, arXiv 2411.11907): W' = W + (alpha / r) B A with rank r, B zero at the start. CNN: r 8,
alpha 16 on the convolutions of every block, the head trained in full. ViT: r 16, alpha 32 on the last block's attention
output projection and the head. Adam 1e-3, dropout 0.1. Beside the merged checkpoint lies the adapter in PEFT's format.

    python lora.py --dataset cifar10 --model vit_small --forget-class 3 --epochs 5
"""

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.flags import Parser, main
from unlearning.vision import adapter_files, adapters
from unlearning.vision.flags import method_parser
from unlearning.vision.run import Run, execute


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Minimise cross-entropy on `retain` over the adapters (and a CNN's head), then merge them into the network."""
    adapter_files.check_replaceable(run)
    rank, alpha, dropout = run.settings.rank, run.settings.alpha, run.settings.dropout
    adapted = adapters.attach(model, adapters.last_and_head(model), rank, alpha, dropout)
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=run.settings.lr)
    with adapters.inputs_as_they_are(adapted):
        run.fit(adapted, retain, optimizer, freeze_norm=run.settings.bn == "freeze")
    adapter_files.save(adapted, run)
    return adapters.merge(adapted)


def parser() -> Parser:
    """The command line."""
    return adapters.add_lora_flags(method_parser(__doc__, epochs=5, lr=adapters.LR))


run = partial(execute, "lora", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
