"""The adapter's folder beside a checkpoint, in PEFT's own format, for the plain network without its normalisation.

It also holds the batch-norm layers, because their running statistics move while the network trains in the paper's way, and
a mask file where the base was pruned first; without these two the adapter on the original wouldn't give the logits of the
merged network. Folders of earlier versions are for the network with its normalisation: their names begin with `net.`.
"""

import copy
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from unlearning.core import distributed, seals
from unlearning.core.errors import UserError
from unlearning.core.files import Staged, read_torch, save_tensors, sha256, write_bytes, writing
from unlearning.core.words import encoded, first_line
from unlearning.vision import cards, compaction, pruning

if TYPE_CHECKING:
    from peft import PeftModel

    from unlearning.vision.run import Run

ADAPTER_FILE, MASK_FILE = "adapter_model.safetensors", "mask.safetensors"
CONFIG_FILE, CARD_FILE = "adapter_config.json", "README.md"  # PEFT's name for its own
FILES = {ADAPTER_FILE, MASK_FILE, CONFIG_FILE, CARD_FILE}
PLAIN = {"format": "pt", "fits": "plain"}  # what the file says of itself; those of earlier versions don't say "fits"
NET = "net."  # under which a network with its normalisation holds the plain one
PEFTS = "base_model.model."


def folder_for(checkpoint: str | Path) -> Path:
    """The adapter's folder beside a checkpoint: x.pth to x_adapter."""
    return Path(checkpoint).with_name(Path(checkpoint).name.removesuffix(".pth") + "_adapter")


def check_replaceable(run: "Run") -> None:
    """Raise UserError where the place of a run's adapter is taken by anything but the adapter of the checkpoint that the run
    replaces."""
    output = run.staged.main
    folder, overwrite = folder_for(output), run.snapshot is not None and run.snapshot.overwrite
    if not folder.exists() and not folder.is_symlink():
        return
    there = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    before: dict[str, Any] = read_torch(output) if output.exists() else {}
    what, came_with = None, before.get("adapter")
    if folder.is_symlink() or not folder.is_dir():
        what = "is a link, or no folder"
    elif there and CONFIG_FILE not in there:
        what = f"holds {min(there - FILES or there)}"
    elif strange := _strange(folder):
        what = strange
    elif not before and not (overwrite and _says_ours(folder)):
        what = f"is there without {output.name}"
    elif came_with and came_with != digests(folder):
        what = f"isn't the one that {output.name} came with"
    elif before and not came_with and "rank" not in before["config"]:
        what = f"{output.name} came with none"
    if what:
        raise UserError(f"{folder} is where the adapter goes, and {what}: move it, or give another --output")


def check_going(checkpoint: Path) -> None:
    """Raise UserError where the adapter of a checkpoint that is replaced, which goes along, has something of somebody's own
    in its folder."""
    folder = folder_for(checkpoint)
    if folder.is_dir() and recorded(checkpoint) == digests(folder) and (strange := _strange(folder)):
        raise UserError(f"{folder}, which goes with {checkpoint.name}, {strange}: move it, or give another --output")


def _strange(folder: Path) -> str | None:
    """What in an adapter's folder this project hasn't written; None if there is no such thing."""
    if others := {file.name for file in folder.iterdir()} - FILES:
        return f"holds {min(others)}"
    card = folder / CARD_FILE
    if os.path.lexists(card) and not seals.is_own(card):
        return f"holds a {CARD_FILE} that isn't as this project wrote it"
    return None


def save(
    peft_model: "PeftModel", run: "Run", masks: Mapping[str, torch.Tensor] | None = None, compact: bool = False
) -> None:
    """Write the adapter in PEFT's format, `masks` and a card, which take their place beside the checkpoint along with it; on
    rank 0 alone.

    run: whose output the folder lies beside. compact: True if the base was made smaller by these masks first. Raises
    RunFailed on a full disk.
    """
    if not distributed.is_main():
        return
    net: Any = peft_model.get_base_model().net
    tensors, config = _for_plain_network(peft_model, net)
    folder = folder_for(run.staged.main)
    part = run.staged.part(folder)
    with writing(folder):
        part.mkdir()
        save_tensors(part / ADAPTER_FILE, tensors, PLAIN)
        config.save_pretrained(
            str(part), auto_mapping_dict={"base_model_class": type(net).__name__, "parent_library": type(net).__module__}
        )
        if masks:
            named = {name.removeprefix(NET): mask for name, mask in masks.items()}
            save_tensors(part / MASK_FILE, named, {"compact": str(compact)})
        card = cards.adapter(run.record, net, folder.name, bool(masks), compact)
        write_bytes(part / CARD_FILE, seals.sealed(encoded(card), "markdown"))


