"""LoRA adapters: new ones, those of PEFT and TRL from elsewhere, and the folders that this project writes.

An adapter's folder is PEFT's, with a record.json beside its files that says what it was trained on and what has been asked
of it. One from elsewhere has no record: what it was trained on is said with the first request, and stands in the folders
that are answered into.
"""

import contextlib
import json
import pickle
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import nn

from unlearning.core import seals
from unlearning.core.content import check, read_json
from unlearning.core.errors import UserError
from unlearning.core.files import replacing, sha256
from unlearning.core.words import encoded, first_line, listed
from unlearning.language import fields
from unlearning.language.blocks import blocks_of

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

RECORD = "record.json"
CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
FILES = {RECORD, "README.md", CONFIG, ADAPTER}
FORMAT = 2
UNREADABLE = (EOFError, OSError, SafetensorError, ValueError, pickle.UnpicklingError)  # what a damaged file raises
REJECTED = (*UNREADABLE, AttributeError, LookupError, RuntimeError, TypeError, re.error)  # what PEFT raises beside it
# What PEFT's configuration may say that this project doesn't compute with: the field, what it means.
REFUSED = {
    "use_dora": "DoRA, whose gradient leaves out a part of the loss's",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "alora_invocation_tokens": "activated LoRA",
    "arrow_config": "Arrow's routing",
    "velora_config": "VeLoRA",
    "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA",
    "modules_to_save": "whole modules that were trained beside LoRA",
    "trainable_token_indices": "trained embeddings of tokens",
    "target_parameters": "LoRA on parameters that are no layers",
    "layer_replication": "blocks that are repeated",
    "megatron_config": "layers of Megatron",
}


def lora_config(model: Any, rank: int, alpha: int, targets: Sequence[str] | None, blocks: int) -> "LoraConfig":
    """LoRA without dropout on the linear layers `targets` of the last `blocks` blocks. None: the last linear layer of each.

    A name is a layer's own or ends in it, as in "mlp.c_proj". Raises UserError for names that no block has.
    """
    from peft import LoraConfig

    every = blocks_of(model)
    if blocks > len(every):
        raise UserError(f"--blocks {blocks}: the model has {len(every)}")
    names = {module: name for name, module in model.named_modules()}
    chosen = []
    for block in every[-blocks:]:
        layers = linear_layers(block)
        asked = targets or list(layers)[-1:]
        for target in asked:
            found = [name for name in layers if f".{name}".endswith(f".{target}")]
            if not found:
                raise UserError(f"--targets {target}: no linear layer of a block; there are {listed(layers)}")
            chosen += [f"{names[block]}.{name}" for name in found]
    transposed = any(type(model.get_submodule(name)).__name__ == "Conv1D" for name in chosen)
    return LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=sorted(set(chosen)), fan_in_fan_out=transposed, task_type="CAUSAL_LM"
    )


def start_of(folder: Path) -> "LoraConfig":
    """LoRA of the shape of a folder's adapter, without dropout: what it began as, for the seed that it had. Raises UserError
    for a configuration that PEFT doesn't take."""
    from peft import LoraConfig

    try:
        config: Any = LoraConfig.from_pretrained(str(folder))
    except REJECTED as error:
        raise UserError(f"PEFT doesn't take {folder / CONFIG} ({first_line(error)})") from None
    config.inference_mode, config.lora_dropout = False, 0.0
    return config


def linear_layers(block: nn.Module) -> dict[str, nn.Module]:
    """The linear layers of a block by name, GPT-2's transposed ones too."""
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }


def read_config(folder: Path) -> dict[str, Any]:
    """What a folder of PEFT's says of its adapter. Raises UserError for any other, and by name for what isn't plain LoRA."""
    try:
        config = read_json(folder / CONFIG)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no adapter of PEFT: {CONFIG} can't be read ({first_line(error)})") from None
    check(config, fields.peft_config, str(folder / CONFIG))
    if config["peft_type"] != "LORA":
        raise UserError(f"{folder} is an adapter of {config['peft_type']}: only LoRA is unlearned")
    if odd := [name for name in REFUSED if config.get(name)]:
        raise UserError(f"{folder} has {REFUSED[odd[0]]} ({odd[0]}): only LoRA alone is unlearned")
    if config.get("bias", "none") != "none":
        raise UserError(f"{folder} has trained biases (bias: {config['bias']}): only LoRA alone is unlearned")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga")):
        raise UserError(f"{folder} began with {start}, which changes the base itself: convert it to plain LoRA first")
    return config


