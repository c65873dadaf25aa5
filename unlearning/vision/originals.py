"""The original that a run starts from: a checkpoint of this project, or a network that others have trained."""

import argparse
import glob
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core import names
from unlearning.core.device import to_float
from unlearning.core.errors import UserError
from unlearning.core.files import read_and_digest, sha256
from unlearning.core.flags import written
from unlearning.core.paths import stamp
from unlearning.core.words import encoded, say
from unlearning.networks import libraries
from unlearning.networks.own import OwnNetwork
from unlearning.vision import foreign, layers, named_layers
from unlearning.vision.identity import identity

TRIED = 256  # test images on which a network from elsewhere is tried before anything is done to it
Constants = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Images:
    """What a network must fit: channels, side in pixels, class names, and constants for networks that don't know their own.

    called: the data's name in messages. of_files: True for pictures in files, whose side --img-size says.
    """

    channels: int
    side: int
    classes: tuple[str, ...]
    constants: Constants
    called: str
    of_files: bool = False

    @classmethod
    def of(cls, dataset: data.Dataset) -> "Images":
        """Those of a data set."""
        shape, (mean, std) = dataset.train.images.shape, dataset.normalisation
        classes, called = tuple(map(str, dataset.classes)), f"this {dataset.tag}"
        return cls(shape[1], shape[-1], classes, ([*mean], [*std]), called, dataset.files is not None)


@dataclass(frozen=True)
class Told:
    """What the command line says of a network from elsewhere.

    model: its name, as models.create knows it. own: the user's function that makes it. constants: mean and deviation of each
    channel. head: names of the layers that give the logits. entry: the key of the state dict in the file. input_size: side
    in pixels to which the network is to resize images.
    """

    model: str | None = None
    own: OwnNetwork | None = None
    constants: Constants | None = None
    head: tuple[str, ...] = ()
    entry: str | None = None
    input_size: int | None = None

    @classmethod
    def from_flags(cls, args: argparse.Namespace, model: str | None) -> "Told":
        """What the flags of `add_elsewhere_flags` say. model: what --model does."""
        if (args.mean is None) != (args.std is None):
            raise UserError("--mean and --std belong together: give both")
        own = OwnNetwork.parse(model)
        constants = (args.mean, args.std) if args.mean else None
        entry, head = getattr(args, "entry", None), tuple(args.head or ())
        return cls(own.name if own else model, own, constants, head, entry, args.input_size)

    def as_flags(self) -> list[str]:
        """The flags of `add_elsewhere_flags` that were given, with their values, as words of a command line."""
        mean, std = self.constants or ((), ())
        given: dict[str, Sequence[Any]] = {"--mean": mean, "--std": std, "--head": self.head}
        given |= {"--entry": [self.entry or ""], "--input-size": [self.input_size or ""]}
        return [word for flag, values in given.items() if any(map(str, values)) for word in (flag, *map(written, values))]


def read(args: argparse.Namespace, told: Told, dataset: data.Dataset) -> dict[str, Any]:
    """The checkpoint to start from, if it belongs to these data, with its SHA-256, its file, and whether that is the usual
    one. Of a network from elsewhere it is what a checkpoint of it would hold."""
    path = args.original or _find(args, told.model, dataset)
    content, sha = checkpoint_and_digest(path)
    if content is None:
        return from_elsewhere(path, told, dataset, args.quiet)
    checkpoint = models.checked(content, path)
    if checkpoint["data"]["fingerprint"] is None:
        raise UserError(f"{path} holds ImageNet weights, a backbone of lmeraser.py: it knows none of these images")
    data.check_same(path, checkpoint["data"], dataset)
    data.check_positions(path, checkpoint["forget"], dataset)
    if told.model and told.model != checkpoint["network"]["name"]:
        raise UserError(f"{path} holds a {checkpoint['network']['name']}, not a {told.model}")
    if flags := told.as_flags():
        raise UserError(f"{flags[0]} is for networks from elsewhere; {path} says its own")
    usual = not args.original or _is_usual(args, checkpoint["network"]["name"], dataset)
    return checkpoint | {"sha256": sha, "file": path, "usual": usual}


