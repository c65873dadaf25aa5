"""Systems of parts: private images split into parts, a learner for each, and a folder from which images are deleted exactly.

A learner depends on nothing but the images of its part, and on a start and a seed that no private image has a say in: the
start is random, or public anchors make it once, and it is stored with the system. So a part that is trained again without
an image is what it would have been had the image never been there, and the other parts are that already: bit for bit on the
same device with the same number of threads. system.pth names the files that belong to the system; it is replaced in one
step after all new files are written, so a kill leaves the old state or the new one.
lmeraser.py and sisa.py differ in how they split and in who answers.
"""

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import data
import models
from unlearning.core import names
from unlearning.core.content import check
from unlearning.core.device import Compute, clock
from unlearning.core.errors import UserError
from unlearning.core.files import check_writable, is_interrupted, sha256, staging, write_torch
from unlearning.core.locks import locked
from unlearning.core.provenance import device_name, versions
from unlearning.core.words import say
from unlearning.exact import fields, learners, ridge, storage
from unlearning.exact.backbone import (
    backbone_file,
    check_images,
    features_of,
    learner_flops,
    load_backbone,
    read_backbone,
)
from unlearning.exact.learning import Work, public_start, train_parts
from unlearning.exact.reading import backbone_of, check_start, read_system
from unlearning.exact.selection import ImageRequest, as_mask, in_words, private_and_anchors
from unlearning.exact.storage import SYSTEM, made_from
from unlearning.images import forgetting
from unlearning.images.request_files import Named
from unlearning.vision.identity import own_of
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared

NOTHING = torch.empty(0, dtype=torch.int64)
# Of features float32 (N, F), a bool mask (N,) of private images, the anchors' int64 positions and the settings: the part of
# each image, int64 (N,), and the parts' centres float32 (K, F), or None where all parts vote.
Split = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Settings], tuple[torch.Tensor, torch.Tensor | None]]


@dataclass(frozen=True)
class NewSystem:
    """A system to train.

    settings: all recorded flags; own: those that make another row of a table; flags: those that differ from their defaults;
    named: those that the folder's name says.
    request: images to leave out, as if they had never been there.
    """

    method: str
    source: data.Source
    settings: dict[str, Any]
    own: dict[str, Any]
    flags: dict[str, str]
    named: dict[str, str]
    request: ImageRequest
    work: Work
    weights: Path
    output: Path | None
    overwrite: bool
    command: str


def train_system(new: NewSystem, split: Split, shared: Shared) -> Path:
    """Train a system into a new folder and return its path; one that is there with the same settings is returned as it is.

    A killed training continues where it was. Waits while another process writes the system. Raises UserError when the
    folder holds a system of other settings, of another backbone or of other data, or no system, or one of the inputs.
    """
    settings = new.work.settings
    given, dataset = read_backbone(settings.backbone), shared.load(new.source)
    where = (new.weights, new.source.data_dir)
    file = backbone_file(settings.backbone, dataset, *where, settings.input_size, new.work.compute.quiet)
    content = given or models.load_checkpoint(file)
    from_private = settings.anchors_from == "private"
    private, anchors = private_and_anchors(dataset, content, file, settings.anchors, from_private)
    check_images(content, file, dataset)
    asked = new.request.positions(dataset, private, NOTHING, anchors)
    without = asked.positions
    folder = new.output or _folder(new, dataset.tag, content["network"]["name"], file, without)
    state = _described(new, dataset, content, file) | {"private": private.nonzero().squeeze(1), "anchors": anchors}
    state |= {"deleted": without, "files": [], "ledger": []}
    _clear_up(folder)
    if _is_there(folder, state, new.overwrite):
        return _said_there(folder)
    _check_output(folder, new, file)
    place = folder.resolve()  # one lock for all its names
    with locked(place), staging(place) as staged:
        if _is_there(folder, state, new.overwrite):  # another process may have made it meanwhile
            return _said_there(folder)
        staged.expect(place)  # nothing that comes while it is trained is replaced
        _say_back(folder, state)
        if len(without):
            twins = dataset.left_twins(without) if new.request.names else []
            _say(asked, in_words(dataset, private, without, "leaves out"), new.work.compute.quiet, twins)
        backbone = load_backbone(content, file, new.work.compute.device)
        part = storage.begin(place)
        _put_into_parts(state, split, backbone, dataset, new.work)
        if state["centres"] is not None and len(anchors) < settings.parts:
            raise UserError(f"--parts {settings.parts}: there are {len(anchors)} anchors, and each part needs one")
        state["flops"] = learner_flops(backbone, state["shape"], state["classes"], ridge.is_asked_for(state["config"]))
        if (start := public_start(state, backbone, dataset, new.work)) is not None:
            state["start"] = start
        every = range(len(state["files"]))
        state["cost"] = train_parts(part, state, every, 0, backbone, dataset, new.work, new.overwrite)
        check(state, fields.system, str(part / SYSTEM))
        write_torch(part / SYSTEM, state)
        if place in staged.there:  # to be replaced: what has come into it meanwhile stays
            _check_all_its_own(folder)
        staged.take(place, part)
    return folder


