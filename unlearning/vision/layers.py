"""Which layers of a network are its stem, its blocks and its head, and so which ones are pruned and get LoRA.

Stem and head are what timm's configuration of the network names (`first_conv`, `classifier`), and what belongs to them; of a
network that has none the first layer, and the last (of one of the user's own `named_layers.giving`). What the user has named
(`models.LayerNames`) goes before every rule. There are three kinds of networks:

CNN          no attention, convolutions in its blocks: every convolution is pruned, those of the blocks get LoRA.
transformer  attention blocks: the last one's output projection is pruned and gets LoRA.
mixer        neither: the last block's last linear layer is pruned and gets LoRA.

A linear layer in a block of a CNN (ConvNeXt) is a 1x1 convolution, and counts as one.
"""

from typing import Any

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

import models
from unlearning.core.errors import UserError

BY_HAND = "--{}-targets names some by hand"
PARAMETRISED = "computes its weights from others (weight norm, spectral norm)"
OWN_FORWARD = "has a forward pass of its own"
WEIGHTED = (nn.Conv2d, nn.Linear)
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)  # with a scale and an offset for each channel
# Names in timm and transformers: of what passes a block by, or lies between or behind the stages; of what makes an
# attention's queries, of what gives its output, and of all its projections.
ASIDE = {"downsample", "shortcut", "skip", "project", "attn_pool", "pre_classifier"}
QUERIES = {"q", "qk", "qkv", "qkvs", "wq", "q_proj"}
OUTPUTS = ("proj", "o_proj", "out_proj")
PROJECTIONS = QUERIES | {"k", "v", "kv", "wk", "wv", "k_proj", "v_proj", *OUTPUTS}


def heads(model: nn.Module) -> list[str]:
    """Names of the layers that give the logits: one, or of a network that averages two heads both.

    Of a head of several layers it is the last one; of a module without layers of its own (a system's heads) the module.
    """
    net: Any = getattr(model, "net", model)
    if told := models.layer_names(model).head:
        return [*told]
    if not hasattr(net, "get_classifier"):
        return [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)][-1:]
    given = net.get_classifier()
    modules = list(given) if isinstance(given, (tuple, nn.ModuleList)) else [given]
    modules += [net.get_submodule(name) for name in _configured(net, "classifier")]
    found: set[nn.Module] = set()
    for module in modules:
        layers = [layer for layer in module.modules() if isinstance(layer, WEIGHTED)]
        found |= {layer for layer in layers if len(layer.weight) == len(layers[-1].weight)} or {module}
    return [name for name, module in model.named_modules() if module in found]


def remove_head(model: nn.Module) -> None:
    """Change a network so that it gives what its head reads: timm's by their own function, any other by an identity in the
    place of each of `heads`."""
    net: Any = getattr(model, "net", model)
    if hasattr(net, "reset_classifier"):
        return net.reset_classifier(0)
    for name in heads(model):
        above, _, last = name.rpartition(".")
        setattr(model.get_submodule(above), last, nn.Identity())


def prunable(model: nn.Module) -> list[str]:
    """Names of the layers that are pruned. CNN: every convolution, the stem's too, as in the paper; else the last block's
    projection. Never a head, whose rows are classes. Raises UserError where no block has a layer."""
    if told := models.layer_names(model).prune:
        return [*told]
    if last := _last_projection(model):
        return [last]
    if not is_cnn(model):
        raise UserError(f"{called(model)} has no layer to prune: none in a block; {BY_HAND.format('prune')}")
    inner, above = set(in_blocks(model)), tuple(f"{head}." for head in heads(model))
    found = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) or n in inner]
    return [name for name in found if not f"{name}.".startswith(above)]


def adaptable(model: nn.Module) -> list[str]:
    """Names of the layers below the head that get LoRA. Raises UserError where there are none."""
    if models.layer_names(model).lora:
        return _by_hand(model)
    last = _last_projection(model)
    return _exact(model, [last] if last else in_blocks(model))