def beside(staged: Staged) -> dict[str, Any]:
    """What a checkpoint says of the adapter that is staged along with it: the SHA-256 of its files by name, as "adapter"; {}
    where there is none. The adapter of the checkpoint that is replaced goes with that."""
    folder = folder_for(staged.main)
    if folder in staged.parts:
        return {"adapter": digests(staged.part(folder))}
    if folder.is_dir() and recorded(staged.main) == digests(folder):
        staged.without(folder)
    return {}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files in an adapter's folder that make its answers, by name."""
    named = (ADAPTER_FILE, MASK_FILE, CONFIG_FILE)
    return {name: sha256(folder / name) for name in named if (folder / name).is_file()}


def _says_ours(folder: Path) -> bool:
    """True for an adapter that says inside that this project has written it, and for an empty folder, unless another
    checkpoint of a name like it lies beside it."""
    beside = [folder.with_name(folder.name.removesuffix("_adapter") + ending) for ending in ("", ".pth")]
    if any(path.exists() for path in beside):
        return False
    return not any(folder.iterdir()) or ((folder / ADAPTER_FILE).is_file() and "fits" in _read(folder / ADAPTER_FILE)[1])


def recorded(checkpoint: Path) -> dict[str, str] | None:
    """What a checkpoint says of its adapter; None where there is no checkpoint, or one of an earlier version."""
    return read_torch(checkpoint).get("adapter") if checkpoint.exists() else None


def _for_plain_network(peft_model, net):
    """The adapter's tensors and its PEFT configuration, with names as in `net`: exactly these layers, whatever others are
    called. Of modules that are saved whole PEFT takes all whose names end like one of its list, so that their tensors are
    saved too."""
    from peft import get_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    found = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    tensors = {name.replace(PEFTS + NET, PEFTS, 1): value.contiguous().clone() for name, value in found.items()}
    with_lora = [name for name, module in net.named_modules() if isinstance(module, LoraLayer)]
    saved = [name for name, module in net.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    inner = tuple(f"{name}." for name in [*with_lora, *saved])
    for name, module in net.named_modules():
        if saved and name.endswith(tuple(saved)) and name not in saved and not name.startswith(inner):
            tensors |= {f"{PEFTS}{name}.{key}": value.contiguous().clone() for key, value in module.state_dict().items()}
    config = copy.deepcopy(peft_model.peft_config["default"])
    config.target_modules, config.modules_to_save = "|".join(map(re.escape, with_lora)), saved or None
    config.inference_mode = True
    return tensors, config


def load(original: nn.Module, folder: str | Path) -> nn.Module:
    """`original` with the adapter in `folder`, which takes images in [0, 1], in evaluation mode.

    `original` is changed: pruned first where a mask lies beside the adapter, and made smaller where the base was. Raises
    UserError where the folder holds no adapter, one for another network, or not the one that the checkpoint beside it came
    with.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

    tensors, about = _read(Path(folder) / ADAPTER_FILE)
    checkpoint = Path(folder).with_name(Path(folder).name.removesuffix("_adapter") + ".pth")
    if (came_with := recorded(checkpoint)) and came_with != digests(Path(folder)):
        raise UserError(f"{folder} is damaged, or not the adapter that {checkpoint.name} came with")
    plain = "fits" in about
    if (Path(folder) / MASK_FILE).exists():
        masks, of = _read(Path(folder) / MASK_FILE)
        masks = {(NET if plain else "") + name: mask for name, mask in masks.items()}
        pruning.silence(original, masks)
        if of.get("compact") == "True":
            compaction.remove(original, masks)
    try:
        config = LoraConfig.from_pretrained(str(folder))
        adapted = PeftModel(original.get_submodule("net") if plain else original, config)
        odd = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys() ^ tensors.keys()
        if odd:
            raise ValueError(f"only one of them has {min(odd)}")
        set_peft_model_state_dict(adapted, tensors)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{folder} holds no adapter for this network ({first_line(error)})") from None
    if not plain:
        return adapted.eval()
    original.net = adapted
    return original.eval()


def _read(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors in a file, and what it says of itself. Raises UserError where it can't be read."""
    try:
        with safe_open(file, "pt") as opened:
            return load_file(file), opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file} can't be read as part of an adapter ({first_line(error)})") from None
