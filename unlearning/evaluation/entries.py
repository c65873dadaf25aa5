"""What checkpoints say of themselves."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import data
import models
from unlearning.core.errors import UserError
from unlearning.core.words import first_line
from unlearning.evaluation.flags import Scoring
from unlearning.exact import learners, reading
from unlearning.images.checkpoints import listed_in
from unlearning.networks.own import OwnNetwork
from unlearning.vision import feature_cache, originals, recipes
from unlearning.vision.identity import canonical, digest, first_parent, of_checkpoint, of_row
from unlearning.vision.shared import Shared

ELSEWHERE = ("mean", "std", "input_size", "head")  # flags of networks from elsewhere, which checkpoints say of theirs
Network = tuple[str, str, str]  # which images, as `Entry.images` says, the network's name, and the arguments that shape it


@dataclass(frozen=True)
class Entry:
    """What a file says of itself, without its weights.

    source: the data that it was made with. spec: what it says of these. private: positions of the training images that a
    system is about, ascending int64. tensors: a digest of each. flags: those that differ from their defaults. origin: the
    SHA-256 of the original that it comes from. forget: what it has forgotten. forgets: the forget sets that it is scored on,
    each with its tag. All of them are ascending int64 positions in the training images, of a system too. built: what a
    checkpoint says of its network. elsewhere: where the original lay that it comes from, if others had trained that; of such
    a one itself its own place. listed_in: the name of the file that named all that it has forgotten. drawn: ascending int64
    positions of the training images on which it is scored, where it isn't on all that it is about.
    """

    path: Path
    source: data.Source
    fingerprint: str
    private: torch.Tensor | None
    tensors: dict[str, bytes]
    model: str
    shape: str
    method: str
    identity: dict[str, Any]
    flags: dict[str, str]
    epochs: int | None
    seed: int
    forget: torch.Tensor
    forget_tag: str | None
    command: str
    cost: dict[str, Any]
    device: str
    sha256: str | None
    origin: str | None
    forgets: tuple[tuple[torch.Tensor, str], ...] = ()
    date: str | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    built: dict[str, Any] = field(default_factory=dict)
    elsewhere: str | None = None
    listed_in: str | None = None
    drawn: torch.Tensor | None = None

    @property
    def scored(self) -> torch.Tensor | None:
        """Ascending int64 positions of the training images that it is scored on; None for all of them."""
        return self.private if self.drawn is None else self.drawn

    @property
    def network(self) -> Network:
        """What two entries must share to be compared."""
        return self.images, self.model, self.shape

    @property
    def images(self) -> str:
        """A SHA-256 of the images that it is scored on: all of its data, or of a system those that are private."""
        if self.private is None:
            return self.fingerprint
        return hashlib.sha256(f"{self.fingerprint} {digest(self.private)}".encode()).hexdigest()

    @property
    def is_exact(self) -> bool:
        """True for a system from which images are deleted, which is what training without them gives: its own Retrain."""
        return self.private is not None and len(self.forget) > 0

    @property
    def key(self) -> str:
        """The identity as text, as rows compare it."""
        return canonical(of_row(self.identity, "--precision" in self.flags))


class NotScored(UserError):
    """A file of this project that holds no trained network."""


def read(path: Path, shared: Shared) -> tuple[Any, str | None]:
    """(What a checkpoint's file or a system's folder holds, None for a network that others have trained; the file's SHA-256,
    None of a folder and of what others have trained)."""
    if (path / "adapter_config.json").exists():
        raise NotScored(f"{path} is an adapter: score the checkpoint beside it, {path.name.removesuffix('_adapter')}.pth")
    if path.is_dir() and not originals.is_elsewhere(path):
        return reading.assemble(path), None
    if originals.has_no_checkpoint(path):
        return None, None
    content, digest = shared.files.read(path)
    return (content, digest) if models.is_checkpoint(content) else (None, None)


def is_elsewhere(path: Path, shared: Shared) -> bool:
    """True for what others have trained: neither a checkpoint nor a system of this project."""
    return originals.is_elsewhere(path) if path.is_dir() else read(path, shared)[0] is None


def network_of(entry: Entry, shared: Shared, own: OwnNetwork | None = None) -> torch.nn.Module:
    """The network of a file, on the CPU, in evaluation mode. own: what makes it, where that is the user's own."""
    content, sha = read(entry.path, shared)
    if sha is not None and sha != entry.sha256:
        raise UserError(f"{entry.path} has been replaced since this command looked at it")
    if content is None:
        return originals.rebuilt(entry.path, entry.built, entry.identity["settings"].get("entry"), own)
    return learners.build(content, entry.path) if entry.path.is_dir() else models.build(content, entry.path, own)


