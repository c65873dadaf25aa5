"""Trains the learners of a system's parts, one after the other or in processes."""

import contextlib
import threading
import warnings
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import data
from unlearning.core.device import Compute, clock, peak_memory_mib, reset_peak_memory, threads
from unlearning.core.files import write_torch
from unlearning.core.words import say
from unlearning.exact import learners, ridge, storage
from unlearning.exact.backbone import features_of
from unlearning.vision import recipes
from unlearning.vision.settings import Settings
from unlearning.vision.snapshots import Snapshot
from unlearning.vision.train import fit

STARTUP = 15  # seconds that processes must save to be started
PAUSE = 1.0  # seconds of training that a kill may cost: a snapshot, which is written then, takes some milliseconds


@dataclass(frozen=True)
class Work:
    """How parts are trained: the system's settings, where to compute, and how many at a time (None: as it pays)."""

    settings: Settings
    compute: Compute
    jobs: int | None = None


@dataclass(frozen=True)
class Part:
    """What one learner is trained from: the frozen backbone, the part's number and images, what images look like, what it
    starts from (None: at random) and its unfinished training."""

    backbone: learners.Backbone
    number: int
    images: data.Split
    flip: bool
    shape: list[int]
    classes: int
    work: Work
    start: dict[str, torch.Tensor] | None = None
    snapshot: Snapshot | None = None


def public_start(
    state: dict[str, Any], backbone: learners.Backbone, dataset: data.Dataset, work: Work
) -> dict[str, torch.Tensor] | None:
    """What every part starts from: of --start public the learner of the anchors, of --head ridge as `ridge.public` says it;
    None for a start at random. The anchors have to be public: then no private image has a say in it."""
    if work.settings.get("start", "random") == "random":
        return None
    part = _part(backbone, work.settings.parts, state["anchors"], state, dataset, work)  # numbered as one part more
    if not ridge.is_asked_for(work.settings):
        learned = learn(part)
        return {name: learned[name] for name in ("prompt", "weight", "bias")}
    with _alone(work):
        features = features_of(backbone, part.images.images, work.compute.device)
        return ridge.public(features, part.images.labels, part.classes)


def _part(
    backbone: learners.Backbone,
    number: int,
    members: torch.Tensor,
    state: dict[str, Any],
    dataset: data.Dataset,
    work: Work,
    snapshot: Snapshot | None = None,
) -> Part:
    """The part of a system with the images `members`, int64 positions."""
    flip = dataset.flip and not work.settings.get("no_flip")  # systems of earlier versions don't know it
    shown = (flip, state["shape"], state["classes"], work, state.get("start"), snapshot)
    return Part(backbone, number, dataset.train.take(members), *shown)


def train_parts(
    folder: Path,
    state: dict[str, Any],
    parts: Iterable[int],
    generation: int,
    backbone: learners.Backbone,
    dataset: data.Dataset,
    work: Work,
    again: bool = False,
) -> dict[str, float]:
    """Train the parts anew, write their files, name them in `state`; returns what it cost.

    Continues with what a killed process has left of them; again: anything else that it has left is dropped, not refused.
    """
    members = {k: (state["part"] == k).nonzero().squeeze(1) for k in parts}
    files = {k: storage.part_file(k, generation) for k in members if len(members[k])}
    for k in members:
        state["files"][k] = files.get(k)
    wanted = {name: members[k] for k, name in files.items()}
    there, begun = storage.take_up(folder, state, generation, wanted, again)
    done = {k: there[name] for k, name in files.items() if name in there}
    if done and not work.compute.quiet:
        say(f"continuing: {len(done)} of {len(files)} parts are there")
    device = work.compute.device
    # A killed run has used these seconds as well; parts that learned side by side have theirs in common.
    before = begun + max((d.get("elapsed", d["seconds"]) for d in done.values()), default=0.0)
    started = clock(device) - before
    unfinished = {k: (folder / (name + storage.PARTIAL), storage.key_of(state, k, members[k])) for k, name in files.items()}
    snapshots = {k: storage.PartSnapshot(*file, overwrite=True, pause=PAUSE) for k, file in unfinished.items()}
    missing = [_part(backbone, k, members[k], state, dataset, work, snapshots[k]) for k in files if k not in done]
    bar = tqdm(total=len(missing), desc="parts", unit=" parts", leave=False, disable=work.compute.quiet or None)
    with bar, contextlib.closing(_learn_all(missing, work)) as learning:
        for learned in learning:
            k = learned["part"]
            done[k] = learned | storage.known(state) | {"members": members[k], "elapsed": clock(device) - started}
            write_torch(folder / files[k], done[k])
            storage.remove([snapshots[k].path] if snapshots[k].path.exists() else [])
            bar.update()
    images, epochs = sum(map(len, members.values())), work.settings.epochs
    return {
        "images": images,
        "sample_epochs": images * epochs,
        "flops": images * epochs * state["flops"],
        "steps": sum(d["steps"] for d in done.values()),
        "seconds": clock(device) - started,
        "memory_mib": max((d["memory_mib"] for d in done.values()), default=0.0),
    }


