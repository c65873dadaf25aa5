"""Reference networks of RMIA: which ones a row may use, what they say, and which images each has trained on."""

from dataclasses import dataclass, field, replace

import torch

import data
from unlearning.core.errors import UserError
from unlearning.evaluation import network
from unlearning.evaluation.entries import Entry, check_identities, describe, network_of, once, refuse_nan
from unlearning.evaluation.flags import Scoring
from unlearning.evaluation.forget_sets import own_positions
from unlearning.metrics import predictions
from unlearning.vision.identity import digest
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared


@dataclass
class ReferenceNetworks:
    """The networks of --references: trained afresh on all images but those that they say they forgot (retrain.py).

    A row uses those of its own network and images, itself left out. What each says of a forget set is asked once.
    """

    entries: tuple[Entry, ...]
    scoring: Scoring
    shared: Shared
    asked: dict[tuple[str | None, str], network.References] = field(default_factory=dict)

    @classmethod
    def named(cls, scoring: Scoring, shared: Shared) -> "ReferenceNetworks":
        """Those that `scoring` names. Raises UserError for one that was not trained afresh, and for one run given twice."""
        entries = [describe(path, scoring, shared) for path in once(scoring.references)]
        for entry in entries:
            if entry.method not in ("original", "retrain") or entry.elsewhere:
                what = "a reference is a network that says which images it was trained on from a fresh start"
                raise UserError(f"--references {entry.path} is {entry.method}: {what}, as retrain.py makes it")
            if not len(entry.forget):
                what = "has trained on all images; give networks of retrain.py"
                raise UserError(f"--references {entry.path} {what} that forgot some of those that are asked about")
        check_identities(entries)
        return cls(tuple(entries), scoring, shared)

    def of(self, entry: Entry) -> list[Entry]:
        """Those that a file may be set against."""
        return [one for one in self.entries if one.network == entry.network and one.sha256 != entry.sha256]

    def say(self, entry: Entry, dataset: data.Dataset, forget: torch.Tensor) -> network.References | None:
        """What those of a file say of a forget set, int64 positions in `dataset`; None where there are none, or there is
        nothing to ask."""
        never = network.unseen(dataset, network.four_sets(dataset, forget))
        if len(dataset.missing) or not len(never):
            return None
        found = [self._asked(one, entry, dataset, forget, never) for one in self.of(entry)]
        return network.References(*(torch.stack(parts) for parts in zip(*found, strict=True))) if found else None

    def _asked(
        self, one: Entry, entry: Entry, dataset: data.Dataset, forget: torch.Tensor, never: torch.Tensor
    ) -> network.References:
        """As `say`, of a single network: tensors (N,), (U,), (N,). never: of `network.unseen`."""
        key = one.sha256, digest(forget)
        if key not in self.asked:
            model = network_of(one, self.shared, self.scoring.told.own)
            compute = self.scoring.compute.placed(model)
            splits = [dataset.train.take(forget), dataset.test.take(never)]
            logits = [predict(model, split, compute, self.shared.features) for split in splits]
            refuse_nan(one.path, logits)
            seen, unseen = (predictions.confidence(x, split.labels) for x, split in zip(logits, splits, strict=True))
            self.asked[key] = network.References(
                seen, unseen, torch.isin(forget, own_positions(replace(one, drawn=entry.drawn), one.forget))
            )
        return self.asked[key]