def refuse_nan(path: Path, logits: Sequence[torch.Tensor]) -> None:
    """Raise UserError where the network in `path` answers an image with NaN. logits: (N, C) of each set of images."""
    if wrong := sum(int(some.softmax(1).isnan().any(1).sum()) for some in logits):
        raise UserError(f"{path} answers {wrong} images with NaN: its weights or its precision are at fault")


def once(paths: Sequence[str | Path]) -> list[Path]:
    """The paths, each file once."""
    return list({Path(path).resolve(): Path(path) for path in paths}.values())


def describe(path: Path, scoring: Scoring, shared: Shared, others: Sequence[Entry] = ()) -> Entry:
    """The Entry of a file. Raises NotScored for a backbone, UserError for what holds no network.

    others: entries of which one may have started from this file, and knows its network.
    """
    content, sha = read(path, shared)
    if content is None:
        digest = originals.digest_of(path)
        return _describe_elsewhere(path, scoring, shared, next((e for e in others if digest == e.origin), None))
    checkpoint = models.checked(content, path)
    if checkpoint["data"]["fingerprint"] is None:
        raise NotScored(f"{path} holds ImageNet weights, a backbone of lmeraser.py")
    try:
        return _describe_own(path, checkpoint, sha, scoring)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged or not of this project ({type(error).__name__}: {first_line(error)})") from None


def _describe_elsewhere(path: Path, scoring: Scoring, shared: Shared, derived: Entry | None) -> Entry:
    """The Entry of a network that others have trained. derived: a file that started from it, None if there is none."""
    source = derived.source if derived else scoring.source
    if source is None:
        raise UserError(f"{path} doesn't say what it was trained on: give --dataset")
    spec = {key: value for key, value in derived.built.items() if key != "compact"} if derived else None
    entry = first_parent(derived.identity)["settings"].get("entry") if derived else scoring.told.entry
    told = replace(scoring.told, entry=entry)
    found = originals.from_elsewhere(path, told, shared.load(source), scoring.compute.quiet, spec)
    base = bool(derived) or found["base"]
    unknown = {"missing": "cost: files from elsewhere don't say"}
    own = f"published {path.name}"
    return Entry(
        path=path,
        source=source,
        fingerprint=found["data"]["fingerprint"],
        private=None,
        tensors=feature_cache.digests(found["state_dict"]),
        model=learners.label(found["network"]),
        shape=_shape(found["network"]),
        method="original" if base else own,
        identity=of_checkpoint(found) | ({} if base else {"method": own}),
        flags={},
        epochs=None,
        seed=0,
        forget=found["forget"],
        forget_tag=None,
        command=originals.by_others(path),
        cost=dict.fromkeys(("seconds", "memory_mib", "trainable", "steps", "moved"), unknown),
        device="unknown hardware",
        sha256=found["sha256"],
        origin=None,
        spec=found["data"],
        built=found["network"],
        elsewhere=str(path),
    )


