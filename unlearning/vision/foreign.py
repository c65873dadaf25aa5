"""Files of networks that others have trained: what they hold, by which names, and of which network.

State dicts, bare or wrapped, of any network that --model names; files of LoRA-Unlearn, of timm's train.py and torchvision's
reference scripts; folders of timm and of Hugging Face. Everything is read with `weights_only=True`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import data
from unlearning.core.errors import UserError
from unlearning.core.files import first_line, read_torch
from unlearning.networks import libraries
from unlearning.vision import published

LORA_UNLEARN = "a file of LoRA-Unlearn"
# Where files keep a state dict: people's names for it, the weights themselves before their running average.
ENTRIES = ("state_dict", "model", "net", "model_state_dict", "model_state", "weights", "params")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
BESIDE = ("n_averaged", "total_ops", "total_params")  # what tools leave among the weights
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Found:
    """What a file or folder holds.

    kind: what it was recognised as, in words. entry: the key under which the tensors lay. name: of the network, as
    models.create knows it; None where the file doesn't say. arguments: of models.create, as far as the file says. constants:
    mean and standard deviation. size: side in pixels of the images that it was trained on. classes: their names.
    """

    kind: str
    tensors: Tensors
    entry: str | None = None
    others: tuple[str, ...] = ()
    name: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    constants: tuple[list[float], list[float]] | None = None
    size: int | None = None
    classes: tuple[str, ...] | None = None

    @property
    def base(self) -> bool:
        """True unless it is one of LoRA-Unlearn's unlearned files, which are bare state dicts."""
        return self.kind != LORA_UNLEARN or self.entry is not None


def read(path: Path, entry: str | None = None) -> Found:
    """What lies at `path`. entry: the key of the state dict to take. Raises UserError for what holds no weights."""
    if path.is_dir():
        return _folder(path)
    content = _safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    key, tensors, others = _state_dict(content, path, entry)
    if name := published.recognised(tensors):
        mean, std = data.NORMALISATION["cifar10"]
        classes = tuple(map(str, range(published.classes(tensors))))
        return Found(LORA_UNLEARN, tensors, key, others, name, {}, ([*mean], [*std]), 32, classes)
    known, arch = content.get("args"), content.get("arch")
    told: dict[str, Any] = vars(known) if hasattr(known, "__dict__") else known if isinstance(known, dict) else {}
    if isinstance(arch, str):
        constants = ([*told["mean"]], [*told["std"]]) if told.get("mean") and told.get("std") else None
        own = {"model_args": dict(told["model_kwargs"])} if told.get("model_kwargs") else {}
        return Found("a file of timm's train.py", tensors, key, others, f"timm:{arch}", own, constants)
    if isinstance(told.get("model"), str) and "lr_scheduler" in content:
        name = f"{libraries.TORCHVISION}{told['model']}"
        return Found("a file of torchvision's train.py", tensors, key, others, name)
    return Found("a state dict", tensors, key, others)


def is_one(content: object) -> bool:
    """True for what `read_torch` returned where `read` would find weights."""
    try:
        return bool(_state_dict(content, Path(), None))
    except UserError:
        return False


def load(model: Any, found: Found, path: Path) -> str:
    """Give the network its tensors: "97 of 97" of its own were there. Raises UserError where some don't fit."""
    wanted = model.net.state_dict()
    given = published.converted(found.tensors, model.net) if found.kind == LORA_UNLEARN else found.tensors
    given = _without_prefix(given, wanted)
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    fitting = {name for name, value in given.items() if name in wanted and value.shape == wanted[name].shape}
    missing = [name for name in wanted if name not in given and name not in optional]
    extra = [name for name in given if name not in wanted]
    other = [name for name in given if name in wanted and name not in fitting]
    if missing or extra or other:
        how_many = f"{path}: {len(fitting - optional)} of the network's {len(wanted.keys() - optional)} tensors match"
        raise UserError(f"{how_many}; {_misfit(given, wanted, missing, extra, other)}")
    model.net.load_state_dict(dict(wanted) | given)
    return f"{len(fitting - optional)} of {len(wanted.keys() - optional)}"


def _misfit(given, wanted, missing, extra, other):
    """What doesn't fit, in words, with the way out where it can be told."""
    if other:
        name = next((name for name in other if "pos" in name), other[0])
        way = "another image size (--img-size, --input-size)?" if "pos" in name else "other classes, channels or --model?"
        if tuple(given[name].shape[2:]) == (7, 7):  # of this project's own ResNets it is 3x3
            way = "timm:NAME and torchvision:NAME have such a first layer"
        return f"{name} is {tuple(given[name].shape)} in the file and {tuple(wanted[name].shape)} in the network: {way}"
    parts = [f"{len(missing)} are missing ({', '.join(missing[:3])} ...)"] if missing else []
    parts += [f"{len(extra)} of the file's are unknown to it ({', '.join(extra[:3])} ...)"] if extra else []
    return " and ".join(parts) + ": another --model?"


