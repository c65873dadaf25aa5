"""NegLoRA: climb the loss on D_f with LoRA; Sparse NegLoRA prunes first, GS-LoRA's bound says where to stop.

The low-rank siblings of gradient ascent (AAAI-25 workshop, beside PruneLoRA): W' = W + (alpha / r) B A on PruneLoRA's layers
minimises -CE(D_f). --prune: half of the filters, the weakest, are silenced first and stay zero, as in loraprune.py.
--bound BND: CE(D_r) + beta ReLU(BND - CE(D_f)) (GS-LoRA, Zhao et al., CVPR 2024, arXiv 2403.11530, without its group
sparsity), each batch of D_f with as many random images of D_r, or with its share of these where they are fewer. Nothing
else stops the climb: take few epochs. Batch-norm statistics are kept: a batch of one class isn't what the network will see.

    python -m baselines.neglora --dataset fashion-mnist --model vit_micro --forget-class 3
    python -m baselines.neglora --dataset fashion-mnist --model vit_micro --forget-class 3 --bound 5
"""

import sys

if not __package__:
    print("run it from the project's folder: python -m baselines.neglora", file=sys.stderr)
    sys.exit(2)

from functools import partial

import torch
from torch import nn

from data import Split
from unlearning.core.errors import UserError
from unlearning.core.flags import POSITIVE_FLOAT, Parser, PerModel, main
from unlearning.vision import adapter_files, adapters, pairs, pruning
from unlearning.vision.flags import method_parser
from unlearning.vision.forget_losses import bounded
from unlearning.vision.run import Run, execute
from unlearning.vision.train import cross_entropy

LR = PerModel(paper=1e-3)
BETA = 0.1  # GS-LoRA's are 0.05 to 0.15
AMOUNT = 0.5  # share of the filters that --prune silences, PruneLoRA's


def unlearn(model: nn.Module, retain: Split, forget: Split, run: Run) -> nn.Module:
    """Raise the cross-entropy on `forget` over the adapters (and a CNN's head), then merge them into the network."""
    adapter_files.check_replaceable(run)
    settings = run.settings
    if settings.bound is None and settings.beta != BETA:
        raise UserError("--beta: the weight of the loss that --bound ends")
    masks = pruning.prune_filters(model, AMOUNT) if settings.prune else {}
    adapted = adapters.attach(model, adapters.last_and_head(model), settings.rank, settings.alpha, settings.dropout)
    optimizer = torch.optim.Adam((p for p in adapted.parameters() if p.requires_grad), lr=settings.lr)
    pruning.keep(optimizer, adapted, masks)

    def climb(logits, labels, rows):
        return settings.beta * bounded(logits, labels, settings.bound)

    if settings.bound is None:
        images, how = forget, {"objective": lambda *batch: -cross_entropy(*batch), "of_answers": True}
    else:
        images, how = pairs.beside(forget, retain, climb, pairs.cross_entropy)
    with adapters.inputs_as_they_are(adapted):
        run.fit(adapted, images, optimizer, freeze_norm=settings.bn == "freeze", **how)
    adapter_files.save(adapted, run, masks or None)
    return adapters.merge(adapted)


def parser() -> Parser:
    """The command line."""
    parser = adapters.add_lora_flags(method_parser(__doc__, epochs=2, lr=LR, batch_size=32), bn="freeze")
    parser.add_argument("--prune", action="store_true", help="silence half of the filters first (Sparse NegLoRA)")
    text = "stop at a cross-entropy of BND nats on D_f and learn D_r beside it (GS-LoRA; a few times log C)"
    parser.add_argument("--bound", type=POSITIVE_FLOAT, metavar="BND", help=text)
    parser.add_argument("--beta", type=POSITIVE_FLOAT, default=BETA, help=f"weight of the bounded loss (default: {BETA})")
    return parser


run = partial(execute, "neglora", unlearn, parser)


if __name__ == "__main__":
    main(run, parser())
