"""LoRA through peft: which layers get adapters, and merging them into the network.

W' = W + (alpha / r) B A with rank r, B zero at the start (Hu et al. 2022, arXiv 2106.09685).
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from unlearning.core.errors import UserError
from unlearning.core.flags import BELOW_ONE, LORA_RANK, POSITIVE_FLOAT, Parser, PerModel
from unlearning.vision import layers
from unlearning.vision.dropout import Dropout
from unlearning.vision.flags import add_targets_flag

if TYPE_CHECKING:
    from peft import PeftModel

Layers = tuple[list[str], list[str]]  # names that get LoRA, names that are trained and saved whole

LR = PerModel(paper=1e-3, resnet8=3e-3, resnet20=3e-3, vit_micro=1e-2)
RANK = PerModel(paper=8, vit_small=16, vit_micro=16)
ALPHA = PerModel(paper=16, vit_small=32, vit_micro=32)


def last_and_head(model: nn.Module) -> Layers:
    """PruneLoRA's choice: (layers that get LoRA, layers to save whole), by name.

    ViT: the last block's attention output projection and the head get LoRA. CNN: the convolutions of the blocks get LoRA and
    the head is trained in full; batch norms are saved because their statistics move. Raises UserError where no layer fits.
    """
    below, heads = layers.adaptable(model), layers.heads(model)
    norms = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    with_lora = below if layers.is_cnn(model) else list(dict.fromkeys([*below, *heads]))
    return with_lora, [name for name in (*heads, *norms) if name not in with_lora]


def attach(model: nn.Module, targets: Layers, rank: int, alpha: float, dropout: float = 0.0) -> "PeftModel":
    """Wrap `model` with LoRA of the given rank, alpha and dropout rate: a PeftModel, the rest frozen.

    targets: such as `last_and_head` returns them. Raises UserError for a network that PEFT couldn't merge again.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    if any(hasattr(module, "base_layer") for module in model.modules()):  # as DLA's network has
        raise UserError("LoRA: PEFT would take this network's own `base_layer` for an adapter's")
    with_lora, saved = layers.fit_for_lora(model, targets)
    scale: Any = alpha  # PEFT's annotation says int, its code takes any number
    peft_model = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=scale, lora_dropout=dropout, target_modules=with_lora, modules_to_save=saved or None),
    )
    for module in peft_model.modules():
        if isinstance(module, _BatchNorm):  # saved for their statistics; their scale and offset stay frozen
            module.requires_grad_(False)
        if dropout and isinstance(module, LoraLayer):
            module.lora_dropout = nn.ModuleDict({name: Dropout(dropout) for name in module.lora_dropout})
    return peft_model


@contextlib.contextmanager
def inputs_as_they_are(peft_model: "PeftModel") -> Iterator[None]:
    """Keeps PEFT from turning every bf16 input into fp32, which autocast would turn back."""
    from peft.helpers import disable_input_dtype_casting

    with disable_input_dtype_casting(peft_model):
        yield


def merge(peft_model: "PeftModel") -> nn.Module:
    """The plain network with W + (alpha / r) B A in place of each adapted W."""
    return peft_model.merge_and_unload()


def add_lora_flags(parser: Parser, bn: str = "update") -> Parser:
    """The flags that lora, loraprune and neglora share. bn: the default of --bn."""
    parser.add_argument("--rank", type=LORA_RANK, default=RANK, help=f"rank of the update (default: {RANK})")
    parser.add_argument("--alpha", type=POSITIVE_FLOAT, default=ALPHA, help=f"scale times rank (default: {ALPHA})")
    parser.add_argument("--dropout", type=BELOW_ONE, default=0.1, help="dropout before the adapter (default: 0.1)")
    add_targets_flag(parser, "lora", "get LoRA")
    text = f"batch-norm statistics (default: {bn}, as published)"
    parser.add_argument("--bn", choices=("update", "freeze"), default=bn, help=text)
    return parser
