"""Networks from timm, checkpoints that describe themselves, and the published LoRA-Unlearn files.

A network here is `nn.Sequential(normalize, net)`: floats in [0, 1] go in, logits come out, and no script can normalise
wrongly. Checkpoints are read with `weights_only=True`, so no file can run code.
"""

import hashlib
import io
import os
from collections import OrderedDict
from pathlib import Path

import timm
import torch
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import data
import imagenet
import prompting
from errors import RunFailed, UserError

FORMAT = 1
PROMPTED = "prompted"  # several learners on one backbone: what parts.assemble makes
NAMES = ("resnet8", "resnet20", "resnet18", "resnet50", "vit_micro", "vit_small")
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)


class Normalize(nn.Module):
    """(x - mean) / std for each channel; x float (B, C, H, W)."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


def create(name, *, in_chans, num_classes, img_size, mean, std, input_size=None, pretrained=None):
    """A freshly initialised network: one of NAMES, or any timm name.

    mean, std: per-channel statistics of inputs in [0, 1]. input_size: side in pixels to which the network itself resizes
    images, None for as they come. pretrained: folder in which ImageNet weights are kept, to start from them, or None.
    Raises UserError for an unknown name or weights out of reach.
    """
    if pretrained and name in NAMES:
        raise UserError(f"--pretrained: {name} is a small-image network without ImageNet weights; give a timm name")
    data_size, img_size = img_size, input_size or img_size
    if name in ("resnet8", "resnet20"):
        net = _cifar_resnet((int(name.removeprefix("resnet")) - 2) // 6, in_chans, num_classes)
    elif name in ("resnet18", "resnet50"):
        net = timm.create_model(name, in_chans=in_chans, num_classes=num_classes)
        net.conv1 = nn.Conv2d(in_chans, 64, 3, padding=1, bias=False)  # CIFAR stem: 32 px are too few for stride 4
        net.maxpool = nn.Identity()
    elif name == "vit_small":
        net = simple_vit(in_chans, num_classes, img_size, patch=img_size // 8, width=384, depth=12, heads=6)
    elif name == "vit_micro":
        net = simple_vit(in_chans, num_classes, img_size, patch=img_size // 4, width=128, depth=4, heads=4)
    elif timm.is_model(name):
        # A transformer has its positions for one size and is told it; a CNN takes any.
        size = {"img_size": img_size} if timm.get_pretrained_cfg(name).fixed_input_size else {}
        if pretrained:
            net = imagenet.create(name, pretrained, in_chans=in_chans, num_classes=num_classes, **size)
        else:
            net = timm.create_model(name, in_chans=in_chans, num_classes=num_classes, **size)
    else:
        raise UserError(f"unknown model {name!r}; there are {', '.join(NAMES)} and timm's names")
    parts = OrderedDict(normalize=Normalize(mean, std))
    if img_size != data_size:
        parts["resize"] = nn.Upsample((img_size, img_size), mode="bilinear")
    return nn.Sequential(OrderedDict(**parts, net=net))


def create_for(name, dataset, pretrained=None, input_size=None):
    """A network for `dataset`, and the arguments that make it again: (module, dict)."""
    images = dataset.train.images
    channels = images.shape[1]
    if pretrained and timm.is_model(name):  # normalised as its weights have seen images
        statistics = timm.get_pretrained_cfg(name)
        mean, std = ([sum(x) / len(x)] * channels if channels != len(x) else x for x in (statistics.mean, statistics.std))
    else:
        mean, std = data.channel_statistics(images)
    arguments = {
        "in_chans": channels,
        "num_classes": len(dataset.classes),
        "img_size": images.shape[-1],
        "mean": [round(x, 4) for x in mean],
        "std": [round(x, 4) for x in std],
    }
    arguments |= {"input_size": input_size} if input_size else {}
    return create(name, **arguments, pretrained=pretrained), arguments


def _create_prompted(backbone, **arguments):
    network = create(backbone["name"], **backbone["arguments"])
    return prompting.Prompted(prompting.Backbone(network), **arguments)


def label(network):
    """What a table calls a network: its name, or for learners on a backbone the backbone's."""
    return f"{network['arguments']['backbone']['name']}, prompted" if network["name"] == PROMPTED else network["name"]


