"""Which images are private, which of them make the centres, and which a request names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import data
from unlearning.core.errors import UserError


@dataclass(frozen=True)
class ImageRequest:
    """Training images that a request names: by number, by a file of numbers, by class."""

    ids: tuple[int, ...] = ()
    file: Path | None = None
    label: int | None = None

    def positions(self, labels: torch.Tensor, private: torch.Tensor, deleted: torch.Tensor) -> torch.Tensor:
        """Ascending int64 positions; of a class those that aren't deleted yet.

        private: bool mask (N,). deleted: int64 positions. Raises UserError for images that are unknown, named twice, gone
        already or public.
        """
        ids = self._numbers()
        if wrong := [i for i in ids if not 0 <= i < len(labels)]:
            raise UserError(f"image {wrong[0]}: image numbers run from 0 to {len(labels) - 1}")
        if len(set(ids)) < len(ids):
            raise UserError(f"image {next(i for i in ids if ids.count(i) > 1)} is named twice")
        if public := [i for i in ids if not private[i]]:
            raise UserError(f"image {public[0]} is public: the backbone or the centres know it")
        if again := set(ids) & set(deleted.tolist()):
            raise UserError(f"image {min(again)} is deleted already")
        if self.label is not None:
            ids += self._of_class(labels, private & ~as_mask(deleted, len(labels)))
        return torch.tensor(sorted(set(ids)), dtype=torch.int64)

    def done(self, labels: torch.Tensor, private: torch.Tensor, deleted: torch.Tensor) -> bool:
        """True if it names images, and all of them are deleted already. Arguments as of `positions`."""
        named = set(self._numbers())
        if self.label is not None:
            named |= (of_class := set(((labels == self.label) & private).nonzero().squeeze(1).tolist()))
            if not of_class:  # there never were any: a mistake
                return False
        return bool(named) and named <= set(deleted.tolist())

    def _numbers(self) -> list[int]:
        return [*self.ids, *(_read_numbers(self.file) if self.file else [])]

    def _of_class(self, labels: torch.Tensor, there: torch.Tensor) -> list[int]:
        found = ((labels == self.label) & there).nonzero().squeeze(1).tolist()
        if not found:
            raise UserError(f"--class {self.label}: no private image is of this class")
        return found


def private_and_anchors(
    dataset: data.Dataset, backbone: dict[str, Any], file: Path, count: int, from_private: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """A bool mask (N,) of the private training images, and the int64 positions of `count` anchors.

    backbone: the checkpoint in `file`. A Retrain of a part of these data has seen what isn't in its forget set: that is
    public. An unlearned network is no backbone: its original has seen everything. ImageNet weights have seen none of these
    images: the anchors are set apart as public, unless they are to come from the private ones.
    """
    private = torch.ones(len(dataset.train), dtype=torch.bool)
    if backbone["data"]["fingerprint"]:
        data.check_same(file, backbone["data"], dataset)
        if not len(backbone["forget"]):
            raise UserError(f"{file} has seen all images, so none is private; train it with retrain.py")
        if backbone["method"] != "retrain" or backbone.get("parent"):
            what = f"{backbone['method']} began with a network that had seen the images it forgot"
            raise UserError(f"{file}: {what}, so none is private; train it with retrain.py")
        arguments = backbone["network"]["arguments"]
        own, constants = backbone["config"], [*map(list, dataset.normalisation)]
        if not ("mean" in own or own.get("pretrained") or [arguments["mean"], arguments["std"]] == constants):
            raise UserError(f"{file} is normalised by all images, the private ones too; train it again with retrain.py")
        private = as_mask(backbone["forget"], len(private))
    candidates = (private if from_private or private.all() else ~private).nonzero().squeeze(1)
    if not 0 < count < len(candidates):
        raise UserError(f"--anchors {count}: there are {len(candidates)} images to choose from, and some must stay")
    # By a draw over all positions, so that neither pixels nor labels, nor which other images there are, have a say in it.
    order = torch.randperm(len(private), generator=torch.Generator().manual_seed(0))
    anchors = order[torch.isin(order, candidates)][:count].sort().values
    if not from_private:
        private[anchors] = False
    return private, anchors


def as_mask(positions: torch.Tensor, count: int) -> torch.Tensor:
    """Positions int64 as a bool mask (count,)."""
    return torch.isin(torch.arange(count), positions)


def _read_numbers(file: Path) -> list[int]:
    try:
        return [int(word) for word in file.read_text(encoding="utf-8-sig").split()]
    except (OSError, ValueError) as error:
        raise UserError(f"--ids-file {file}: not a list of image numbers ({error})") from None
