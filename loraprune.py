"""PruneLoRA: prune first, then adapt, then unlearn.

The method of "LoRA Unlearns More and Retains More" (A. Mittal, arXiv 2411.11907). The original's weakest filters (smallest
||w_i||_2, half of each layer) are silenced; LoRA, W' = W + (alpha / r) B A, then learns the retain set on what is left.
The masked rows stay zero, in B too, so the merged network is as sparse as the pruned one, and --compact takes a CNN's
silent channels out; --regrow drops the masks after pruning, as the published scripts do.

    python loraprune.py --dataset cifar10 --model vit_small --forget-class 3 --epochs 5
"""

import torch
from peft.helpers import disable_input_dtype_casting

from unlearning.core.flags import main
from unlearning.vision import adapters, compaction, pruning
from unlearning.vision.run import execute, method_parser
from unlearning.vision.train import fit


def unlearn(model, retain, forget, config):
    """Silence the weakest filters, then minimise cross-entropy on `retain` over low-rank changes of the others."""
    masks, silent = pruning.prune(model, config)
    adapted = adapters.attach(model, adapters.last_and_head(model), config.rank, config.alpha, config.dropout)
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=config.lr)
    pruning.keep(optimizer, adapted, silent)
    with disable_input_dtype_casting(adapted):  # as in lora.py
        fit(adapted, retain, optimizer, config, freeze_norm=config.bn == "freeze")
    adapters.save(adapted, adapters.folder_for(config.output), masks, compact=config.compact == "first")
    merged = adapters.merge(adapted)
    if config.compact == "after":
        compaction.remove(merged, silent)
    return merged


def parser():
    return pruning.add_pruning_flags(adapters.add_lora_flags(method_parser(__doc__, epochs=5, lr=adapters.LR)))


def run(config):
    return execute("loraprune", unlearn, config)


if __name__ == "__main__":
    main(run, parser())
