"""Files of networks that others have trained: what they hold, by which names, and of which network.

State dicts, bare or wrapped, of any network that --model names; files of LoRA-Unlearn, of timm's train.py and torchvision's
reference scripts; folders of timm and of Hugging Face. Everything is read with `weights_only=True`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from unlearning.core.content import odd_kind, read_json
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch
from unlearning.core.words import first_line
from unlearning.images import named
from unlearning.networks import libraries
from unlearning.networks.checkpoint_fields import is_harmless
from unlearning.vision import published

LORA_UNLEARN = "a file of LoRA-Unlearn"
# Where files keep a state dict: people's names for it, the weights themselves before their running average.
ENTRIES = ("state_dict", "model", "net", "model_state_dict", "model_state", "weights", "params")
AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema")
BESIDE = ("n_averaged", "total_ops", "total_params")  # what tools leave among the weights
WRAPPERS = ("module", "_orig_mod")  # DataParallel's and torch.compile's, around a network or a part of it
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Found:
    """What a file or folder holds.

    kind: what it was recognised as, in words. entry: the key under which the tensors lay. others: keys that could be meant
    too. asked: True where the entry was asked for, and is another one than is taken unasked. name: of the network, as
    models.create knows it; None where the file doesn't say. arguments: of models.create, as far as the file says. constants:
    mean and standard deviation. size: side in pixels of the images that it was trained on. classes: their names. channels:
    of these images.
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
    channels: int | None = None
    asked: bool = False

    @property
    def base(self) -> bool:
        """True unless it is one of LoRA-Unlearn's unlearned files, which are bare state dicts."""
        return self.kind != LORA_UNLEARN or self.entry is not None


def read(path: Path, entry: str | None = None, model: str | None = None, constants: bool = True) -> Found:
    """What lies at `path`. entry: the key of the state dict to take. model: what the user says that its network is called,
    which goes before what a file's names and flags let one guess. constants: False where mean and deviation are known, and
    what the file says of them isn't looked at. Raises UserError for what holds no weights."""
    if path.is_dir():
        return _folder(path, entry, constants)
    found = _file(path, entry, model, constants)
    if found.kind == LORA_UNLEARN and not is_called(model, found.name):
        return Found("a state dict", found.tensors, found.entry, found.others, asked=found.asked)
    return found


def is_called(model: str | None, name: str | None) -> bool:
    """True unless `model` says another network than `name`."""
    return name is None or model in (None, name, name.split(":")[-1])


def _file(path: Path, entry: str | None, model: str | None, constants: bool) -> Found:
    content = _safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    key, tensors, others, asked = _state_dict(content, path, entry)
    if name := published.recognised(tensors):
        mean, std = named.constants("cifar10", 3)
        classes = tuple(map(str, range(published.classes(tensors))))
        return Found(LORA_UNLEARN, tensors, key, others, name, {}, ([*mean], [*std]), 32, classes, 3, asked)
    known, arch = content.get("args"), content.get("arch")
    told: dict[str, Any] = vars(known) if hasattr(known, "__dict__") else known if isinstance(known, dict) else {}
    if isinstance(arch, str):
        # timm's train.py writes a version too; PyTorch's ImageNet example, whose networks are torchvision's, doesn't.
        by_timm = bool(told) or "version" in content
        name = _library_of(arch, libraries.TIMM if by_timm else libraries.TORCHVISION)
        said = _constants(told.get("mean"), told.get("std"), f"{path}: args") if constants else None
        is_it = is_called(model, name)
        own = _model_args(_beside(told), f"{path}: args.model_kwargs") if is_it else {}
        kind = "a file of timm's train.py" if by_timm else "a training script's file"
        return Found(kind, tensors, key, others, name if is_it else None, own, said, asked=asked)
    if isinstance(told.get("model"), str) and "lr_scheduler" in content:
        name = _library_of(told["model"], libraries.TORCHVISION)
        name = name if is_called(model, name) else None
        return Found("a file of torchvision's train.py", tensors, key, others, name, asked=asked)
    return Found("a state dict", tensors, key, others, asked=asked)


def _beside(told: Mapping[str, Any]) -> Any:
    """What timm's train.py has made a network with beside its name, and what leaves no trace among its weights."""
    kwargs = told.get("model_kwargs")
    own = {as_: told[name] for name, as_ in (("gp", "global_pool"), ("bn_eps", "bn_eps")) if told.get(name) is not None}
    return own | kwargs if own and isinstance(kwargs, dict) else kwargs or own


def _library_of(name: str, first: str) -> str | None:
    """The name of a network with that of its library: of `first`, where both have one called so; None where neither does."""
    import timm

    known = {libraries.TIMM: timm.is_model(name), libraries.TORCHVISION: name in libraries.torchvision_names()}
    return next((library + name for library in (first, *known) if known[library]), None)


