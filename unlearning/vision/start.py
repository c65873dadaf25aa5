"""How a run begins: its data, its forget set, its network, the name and the key of its checkpoint."""

import argparse
import contextlib
import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
import models
from unlearning.core import distributed, memory, names
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.flags import IN_GREY, Parser, PerModel
from unlearning.core.locks import to_make
from unlearning.core.provenance import device_name, versions
from unlearning.core.words import say
from unlearning.images import forgetting
from unlearning.images.records import Known
from unlearning.vision import finish, foreign, layers, named_layers, originals, places, shipped
from unlearning.vision.confidences import Confidence
from unlearning.vision.curves import Curve
from unlearning.vision.epoch_scores import EpochScores
from unlearning.vision.feature_cache import BLOCK
from unlearning.vision.flags import forget_request, source_of
from unlearning.vision.identity import (
    digest,
    forget_identity,
    identity,
    key,
    of_checkpoint,
)
from unlearning.vision.originals import Told
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot

LARGER = 1000  # times as large as an image no layer's answer to it is
TRAINED = 4  # weights, their gradients, an optimiser's mean of these, and the copy by which changes are counted


@dataclass(frozen=True)
class Start:
    """All that is known before a method runs.

    values: every flag, defaults resolved. retain, forget: int64 positions of what is learned from and of what isn't. shapes:
    those of the network's tensors, by name. facts: what the checkpoint says of the method, its network and settings, and
    where it started. finished: True if the output is there already.
    """

    values: Mapping[str, Any]
    dataset: data.Dataset
    retain: torch.Tensor
    forget: torch.Tensor
    model: nn.Module
    shapes: dict[str, torch.Size]
    compute: Compute
    output: Path
    snapshot: Snapshot
    facts: dict[str, Any]
    finished: bool

    def there(self) -> str:
        """What to say of an output that is finished."""
        wanted = [scores.file_for(self.output) for scores in self.snapshot.scores if scores.wanted]
        lost = [file.name for file in wanted if not file.exists()]
        way = f", without {' and '.join(lost)}: --overwrite makes {'all' if lost[1:] else 'both'}" if lost else ""
        now = self.facts["script"]
        # Of several processes the first puts a shipped file there.
        if self.output.exists() and models.load_checkpoint(self.output).get("script", now) != now:
            way += "; the method's script has been changed since: --overwrite computes it again"
        return f"there already{' (shipped)' if shipped.is_one(self.output) else ''}: {self.output}{way}"

    def splits(self) -> tuple[data.Split, data.Split]:
        """The images to learn from, all that are retained or --retain-subset of them, and those to forget."""
        return self.dataset.part(self.retain), self.dataset.part(self.forget)

    def check_returned(self, model: nn.Module) -> None:
        """Raise UserError for a network that isn't the one that the method was given: with other weights, or other answers
        than one logit for each class."""
        if model.state_dict().keys() != self.shapes.keys():
            raise UserError(f"{self.facts['method']}: its method returns a network of other weights than it was given")
        models.check_logits(model, self.dataset, self.facts["method"])

    def checkpoint(self, model: nn.Module, cost: dict[str, float], command: str) -> dict[str, Any]:
        """The dictionary that is written for the trained `model`."""
        state = {name: value.contiguous() for name, value in model.state_dict().items()}
        smaller = any(value.shape != self.shapes[name] for name, value in state.items())
        several = f" x {distributed.count()}" if distributed.count() > 1 else ""
        return {
            **self.facts,
            "format": models.FORMAT,
            "network": self.facts["network"] | ({"compact": True} if smaller else {}),
            "state_dict": state,
            "command": command,
            **(self.dataset.whole.recorded(self.forget) if len(self.forget) else {}),
            "seed": self.values["seed"],
            "cost": cost,
            "device": device_name(self.compute.device) + several,
            "versions": versions(),
            "date": datetime.date.today().isoformat(),
        }