def _describe_own(path: Path, checkpoint: dict[str, Any], sha: str | None, scoring: Scoring) -> Entry:
    spec, parent = checkpoint["data"], checkpoint.get("parent")
    private, forget = checkpoint.get("private"), checkpoint["forget"]
    return Entry(
        path=path,
        source=data.Source.of(spec, scoring.data_dir, scoring.compute.quiet),
        fingerprint=spec["fingerprint"],
        private=private,
        tensors=feature_cache.digests(checkpoint["state_dict"]),
        model=learners.label(checkpoint["network"]),
        shape=_shape(checkpoint["network"]),
        method=checkpoint["method"],
        identity=of_checkpoint(checkpoint),
        flags=checkpoint.get("flags", {}),
        epochs=checkpoint["config"]["epochs"] if checkpoint["cost"]["trainable"] else None,
        seed=checkpoint["seed"],
        forget=forget if private is None else private[forget],
        forget_tag=checkpoint["forget_tag"],
        command=checkpoint["command"],
        cost=checkpoint["cost"],
        device=checkpoint["device"],
        sha256=sha,
        origin=checkpoint.get("origin", parent),
        date=checkpoint.get("date"),
        spec=spec,
        built=checkpoint["network"],
        elsewhere=checkpoint.get("elsewhere"),
        listed_in=listed_in(checkpoint),
    )


def _shape(network: dict[str, Any]) -> str:
    """Of a network's arguments, or a backbone's, those that make another one of the same name, as text."""
    arguments = network["arguments"].get("backbone", network)["arguments"]
    return ", ".join(f"{name} {arguments[name]}" for name in sorted(arguments.keys() - {"mean", "std"}))


def dataset_of(entry: Entry, scoring: Scoring, shared: Shared) -> data.Dataset:
    """The data that a file was made with; a user's own are looked for where --dataset says, too. Raises UserError when they
    have changed."""
    named = [entry.source.at(scoring.source.dataset)] if scoring.source else []
    failed = []
    for source in dict.fromkeys([*named, entry.source]):
        try:
            dataset = shared.load(source)
            data.check_same(entry.path, entry.spec, dataset)
            for positions in (entry.forget, entry.private):
                data.check_positions(entry.path, positions, dataset)
            return dataset
        except UserError as error:
            failed.append(error)
    if len(failed) == 1 and not entry.source.is_there:
        where = f"which are not at {entry.source.dataset} any more: if they have moved, name their place by --dataset"
        raise UserError(f"{entry.path} was made with images {where}")
    raise failed[0]


def check_identities(entries: Sequence[Entry]) -> None:
    """Raise UserError for two files of one identity and one seed, and for two Retrains of one network and forget set."""
    seen: dict[tuple, Entry] = {}
    for entry in entries:
        twin = seen.setdefault((entry.key, entry.seed), entry)
        if twin is not entry:
            how = "" if twin.origin == entry.origin else ", from originals that differ in their seed alone"
            raise UserError(f"{twin.path} and {entry.path} are the same run with the same seed{how}: give one of them")
    retrained: dict[tuple, Entry] = {}
    for entry in entries:
        for tag in [tag for _, tag in entry.forgets if entry.method == "retrain"]:
            other = retrained.setdefault((*entry.network, tag), entry)
            if other.key != entry.key:
                raise UserError(
                    f"{other.path} and {entry.path} are two Retrains of {entry.model} for {tag}, by different settings: "
                    "name the one to measure from, and move the other out of --weights"
                )


def other_recipes(entries: Iterable[Entry]) -> list[str]:
    """A sentence about each Retrain and each Original of its network and seed that was trained in another way, be that among
    the files or only what one of them started from."""
    entries = sorted(entries, key=lambda entry: entry.method != "original")  # named itself, where it is there
    off = recipes.left_out()
    found: dict[tuple[Path, str], str] = {}
    for retrain in [entry for entry in entries if entry.method == "retrain"]:
        own = _with_defaults(retrain.identity["settings"], off)
        for entry in entries:
            original = first_parent(entry.identity)
            if original["method"] != "original" or (entry.network, entry.seed) != (retrain.network, retrain.seed):
                continue
            theirs = _with_defaults(original["settings"], off)
            what = ", ".join(f"{k} {own[k]} for {theirs[k]}" for k in own if k in theirs and own[k] != theirs[k])
            name = entry.path.name if entry.method == "original" else f"what {entry.path.name} started from"
            if what:
                found.setdefault((retrain.path, what), f"{retrain.path} was not trained as {name} was: {what}")
    return list(found.values())


def _with_defaults(settings: dict[str, Any], off: dict[str, Any]) -> dict[str, Any]:
    """Settings in their order, and after them those of `off` that they leave out."""
    return settings | {name: value for name, value in off.items() if name not in settings}