def _without_prefix(given: Tensors, wanted: Mapping[str, Any]) -> Tensors:
    """The tensors without what stands before all of their names (`module.`, `_orig_mod.`, `model.`), as far as that makes
    more of them names of `wanted`."""
    best = given
    while given and len({name.split(".")[0] for name in given}) == 1 and all("." in name for name in given):
        given = {name.split(".", 1)[1]: value for name, value in given.items()}
        if len(given.keys() & wanted.keys()) > len(best.keys() & wanted.keys()):
            best = given
    return best


def _state_dict(content: Any, path: Path, entry: str | None) -> tuple[str | None, Tensors, tuple[str, ...]]:
    """(key, tensors, other keys that could be meant) of the state dict in what a file holds."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not a state dict")
    if entry is None and _is_state(content):
        return None, _tensors(content), ()
    there = [key for key, value in content.items() if isinstance(value, Mapping) and _is_state(value)]
    there.sort(key=lambda key: (*ENTRIES, key).index(key) + len(ENTRIES) * (key in AVERAGES))
    known = [key for key in there if key in (*ENTRIES, *AVERAGES)] or there
    if entry is not None and entry not in there:
        raise UserError(f"{path} has no state dict {entry!r}; it has {', '.join(map(str, there)) or 'none'}")
    if not known:
        raise UserError(f"{path} is neither a checkpoint of this project nor a state dict")
    if entry is None and known[0] not in (*ENTRIES, *AVERAGES) and len(known) > 1:
        raise UserError(f"{path} has several state dicts, {', '.join(map(str, known))}: name one with --entry")
    chosen = known[0] if entry is None else entry
    return chosen, _tensors(content[chosen]), tuple(str(key) for key in known if key != chosen)


def _is_state(value):
    values = list(value.values())
    return bool(values) and all(isinstance(v, torch.Tensor) for v in values) and all(isinstance(k, str) for k in value)


def _tensors(state):
    return {key: value for key, value in state.items() if key.split(".")[-1] not in BESIDE}


def _safetensors(path):
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except Exception as error:  # the format's library has a kind of its own for each damage
        raise UserError(f"{path} is not a readable safetensors file ({first_line(error)})") from None


def _folder(path):
    """What a folder of timm's or of Hugging Face's holds."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no folder of timm or Hugging Face: config.json ({first_line(error)})") from None
    if isinstance(config, dict) and isinstance(config.get("architecture"), str):
        return _timm_folder(path, config)
    if isinstance(config, dict) and isinstance(config.get("model_type"), str):
        return _hugging_face_folder(path, config)
    raise UserError(f"{path}/config.json names neither a timm architecture nor a model type of Hugging Face")


def _timm_folder(path, config):
    known = config.get("pretrained_cfg") or config
    weights = next((path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).exists()), None)
    if weights is None:
        raise UserError(f"{path} has no model.safetensors")
    content = _safetensors(weights) if weights.suffix == ".safetensors" else read_torch(weights)
    key, tensors, others = _state_dict(content, weights, None)
    given = config.get("model_args") or {}
    own = {name: value for name, value in given.items() if name not in ("in_chans", "num_classes", "img_size")}
    return Found(
        "a folder of timm",
        tensors,
        key,
        others,
        f"timm:{config['architecture']}",
        {"model_args": own} if own else {},
        (list(known["mean"]), list(known["std"])) if known.get("mean") and known.get("std") else None,
        (known.get("input_size") or [None])[-1],
        tuple(config["label_names"]) if config.get("label_names") else None,
    )


def _hugging_face_folder(path, config):
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        net: Any = AutoModelForImageClassification.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each way in which such a folder is none has an error of its own
        raise UserError(f"{path} is no image classifier of Hugging Face ({first_line(error)})") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    file = path / "preprocessor_config.json"
    prepared = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    mean, std = prepared.get("image_mean"), prepared.get("image_std")
    names = net.config.id2label
    return Found(
        "a folder of Hugging Face",
        net.state_dict(),
        None,
        (),
        f"{libraries.HUGGING_FACE}{config['model_type']}",
        {"config": net.config.to_diff_dict() | {"model_type": config["model_type"]}},
        (list(mean), list(std)) if mean and std and prepared.get("do_normalize", True) else None,
        getattr(net.config, "image_size", None),
        tuple(names[number] for number in sorted(names)),
    )