def fit_for_lora(model: nn.Module, targets: tuple[list[str], list[str]]) -> tuple[list[str], list[str]]:
    """`targets`, names of layers that get LoRA and of modules that are trained and saved whole. Raises UserError where the
    merged network, or what a checkpoint of it gives, would be another than the one that was trained."""
    shared = _shared(model)
    whole = {name: "shares its weights with another module" for name in targets[1] if name in shared}
    for name, why in ({name: _unfit(model, name, shared) for name in targets[0]} | whole).items():
        if why:
            what = f"{called(model)}: {name.removeprefix('net.')} {why}, so LoRA can't be merged into the network"
            raise UserError(f"{what}; finetune.py and pruneft.py do without")
    return targets


def is_parametrised(module: nn.Module) -> bool:
    """True for a layer whose weight is computed from other parameters, as weight norm and spectral norm do, old and new."""
    return isinstance(module, WEIGHTED) and "weight" not in dict(module.named_parameters(recurse=False))


def to_prune(model: nn.Module, name: str) -> Any:
    """The layer of this name. Raises UserError where its rows can't be zeroed: they are computed anew, or there are none."""
    layer = model.get_submodule(name)
    if is_parametrised(layer) or not isinstance(layer, WEIGHTED):
        what = f"{called(model)}: {name.removeprefix('net.')} {PARAMETRISED if is_parametrised(layer) else _other(layer)}"
        raise UserError(f"{what}, so its rows can't be pruned; {BY_HAND.format('prune')}")
    return layer


def is_cnn(model: nn.Module) -> bool:
    """True for a network without attention that has convolutions in its blocks."""
    modules = (model.get_submodule(name) for name in _of_blocks(model))
    return not models.is_vit(model) and not attentions(model) and any(isinstance(m, nn.Conv2d) for m in modules)


def is_transformer(model: nn.Module) -> bool:
    """True for a plain ViT, and for a network of attention without batch norms, by whatever library: such diverge at a CNN's
    learning rates."""
    found = [*model.modules()]
    attentive = any(isinstance(m, nn.MultiheadAttention) for m in found) or bool(attentions(model))
    return models.is_vit(model) or (attentive and not any(isinstance(m, _BatchNorm) for m in found))


def in_blocks(model: nn.Module) -> list[str]:
    """Names of the convolutions and linear layers within blocks: not the stem, not the shortcuts, not grouped ones."""
    return [name for name in _of_blocks(model) if getattr(model.get_submodule(name), "groups", 1) == 1]


def in_every_block(model: nn.Module) -> list[str]:
    """As `adaptable`, but of all blocks: a transformer's queries, keys, values and output projections, with the convolutions
    of a mixed network, and every layer in the blocks of one without attention. Raises UserError where there are none."""
    within, names, plain = attentions(model), in_blocks(model), models.is_vit(model)
    within = [name for name in within if name.startswith("net.blocks.")] if plain else within
    parts = tuple(f"{attention}.{part}." for attention in within for part in PROJECTIONS)
    if within:
        convolutions = {n for n in names if isinstance(model.get_submodule(n), nn.Conv2d) and not plain}
        biased = (name for name in within if getattr(model.get_submodule(name), "q_bias", None) is not None)
        unheard = {f"{name}.qkv" for name in biased}  # BEiT and Swin V2 read its weights and never call it
        names = [n for n in names if (f"{n}.".startswith(parts) or n in convolutions) and n not in unheard]
    return _exact(model, names)


def attentions(model: nn.Module) -> list[str]:
    """Names of the attention modules within blocks: those that make queries and have an output projection."""
    apart = {*heads(model), *models.layer_names(model).unheard}
    found = []
    for name, module in model.named_modules():
        inside = {child for child, _ in module.named_children()}
        if QUERIES & inside and (last := _output_of(module)) and not ASIDE & set(name.split(".")):
            found += [name] if f"{name}.{last}" not in apart else []
    return found