def _clear_up(folder: Path) -> None:
    """Remove what killed processes have left of the system in a folder, which stays untouched if they have left nothing."""
    place = folder.resolve()
    named = read_system(folder)["files"] if (place / SYSTEM).exists() else []
    if storage.traces(place, named):
        with locked(place):
            if (place / SYSTEM).exists():
                storage.sweep(place, read_system(folder))


def _say_back(folder: Path, state: dict[str, Any]) -> None:
    """Warn where a system is to be replaced, from which images have been deleted that the new one has again."""
    old = read_system(folder) if (folder / SYSTEM).exists() else None
    if old is None or made_from(old)["data"] != made_from(state)["data"]:
        return
    if count := len(set(_deleted_since(old)) - set(state["deleted"].tolist())):
        way = "leave them out with --ids, --ids-file or --class"
        say(f"warning: the new system has {count:,} images again that have been deleted from {folder}: {way}")


def _said_there(folder: Path) -> Path:
    """The folder of a finished system, once it is said that it is there."""
    count = len(_deleted_since(read_system(folder)))
    since = f" ({count} images deleted from it since)" if count else ""
    say(f"there already: {folder}{since}")
    return folder


def delete_images(
    folder: Path,
    method: str,
    split: Split,
    request: ImageRequest,
    compute: Compute,
    data_dir: Path,
    command: str,
    shared: Shared,
    jobs: int | None = None,
    place: str | None = None,
) -> dict[str, Any]:
    """Delete images from the system in `folder`: train their parts again, write, and add to the ledger: the new entry.

    method: of the system, whose `split` it is. place: the name of a user's own data where they have moved since.
    Where all of these images are deleted already, nothing is done: the last entry, {} if there is none. Raises UserError,
    with nothing changed, for images that are unknown or public, and where some are gone already. Waits while another
    process writes the system; what an earlier one has left is removed first.
    """
    if request == ImageRequest():
        raise UserError("nothing to delete: give --ids, --ids-file or --class")
    with _held(folder, method) as state:
        settings = Settings(state["config"])
        work = Work(settings, replace(compute, precision=settings.precision), jobs)
        dataset = shared.load(_moved(data.Source.of(state["data"], data_dir, compute.quiet), place, folder))
        data.check_same(folder, state["data"], dataset)
        if len(state["part"]) != len(dataset.train):
            raise UserError(f"{folder} has parts of {len(state['part'])} images, not of {len(dataset.train)}: it is damaged")
        private = as_mask(state["private"], len(dataset.train))
        if request.done(dataset, private, state["deleted"]):
            say(f"there already: {folder} without these images")
            return state["ledger"][-1] if state["ledger"] else {}
        asked = request.positions(dataset, private, state["deleted"], state["anchors"])
        ids = asked.positions
        source = backbone_of(state, folder)
        there = private & ~as_mask(state["deleted"], len(private))
        check_writable(folder.resolve())
        twins = dataset.left_twins(ids, state["deleted"]) if request.names else []
        _say(asked, in_words(dataset, there, ids, "forgets"), compute.quiet, twins)
        backbone = load_backbone(models.load_checkpoint(source), source, compute.device)
        check_start(backbone, state, folder)
        started = clock(compute.device)
        hit = _take_out(ids, state, split, backbone, dataset, work)
        clustering = clock(compute.device) - started
        # Files of a new generation, so that none of those that system.pth names is touched.
        cost = train_parts(folder, state, hit, len(state["ledger"]) + 1, backbone, dataset, work)
        cost["seconds"] += clustering  # of private anchors, the rest is no more than a look-up
        left = int((state["part"] >= 0).sum())
        entry = {"date": datetime.date.today().isoformat(), "command": command, "ids": ids.tolist(), "parts": hit}
        state["ledger"].append(entry | {"full_sample_epochs": left * settings.epochs, **cost})
        storage.drop_partial(folder.resolve())
        check(state, fields.system, str(folder / SYSTEM))  # what nobody could read again isn't written
        write_torch(folder / SYSTEM, state)  # until here the old state holds
        storage.sweep(folder, state, quiet=True)
        return state["ledger"][-1]