def _part_of_retained(values: Mapping[str, Any], dataset: data.Dataset, forget: torch.Tensor) -> torch.Tensor:
    """Positions of the images to learn from, int64 (N,). Raises UserError where --retain-subset can't be had."""
    retain = forgetting.retain_indices(len(dataset.train), forget)
    if not (count := values.get("retain_subset")):
        return retain
    return data.thinned(retain, dataset.train.labels, count, f"--retain-subset {count}: of the images that stay")


def start(
    method: str, parser: Parser, args: argparse.Namespace, shared: Shared, held: contextlib.ExitStack, script: str = ""
) -> Start:
    """Read what the flags name and check that it fits together; see `run.execute` for what is refused.

    held: what is given back when the run ends, such as the lock on its output. script: of `provenance.script_of`.
    """
    source, told = source_of(args := _with_input_of(args)), Told.from_flags(args, args.model)
    dataset, asked = _dataset_and_request(args, source, shared)
    parent = originals.read(args, told, dataset) if hasattr(args, "original") else None
    forgotten = asked and _with_earlier(asked, dataset, parent)
    forget, forget_tag = (forgotten.positions, forgotten.tag) if forgotten else (torch.empty(0, dtype=torch.int64), None)
    retain = _part_of_retained(vars(args), dataset, forget)
    torch.manual_seed(args.seed)
    model, network = _network(args, told, dataset, parent)
    compute = Compute.from_flags(args)
    model.to(compute.device)
    compute = compute.placed(model)
    values = _resolved(args, model, network["name"], compute.precision, dataset)
    _check_memory(model, network, dataset, values["batch_size"], compute)
    if values.get("entry"):  # named by hand, and perhaps the one that is taken unasked
        values["entry"] = parent and parent["identity"]["settings"].get("entry")
    constants = {name: network["arguments"][name] for name in ("mean", "std")} if told.constants or not parent else {}
    known, named = values | constants, values | places.usual_precision(compute, model)
    spellings = [parser.non_default(named | words) for words in places.spellings(values, constants)]
    own, settings, sha = parser.own_settings(known), parser.settings(known), parent and parent["sha256"]
    wanted, lineage = forget_identity(forget, forgotten.draw if forgotten else None), parent and of_checkpoint(parent)
    made_from = {"data": dataset.fingerprint, "forget": digest(forget), "parent": sha} | places.made_of(network, sha)
    same = {"method": method, "settings": own | {"seed": args.seed}, "from": made_from}
    begin = names.begin(network["name"], dataset.tag)
    stems = [begin + places.rest_of_name(method, values, parser, words, forget_tag) for words in spellings]
    output = args.output or places.output_of(args, stems, begin, parent, same, parser)
    facts: dict[str, Any] = {
        "method": method,
        "script": script,
        "network": network,
        "config": settings,
        "flags": spellings[0],
        "identity": identity(method, own | places.code_of(network), dataset.fingerprint, wanted, lineage),
        "key": key(same),
        "forget": forget,
        "forget_tag": forget_tag,
        "classes": list(dataset.classes),
        "data": source.described(dataset),
        "parent": sha,
        "origin": parent and (parent.get("origin") or sha),
        "elsewhere": parent and parent.get("elsewhere"),
    }
    scores = _scores(args, dataset, compute, forget)
    snapshot = Snapshot(places.unfinished(output), facts["key"], args.overwrite, scores=scores, script=script)
    beside = finish.beside(output, snapshot)
    there = partial(places.is_there, output, same, parser, args.overwrite)
    finished = not held.enter_context(to_make(output, there, beside)) or places.provide(output, same, parser, args, scores)
    if not finished:
        places.check_output(output, args, parent, scores)
        snapshot.check_place()
    if forgotten and not finished:
        _say(args, forgotten, dataset, parent, network, compute.quiet)
    held.enter_context(_explained())
    return Start(values, dataset, retain, forget, model, _shapes(model), compute, output, snapshot, facts, finished)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    """Says in a UserError what torch says of batch norms that are to be trained on a single number."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UserError("a batch of one image is too few for the network's batch norms: give another --batch-size") from None


def _say(
    args: argparse.Namespace,
    forgotten: forgetting.Forgotten,
    dataset: data.Dataset,
    parent: dict[str, Any] | None,
    network: dict[str, Any],
    quiet: bool,
) -> None:
    """Say what is odd about a request and, unless quiet, what is about to be forgotten."""
    line = forgetting.by_class(dataset.train.labels, dataset.classes, forgotten.positions, "forgets")
    before = len(parent["forget"]) if parent else 0
    line += f"; {before:,} of them were forgotten before" if before else ""
    line += f"; {len(dataset.missing):,} of these are not in their files any more" if len(dataset.missing) else ""
    notes = [*forgotten.notes, *([] if quiet else [line])]
    if parent and not parent.get("elsewhere") and not quiet:  # what others have trained has said what it is
        notes.append(f"starts from {parent['file']}")
    notes += dataset.left_twins(forgotten.positions) if args.forget_file and distributed.is_main() else []
    warning = None if parent else originals.other_constants(network, args.weights, dataset.tag)
    notes += [warning] if warning else []
    for text in notes:
        say(text)


def _dataset_and_request(
    args: argparse.Namespace, source: data.Source, shared: Shared
) -> tuple[data.Dataset, forgetting.Forgotten | None]:
    """The data, and what the flags ask to forget: None for a method that forgets nothing. A file that isn't there is found
    before the data are read."""
    if not hasattr(args, "forget_class"):
        return _dataset(args, source, shared), None
    request = forget_request(args)
    dataset = _dataset(args, source, shared)
    return dataset, _asked(request, dataset, getattr(args, "data_of", None))


def _dataset(args: argparse.Namespace, source: data.Source, shared: Shared) -> data.Dataset:
    """The data, where they are a user's own completed by what the original or the checkpoint of --data-of says of them."""
    original = getattr(args, "original", None)
    if original and not original.exists():
        originals.checkpoint_in(original)  # says what is missing, before data are read for its sake
    path = getattr(args, "data_of", None) or (data.is_own(source.dataset) and original)
    if not path or not (content := originals.checkpoint_in(path)):
        return shared.load(source)
    says = models.checked(content, path)["data"]
    known = Known.of(says)
    dataset = shared.load(replace(source, known=known))
    if known or not hasattr(args, "original"):  # else `originals.read` looks, after the forget set is known
        data.check_same(path, says, dataset)
    return dataset


