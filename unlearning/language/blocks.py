"""The blocks of a causal language model of transformers, and what of them an adapter trains."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from unlearning.core.errors import UserError


def blocks_of(model: Any) -> list[nn.Module]:
    """The blocks of a model in their order: the longest list of modules of one kind, found whatever it is called.

    Raises UserError where there is none.
    """
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    text = plain.config.get_text_config()
    decoder = plain.get_decoder() or plain  # without what sees images, of a model that has such
    lists = [module for module in decoder.modules() if isinstance(module, nn.ModuleList) and len(module)]
    count = getattr(text, "num_hidden_layers", 0)
    for modules in lists:
        if len(modules) == count and not any(m is not modules and modules in set(m.modules()) for m in lists):
            return list(modules)
    raise UserError(f"{type(model).__name__} has no list of its {count} blocks that this project finds")


def attention_of(block: nn.Module) -> nn.Module | None:
    """The attention of a block, whatever it is called; None where there isn't one alone."""
    found = [module for name, module in block.named_children() if "attn" in name.lower() or "attention" in name.lower()]
    found = [module for module in found if any(isinstance(part, nn.Module) for part in module.children())]
    return found[0] if len(found) == 1 else None


def first_adapted(model: Any, blocks: Sequence[nn.Module]) -> int:
    """The first block with something to train in it: its place; len(blocks) where only the output layer has, and 0 where
    something lies outside of both."""
    trained = [i for i, block in enumerate(blocks) if is_trained(block)]
    inside = {id(p) for module in [*blocks, model.get_output_embeddings()] for p in module.parameters()}
    if any(p.requires_grad and id(p) not in inside for p in model.parameters()):
        return 0
    return trained[0] if trained else len(blocks)


def is_trained(module: nn.Module) -> bool:
    """True if something of a module is trained."""
    return any(parameter.requires_grad for parameter in module.parameters())