def network_in(path: Path, told: str | None = None, entry: str | None = None) -> str:
    """The name of the network in a file: as the file says it, with its library, unless `told` is another name; of a file
    that isn't there what was told.

    entry: of `Told`. Raises UserError where neither says it.
    """
    if told and not path.exists():
        return told
    if content := checkpoint_in(path):
        name = models.checked(content, path)["network"]["name"]
    else:
        name = foreign.read(path, entry, told, constants=False).name
    if name is None and told is None:
        raise UserError(f"{path} doesn't say which network it holds: name it with --model")
    return name if name and foreign.is_called(told, name) else told or name


def by_others(path: Path) -> str:
    """What is said in the place of the command that made a network which others have trained."""
    return f"trained elsewhere: {path.name}"


def command_of(path: Path) -> str:
    """What the rows of the network in a file say made it."""
    content = checkpoint_in(path)
    return models.checked(content, path)["command"] if content else by_others(path)


def from_elsewhere(
    path: Path, told: Told, dataset: data.Dataset, quiet: bool, network: dict[str, Any] | None = None
) -> dict[str, Any]:
    """What a checkpoint of a network that others have trained would hold, with its SHA-256 and its file.

    network: what a checkpoint that started from it says of it; None to recognise it. Raises UserError where the file doesn't
    fit the network, or the network the data.
    """
    known = network is not None or told.constants is not None
    found = foreign.read(path, told.entry, network["name"] if network else told.model, not known)
    # A checkpoint may name the entry that is taken unasked: of its original it is named, as it was when that was read.
    entry = told.entry if found.asked or network else None
    if network is None:
        network = _recognised(found, told, path, Images.of(dataset))
    model, matched = _filled(found, network, path, told.own)
    if "layers" not in network and (models.is_elsewhere(network["name"]) or told.head):
        network = network | {"layers": _layers(model, told, dataset)}
    model.layer_names = models.told_layers(network)
    _check_head(model, path, dataset)
    stem = " with a 3x3 first layer and no pooling behind it" if network["arguments"].get("small_stem") else ""
    constants = (f"{name} {written(network['arguments'][name])}" for name in ("mean", "std"))
    text = f"as {network['name']}{stem} {matched} tensors match; {', '.join(constants)}"
    _say(model, found, path, text, dataset, quiet)
    digest = digest_of(path)
    told_by = {"original": digest[:12]} | ({"entry": entry} if entry else {})
    arguments = {"input_size": told.input_size} if told.input_size else {}
    return {
        "format": models.FORMAT,
        "network": network,
        "state_dict": model.state_dict(),
        "method": "original",
        "identity": identity("original", told_by | arguments, dataset.fingerprint, None, None),
        "data": {"fingerprint": dataset.fingerprint, "tag": dataset.tag},
        "forget": torch.empty(0, dtype=torch.int64),
        "forget_tag": None,
        "sha256": digest,
        "file": path,
        "usual": False,
        "elsewhere": str(path),
        "base": found.base,
    }


def described(model: Any, name: str, told: Told, dataset: data.Dataset) -> dict[str, Any]:
    """What a checkpoint says, beside name and arguments, of a network that neither this project nor timm has."""
    if not models.is_elsewhere(name) and not told.head:
        return {}
    layers_told = {"layers": _layers(model, told, dataset)}
    model.layer_names = models.told_layers(layers_told)
    _check_head(model, name, dataset)
    return layers_told | ({"code": told.own.sha256} if told.own else {})


