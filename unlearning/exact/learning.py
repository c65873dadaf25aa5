"""TODO unlearning.exact.learning."""

import argparse

import joblib
import torch
from tqdm import tqdm

import data
from unlearning.core.device import clock, threads
from unlearning.core.files import read_torch, write_torch
from unlearning.exact import learners
from unlearning.vision import recipes
from unlearning.vision.train import fit

STARTUP = 15  # seconds that processes must save to be started


def train_parts(folder, state, parts, generation, backbone, dataset, config):
    """Train the parts anew, write their files, name them in `state`; returns what it cost."""
    members = {k: (state["part"] == k).nonzero().squeeze(1) for k in parts}
    files = {k: f"part_{k:04d}_{generation:04d}.pth" for k in parts if len(members[k])}
    for k in parts:
        state["files"][k] = files.get(k)
    done = {k: read_torch(folder / name) for k, name in files.items() if generation == 0 and (folder / name).exists()}
    done = {k: d for k, d in done.items() if d["config"] == state["config"] and torch.equal(d["members"], members[k])}
    seconds = sum(d["seconds"] for d in done.values())  # of an earlier run, which was killed
    started = clock(config.device)
    missing = {k: dataset.train.take(members[k]) for k in files if k not in done}
    with tqdm(total=len(missing), desc="parts", unit=" parts", leave=False, disable=config.quiet or None) as bar:
        for learned in _learn_all(missing, backbone, dataset.flip, state, config):
            k = learned["part"]
            done[k] = learned | {"members": members[k]}
            write_torch(folder / files[k], done[k])
            bar.update()
    images = sum(map(len, members.values()))
    return {
        "images": images,
        "sample_epochs": images * config.epochs,
        "flops": images * config.epochs * state["flops"],
        "steps": sum(d["steps"] for d in done.values()),
        "seconds": seconds + clock(config.device) - started,
        "memory_mib": max((d["memory_mib"] for d in done.values()), default=0.0),
    }


def _learn_all(missing, backbone, flip, state, config):
    """What `_learn` makes of each part: one after the other, or in processes where the first part says that it pays."""
    state = {key: state[key] for key in ("shape", "classes", "config")}
    tasks = [(backbone, data.Split(x.images, x.labels), flip, k, state, config) for k, x in missing.items()]
    if not tasks:
        return
    first = _learn(*tasks[0])
    yield first
    left = first["seconds"] * sum(map(len, missing.values())) / len(tasks[0][1]) - first["seconds"]
    jobs = config.jobs or (joblib.cpu_count() if config.device == "cpu" else 1)
    jobs = jobs if left * (1 - 1 / jobs) > STARTUP else 1
    yield from joblib.Parallel(jobs, return_as="generator")(joblib.delayed(_learn)(*task) for task in tasks[1:])


def _learn(backbone, images, flip, k, state, config):
    """Train one learner on `images`, mirrored at random if `flip`: what its file holds.

    On a CPU one part of several has one thread, so that its bits are the same in a process of its own.
    """
    torch.manual_seed(config.seed)  # one start for all parts
    learner = learners.Learner(backbone, state["shape"], state["classes"]).to(config.device)
    groups = [
        {"params": [learner.prompt], "lr": config.lr, "weight_decay": 1e-4},
        {"params": learner.head.parameters(), "lr": config.head_lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    steps = config.epochs * -(-len(images) // config.batch_size)
    circumstances = argparse.Namespace(
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed * 100_003 + k,
        device=config.device,
        precision=config.precision or "fp32",
        quiet=True,
        snapshot=None,
        cost={},
    )
    augment = data.crop_and_flip if flip else data.random_crop
    scheduler = recipes.warm_up_and_cosine(optimizer, steps, steps // 5)
    with threads(1 if state["config"]["parts"] > 1 and config.device == "cpu" else None):
        fit(learner, images, optimizer, circumstances, scheduler=scheduler, augment=augment, freeze_norm=True)
    trained = {
        "prompt": learner.prompt.detach().cpu(),
        "weight": learner.head.weight.detach().cpu(),
        "bias": learner.head.bias.detach().cpu(),
    }
    return trained | circumstances.cost | {"part": k, "seed": circumstances.seed, "config": state["config"]}