@contextlib.contextmanager
def _held(folder: Path, method: str) -> Iterator[dict[str, Any]]:
    """The state of a system that nobody else writes while the context lasts, cleared of what killed processes have left.

    Raises UserError where it isn't one of `method`.
    """
    place = folder.resolve()  # one lock for all its names
    if not is_interrupted(place):
        read_system(folder)
    with locked(place):
        state = read_system(folder)
        if (maker := state["method"]) != method:
            raise UserError(f"{folder} is a system of {maker}: delete from it with that script, not with {method}")
        storage.sweep(place, state)
        yield state


def _moved(source: data.Source, place: str | None, folder: Path) -> data.Source:
    """The data of the system in `folder` where they lie by now. Raises UserError for a place that says nothing to them."""
    if place and place != source.dataset and not (data.is_own(place) and data.is_own(source.dataset)):
        way = "it says where a folder, a table or an archive of your own lies by now"
        raise UserError(f"--dataset {place}: {folder} is of {source.dataset}; {way}")
    return source.at(place)


def _take_out(
    ids: torch.Tensor, state: dict[str, Any], split: Split, backbone: learners.Backbone, dataset: data.Dataset, work: Work
) -> list[int]:
    """Take images, int64 positions, out of a system's state: the parts that are to be trained again."""
    state["deleted"] = torch.cat([state["deleted"], ids]).sort().values
    dataset.check_missing(state["deleted"], "deleted from the system")
    if state["centres"] is not None and torch.isin(ids, state["anchors"]).any():
        # Private anchors have shaped the parts, but for those of a draw, so all begin again.
        _put_into_parts(state, split, backbone, dataset, work)
        return list(range(len(state["files"])))
    hit = state["part"][ids].unique().tolist()
    state["part"][ids] = -1
    return hit


def _say(asked: Named, line: str, quiet: bool, twins: list[str]) -> None:
    """Say what is odd about a request and, unless quiet, what is about to happen. twins: of `left_twins`."""
    for text in (*asked.notes, *([] if quiet else [line]), *twins):
        say(text)


def _is_there(folder: Path, state: dict[str, Any], overwrite: bool) -> bool:
    """True for a folder with the system that `state` describes, trained without the images that it has deleted, whatever
    has been deleted since. UserError for another one that may not be replaced."""
    if not folder.exists():
        return False
    if not (folder / SYSTEM).exists():  # overwriting would delete what isn't ours
        raise UserError(f"{folder} is there and is not a system: give another --output")
    if overwrite:
        _check_all_its_own(folder)
        return False
    old = read_system(folder)
    since = torch.tensor(_deleted_since(old), dtype=torch.int64)
    left_out = old["deleted"][~torch.isin(old["deleted"], since)]
    settings = [own_of(system["config"]) | {"seed": system["seed"]} for system in (old, state)]
    if settings[0] != settings[1] or not torch.equal(left_out, state["deleted"]):
        raise UserError(f"{folder} was made with other settings; --overwrite computes it again")
    if made_from(old) != made_from(state) or not torch.equal(old["anchors"], state["anchors"]):
        raise UserError(f"{folder} was made from another backbone, data or anchors; --overwrite computes it again")
    return True