def alone(path: Path, told: Told) -> dict[str, Any]:
    """What a checkpoint of a network from elsewhere would hold, without the images that it was trained on.

    Raises UserError where the file doesn't say network, classes and image size.
    """
    found = foreign.read(path, told.entry, told.model, told.constants is None)
    if found.classes is None or found.size is None:
        way = f"start a method from it, such as finetune.py --original {path} --model NAME, and export what that makes"
        raise UserError(f"{path} doesn't say classes and image size, which an export names: {way}")
    channels = found.channels or (len(found.constants[0]) if found.constants else 3)
    constants = [0.5] * channels, [0.5] * channels
    images = Images(channels, told.input_size or found.size, found.classes, constants, "a network like it")
    network = _recognised(found, told, path, images)
    model, _ = _filled(found, network, path, told.own)
    return {
        "network": network,
        "state_dict": model.state_dict(),
        "method": "original",
        "classes": list(found.classes),
        "forget": torch.empty(0, dtype=torch.int64),
        "command": by_others(path),
        "data": {},
        "cost": {},
    }


def rebuilt(path: Path, network: dict[str, Any], entry: str | None, own: OwnNetwork | None) -> nn.Module:
    """The network in a file from elsewhere, in evaluation mode. network: what `from_elsewhere` says of it."""
    model, _ = _filled(foreign.read(path, entry, network["name"], False), network, path, own)
    model.layer_names = models.told_layers(network)
    return model.eval()


def checkpoint_in(path: Path) -> dict[str, Any] | None:
    """What a checkpoint of this project holds, unchecked; None for what others have trained."""
    return checkpoint_and_digest(path, digest=False)[0]


def checkpoint_and_digest(path: Path, digest: bool = True) -> tuple[dict[str, Any] | None, str]:
    """(`checkpoint_in`, the file's SHA-256), read at once: another command may replace it meanwhile. "" in the place of
    a digest that isn't asked for, and of that of a place that holds no checkpoint by its form."""
    content, sha = (None, "") if has_no_checkpoint(path) else read_and_digest(path, digest)
    return (content if models.is_checkpoint(content) else None), sha


def has_no_checkpoint(path: Path) -> bool:
    """True for a place where others keep a network, in a form that no checkpoint of this project has. Raises UserError where
    nothing is."""
    if path.suffix != ".safetensors" and not (path / "config.json").exists():
        return False
    if not path.exists():
        raise UserError(f"no file {path}")
    return True


def is_elsewhere(path: Path) -> bool:
    """True for what others have trained: neither a checkpoint nor a system of this project."""
    return (path / "config.json").exists() if path.is_dir() else checkpoint_in(path) is None


def digest_of(path: Path) -> str:
    """SHA-256 of a file, or of a folder's files, each by its name and its own SHA-256."""
    if not path.is_dir():
        return sha256(path)
    files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".safetensors", ".bin") and file.is_file())
    return hashlib.sha256(encoded("".join(f"{file.name} {sha256(file)}\n" for file in files))).hexdigest()


def other_constants(network: dict[str, Any], weights: Path, tag: str) -> str | None:
    """A warning for a fresh network that is normalised otherwise than what a folder has of the same network and data, by the
    newest file there that isn't a Retrain; None where there is none, or it has the same constants. tag: the data's."""
    files = weights.glob(f"{glob.escape(names.begin(network['name'], tag))}*.pth")
    others = sorted((stamp(path), path) for path in files if "_retrain" not in path.name)
    file, theirs = next(filter(None, map(_readable, (path for _, path in reversed(others)))), (None, None))
    if file is None or theirs is None or theirs["network"]["name"] != network["name"]:
        return None
    own, known = ({name: one["arguments"][name] for name in ("mean", "std")} for one in (network, theirs["network"]))
    if own == known:
        return None
    ours, wanted = (f"mean {written(one['mean'])} and std {written(one['std'])}" for one in (own, known))
    what = f"this network is normalised by {ours}, and {file.name}, of the same network and data, by {wanted}"
    flags = f"--mean {written(known['mean'])} --std {written(known['std'])}"
    return f"warning: {what}: give {flags}, or --data-of {file}, for a Retrain that differs in its data alone"


