"""What a run scores after each epoch where a flag asks for it, and writes beside its checkpoint, as CSV, when it ends."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

import data
from unlearning.core import seals
from unlearning.core.device import Compute
from unlearning.core.errors import UserError
from unlearning.core.files import Staged, save_bytes, writing
from unlearning.core.words import encoded, say


@dataclass
class EpochScores(ABC):
    """The scores of a run on `dataset`. wanted: True where the flag is given. kept: what was scored so far, which an
    unfinished run's file has; None at first."""

    NAME: ClassVar[str]  # of the flag, and of the file: with --curve x.pth has x_curve.csv
    FIELD: ClassVar[str]  # of an unfinished run's file, in which `kept` is
    HEADERS: ClassVar[tuple[bytes, ...]]  # one of these begins the file

    dataset: data.Dataset
    compute: Compute
    wanted: bool = True
    kept: Any = field(default=None, kw_only=True)

    @abstractmethod
    def after(self, model: nn.Module, epoch: int) -> Any:
        """What is kept after `epoch` epochs, with what was kept before. It may leave the model in evaluation mode."""

    @abstractmethod
    def check(self, kept: Any, epochs: int) -> None:
        """Raise Misfit unless `kept` is what this run can have kept after so many epochs."""

    @property
    @abstractmethod
    def scored(self) -> int:
        """The number of epochs of which something is kept."""

    @abstractmethod
    def table(self) -> str:
        """What is kept as CSV, without the seal."""

    def add(self, model: nn.Module, epoch: int) -> None:
        """Score the network after `epoch` epochs where that is wanted. The model and every random state stay as they are."""
        if not self.wanted:
            return
        modes = {module: module.training for module in model.modules()}
        device = torch.device(self.compute.device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self.kept = self.after(model, epoch)
        for module, training in modes.items():
            module.training = training

    @classmethod
    def file_for(cls, checkpoint: Path) -> Path:
        """The file beside a checkpoint: x.pth to x_NAME.csv."""
        return checkpoint.with_name(f"{checkpoint.name.removesuffix('.pth')}_{cls.NAME}.csv")

    def check_place(self, output: Path, overwrite: bool) -> None:
        """Raise UserError where the file is wanted and would replace one of another kind or of another run, as x and x.pth
        have one in common, or any without --overwrite."""
        file = self.file_for(output)
        if not self.wanted or not os.path.lexists(file):
            return
        if not overwrite:
            raise UserError(f"{file} is there already: --overwrite replaces it")
        if not self._is_own(file):
            raise UserError(f"{file} {seals.FOREIGN}")
        bare = output.name.removesuffix(".pth")
        other = output.with_name(bare if bare != output.name else bare + ".pth")
        if other.exists():
            raise UserError(f"{file} may be that of {other}: give another --output")

    def stage(self, staged: Staged, epochs: int) -> None:
        """Have the file take its place with the checkpoint `staged.main`. That of a checkpoint which is replaced goes.

        epochs: of the whole run; a line says how many of them were made without the flag, and are not in the file. Raises
        RunFailed on a full disk.
        """
        file = self.file_for(staged.main)
        if self.wanted and self.scored:
            if missing := epochs - self.scored:
                say(f"--{self.NAME}: {missing} of {epochs} epochs were made without it, and aren't in {file}")
            with writing(file):
                save_bytes(staged.part(file), seals.sealed(encoded(self.table()), "csv"))
            return
        if self.wanted:
            say(f"--{self.NAME}: no epoch was trained, so there is no {file}")
        if staged.main.exists() and self._is_own(file):
            staged.without(file)

    def _is_own(self, file: Path) -> bool:
        """True for such a file as it was written here."""
        return seals.is_own(file) and file.read_bytes().startswith(self.HEADERS)