def stages(model: nn.Module) -> list[str]:
    """Names of the modules whose outputs are the intermediate features: a ViT's blocks, a CNN's stages, of which the last
    has the last layer of `in_every_block`. Raises UserError where `feature_info`, which timm's networks have, names none
    with weights, as of VGG, or none that is there, or is missing."""
    net: Any = getattr(model, "net", model)
    info = getattr(net, "feature_info", [])
    entries = getattr(info, "info", info)
    what = "RFAU and --forget-loss residual move the outputs of a network's blocks or stages, and "
    what += f"{called(model)} doesn't say which these are"
    others = "finetune.py, pruneft.py, lora.py and loraprune.py don't look at them without it"
    if not (isinstance(entries, (list, tuple)) and entries and all("module" in entry for entry in entries)):
        way = (
            "timm's networks do (--model timm:NAME reads torchvision's files of ResNets), and your own can, by feature_info"
        )
        raise UserError(f"{what}: {way} (docs/rfau.md); {others}")
    layers = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    adapted = in_every_block(model)
    # timm also names a stem, its activation, what this project left out, and what may follow the last stage and doesn't.
    moved = {*layers[layers.index(adapted[0]) :]}
    named = dict.fromkeys(f"net.{entry['module']}" for entry in entries)
    names = [name for name in named if moved & {*_within(layers, name)}]
    if not names:
        raise UserError(f"{what}: {others}")
    last, end = adapted[-1].split("."), names[-1].split(".")
    if last[: len(end)] != end:  # beside it, in the innermost module that holds both
        shared = next(k for k, (one, other) in enumerate(zip(last, end, strict=False)) if one != other)
        end = last[: shared + 1]
        while isinstance(model.get_submodule(".".join(end)), nn.ModuleList):
            end = last[: len(end) + 1]
        names.append(".".join(end))
    return names


def stem(model: nn.Module) -> set[str]:
    """Names of the layers between the image and the first block: the whole module that holds timm's `first_conv`, and
    single layers right behind it."""
    net: Any = getattr(model, "net", model)
    before = "net." if net is not model else ""
    layers = [name for name, module in net.named_modules() if isinstance(module, WEIGHTED)]
    first = _configured(net, "first_conv") or layers[:1]
    parts, root = first[0].split("."), ""
    while len(_within(layers, root + parts[0])) > len(layers) / 2:  # VGG's `features` is no stem: it holds all
        root += parts.pop(0) + "."
    children = [root + name for name, _ in net.get_submodule(root[:-1]).named_children()]
    found = {*first, *_within(layers, root + parts[0])}
    behind: set[str] = set()
    above = heads(model)
    for child in children[children.index(root + parts[0]) + 1 :]:
        if _within(above, before + child):  # a head of several layers is no block either
            break
        if len(inside := _within(layers, child)) > 1:  # the first block
            found |= behind
            break
        behind |= set(inside)  # Inception's stem is several modules; where no block ends it, as in VGG, only the first is
    return {before + name for name in found}


def norms_after(model: nn.Module) -> dict[str, str]:
    """Layer name to the name of the norm that alone reads its output: {} where torch.fx can't follow the forward pass."""
    modules = dict(model.named_modules())
    try:
        nodes = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    except Exception:  # a forward pass that branches on values fails in whatever way it happens to
        return {}
    calls = [node.target for node in nodes]
    norms: dict[str, str] = {}
    for node in nodes:
        readers = [*node.users]
        reader = readers[0] if len(readers) == 1 else None  # none reads what a forward pass computes in vain
        if reader is None or reader.op != "call_module" or calls.count(node.target) + calls.count(reader.target) > 2:
            continue
        layer: Any = modules[node.target]
        norm: Any = modules[reader.target]
        if isinstance(layer, WEIGHTED) and isinstance(norm, NORMS) and norm.weight is not None:
            norms[node.target] = reader.target
    return norms


def called(model: nn.Module) -> str:
    """What messages call a network: its architecture, or its class."""
    net: Any = getattr(model, "net", model)
    return (getattr(net, "pretrained_cfg", None) or {}).get("architecture") or type(net).__name__


class _Tracer(fx.Tracer):
    """Goes into every module but layers, norms and those that timm knows it can't go into."""

    def __init__(self):
        from timm.layers import get_notrace_functions, get_notrace_modules

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))
        self.leaves = (*WEIGHTED, *NORMS, *get_notrace_modules())

    def is_leaf_module(self, module, name):
        return isinstance(module, self.leaves) or super().is_leaf_module(module, name)