def _constants(mean: Any, std: Any, where: str, single: bool = False) -> tuple[list[float], list[float]] | None:
    """Mean and deviation that a file says, None where it says none. single: one number for all channels is one too.

    Raises UserError for what normalises nothing.
    """
    if mean is None or std is None:
        return None
    both = [[value] if single and _is_number(value) else value for value in (mean, std)]
    for name, values in zip(("mean", "std"), both, strict=True):
        if not isinstance(values, (list, tuple)) or not values or not all(map(_is_number, values)):
            raise UserError(f"{where}: its {name} is {str(values)[:60]!r}, not a list of numbers")
    if not all(value > 0 for value in both[1]):
        raise UserError(f"{where}: its std is {list(both[1])}, and images are divided by it")
    return [*both[0]], [*both[1]]


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30  # NaN isn't


def _model_args(given: Any, where: str) -> dict[str, Any]:
    """Further arguments of timm.create_model, as arguments of models.create. Raises UserError for one that could make timm
    read or fetch something, which no file may ask for: all but numbers, words, and lists of them."""
    if not given:
        return {}
    if not isinstance(given, dict):
        raise UserError(f"{where} is {str(given)[:60]}, not names and values")
    for name, value in given.items():
        if not is_harmless(name, value):
            raise UserError(f"{where}: {name}={str(value)[:60]!r} is nothing that a file may ask of timm")
    own = {str(name): value for name, value in given.items() if name not in ("in_chans", "num_classes", "img_size")}
    return {"model_args": own} if own else {}


def load(model: Any, found: Found, path: Path) -> str:
    """Give the network its tensors: "97 of 97" of its own were there. Raises UserError where some don't fit."""
    wanted = model.net.state_dict()
    _check_plain(found.tensors, path)
    try:
        given = published.converted(found.tensors, model.net) if found.kind == LORA_UNLEARN else found.tensors
    except (AttributeError, LookupError, RuntimeError) as error:  # LoRA's halves don't fit, or there is but one of them
        raise UserError(f"{path}: {found.kind} that doesn't fit its network ({first_line(error)})") from None
    given = without_prefix(given, wanted)
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    fitting = {name for name, value in given.items() if name in wanted and value.shape == wanted[name].shape}
    missing = [name for name in wanted if name not in given and name not in optional]
    extra = [name for name in given if name not in wanted]
    other = [name for name in given if name in wanted and name not in fitting]
    if missing or extra or other:
        how_many = f"{path}: {len(fitting - optional)} of the network's {len(wanted.keys() - optional)} tensors match"
        raise UserError(f"{how_many}; {_misfit(given, wanted, missing, extra, other)}")
    _check_values(given, wanted, path)
    model.net.load_state_dict(dict(wanted) | given)
    return f"{len(fitting - optional)} of {len(wanted.keys() - optional)}"


def _check_plain(tensors, path):
    """Raise UserError for tensors whose numbers don't lie there as such."""
    for name, value in tensors.items():
        if odd := odd_kind(value):
            raise UserError(f"{path}: tensor {name} is {odd}: save the state dict of an ordinary network")


def _check_values(given, wanted, path):
    """Raise UserError for numbers that a network can't calculate with."""
    for name, value in given.items():
        if value.is_complex() or (wanted[name].is_floating_point() and not value.is_floating_point()):
            raise UserError(f"{path}: tensor {name} is of {value.dtype}, and the network's of {wanted[name].dtype}")
        loaded = value.to(wanted[name].dtype)
        if loaded.isnan().any():
            raise UserError(f"{path}: tensor {name} holds NaN")
        if loaded.isinf().any() and not wanted[name].isinf().any():  # of a mask it may be meant
            raise UserError(f"{path}: tensor {name} holds infinity")


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


def without_prefix(given: Tensors, wanted: Mapping[str, Any]) -> Tensors:
    """The tensors without what stands before all of their names (`module.`, `_orig_mod.`, `model.`), and without the first
    two of these within names, as far as that makes more of them names of `wanted`."""
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): value for name, value in given.items()}
    candidates = [given]
    for tensors in (given, plain if len(plain) == len(given) else {}):
        candidates.append(tensors)
        while tensors and len({name.split(".")[0] for name in tensors}) == 1 and all("." in name for name in tensors):
            tensors = {name.split(".", 1)[1]: value for name, value in tensors.items()}
            candidates.append(tensors)
    return max(candidates, key=lambda tensors: len(tensors.keys() & wanted.keys()))


def _state_dict(content: Any, path: Path, entry: str | None) -> tuple[str | None, Tensors, tuple[str, ...], bool]:
    """(key, tensors, other keys that could be meant, True where `entry` isn't what is taken without it) of the state dict
    in what a file holds."""
    if not isinstance(content, dict):
        raise UserError(f"{path} holds {type(content).__name__}, not a state dict")
    if entry is None and _is_state(content):
        return None, _tensors(content), (), False
    there = [key for key, value in content.items() if isinstance(value, Mapping) and _is_state(value)]
    there.sort(key=lambda key: (*ENTRIES, key).index(key) + len(ENTRIES) * (key in AVERAGES))
    known = [key for key in there if key in (*ENTRIES, *AVERAGES)] or there
    if entry is not None:  # a file's keys may be numbers, which a command line has no way to write
        entry = next((key for key in there if str(key) == entry), entry)
    if entry is not None and entry not in there:
        raise UserError(f"{path} has no state dict {entry!r}; it has {', '.join(map(str, there)) or 'none'}")
    if not known:
        raise UserError(f"{path} is neither a checkpoint of this project nor a state dict")
    clear = known[0] in (*ENTRIES, *AVERAGES) or len(known) == 1
    if entry is None and not clear:
        raise UserError(f"{path} has several state dicts, {', '.join(map(str, known))}: name one with --entry")
    chosen = known[0] if entry is None else entry
    others = tuple(str(key) for key in known if key != chosen)
    return chosen, _tensors(content[chosen]), others, chosen != known[0] or not clear


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