def head_name(model):
    """The dotted name of the classifier within `model`."""
    head = getattr(model, "net", model).get_classifier()
    return next(name for name, module in model.named_modules() if module is head)


def is_vit(model):
    """Whether the network is a stack of attention blocks in timm's layout."""
    return hasattr(model.net, "blocks") and hasattr(model.net.blocks[-1], "attn")


def stages(model):
    """Names of the modules whose outputs are the intermediate features: a ViT's blocks, a CNN's stages."""
    info = model.net.feature_info
    names = [f"net.{entry['module']}" for entry in getattr(info, "info", info)]
    weighty = (nn.Conv2d, nn.Linear)  # timm also names a stem's activation, and stages that this project left out
    return [name for name in names if any(isinstance(m, weighty) for m in model.get_submodule(name).modules())]


def is_convolutional(model):
    """Whether spatial convolutions do the work, so that channels_last pays, and bf16 on CPUs that multiply in it."""
    return any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def _cifar_resnet(blocks, in_chans, num_classes):
    """He et al. 2016, section 4.2: three stages of `blocks` basic blocks, widths 16-32-64 (6 * blocks + 2 layers)."""
    # timm's single-convolution stem is 64 wide; its deep stem takes a width, and one 3x3 convolution replaces it.
    net = ResNet(BasicBlock, (blocks,) * 3, num_classes, in_chans, channels=(16, 32, 64), stem_type="deep", stem_width=8)
    net.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    net.layer4 = nn.Identity()
    return net


def simple_vit(in_chans, num_classes, img_size, patch, width, depth, heads):
    """The paper's SimpleViT: fixed sin-cos positions, no class token, final norm, mean over tokens."""
    net = VisionTransformer(
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


# --- checkpoints ------------------------------------------------------------------------------------------------------


def write_atomically(path, payload):
    """`torch.save` to `path`, as `write_bytes` writes."""
    buffer = io.BytesIO()  # torch.save into memory: a full disk is then an ordinary OSError of our own write
    torch.save(payload, buffer)
    write_bytes(path, buffer.getbuffer())


def write_bytes(path, content):
    """Write to a temporary file beside `path`, flush to disk, rename: the old file or the new, never a part. RunFailed on a
    full disk."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunFailed(f"cannot write {path}: {error.strerror}") from None


def read(path):
    """The dictionary in a file that `torch.save` wrote, tensors on the CPU. Raises UserError if it isn't one."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"no file {path}") from None
    except Exception as error:  # foreign bytes make the reader fail in many ways; none of them may show a traceback
        raise UserError(f"{path} is not a readable checkpoint ({_first_line(error)})") from None


def load_checkpoint(path):
    """Our own checkpoint as a dictionary (keys: see cli.execute). Raises UserError for any other file."""
    return checked(read(path), path)


def is_checkpoint(content):
    """Whether what `read` returned says that it is this project's."""
    return isinstance(content, dict) and "format" in content


def checked(checkpoint, path):
    """`checkpoint`, as read from `path`, if it is one of this project's with every key. Raises UserError otherwise."""
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project (format {FORMAT})")
    missing = {"network", "state_dict", "method", "config", "data", "forget", "forget_tag", "seed", "cost", "key"} - set(
        checkpoint
    )
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}")
    return checkpoint


def build(checkpoint, path="the checkpoint"):
    """The network of a checkpoint dictionary with its weights, on the CPU, in evaluation mode."""
    name, arguments = checkpoint["network"]["name"], checkpoint["network"]["arguments"]
    try:
        model = _create_prompted(**arguments) if name == PROMPTED else create(name, **arguments)
        if checkpoint["network"].get("compact"):
            _shrink(model, checkpoint["state_dict"])
        model.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: the weights don't fit the network it names ({_first_line(error)})") from None
    return model.eval()