def _with_earlier(asked: forgetting.Forgotten, dataset: data.Dataset, parent: dict[str, Any] | None) -> forgetting.Forgotten:
    """What is asked to be forgotten, together with what the original has forgotten already."""
    union = torch.cat([parent["forget"] if parent else asked.positions, asked.positions]).unique()
    dataset.check_missing(union, asked.tag)
    if torch.equal(union, asked.positions):
        return asked
    if parent and len(union) == len(dataset.train):
        raise UserError(f"with what {parent['file']} has forgotten already nothing is left to retain")
    return forgetting.Forgotten(union, forgetting.tag_of(dataset.train, union), notes=asked.notes)


def _asked(request: forgetting.ForgetRequest | None, dataset: data.Dataset, of: Path | None) -> forgetting.Forgotten:
    """The forget set of a request; without one the images that are missing, or what the checkpoint `of` has forgotten."""
    if request is None and len(dataset.missing):
        return forgetting.Forgotten(dataset.missing, forgetting.tag_of(dataset.train, dataset.missing))
    if request is None and of:
        if not len(models.load_checkpoint(of)["forget"]):
            what = f"{of} has forgotten nothing, and no image of it is missing"
            raise UserError(f"{what}: give --forget-class, --forget-random, --forget-count or --forget-file")
        request = forgetting.ForgetRequest(file=of)
    return dataset.forgotten(request or forgetting.ForgetRequest())


def _with_input_of(args: argparse.Namespace) -> argparse.Namespace:
    """The flags, with the side of the network's input and its head as the checkpoint of --data-of has them, unless they say
    these themselves or another network."""
    of = getattr(args, "data_of", None)
    if not of:
        return args
    known = models.load_checkpoint(of)
    called = Path(args.model).name if ".py:" in (args.model or "") else args.model  # of one's own without its folder
    if called not in (None, known["network"]["name"]):
        return args
    said = {"input_size": known["network"]["arguments"].get("input_size"), "head": known["config"].get("head")}
    return argparse.Namespace(**vars(args) | {name: getattr(args, name) or value for name, value in said.items()})