def _check_all_its_own(folder: Path) -> None:
    """Raise UserError where something in a system's folder is none of its files: replacing it would lose that."""
    if other := storage.stranger(folder, read_system(folder)):
        raise UserError(f"{folder} isn't replaced: {other.name} in it is no file of that system; move it away")


def _deleted_since(state: dict[str, Any]) -> list[int]:
    """The images that have been deleted from a system since it was trained, by number."""
    return [i for entry in state["ledger"] for i in entry["ids"]]


def _check_output(folder: Path, new: NewSystem, backbone: Path) -> None:
    """Raise UserError where the system's folder is, or holds, what it is made from or where it is to lie."""
    place, own = folder.resolve(), data.is_own(new.source.dataset)
    inputs = {"--backbone": backbone, "--ids-file": new.request.file, "--weights": new.weights}
    inputs |= {"--data-dir": new.source.data_dir, "--dataset": Path(new.source.dataset.partition(":")[2]) if own else None}
    for flag, path in inputs.items():
        if path and path.resolve().is_relative_to(place):
            raise UserError(f"--output {folder} is or holds {path}, which {flag} names: it isn't replaced")


def _described(new: NewSystem, dataset: data.Dataset, content: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a new system says of its making; content: the backbone's checkpoint in `file`."""
    whole = dataset.whole
    return ({"numbers": whole.positions} if whole.count > len(dataset.train) else {}) | {
        "format": models.FORMAT,
        "method": new.method,
        "backbone": {"file": str(file), "sha256": sha256(file), "network": content["network"]},
        "config": new.settings,
        "own": new.own,
        "flags": new.flags,
        "data": new.source.described(dataset),
        "shape": list(dataset.train.images.shape[1:]),
        "classes": len(dataset.classes),
        "seed": new.work.settings.seed,
        "device": device_name(new.work.compute.device),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": new.command,
    }


def _folder(new: NewSystem, tag: str, network: str, backbone: Path, without: torch.Tensor) -> Path:
    """A folder whose name says data, network, method, parts, the flags that differ from their defaults, the backbone where
    it isn't a network's ImageNet weights, and what is left out. One that has the name of earlier versions keeps it."""
    settings = new.work.settings
    begin = names.begin(network, tag)
    left_out = f"-without-{forgetting.tag_of_ids(without)}" if len(without) else ""
    trained = Path(settings.backbone).suffix == ".pth"
    today, before = (
        new.weights / f"{begin}{new.method}{settings.parts}{names.suffix(new.named)}{own}{left_out}_s{settings.seed}"
        for own in (names.started_from(backbone, begin, settings.seed) if trained else ("", ""))
    )
    return before if before.exists() or storage.partial(before).exists() else today


def _put_into_parts(
    state: dict[str, Any], split: Split, backbone: learners.Backbone, dataset: data.Dataset, work: Work
) -> None:
    """Put images into parts, by what isn't deleted: fills state's part (-1: in none) and centres."""
    private, gone = (as_mask(state[key], len(dataset.train)) for key in ("private", "deleted"))
    if "part" in state and not (private & ~gone).any():  # the last ones are deleted
        state["part"], state["files"] = torch.full_like(state["part"], -1), [None] * len(state["files"])
        state["centres"] = None if state["centres"] is None else torch.zeros_like(state["centres"])  # made of deleted images
        return
    anchors = state["anchors"][~gone[state["anchors"]]]
    features = features_of(backbone, dataset.train.images, work.compute.device)
    part, state["centres"] = split(features, private, anchors, work.settings)
    state["part"] = torch.where(private & ~gone, part, -1)
    count = int(part.max()) + 1 if state["centres"] is None else len(state["centres"])  # there may be some of no image
    state["files"] = [None] * count