@contextlib.contextmanager
def adapted(model: Any, source: "LoraConfig | Path") -> "Iterator[PeftModel]":
    """`model` with an adapter while the context lasts: a PeftModel, its LoRA in float32; afterwards the base is what it was.

    source: a peft.LoraConfig, for a new adapter whose start depends on torch's seed, or an adapter's folder. Raises
    UserError for a folder that doesn't fit the model, is damaged, or was never trained.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    try:
        with warnings.catch_warnings():  # peft asks transformers for it by an old name
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")
            if isinstance(source, LoraConfig):
                peft_model: Any = get_peft_model(model, source)
            else:
                weights = _weights_of(source, model)
                peft_model = PeftModel.from_pretrained(model, str(source), is_trainable=True)
    except REJECTED as error:
        raise UserError(f"no such adapter on this model ({first_line(error)})") from None
    try:
        if not isinstance(source, LoraConfig):
            _check_weights(peft_model, source, weights)
        yield peft_model.eval()
    finally:
        peft_model.unload()


def _weights_of(folder: Path, model: Any) -> dict[str, torch.Tensor]:
    """LoRA's tensors in a folder by name. Raises UserError where it brings other weights of the base than the base has.

    PEFT writes embeddings and output layers beside LoRA on these, and reads them into the base, which is to stay.
    """
    from peft.utils import load_peft_weights

    found, own = load_peft_weights(str(folder), device="cpu"), model.state_dict()
    brought = [name for name in found if "lora_" not in name]
    for name in brought:
        its = own.get(name.removeprefix("base_model.model.").replace(".base_layer", ""))
        tensor = found.pop(name)
        if its is None or not torch.equal(tensor.to(its), its):
            raise UserError(f"{folder} has weights beside LoRA that the base hasn't ({name}): only LoRA alone is unlearned")
    return found


def _check_weights(peft_model: Any, folder: Path, there: dict[str, torch.Tensor]) -> None:
    """Raise UserError where a folder's weights aren't all of the adapter's, not numbers, or as they were before training."""
    from peft import get_peft_model_state_dict

    wanted = get_peft_model_state_dict(peft_model, save_embedding_layers=False)
    if odd := sorted(there.keys() ^ wanted.keys()):
        lost = "it lacks" if odd[0] in wanted else "the base has no place for"
        raise UserError(f"{folder} doesn't fit the base: {lost} {odd[0]}")
    if not all(bool(tensor.isfinite().all()) for tensor in there.values()):
        raise UserError(f"{folder} has weights that aren't numbers: it is damaged")
    grown = any(bool(tensor.any()) for name, tensor in there.items() if "lora_B" in name or "lora_embedding_B" in name)
    if not grown and not (folder / RECORD).exists():  # with a record, it is what a request may leave
        raise UserError(f"{folder} is untrained: all of its lora_B are zero, so there is nothing to unlearn")


def read_record(folder: Path) -> dict[str, Any] | None:
    """What an adapter's folder says of itself; None for one from elsewhere. Raises UserError for any other folder."""
    file = folder / RECORD
    read_config(folder)
    if not file.exists():
        return None
    try:
        record = read_json(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({first_line(error)})") from None
    if isinstance(record, dict) and record.get("format") == 1:
        raise UserError(
            f"{folder} is of an earlier version, whose adapters chose among answers: train it again; or, to have it taken "
            f"as one from elsewhere, move {RECORD} out of it and give --train"
        )
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{folder} is not an adapter of this project's format {FORMAT}")
    check(record, fields.record, str(file))
    for part, known in ((ADAPTER, record["adapter_sha256"]), (CONFIG, record.get("adapter_config_sha256"))):
        if known and not ((folder / part).is_file() and sha256(folder / part) == known):
            raise UserError(f"{folder / part} is missing, or not what {RECORD} beside it was written with: it is damaged")
    return record


def write_adapter(peft_model: Any, folder: Path, record: dict[str, Any], card: str) -> None:
    """Write an adapter in PEFT's format with its record and card, the folder as a whole. Raises RunFailed on a full disk."""
    with replacing(folder) as part:
        peft_model.save_pretrained(str(part), save_embedding_layers=False)  # "auto" asks the Hub
        (part / "README.md").write_bytes(seals.sealed(encoded(card), "markdown"))
        made = {"format": FORMAT, "adapter_sha256": sha256(part / ADAPTER), "adapter_config_sha256": sha256(part / CONFIG)}
        check(record | made, fields.record, str(folder / RECORD))  # else nobody could read it again
        (part / RECORD).write_text(json.dumps(record | made, indent=1, allow_nan=False), encoding="utf-8")


def trainable(peft_model: Any) -> list[nn.Parameter]:
    """The parameters of an adapter, float32."""
    return [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
