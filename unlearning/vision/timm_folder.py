"""A checkpoint's network as a folder that timm loads without this project: weights, config and model card.

The format is that of timm's models on the Hugging Face Hub: `timm.create_model("local-dir:FOLDER", pretrained=True)`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

import models
from unlearning.core import seals
from unlearning.core.content import read_json
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import check_writable, replacing, save_tensors, write_bytes
from unlearning.core.words import encoded, first_line

FILES = {"README.md", "config.json", "model.safetensors"}
SOURCE = "checkpoint_sha256"  # where config.json says what the folder was made from
TOLERANCE = 1e-5  # of the largest logit
WAY_OUT = "--onnx writes it for other tools"


class Plain(NamedTuple):
    """How timm makes a network: create_model(architecture, **arguments), for images of `size` pixels.

    stem: where a 3 x 3 convolution of stride 1 takes the place of timm's stem, its width; there is no pooling then.
    """

    architecture: str
    arguments: dict[str, Any]
    size: int
    stem: int | None = None


def plain_of(network: Mapping[str, Any], net: nn.Module) -> Plain | None:
    """How timm makes `net`, which a checkpoint describes as `network`; None for a network that isn't timm's."""
    name, known = network["name"], network["arguments"]
    size = known.get("input_size") or known["img_size"]
    shape = {"in_chans": known["in_chans"], "num_classes": known["num_classes"]}
    if name in ("resnet8", "resnet20"):
        blocks = (int(name.removeprefix("resnet")) - 2) // 6
        stages = {"layers": [blocks] * 3 + [0], "channels": [16, 32, 64, 64]}  # the fourth has no block: the identity
        return Plain("resnet18", shape | stages | {"stem_type": "deep", "stem_width": 8}, size, stem=16)
    if name in ("resnet18", "resnet50"):
        return Plain(name, shape, size, stem=64)
    if name in models.VITS:
        side, width, depth, heads = models.VITS[name]
        own = {"img_size": size, "patch_size": size // side, "embed_dim": width, "depth": depth, "num_heads": heads}
        pooled = {"class_token": False, "global_pool": "avg", "fc_norm": False}
        return Plain("vit_tiny_patch16_224", shape | own | pooled, size)
    config: Any = getattr(net, "pretrained_cfg", {})
    if not config.get("architecture"):
        return None
    sized = {"img_size": size} if config.get("fixed_input_size") else {}
    return Plain(config["architecture"], shape | sized | known.get("model_args", {}), size)


def prepare(checkpoint: Mapping[str, Any], model: nn.Module) -> tuple[nn.Module, Plain]:
    """timm's network with the weights of `model`, a checkpoint's, in evaluation mode, and how timm makes it.

    Raises UserError where no network of timm is the same.
    """
    import timm

    source, name = model.get_submodule("net"), checkpoint["network"]["name"]
    plain = plain_of(checkpoint["network"], source)
    if checkpoint["network"].get("compact"):
        raise UserError(f"--timm: a {name} that --compact has made smaller is no network of timm's; {WAY_OUT}")
    if plain and plain.stem:
        raise UserError(f"--timm: no network of timm's has {name}'s stem for small images; {WAY_OUT}")
    try:
        if not plain:
            raise LookupError
        net = timm.create_model(plain.architecture, pretrained_cfg=_config(model, plain), **plain.arguments)
        net.load_state_dict(source.state_dict())
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError):
        raise UserError(f"--timm: {name} is no network of timm's; {WAY_OUT}") from None
    return net.eval(), plain


def _config(model: nn.Module, plain: Plain) -> dict[str, Any]:
    """What timm keeps beside weights: the images that they are for, and the names of the first and the last layer."""
    import timm

    known: Any = timm.get_pretrained_cfg(plain.architecture)
    channels = plain.arguments["in_chans"]
    return {
        "architecture": plain.architecture,
        "input_size": (channels, plain.size, plain.size),
        "fixed_input_size": known.fixed_input_size,
        "interpolation": "bilinear" if hasattr(model, "resize") else "bicubic",  # as data.py resizes images of a folder
        "crop_pct": 1.0,
        "mean": tuple(model.get_buffer("normalize.mean").flatten().tolist()),
        "std": tuple(model.get_buffer("normalize.std").flatten().tolist()),
        "num_classes": plain.arguments["num_classes"],
        "first_conv": known.first_conv if channels == 3 else None,  # timm before 1.0.31 takes weights for those of RGB
        "classifier": known.classifier,
    }


def is_there(folder: Path, source: str, scores: str, overwrite: bool) -> bool:
    """True if `folder` was made from the checkpoint of SHA-256 `source` and its card has these `scores`: nothing is to do.

    Raises UserError where something else is there, which `overwrite` may replace only if it is such a folder, and where
    nothing can be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file, not a folder to write")
    check_writable(folder.resolve().parent)
    if not folder.exists() or not any(folder.iterdir()):
        return False
    found = source_of(folder)
    if found is None:
        raise UserError(f"{folder} holds files that export.py --timm hasn't written: name another folder")
    if overwrite:
        seals.check_own([folder / "README.md"])
        return False
    if found != source:
        raise UserError(f"{folder} exists, made from something else; --overwrite replaces it")
    if encoded(scores) not in (folder / "README.md").read_bytes():
        raise UserError(f"{folder} exists, without this row on its card; --overwrite replaces it")
    return True


