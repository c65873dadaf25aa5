"""What surrounds a method: the run that it sees, and the checkpoint that it leaves."""

import argparse
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

import data
import models
from unlearning.core import distributed
from unlearning.core.device import Compute
from unlearning.core.files import Staged, staging
from unlearning.core.flags import Parser
from unlearning.core.provenance import script_of
from unlearning.core.words import say
from unlearning.vision import finish
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.flags import class_table
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot
from unlearning.vision.start import start
from unlearning.vision.train import fit


@dataclass(frozen=True)
class Run:
    """One training or unlearning, as its method sees it.

    staged: its files to be. snapshot: of an unfinished run. features: cached outputs of frozen layers. record: for cards.
    """

    method: str
    settings: Settings
    compute: Compute
    dataset: data.Dataset
    staged: Staged
    snapshot: Snapshot | None = None
    features: FeatureCache | None = None
    cost: dict[str, float] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, model: nn.Module, split: data.Split, optimizer: Optimizer, **policy: Any) -> nn.Module:
        """Train `model` in place as `train.fit` describes, for this run's epochs, and return it; add to the cost."""
        policy |= {name: self.settings[name] for name in ("epochs", "batch_size", "seed")}
        policy |= {"compute": self.compute, "snapshot": self.snapshot, "features": self.features}
        self.cost.update(fit(model, split, optimizer, **policy))
        return model


Method = Callable[[nn.Module, data.Split, data.Split, Run], nn.Module]


def execute(
    method: str,
    unlearn: Method,
    parser: Callable[[], Parser],
    args: argparse.Namespace,
    command: str,
    shared: Shared | None = None,
) -> Path | None:
    """Run unlearn(model, retain, forget, run) on what the flags name and write its checkpoint: the path.

    A finished checkpoint is returned as it is; --list-classes prints the classes and returns None. Raises UserError, before
    anything is computed, where the output was made otherwise or the original doesn't fit data, network or forget set.
    """
    shared = shared or Shared(args.cache)
    if args.list_classes:
        return print(class_table(args, shared))
    with contextlib.ExitStack() as held:
        begun = start(method, parser(), args, shared, held, script_of(unlearn))
        if begun.finished:
            say(begun.there())
            return begun.output
        held.enter_context(distributed.process_group(begun.compute.device))
        staged = held.enter_context(staging(begun.output))
        staged.expect(begun.output, *finish.beside(begun.output, begun.snapshot))
        where = begun.compute, begun.dataset, staged, begun.snapshot, shared.features
        run = Run(method, Settings(begun.values), *where, record=begun.facts | {"command": command})
        before = models.state(begun.model)
        with finish.metered(run.cost, begun.model, begun.compute.device):
            model = unlearn(begun.model, *begun.splits(), run).cpu()
        begun.check_returned(model)
        run.cost["moved"] = models.moved(before, models.state(model))
        finish.stage(staged, begun.checkpoint(model, run.cost, command), begun.snapshot)
    if distributed.is_main():
        print(f"{begun.output}  ({run.cost['seconds']:.1f} s, {run.cost['memory_mib']:,.0f} MiB)")
    return begun.output
