"""The curve of a run, for --curve: UA, RA and TA after each epoch, in a CSV file beside its checkpoint."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import data
from unlearning.core import seals
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.files import Staged, save_bytes, writing
from unlearning.core.words import encoded, say
from unlearning.images import forgetting
from unlearning.metrics.predictions import accuracy
from unlearning.vision.predict import predict

LIMIT = 1000  # images of each of D_f, D_r and T_r that are scored
SCORED = ("UA", "RA", "TA")
COLUMNS = ("epoch", *SCORED, *(f"{name}_images" for name in SCORED))
Point = dict[str, float]  # of an epoch, of COLUMNS those that have a value


def file_for(checkpoint: Path) -> Path:
    """The curve's file beside a checkpoint: x.pth to x_curve.csv."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".pth") + "_curve.csv")


@dataclass(frozen=True)
class Curve:
    """What is scored after each epoch: splits of D_f, D_r and T_r, by the columns UA, RA and TA; an empty one has no
    value."""

    splits: Mapping[str, data.Split]
    compute: Compute

    @classmethod
    def of(cls, dataset: data.Dataset, forget: torch.Tensor, compute: Compute) -> "Curve":
        """Of a run that forgets the images at the int64 positions `forget`: at most LIMIT images of each set, by class, the
        same for every run."""
        gone = forgetting.whole_classes(dataset.train.labels, forget)
        kept = forgetting.retain_indices(len(dataset.train), forget)
        there = forget[~torch.isin(forget, dataset.missing)]
        tested = ~torch.isin(dataset.test.labels, torch.tensor(gone, dtype=torch.int64))
        sets = {"UA": dataset.train.take(there), "RA": dataset.train.take(kept), "TA": dataset.test.take(tested)}
        return cls({name: _some(split) for name, split in sets.items()}, compute)

    def point(self, model: nn.Module, epoch: int) -> Point:
        """UA, RA and TA in percent after `epoch` epochs. The model and every random state stay as they are."""
        modes = {module: module.training for module in model.modules()}
        device = torch.device(self.compute.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            found = {"epoch": float(epoch)} | {
                name: accuracy(predict(model, split, self.compute), split.labels)
                for name, split in self.splits.items()
                if len(split)
            }
        for module, training in modes.items():
            module.training = training
        if "UA" in found:
            found["UA"] = 100 - found["UA"]
        return found | {f"{name}_images": float(len(split)) for name, split in self.splits.items()}


def check_place(output: Path, wanted: bool, overwrite: bool) -> None:
    """Raise UserError where a curve is wanted and its file would replace one that isn't a curve, or without --overwrite."""
    file = file_for(output)
    if not wanted or not os.path.lexists(file):
        return
    if not overwrite:
        raise UserError(f"{file} is there already: --overwrite replaces it")
    if not _is_own(file):
        raise UserError(f"{file} {seals.FOREIGN}")


def stage(staged: Staged, points: Sequence[Point], wanted: bool, epochs: int) -> None:
    """Have a run's curve take its place with the checkpoint `staged.main`. That of a checkpoint which is replaced goes.

    epochs: of the whole run; a line says how many of them were made without --curve, and are not in the file. Raises
    RunFailed on a full disk.
    """
    file = file_for(staged.main)
    if wanted and points:
        if missing := epochs - len(points):
            say(f"--curve: {missing} of {epochs} epochs were made without it, and aren't in {file}")
        with writing(file):
            save_bytes(staged.part(file), seals.sealed(encoded(_table(points)), "csv"))
        return
    if wanted:
        say(f"--curve: no epoch was trained, so there is no {file}")
    if staged.main.exists() and _is_own(file):
        staged.without(file)


def _table(points: Sequence[Point]) -> str:
    """Points as CSV, a line for each epoch, percentages with four digits."""
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    table.writeheader()
    for point in points:
        table.writerow({name: f"{value:.{4 * (name in SCORED)}f}" for name, value in point.items()})
    return text.getvalue()


def _is_own(file: Path) -> bool:
    """True for a curve as it was written here."""
    return seals.is_own(file) and file.read_bytes().startswith(encoded(",".join(COLUMNS)))


def _some(split: data.Split) -> data.Split:
    return split.take(data.stratified(split.labels, min(LIMIT, len(split)))) if len(split) else split
