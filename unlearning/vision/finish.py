"""How a run ends: its checkpoint, and adapter and scores beside it, take their places, and its snapshot goes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from unlearning.core import distributed
from unlearning.core.device import clock, peak_memory_mib, reset_peak_memory
from unlearning.core.files import Staged, save_torch, writing
from unlearning.core.words import say
from unlearning.vision import adapter_files
from unlearning.vision.snapshots import Snapshot

FEW = 10  # optimiser steps in which a trained network hardly changes
FEW_AFRESH = 100  # in which hardly anything is learned from a fresh start


@contextlib.contextmanager
def metered(cost: dict[str, float], model: nn.Module, device: str) -> Iterator[None]:
    """Adds to `cost`, after a method has run within, what it hasn't written there itself."""
    trainable, started = sum(p.numel() for p in model.parameters() if p.requires_grad), clock(device)
    reset_peak_memory(device)
    yield
    usual = {"seconds": clock(device) - started, "memory_mib": peak_memory_mib(device), "trainable": trainable, "steps": 0}
    cost.update(usual | cost)


def warn_of_few_steps(checkpoint: dict[str, Any]) -> None:
    """Warn of a run that had few optimiser steps, by what its checkpoint says of it."""
    steps, settings = checkpoint["cost"].get("steps", 0), checkpoint["config"]
    if 0 < steps < (FEW if checkpoint["parent"] else FEW_AFRESH):
        few = f"{steps} optimiser step{'s' if steps > 1 else ''} in all, few to learn in"
        way = f"a smaller --batch-size (it is {settings['batch_size']}) or more --epochs ({settings['epochs']})"
        say(f"warning: {few}: {way} makes more of them")


def beside(output: Path, snapshot: Snapshot) -> list[Path]:
    """Where a run writes beside its output: its adapter, its scores, and what it has done so far."""
    return [adapter_files.folder_for(output), *(scores.file_for(output) for scores in snapshot.scores), snapshot.path]


def stage(staged: Staged, checkpoint: dict[str, Any], snapshot: Snapshot) -> None:
    """Write what takes its place when `staged` is committed; on rank 0 alone. Raises RunFailed on a full disk."""
    if not distributed.is_main():
        return
    warn_of_few_steps(checkpoint)
    adapter = adapter_files.beside(staged)
    for scores in snapshot.scores:
        scores.stage(staged, checkpoint["config"]["epochs"])
    with writing(staged.main):
        save_torch(staged.part(staged.main), checkpoint | adapter)
    # One that has trained has gone on from this file, or replaced it; else it is another run's.
    if snapshot.path.is_file() and (snapshot.overwrite or checkpoint["cost"].get("steps")):
        staged.without(snapshot.path)