def _shrink(model, state):
    """Make the layers of `model` as small as a state dict of the same network has them."""
    for name, module in model.named_modules():
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, tensor in own:
            wanted = state[f"{name}.{key}"].shape
            if tensor.shape != wanted:
                smaller = torch.empty(wanted, dtype=tensor.dtype)
                setattr(module, key, nn.Parameter(smaller) if isinstance(tensor, nn.Parameter) else smaller)
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1
            module.out_channels, inputs = module.weight.shape[:2]
            module.groups = module.out_channels if depthwise else 1
            module.in_channels = inputs * module.groups
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(module.running_mean)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape


def state(model):
    """A copy of all parameters and buffers, on the CPU."""
    return {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}


def moved(before, after):
    """How many numbers among parameters and buffers differ between two states of one network; all of a smaller tensor."""
    return sum(
        (before[key] != value).sum().item() if before[key].shape == value.shape else value.numel()
        for key, value in after.items()
    )


def sha256(path):
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error):
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


# --- the published LoRA-Unlearn files ---------------------------------------------------------------------------------


def from_published(state, path):
    """A network out of one of LoRA-Unlearn's own files: (module in evaluation mode, "resnet50" or "vit_small").

    state: what `read` returned for `path`.
    Accepts bare state dicts, `{"net": ...}` and `{"state_dict": ...}`, `module.` and `base_model.model.` prefixes, and
    unmerged LoRA, which is merged here (alpha / r is 16/8 for the ResNet, 32/16 for the ViT: 2 in both).
    """
    from_scratch = isinstance(state, dict) and "net" in state
    for wrapper in ("net", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is neither a checkpoint of this project nor a state dict")
    state = {key.removeprefix("module.").removeprefix("base_model.model."): value for key, value in state.items()}
    state = _merge_lora(state, scale=2.0)
    if "conv_proj.weight" in state:
        name, rename = "vit_small", _vit_key
    elif "linear.weight" in state and "layer4.2.conv3.weight" in state:
        name, rename = "resnet50", _resnet_key
    else:
        raise UserError(f"{path}: neither LoRA-Unlearn's ResNet-50 nor its ViT, nor a checkpoint of this project")
    # Their ResNet was pre-trained with other deviations than it was unlearned and evaluated with.
    std = (0.2023, 0.1994, 0.2010) if from_scratch else (0.2471, 0.2435, 0.2616)
    classes = len(state["heads.head.weight" if name == "vit_small" else "linear.weight"])
    model = create(name, in_chans=3, num_classes=classes, img_size=32, mean=CIFAR10_MEAN, std=std)
    if "pos_embedding" in state:
        state["pos_embedding"] = state["pos_embedding"].reshape(model.net.pos_embed.shape)
    try:
        model.net.load_state_dict({rename(key): value for key, value in state.items()})
    except RuntimeError as error:
        raise UserError(f"{path}: keys like LoRA-Unlearn's, but {_first_line(error)}") from None
    return model.eval(), name


def _merge_lora(state, scale):
    """W + scale * B A for every `base_layer` in the state dict; a `modules_to_save` copy replaces its original."""
    merged = {}
    for key, value in state.items():
        if ".lora_" in key or ".original_module." in key:
            continue
        key = key.replace(".modules_to_save.default.", ".")
        layer = key.removesuffix(".base_layer.weight")
        if f"{layer}.lora_A.default.weight" in state and layer != key:
            down, up = state[f"{layer}.lora_A.default.weight"], state[f"{layer}.lora_B.default.weight"]
            value = value + scale * (up.flatten(1) @ down.flatten(1)).view_as(value)
        merged[key.replace(".base_layer.", ".")] = value
    return merged


def _resnet_key(key):
    return key.replace("shortcut", "downsample").replace("linear.", "fc.")


def _vit_key(key):
    for theirs, ours in (
        ("pos_embedding", "pos_embed"),
        ("conv_proj", "patch_embed.proj"),
        ("encoder.layers.encoder_layer_", "blocks."),
        ("encoder.ln", "norm"),
        (".ln_1.", ".norm1."),
        (".ln_2.", ".norm2."),
        ("self_attention.in_proj_", "attn.qkv."),
        ("self_attention.out_proj", "attn.proj"),
        ("mlp.0.", "mlp.fc1."),
        ("mlp.3.", "mlp.fc2."),
        ("heads.head", "head"),
    ):
        key = key.replace(theirs, ours)
    return key