def _last_projection(model):
    """The last attention's output projection, or in a mixer the last linear layer of the last block; None in a CNN."""
    names = dict(model.named_modules())
    if models.is_vit(model) and (usual := f"{stages(model)[-1]}.attn.proj") in names:
        return usual
    if within := attentions(model):
        last = f"{within[-1]}.{_output_of(model.get_submodule(within[-1]))}"
        inside = model.get_submodule(last).named_modules(prefix=last)
        return [name for name, module in inside if isinstance(module, WEIGHTED)][-1]
    return None if is_cnn(model) else next(reversed(in_blocks(model)), None)


def _output_of(attention):
    """What the child that gives an attention's output is called; None where there is none."""
    return next((name for name in OUTPUTS if hasattr(attention, name)), None)


def _of_blocks(model):
    """Names of all layers within blocks, grouped ones too. What lies directly in the network, or in the module that holds
    the head, is in no block."""
    layers = [name for name, module in model.named_modules() if isinstance(module, WEIGHTED)]
    apart = stem(model).union(*(_within(layers, ".".join(head.split(".")[:2])) for head in heads(model)))
    return [name for name in layers if name.count(".") > 1 and name not in apart and not ASIDE & set(name.split("."))]


def _exact(model, names):
    """Those of `names` whose output with W + B A is that of W plus that of B A. Raises UserError where that is half of them
    or less."""
    unheard, shared = models.layer_names(model).unheard, _shared(model)
    why = {name: _unfit(model, name, shared) for name in names if name not in unheard}
    exact = [name for name, reason in why.items() if not reason]
    if 2 * len(exact) <= len(why) or OWN_FORWARD in why.values():
        worst = OWN_FORWARD if OWN_FORWARD in why.values() else ""
        odd = (f"its {name.removeprefix('net.')} {reason}" for name, reason in why.items() if reason and worst in reason)
        what = f"{called(model)} has no linear layer or convolution for LoRA"
        raise UserError(f"{what}: {next(odd, 'it has none in a block')}; {BY_HAND.format('lora')}")
    return exact


def _by_hand(model):
    """The layers that the user wants LoRA on. Raises UserError for one that can't have it."""
    told, shared = models.layer_names(model), _shared(model)
    for name in told.lora:
        if why := "is never called" if name in told.unheard else _unfit(model, name, shared):
            raise UserError(f"--lora-targets {name}: this layer of {called(model)} {why}, so LoRA can't be merged into it")
    return [*told.lora]


def _unfit(model, name, shared):
    """Why W + B A can't take the place of a layer's W, or None: it is another layer's too, it is computed anew from other
    parameters, the layer does something else with it (a cosine classifier, timm's own convolutions, which standardise their
    weights or pad as needed), or PEFT's A lacks its dilation or padding. shared: as `_shared` gives it."""
    import timm

    module = model.get_submodule(name)
    if not isinstance(module, WEIGHTED):
        return _other(module)
    if name in shared:
        return "shares its weights with another module"
    if is_parametrised(module):
        return PARAMETRISED
    known = (nn.Conv2d.forward, nn.Linear.forward, timm.layers.Linear.forward)  # the last is another for TorchScript alone
    plain = type(module).forward in known and "forward" not in vars(module)
    if not plain and not type(module).__module__.startswith("timm."):
        return OWN_FORWARD
    if plain and {*getattr(module, "dilation", ())} <= {1} and getattr(module, "padding_mode", "zeros") == "zeros":
        return None
    return "standardises its weights, pads as needed or is dilated"


def _other(module):
    return f"is a {type(module).__name__}, neither a Conv2d nor a Linear layer"


def _shared(model):
    """Names of the modules whose weight is another module's too, or that the network has under two names."""
    names: dict[nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(parameter, []).append(name)
    several = (name for alike in names.values() if len(alike) > 1 for name in alike)
    return {name.removesuffix(".weight") for name in several if name.endswith(".weight")}


def _within(layers, name):
    """Those of `layers`, by name, that are the module of this name or lie in it."""
    return [layer for layer in layers if f"{layer}.".startswith(f"{name}.")]


def _configured(net, field):
    """The names that timm's configuration gives, of modules that the network has."""
    names = (getattr(net, "pretrained_cfg", None) or {}).get(field) or ()
    there = dict(net.named_modules())
    return [name for name in ((names,) if isinstance(names, str) else names) if name in there]
