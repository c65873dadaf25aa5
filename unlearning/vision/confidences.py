"""How sure a network was of each training image while it learned, for --confidence, in a CSV file beside its checkpoint.

An image whose label had a low probability in most epochs was hard to learn, and is known because it was memorised. The mean
over the epochs of one training is a proxy for memorisation, which takes many networks trained with and without each image
to measure (K. Zhao and P. Triantafillou, arXiv 2410.16516).
"""

import csv
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from unlearning.core.content import fields, require, tensor, whole
from unlearning.metrics import predictions
from unlearning.vision.epoch_scores import EpochScores
from unlearning.vision.feature_cache import BLOCK
from unlearning.vision.predict import predict

AT_ONCE = 64 * BLOCK  # images whose logits are held


@dataclass
class Confidence(EpochScores):
    """The sum over epochs of the probability of each training image's label, float64 (N,), and the number of epochs."""

    NAME = FIELD = "confidence"
    HEADERS = b"index,label,confidence", b"file,label,confidence"

    @cached_property
    def there(self) -> torch.Tensor:
        """int64 (N,): positions of the training images whose files are there."""
        every = torch.arange(len(self.dataset.train))
        return every[~torch.isin(every, self.dataset.missing)]

    def after(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """The sum with this epoch's probabilities of the images as they are, as `EpochScores.after`. An answer that is no
        number adds 0."""
        splits = map(self.dataset.train.take, self.there.split(AT_ONCE))
        found = [predictions.confidence(predict(model, split, self.compute), split.labels) for split in splits]
        return {"epochs": self.scored + 1, "total": torch.cat(found).nan_to_num() + (self.kept["total"] if self.kept else 0)}

    def check(self, kept: Any, epochs: int) -> None:
        """Raise Misfit unless this is a sum of probabilities of these images over at most so many epochs."""
        fields({"epochs": whole(1, epochs), "total": tensor(torch.float64, len(self.there))}, closed=True)(kept)
        low, high = kept["total"].aminmax()
        require(low >= 0 and high <= kept["epochs"], "total", f"runs from {low} to {high} in {kept['epochs']} epochs")

    @property
    def scored(self) -> int:
        """The number of epochs in the sum."""
        return self.kept["epochs"] if self.kept else 0

    def table(self) -> str:
        """CSV, a line for each image, ascending by mean confidence, before it is rounded to six digits, then by number."""
        catalogue, mean = self.dataset.whole, self.kept["total"] / self.kept["epochs"]
        names, labels = catalogue.called(self.there), self.dataset.train.labels[self.there].tolist()
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("file" if catalogue.files else "index", "label", "confidence"))
        table.writerows((names[i], labels[i], f"{mean[i]:.6f}") for i in mean.argsort(stable=True).tolist())
        return text.getvalue()
