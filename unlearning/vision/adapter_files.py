"""The adapter's folder beside a checkpoint, in PEFT's own format.

It also holds the batch-norm layers, because their running statistics move while the network trains in the paper's way, and
a mask file where the base was pruned first; without these two the adapter on the original wouldn't give the logits of the
merged network.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from unlearning.core import distributed
from unlearning.core.files import replacing
from unlearning.vision import compaction, pruning

if TYPE_CHECKING:
    from peft import PeftModel

MASK_FILE = "mask.safetensors"


def folder_for(checkpoint: str | Path) -> Path:
    """The adapter's folder beside a checkpoint: x.pth to x_adapter."""
    return Path(checkpoint).with_name(Path(checkpoint).stem + "_adapter")


def save(
    peft_model: "PeftModel",
    folder: Path,
    masks: dict[str, torch.Tensor] | None = None,
    compact: bool = False,
) -> None:
    """Write the adapter in PEFT's format, and `masks` beside it, replacing `folder` as a whole; on rank 0 alone.

    compact: True if the base was made smaller by these masks first. Raises RunFailed on a full disk.
    """
    if not distributed.is_main():
        return
    with replacing(folder) as part:
        peft_model.save_pretrained(str(part))
        if masks:
            save_file(masks, part / MASK_FILE, {"compact": str(compact)})


def load(original: nn.Module, folder: str | Path) -> "PeftModel":
    """The adapter in `folder` on `original`, which is changed: pruned first where a mask lies beside the adapter, and made
    smaller where the base was."""
    from peft import PeftModel

    mask_file = Path(folder) / MASK_FILE
    if mask_file.exists():
        with safe_open(mask_file, "pt") as file:
            compact = (file.metadata() or {}).get("compact")
        masks = load_file(mask_file)
        pruning.silence(original, masks)
        if compact == "True":
            compaction.remove(original, masks)
    return PeftModel.from_pretrained(original, folder).eval()