def source_of(folder: Path) -> str | None:
    """SHA-256 of the checkpoint that a folder was made from; None for any other folder, and for one with more in it."""
    try:
        found = read_json(folder / "config.json")[SOURCE]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return found if isinstance(found, str) and {path.name for path in folder.iterdir()} == FILES else None


def write(folder: Path, model: nn.Module, checkpoint: Mapping[str, Any], source: str, card: str) -> None:
    """Write `model`, the network of a checkpoint of SHA-256 `source`, and its `card` as `folder`, replacing that as a whole.

    Raises UserError as `prepare` does, and RunFailed where timm answers differently or the disk is full.
    """
    from timm.models._hub import save_config_for_hf  # the rest of timm's own way needs the hub's library

    net, plain = prepare(checkpoint, model)
    classes = checkpoint.get("classes")
    about = {SOURCE: source} | ({"label_names": list(classes)} if classes else {})
    with replacing(folder.resolve()) as part:
        part.mkdir()
        tensors = {name: value.contiguous().clone() for name, value in net.state_dict().items()}  # none shares memory
        save_tensors(part / "model.safetensors", tensors, {"format": "pt"})
        save_config_for_hf(net, part / "config.json", model_config=about, model_args=plain.arguments)  # type: ignore[arg-type]
        write_bytes(part / "README.md", seals.sealed(encoded(card), "markdown"))
        _check(part, model, plain)


def _check(folder: Path, model: nn.Module, plain: Plain) -> None:
    """Raise RunFailed unless the network that timm loads from `folder` answers as `model` does."""
    import timm

    try:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    except Exception as error:  # each of timm's networks fails in a way of its own
        raise RunFailed(f"timm doesn't load what was written ({first_line(error)})") from None
    side = plain.size  # images of that side pass `resize` as they are
    images = torch.rand(4, plain.arguments["in_chans"], side, side)
    with torch.no_grad():
        expected = model(images)
        off = difference(again(model.get_submodule("normalize")(images)), expected)
    if not off < TOLERANCE:
        raise RunFailed(f"timm answers differently, by {off:.2g} of the largest logit")


def difference(answers: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest distance of two sets of logits, over the largest finite logit; infinite where only one is finite."""
    finite = expected.isfinite()  # a mask's logit is minus infinity
    if not torch.equal(answers[~finite], expected[~finite]):
        return float("inf")
    if torch.equal(answers, expected):  # zeros, too
        return 0.0
    return float((answers[finite] - expected[finite]).abs().max() / expected[finite].abs().max())