def _learn_all(parts: list[Part], work: Work) -> Generator[dict[str, Any], None, None]:
    """What `learn` makes of each part: one after the other, or in processes where the first part says that it pays."""
    import joblib

    if not parts:
        return
    first = learn(parts[0])
    yield first
    left = first["seconds"] * sum(len(part.images) for part in parts) / len(parts[0].images) - first["seconds"]
    jobs = work.jobs or (joblib.cpu_count() if work.compute.device == "cpu" else 1)
    jobs = jobs if left * (1 - 1 / jobs) > STARTUP else 1
    task = joblib.delayed(learn if jobs == 1 else _learn_apart)
    learned = joblib.Parallel(jobs, return_as="generator")(task(part) for part in parts[1:])
    try:
        yield from learned
    finally:
        with warnings.catch_warnings(action="ignore"):  # that there were more to come is what stopping means
            learned.close()  # ends the processes


def _learn_apart(part: Part) -> dict[str, Any]:
    """`learn` in a process of its own. tqdm's own lock would be left behind, with a warning, where that is killed."""
    tqdm.set_lock(threading.RLock())
    return learn(part)


def learn(part: Part) -> dict[str, Any]:
    """Train one learner on the images of its part, mirrored at random if `flip`: what its file holds.

    On a CPU one part of several has one thread, so that its bits are the same in a process of its own.
    """
    settings, device = part.work.settings, part.work.compute.device
    if ridge.is_asked_for(settings):
        return _solve(part)
    torch.manual_seed(settings.seed)  # one start for all parts
    learner = learners.Learner(part.backbone, part.shape, part.classes).to(device)
    if part.start is not None:
        learner.prompt.data, learner.head.weight.data, learner.head.bias.data = (
            part.start[name].to(device, copy=True) for name in ("prompt", "weight", "bias")
        )
    groups = [
        {"params": [learner.prompt], "lr": settings.lr, "weight_decay": 1e-4},
        {"params": learner.head.parameters(), "lr": settings.head_lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    steps = settings.epochs * data.steps_of(len(part.images), settings.batch_size)
    seed = settings.seed * 100_003 + part.number
    with _alone(part.work):
        cost = fit(
            learner,
            data.Split(part.images.images, part.images.labels),
            optimizer,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            seed=seed,
            compute=Compute(device, part.work.compute.precision or "fp32", part.work.compute.scratch, quiet=True),
            scheduler=recipes.warm_up_and_cosine(optimizer, steps, steps // 5),
            augment=data.crop_and_flip if part.flip else data.random_crop,
            snapshot=part.snapshot,
        )
    trained = {"prompt": learner.prompt, "weight": learner.head.weight, "bias": learner.head.bias}
    return {name: value.detach().cpu() for name, value in trained.items()} | cost | {"part": part.number, "seed": seed}


def _solve(part: Part) -> dict[str, Any]:
    """`learn` in closed form: a head on the features of the part's images, and no prompt."""
    assert part.start is not None  # --head ridge is refused without
    settings, device = part.work.settings, part.work.compute.device
    reset_peak_memory(device)
    started = clock(device)
    with _alone(part.work):
        features = features_of(part.backbone, part.images.images, device)
        weight, bias = ridge.head(part.start, features, part.images.labels)
    cost = {"seconds": clock(device) - started, "memory_mib": peak_memory_mib(device), "steps": 1}
    learned = {"prompt": torch.empty(0), "weight": weight, "bias": bias}
    return learned | cost | {"part": part.number, "seed": settings.seed}


def _alone(work: Work) -> contextlib.AbstractContextManager[None]:
    """One thread for one part of several on a CPU, so that its bits are the same in a process of its own."""
    return threads(1 if work.settings.parts > 1 and work.compute.device == "cpu" else None)