def _readable(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """A checkpoint of this project with its file; None for what is damaged or something else, which nobody has named."""
    try:
        return path, models.load_checkpoint(path)
    except UserError:
        return None


def _filled(found: foreign.Found, network: dict[str, Any], path: Path, own: OwnNetwork | None) -> tuple[Any, str]:
    """The network that a checkpoint describes with the tensors of a file from elsewhere, and how many of them match."""
    model = models.create(network["name"], **network["arguments"], own=own)
    return model, foreign.load(model, found, path)


def _recognised(found: foreign.Found, told: Told, path: Path, images: Images) -> dict[str, Any]:
    """The network of a file from elsewhere: its name and the arguments of models.create, for these images."""
    if found.name is None and told.model is None:
        way = "say of which network with --model: a timm name, torchvision:NAME or FILE.py:FUNCTION"
        raise UserError(f"{path} holds {found.kind} of {len(found.tensors)} tensors; {way}")
    if found.name and told.model and not foreign.is_called(told.model, found.name):
        raise UserError(f"{path} holds a {found.name}, not a {told.model}")
    if told.entry and told.entry != found.entry:
        raise UserError(f"{path} has no state dict {told.entry!r}: leave --entry out")
    name = found.name or told.model or ""
    if found.size and found.size != images.side and not told.input_size:
        way = f"--img-size {found.size}, or " if images.of_files else ""
        way += f"--input-size {found.size} to let the network resize them"
        raise UserError(f"{path} was trained on images of {found.size} pixels, these have {images.side}: give {way}")
    _check_classes(found, path, images)
    mean, std = told.constants or found.constants or models.constants_of(name, images.channels) or images.constants
    mean, std = models.for_each_channel(mean, std, images.channels)
    if not len(mean) == len(std) == images.channels:
        what = f"mean and deviation of {len(mean)} and {len(std)} channels"
        raise UserError(f"{path}: {what}, and images of {images.channels}: --mean and --std take a number for each, or one")
    arguments: dict[str, Any] = {"in_chans": images.channels, "num_classes": len(images.classes), "img_size": images.side}
    arguments |= {"mean": mean, "std": std} | found.arguments
    arguments |= {"input_size": told.input_size} if told.input_size else {}
    model: Any = models.create(name, **arguments, own=told.own)
    if name.startswith(libraries.TORCHVISION) and _has_small_stem(found, model.net):
        arguments["small_stem"] = True
        model = models.create(name, **arguments)
    models.try_images(model, name, arguments, told.own)
    return {"name": name, "arguments": arguments} | ({"code": told.own.sha256} if told.own else {})


def _has_small_stem(found: foreign.Found, net: nn.Module) -> bool:
    """True for a file of torchvision's ResNet `net` whose first convolution is 3x3 in the place of 7x7."""
    wanted = net.state_dict()
    first = foreign.without_prefix(found.tensors, wanted).get("conv1.weight")
    return first is not None and "conv1.weight" in wanted and tuple(first.shape[2:]) == (3, 3)


def _check_classes(found: foreign.Found, path: Path, images: Images) -> None:
    """Raise UserError where the file's classes can't be those of the images."""
    theirs, ours = found.classes or images.classes, images.classes
    if len(theirs) != len(ours):
        raise UserError(f"{path} knows {len(theirs)} classes, and {images.called} has {len(ours)}")
    if theirs == tuple(map(str, range(len(theirs)))) and set(theirs) != set(ours):
        return  # numbers in the place of names say nothing
    for fold in (str, str.casefold):
        places = {fold(name): place for place, name in enumerate(ours)}
        often = Counter(map(fold, theirs))  # ImageNet has two classes called crane
        for place, name in enumerate(theirs):
            known = fold(name)
            if name != ours[place] and often[known] == 1 and places.get(known, place) != place:
                what = f"its class {place} is {name}, that of {images.called} is {ours[place]}"
                raise UserError(f"{path} numbers its classes otherwise: {what}")


def _layers(model: Any, told: Told, dataset: data.Dataset) -> dict[str, list[str]]:
    """Of a network that isn't timm's what its layers are called: those named by --head, and those that are never called.

    Of a network of the user's own that names no head it is the layer whose output is the answer. Raises UserError where no
    layer's is: which one an activation or a scale follows only the user knows. Of a library's it is all that are averaged.
    """
    some = _two_images(dataset)
    head = named_layers.heads_by_hand(model, told.head, some)
    if told.own and not head and not hasattr(model.net, "get_classifier"):
        found = named_layers.giving(model, some)
        if found is None:
            way = "name the layer whose outputs become the logits with --head"
            raise UserError(f"{told.own.name}: no layer's outputs are the network's answers as they are: {way}")
        head = (found,)
    if not head and not told.own:
        head = named_layers.averaged(model, some)
    return {"head": [*head], "unheard": [*named_layers.unheard(model, some)]}


def _two_images(dataset: data.Dataset) -> torch.Tensor:
    """Two test images to try a network on, float32 (2, C, H, W); where there is only one, that."""
    return to_float(dataset.test.images[torch.arange(min(2, len(dataset.test)))])


def _check_head(model: Any, path: Path | str, dataset: data.Dataset) -> None:
    """Raise UserError where what counts as the head doesn't give one logit for each class."""
    count, some = len(dataset.classes), _two_images(dataset)
    for name in layers.heads(model):
        head: Any = model.get_submodule(name)
        is_layer = isinstance(head, layers.WEIGHTED)
        if len(head.weight) != count if is_layer else not named_layers.gives(model, name, some, count):
            raise UserError(f"{path}: {name} doesn't give {count} logits: name the layer that does with --head")


def _say(model: nn.Module, found: foreign.Found, path: Path, matched: str, dataset: data.Dataset, quiet: bool) -> None:
    """Say what was recognised, and how many of some test images the network knows; warn where that is chance."""
    some = data.stratified(dataset.test.labels, min(TRIED, len(dataset.test)))
    images = dataset.test.take(some)
    with torch.inference_mode():
        order = torch.arange(len(some)).split(64)
        answers = torch.cat([model.eval()(to_float(x)) for x in data.batches(images.images, order)])
    right = (answers.argmax(1) == images.labels).float().mean().item()
    where = f" under {found.entry!r}" if found.entry else ""
    where += f" (also there: {', '.join(found.others)}; --entry takes one)" if found.others else ""
    if not quiet:
        text = f"{path}: {found.kind}{where}; {matched}"
        say(f"{text}; {100 * right:.1f} % of {len(some)} test images are right")
    chance = 1 / len(dataset.classes)
    if right < chance + 3 * (chance * (1 - chance) / len(some)) ** 0.5:
        why = "other --mean and --std, another order of the classes, or other images than it was trained on look like this"
        say(f"warning: {path} knows no more than chance ({100 * right:.1f} %): {why}")


def _is_usual(args: argparse.Namespace, network: str, dataset: data.Dataset) -> bool:
    """True if --original names the file that would be found without it, or is called like one that isn't there."""
    try:
        return args.original.samefile(_find(args, network, dataset))
    except UserError:
        return args.original.stem == f"{names.begin(network, dataset.tag)}original_s{args.seed}"


def _find(args: argparse.Namespace, network: str | None, dataset: data.Dataset) -> Path:
    """The original by name: the one that pretrain.py makes by default, else the only one of this network, data and seed; of
    a user's own data also one that was made when their folder was called otherwise."""
    begin = names.begin(network or "resnet20", dataset.tag)
    usual = args.weights / f"{begin}original_s{args.seed}.pth"
    others = sorted(args.weights.glob(f"{glob.escape(begin)}original-*_s{args.seed}.pth"))
    if not usual.exists() and not others and (digits := dataset.fingerprint[:6]) in begin:
        same = glob.escape(begin[begin.index(digits) :])
        others = sorted({*args.weights.glob(f"*-{same}original*_s{args.seed}.pth")})
    if usual.exists() or len(others) == 1:
        return usual if usual.exists() else others[0]
    if others:
        raise UserError(f"several originals, {' and '.join(map(str, others))}: name one with --original")
    raise UserError(f"no original {usual}; train it with pretrain.py or name one with --original")
