"""What surrounds a method: the run that it sees, and the checkpoint that it leaves."""

import argparse
import sys
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
from unlearning.core.files import write_torch
from unlearning.core.flags import Parser
from unlearning.images import forgetting
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.flags import source_of
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot
from unlearning.vision.start import explained, start
from unlearning.vision.train import fit


@dataclass(frozen=True)
class Run:
    """One training or unlearning, as its method sees it.

    snapshot: of an unfinished run. features: cached outputs of frozen layers. cost: as measured. record: for its files.
    """

    method: str
    settings: Settings
    compute: Compute
    dataset: data.Dataset
    output: Path
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
        return print(data.class_table(shared.load(source_of(args))), end="")
    begun = start(method, parser(), args, shared)
    if begun.finished:
        print(f"there already: {begun.output}", file=sys.stderr, flush=True)
        return begun.output
    dataset, forget = begun.dataset, begun.dataset.part(begun.forget)
    retain = dataset.part(forgetting.retain_indices(len(dataset.train), begun.forget))
    where, says = (begun.compute, dataset, begun.output, begun.snapshot), {"network": begun.network, "command": command}
    run = Run(method, Settings(begun.values), *where, shared.features, record=begun.facts | says)
    before = models.state(begun.model)
    with distributed.process_group(run.compute.device), explained():
        model = unlearn(begun.model, retain, forget, run).cpu()
        run.cost["moved"] = models.moved(before, models.state(model))
        if distributed.is_main():
            write_torch(run.output, begun.checkpoint(model, run.cost, command))
            begun.snapshot.path.unlink(missing_ok=True)
    if not run.compute.quiet:
        print(f"{run.output}  ({run.cost['seconds']:.1f} s, {run.cost['memory_mib']:,.0f} MiB)")
    return run.output
