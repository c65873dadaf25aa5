"""Images with their labels: tensors in memory, or files that are read as they are used."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearning.images.pictures import read_image


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), a tensor or ImageFiles, and labels int64 (N,).

    Labels are float32 (N, classes) where probabilities are to be learned.

    origin: the images that these were taken from, and their positions there, int64 (N,); None where these are all.
    names: the file of each image, below the folder of its data set, with forward slashes; None where they have none. What is
    taken has none: `Dataset.catalogue` keeps those of all.
    """

    images: "torch.Tensor | ImageFiles"
    labels: torch.Tensor
    origin: "tuple[torch.Tensor | ImageFiles, torch.Tensor] | None" = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: "torch.Tensor | slice") -> "Split":
        """The rows that `index` names: int64 positions or a boolean mask (N,)."""
        images, rows = self.source
        own = self.images.take(index) if isinstance(self.images, ImageFiles) else self.images[index]
        return Split(own, self.labels[index], (images, rows[index]))

    @property
    def source(self) -> "tuple[torch.Tensor | ImageFiles, torch.Tensor]":
        """As `origin`, never None."""
        return self.origin or (self.images, torch.arange(len(self)))


class ImageFiles:
    """Image files in the place of a tensor uint8 (N, 3, side, side): an index reads those images, several at a time."""

    device = torch.device("cpu")

    def __init__(self, paths: Sequence[str | Path] | np.ndarray, side: int) -> None:
        self.paths, self.shape = np.asarray(paths), (len(paths), 3, side, side)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: "torch.Tensor | slice") -> torch.Tensor:
        """The images at int64 positions, a slice or a boolean mask. Raises UserError for a file that holds no image."""
        paths = self.take(index).paths
        images = torch.empty(len(paths), *self.shape[1:], dtype=torch.uint8)

        def read(row):
            images[row] = read_image(paths[row], self.shape[-1])

        with ThreadPoolExecutor(os.cpu_count()) as readers:  # decoding leaves Python's lock to the others
            list(readers.map(read, range(len(paths))))
        return images

    def take(self, index: "torch.Tensor | slice") -> "ImageFiles":
        """ImageFiles of those at `index`, unread."""
        return ImageFiles(self.paths[index.numpy() if isinstance(index, torch.Tensor) else index], self.shape[-1])

    def to(self, device: object) -> "ImageFiles":
        """No-op: batches are moved to the device when they are read."""
        return self


def concatenate(images: Any, others: Any) -> "torch.Tensor | ImageFiles":
    """All of two splits' images; both are tensors, or both are ImageFiles."""
    if isinstance(images, ImageFiles):
        return ImageFiles(np.concatenate([images.paths, others.paths]), images.shape[-1])
    return torch.cat([images, others])