def _network(
    args: argparse.Namespace, told: Told, dataset: data.Dataset, parent: dict[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The original's network, or a fresh one, with its name and the arguments of models.create."""
    model: Any
    if parent:
        model, network = models.build(parent, parent["file"], told.own), parent["network"]
        network = network | ({"code": told.own.sha256} if told.own else {})  # of the file that is run, if it has changed
    else:
        of, folder = getattr(args, "data_of", None), args.data_dir if args.pretrained else None
        known: dict[str, Any] = models.load_checkpoint(of)["network"] if of else {"name": "resnet20", "arguments": {}}
        name = told.model or known["name"]
        said = known["arguments"] if name == known["name"] else {}
        constants = told.constants or ((said["mean"], said["std"]) if said else None)
        further = {key: said[key] for key in models.KINDS if key in said}
        if _is_folder(name):  # timm's or Hugging Face's, whose network is trained afresh
            found = foreign.read(Path(name), constants=constants is None)
            name, further, constants = found.name or name, found.arguments, constants or found.constants
        size = told.input_size
        own = (told.own, TRAINED)
        model, arguments = models.create_for(name, dataset, folder, size, args.quiet, constants, *own, **further)
        network = {"name": name, "arguments": arguments} | originals.described(model, name, told, dataset)
    by_hand = {kind: getattr(args, f"{kind}_targets", None) or () for kind in ("lora", "prune")}
    meant = {kind: named_layers.named(model, words, f"--{kind}-targets") for kind, words in by_hand.items()}
    model.layer_names = replace(models.layer_names(model), **meant)
    return model, network


def _is_folder(name: str) -> bool:
    """True for a folder; a network's name goes before a folder that happens to be called so."""
    import timm

    return Path(name).is_dir() and name not in models.NAMES and not timm.is_model(name)


def _check_memory(model: nn.Module, network: dict[str, Any], dataset: data.Dataset, batch: int, compute: Compute) -> None:
    """Raise UserError where a batch's largest layer, and the copy of the weights that every run keeps, don't fit into the
    memory. A GPU says so itself."""
    count, arguments = min(batch, len(dataset.train), BLOCK), network["arguments"]
    count = max(1, count // distributed.count())
    side = arguments.get("input_size") or arguments["img_size"]
    image = 4 * arguments["in_chans"] * side**2
    if compute.device != "cpu" or LARGER * count * image < memory.available():  # as nearly always
        return
    needed = memory.weight_bytes(model) + memory.layer_bytes(model, (count, *dataset.train.images.shape[1:]))
    what = f"{network['name']}, for {count} images of {side} x {side} pixels at once,"
    memory.check(needed, what, ": give a smaller --batch-size or --input-size")


def _resolved(
    args: argparse.Namespace, model: nn.Module, network: str, precision: str | None, dataset: data.Dataset
) -> dict[str, Any]:
    """Every flag, with what its default is for this network and images. That of a transformer of no name here counts as
    given by hand, which it was in earlier versions: files are called as they were then."""
    given, is_vit = vars(args) | {"model": network, "precision": precision}, layers.is_transformer(model)
    recipe, grey = given.get("recipe"), dataset.train.images.shape[1] == 1
    if isinstance(recipe, PerModel):
        recipe = recipe.of(network, is_vit)
    own = {name: value for name, value in given.items() if isinstance(value, PerModel)}
    return given | {name: value.of(network, is_vit, recipe, grey) for name, value in own.items()} | {IN_GREY: grey}


def _scores(
    args: argparse.Namespace, dataset: data.Dataset, compute: Compute, forget: torch.Tensor
) -> tuple[EpochScores, ...]:
    """All that a run can score after each epoch."""
    sure = getattr(args, "confidence", False)  # a flag of pretrain alone
    return Curve(dataset, compute, args.curve, forget=forget), Confidence(dataset, compute, sure)