def _folder(path, entry, constants):
    """What a folder of timm's or of Hugging Face's holds."""
    try:
        config = read_json(path / "config.json")
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{path} is no folder of timm or Hugging Face: config.json ({first_line(error)})") from None
    if isinstance(config, dict) and isinstance(config.get("architecture"), str):
        return _timm_folder(path, config, entry, constants)
    if isinstance(config, dict) and isinstance(config.get("model_type"), str):
        return _hugging_face_folder(path, config, constants)
    raise UserError(f"{path}/config.json names neither a timm architecture nor a model type of Hugging Face")


def _timm_folder(path, config, entry, constants):
    known = config.get("pretrained_cfg") or config
    if not isinstance(known, dict):
        raise UserError(f"{path}/config.json: its pretrained_cfg is {str(known)[:60]!r}, not names and values")
    channels, size = _input_size(known.get("input_size"), path)
    weights = next((path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).exists()), None)
    if weights is None:
        raise UserError(f"{path} has no model.safetensors")
    content = _safetensors(weights) if weights.suffix == ".safetensors" else read_torch(weights)
    key, tensors, others, asked = _state_dict(content, weights, None if _is_state(content) else entry)
    names = config.get("label_names") or None
    if names and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{path}/config.json: its label_names are no list of names")
    return Found(
        "a folder of timm",
        tensors,
        key,
        others,
        f"timm:{config['architecture']}",
        _model_args(config.get("model_args"), f"{path}/config.json: model_args"),
        _constants(known.get("mean"), known.get("std"), f"{path}/config.json") if constants else None,
        size,
        names and tuple(names),
        channels,
        asked,
    )


def _input_size(size, path):
    """(channels, side in pixels) of timm's input_size; of None, None for both."""
    if size is None:
        return None, None
    if not isinstance(size, (list, tuple)) or len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        raise UserError(f"{path}/config.json: its input_size is {str(size)[:60]!r}, not [channels, height, width]")
    return size[0], _side(size[1:], path)


def _side(size, path):
    """The side in pixels of images whose size a configuration says as one number or as height and width."""
    if isinstance(size, (list, tuple)) and len(size) == 2 and size[0] == size[1]:
        size = size[0]
    if size is not None and not (isinstance(size, int) and size > 0):
        raise UserError(f"{path}/config.json: its images are of {str(size)[:60]} pixels, and this project's are square")
    return size


def _hugging_face_folder(path, config, constants):
    from transformers import AutoModelForImageClassification
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        net: Any
        net, about = AutoModelForImageClassification.from_pretrained(
            path, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # each way in which such a folder is none has an error of its own
        raise UserError(f"{path} is no image classifier of Hugging Face ({first_line(error)})") from None
    finally:
        if bars:
            logging.enable_progress_bar()
    # What the file lacks the library fills with random numbers: the head, where only the network beneath it was saved.
    lacking = [name for name in about["missing_keys"] if not name.endswith("num_batches_tracked")]
    lacking = sorted([*lacking, *(key[0] for key in about["mismatched_keys"])])
    if lacking:
        named = ", ".join(lacking[:3])
        raise UserError(f"{path} is no image classifier of Hugging Face: it lacks {len(lacking)} tensors ({named} ...)")
    names = net.config.id2label
    return Found(
        "a folder of Hugging Face",
        net.state_dict(),
        None,
        (),
        f"{libraries.HUGGING_FACE}{config['model_type']}",
        {"config": net.config.to_diff_dict() | {"model_type": config["model_type"]}},
        _prepared(path / "preprocessor_config.json") if constants else None,
        _side(getattr(net.config, "image_size", None), path),
        tuple(str(names[number]) for number in sorted(names)),
        getattr(net.config, "num_channels", None),
    )


def _prepared(file):
    """Mean and deviation that a folder of Hugging Face says of images in [0, 1]; None where it says none."""
    try:
        told = read_json(file) if file.exists() else {}
    except (OSError, RecursionError, ValueError) as error:
        raise UserError(f"{file} can't be read ({first_line(error)})") from None
    if not isinstance(told, dict):
        raise UserError(f"{file} is {type(told).__name__}, not names and values")
    factor = told.get("rescale_factor", 1 / 255)
    if not told.get("do_rescale", True) or not _is_number(factor) or abs(255 * factor - 1) > 1e-3:
        raise UserError(f"{file}: its network takes images that aren't in [0, 1], as this project's are")
    if not told.get("do_normalize", True):
        return [0.0], [1.0]
    return _constants(told.get("image_mean"), told.get("image_std"), str(file), single=True)
