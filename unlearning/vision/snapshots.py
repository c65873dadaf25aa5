"""The state of an unfinished training, written after each epoch, from which the same command continues."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from unlearning.core import distributed
from unlearning.core.content import Misfit
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.core.provenance import device_name, versions
from unlearning.core.words import say
from unlearning.vision import snapshot_fields
from unlearning.vision.epoch_scores import EpochScores

MARK = "an unfinished run of machine unlearning"  # what such a file begins with, by which a damaged one is known, too
BEGIN = 4096  # bytes in which it stands


@dataclass(frozen=True)
class Snapshot:
    """The file of an unfinished run.

    key: of the run's settings, which the file must have. script: of `provenance.script_of`, of the method's function, which
    the file must have where it says one. overwrite: compute again; only a run that was to do so too is continued, and any
    other run's file is dropped, not refused. history: what a method notes at each step, lists of numbers, each as long as
    the first; it is kept in the file and continued as well. So is what `scores` have kept.
    """

    path: Path
    key: str
    overwrite: bool = False
    history: list[list[list[float]]] = field(default_factory=list)
    scores: Sequence[EpochScores] = ()
    script: str = ""

    def check_place(self) -> None:
        """Raise UserError where something else than an unfinished run lies in the file's place and would be replaced."""
        if not os.path.lexists(self.path):
            return
        if self.path.is_symlink() or not self.path.is_file():
            what = "is a link, or no file, where an unfinished run is kept"
        elif not self._is_own():
            what = "is no unfinished run of this project"
        else:
            return
        raise UserError(f"{self.path} {what}: move it, or give another --output")

    def _is_own(self) -> bool:
        """True for an unfinished run, damaged or not; of earlier versions, whose files don't begin with MARK, if it can be
        read."""
        with self.path.open("rb") as file:
            if MARK.encode() in file.read(BEGIN):
                return True
        try:
            state = read_torch(self.path)
            snapshot_fields.STATE(state)
        except (UserError, Misfit):
            return False
        return bool(re.fullmatch("[0-9a-f]{64}", state["key"]))

    def after_epoch(
        self, model: nn.Module, optimizer: Optimizer, scheduler: Any, epoch: int, epochs: int, seconds: float
    ) -> None:
        """Score the network where that is wanted, and write the file as `write` does; not after the last of `epochs`, for
        then comes the checkpoint."""
        for scores in self.scores if distributed.is_main() else ():
            scores.add(model, epoch)
        if epoch < epochs:
            self.write(model, optimizer, scheduler, epoch, seconds)

    def write(self, model: nn.Module, optimizer: Optimizer, scheduler: Any, epoch: int, seconds: float) -> None:
        """Write what training moves, after `epoch` epochs that took `seconds`; on rank 0 alone."""
        if distributed.is_main():
            fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
            state = {
                "what": MARK,
                "key": self.key,
                "script": self.script,
                "overwrite": self.overwrite,
                "epoch": epoch,
                "seconds": seconds,
                "model": {name: tensor for name, tensor in model.state_dict().items() if name not in fixed},
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.last_epoch if scheduler else 0,
                "made_by": _circumstances(model),
                "history": self.history,
            }
            kept = {scores.FIELD: scores.kept for scores in self.scores if scores.scored}
            write_torch(self.path, state | kept)

    def restore(self, model: nn.Module, optimizer: Optimizer, scheduler: Any, epochs: int, quiet: bool) -> tuple[int, float]:
        """Continue from the file if there is one: (epochs done, seconds spent).

        epochs: of the whole run. Raises UserError for a file of other settings, or a damaged one, unless `overwrite`. Says
        so where other versions, another device or another number of threads have begun: the rest rounds otherwise.
        """
        try:
            state = self._read(model, optimizer, epochs) if self.path.exists() else None
        except UserError:
            if not self.overwrite:
                raise
            state = None
        if state is None:
            return 0, 0.0
        model.load_state_dict(model.state_dict() | state["model"])
        self.history[:] = state.get("history", [])
        for scores in self.scores:
            scores.kept = state.get(scores.FIELD)
        optimizer.load_state_dict(state["optimizer"])
        if scheduler:
            scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": state["scheduler"]})
        if not quiet:
            say(f"continuing after epoch {state['epoch']}")
        before, now = state.get("made_by", {}), _circumstances(model)
        if other := [f"{name} {now[name]} for {before[name]}" for name in now if before.get(name, now[name]) != now[name]]:
            what = "not bit-equal to a run that was never interrupted from here on"
            say(f"warning: {what}: {'; '.join(other)}")
        return state["epoch"], state["seconds"]

    def _read(self, model: nn.Module, optimizer: Optimizer, epochs: int) -> dict[str, Any] | None:
        """What the file holds, None where it was begun by a run that was not to compute again."""
        state = read_torch(self.path)
        if not isinstance(state, dict) or state.get("key") != self.key:
            raise UserError(f"{self.path} is an unfinished run with other settings; delete it or give --overwrite")
        if state.get("script", self.script) != self.script:
            raise UserError(f"{self.path} was begun before the method's script was changed; delete it or give --overwrite")
        snapshot_fields.check(state, model, optimizer, self.path, self.scores)
        if state["epoch"] >= epochs:
            raise UserError(f"{self.path} is no unfinished run of {epochs} epochs: delete it")
        return state if state.get("overwrite") is True or not self.overwrite else None


def _circumstances(model: nn.Module) -> dict[str, str]:
    """On what the last bits of a training depend."""
    return {"device": device_name(next(model.parameters()).device)} | versions()
