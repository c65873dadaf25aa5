"""The curve of a run, for --curve: UA, RA and TA after each epoch, in a CSV file beside its checkpoint."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

import data
from unlearning.core.content import fields, list_of, number, require
from unlearning.images import forgetting
from unlearning.metrics.predictions import accuracy
from unlearning.vision.epoch_scores import EpochScores
from unlearning.vision.predict import predict

LIMIT = 1000  # images of each of D_f, D_r and T_r that are scored
SCORED = ("UA", "RA", "TA")
COLUMNS = ("epoch", *SCORED, *(f"{name}_images" for name in SCORED))
Point = dict[str, float]  # of an epoch, of COLUMNS those that have a value


@dataclass
class Curve(EpochScores):
    """UA, RA and TA after each epoch: a list of points. forget: int64 positions of the images that the run forgets."""

    NAME, FIELD, HEADERS = "curve", "points", (",".join(COLUMNS).encode(),)

    forget: torch.Tensor = field(kw_only=True)

    @cached_property
    def splits(self) -> Mapping[str, data.Split]:
        """What is scored by the columns UA, RA and TA: at most LIMIT images of each of D_f, D_r and T_r, by class, the same
        for every run; an empty one has no value."""
        dataset, forget = self.dataset, self.forget
        kept = forgetting.retain_indices(len(dataset.train), forget)
        there = forget[~torch.isin(forget, dataset.missing)]
        tested = ~forgetting.of_whole_classes(dataset.train, dataset.test, forget)
        sets = {"UA": dataset.train.take(there), "RA": dataset.train.take(kept), "TA": dataset.test.take(tested)}
        return {name: _some(split) for name, split in sets.items()}

    def after(self, model: nn.Module, epoch: int) -> list[Point]:
        """The points with one more, as `EpochScores.after`."""
        return [*(self.kept or ()), self.point(model, epoch)]

    def point(self, model: nn.Module, epoch: int) -> Point:
        """UA, RA and TA in percent after `epoch` epochs; the model is left in evaluation mode."""
        found = {"epoch": float(epoch)} | {
            name: accuracy(predict(model, split, self.compute), split.labels)
            for name, split in self.splits.items()
            if len(split)
        }
        if "UA" in found:
            found["UA"] = 100 - found["UA"]
        return found | {f"{name}_images": float(len(split)) for name, split in self.splits.items()}

    def check(self, kept: Any, epochs: int) -> None:
        """Raise Misfit unless these are points of epochs in turn, at most of so many."""
        scored = {name: number(0, 100) for name in SCORED}
        list_of(fields({name: number(0) for name in COLUMNS if name not in scored}, scored, closed=True))(kept)
        of = [point["epoch"] for point in kept]
        require(of == sorted(set(of)) and max(of, default=0) <= epochs, "", "are of epochs that aren't in turn")

    @property
    def scored(self) -> int:
        """The number of points."""
        return len(self.kept or ())

    def table(self) -> str:
        """Points as CSV, a line for each epoch, percentages with four digits."""
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
        table.writeheader()
        for point in self.kept:
            table.writerow({name: f"{value:.{4 * (name in SCORED)}f}" for name, value in point.items()})
        return text.getvalue()


def _some(split: data.Split) -> data.Split:
    return split.take(data.stratified(split.labels, min(LIMIT, len(split)))) if len(split) else split
