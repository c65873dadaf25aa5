"""Images with their labels: tensors in memory, or files that are read as they are used."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from unlearning.core.errors import UserError
from unlearning.images.pictures import read_images


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), a tensor or ImageFiles, and labels int64 (N,).

    Labels are float32 (N, classes) where probabilities are to be learned.

    origin: the images that these were taken from, and their positions there, int64 (N,); None where these are all.
    subclasses: int64 (N,), of data sets whose classes have subclasses; no network learns them.
    """

    images: "torch.Tensor | ImageFiles"
    labels: torch.Tensor
    origin: "tuple[torch.Tensor | ImageFiles, torch.Tensor] | None" = None
    subclasses: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: "torch.Tensor | slice") -> "Split":
        """The rows that `index` names: int64 positions or a boolean mask (N,)."""
        images, rows = self.source
        own = self.images.take(index) if isinstance(self.images, ImageFiles) else self.images[index]
        kinds = None if self.subclasses is None else self.subclasses[index]
        return Split(own, self.labels[index], (images, rows[index]), kinds)

    def joined(self, other: "Split") -> "Split":
        """These images, then those of `other`, and their origin where it is one. Raises UserError where some are gone."""
        (images, rows), (others, more) = self.source, other.source
        origin = (images, torch.cat([rows, more])) if images is others else None
        both = self.subclasses, other.subclasses
        kinds = None if both[0] is None or both[1] is None else torch.cat([both[0], both[1]])
        return Split(concatenate(self.images, other.images), torch.cat([self.labels, other.labels]), origin, kinds)

    @property
    def source(self) -> "tuple[torch.Tensor | ImageFiles, torch.Tensor]":
        """As `origin`, never None."""
        return self.origin or (self.images, torch.arange(len(self)))

    @property
    def finest(self) -> torch.Tensor:
        """The subclasses, int64 (N,); where there are none, the labels."""
        return self.labels if self.subclasses is None else self.subclasses


class ImageFiles:
    """Image files in the place of a tensor uint8 (N, 3, side, side): an index reads those images, several at a time."""

    device = torch.device("cpu")

    def __init__(self, paths: Sequence[str | Path] | np.ndarray, side: int) -> None:
        self.paths, self.shape = np.asarray(paths), (len(paths), 3, side, side)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: "torch.Tensor | slice") -> torch.Tensor:
        """The images at int64 positions, a slice or a boolean mask. Raises UserError for a file that holds no image."""
        return read_images(self.take(index).paths, self.shape[-1])[0]

    def take(self, index: "torch.Tensor | slice") -> "ImageFiles":
        """ImageFiles of those at `index`, unread."""
        return ImageFiles(self.paths[index.numpy() if isinstance(index, torch.Tensor) else index], self.shape[-1])

    def to(self, device: object) -> "ImageFiles":
        """No-op: batches are moved to the device when they are read."""
        return self


class Absent:
    """Stands for images uint8 of this shape that aren't there any more: whoever wants to look at them is told so."""

    device = torch.device("cpu")

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> torch.Tensor:
        """Raises UserError."""
        what = "are not there any more, and this method looks at them"
        others = "finetune, pruneft, lora, loraprune without --forget-loss and retrain don't"
        raise UserError(f"images to be forgotten {what}: {others}")

    def to(self, device: object) -> torch.Tensor:
        """Raises UserError."""
        return self[:]


class Contents(NamedTuple):
    """What is read of a data set. test: None where it has no test images and none are asked for. files: the names of the
    training images, where each has a file of its own. subclasses: their names, where the splits have such."""

    train: Split
    test: Split | None
    classes: Sequence[str]
    files: Sequence[str] = ()
    subclasses: Sequence[str] = ()


def concatenate(images: Any, others: Any) -> "torch.Tensor | ImageFiles":
    """All of two splits' images; both are tensors, or both are ImageFiles."""
    if absent := [some for some in (images, others) if isinstance(some, Absent)]:
        return absent[0][:]
    if isinstance(images, ImageFiles):
        return ImageFiles(np.concatenate([images.paths, others.paths]), images.shape[-1])
    return torch.cat([images, others])
