"""The state of an unfinished training, written after each epoch, from which the same command continues."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from unlearning.core import distributed
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.vision import snapshot_fields


@dataclass(frozen=True)
class Snapshot:
    """The file of an unfinished run.

    key: of the run's settings, which the file must have. overwrite: a file of other settings is dropped, not refused.
    """

    path: Path
    key: str
    overwrite: bool = False

    def write(self, model: nn.Module, optimizer: Optimizer, scheduler: Any, epoch: int, seconds: float) -> None:
        """Write what training moves, after `epoch` epochs that took `seconds`; on rank 0 alone."""
        if distributed.is_main():
            fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
            state = {
                "key": self.key,
                "epoch": epoch,
                "seconds": seconds,
                "model": {name: tensor for name, tensor in model.state_dict().items() if name not in fixed},
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.last_epoch if scheduler else 0,
            }
            write_torch(self.path, state)

    def restore(self, model: nn.Module, optimizer: Optimizer, scheduler: Any, quiet: bool) -> tuple[int, float]:
        """Continue from the file if there is one: (epochs done, seconds spent). UserError for one of other settings."""
        if not self.path.exists():
            return 0, 0.0
        state = read_torch(self.path)
        if not isinstance(state, dict) or state.get("key") != self.key:
            if self.overwrite:
                return 0, 0.0
            raise UserError(f"{self.path} is an unfinished run with other settings; delete it or give --overwrite")
        snapshot_fields.check(state, model, optimizer, self.path)
        model.load_state_dict(model.state_dict() | state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if scheduler:
            scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": state["scheduler"]})
        if not quiet:
            print(f"continuing after epoch {state['epoch']}", file=sys.stderr, flush=True)
        return state["epoch"], state["seconds"]
