"""PruneLoRA: prune first, then adapt, then unlearn.

The method of "LoRA Unlearns More and Retains More" (A. Mittal, arXiv 2411.11907). The original's weakest filters (smallest
||w_i||_2, half of each layer) are silenced; LoRA, W' = W + (alpha / r) B A, then learns the retain set on what is left.
The masked rows stay zero, in B too, so the merged network is as sparse as the pruned one, and --compact takes a CNN's
silent channels out; --regrow drops the masks after pruning, as the published scripts do. D_f is never looked at, unless
--forget-loss puts a loss on it beside that on D_r: GS-LoRA's, DELETE's or RFAU's (unlearning/vision/forget_losses.py).

    python loraprune.py --dataset cifar10 --model vit_small --forget-class 3 --epochs 5
"""

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.flags import Parser, main
from unlearning.vision import adapter_files, adapters, compaction, pairs, pruning
from unlearning.vision.flags import add_pruning_flags, method_parser
from unlearning.vision.run import Run, execute


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Silence the weakest filters, then minimise cross-entropy on `retain`, with --forget-loss that on `forget` too, over
    low-rank changes of the others."""
    adapter_files.check_replaceable(run)
    settings = run.settings
    images, how = pairs.with_forget_loss(model, retain, forget, run)
    masks, silent = pruning.prune(model, settings, run.compute.quiet)
    adapted = adapters.attach(model, adapters.last_and_head(model), settings.rank, settings.alpha, settings.dropout)
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=settings.lr)
    pruning.keep(optimizer, adapted, silent)
    with adapters.inputs_as_they_are(adapted):
        run.fit(adapted, images, optimizer, freeze_norm=settings.bn == "freeze", **how)
    adapter_files.save(adapted, run, masks, compact=settings.compact == "first")
    merged = adapters.merge(adapted)
    if settings.compact == "after":
        compaction.remove(merged, silent)
    return merged


def parser() -> Parser:
    """The command line."""
    parser = adapters.add_lora_flags(method_parser(__doc__, epochs=5, lr=adapters.LR))
    return pairs.add_forget_loss_flags(add_pruning_flags(parser))


run = partial(execute, "loraprune", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
