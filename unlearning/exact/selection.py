"""Which images are private, which of them make the centres, and which a request names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import data
from unlearning.core.errors import UserError
from unlearning.core.words import listed
from unlearning.images import forgetting
from unlearning.images.classes import class_name, class_numbers
from unlearning.images.request_files import Named, as_words, named, read_file


@dataclass(frozen=True)
class ImageRequest:
    """Training images that a request names: by number in the full training set or by name, by a file of these, by class.

    ids: numbers or names. file: as `request_files.read_file` reads it. classes: words as `classes.class_numbers` reads them.
    """

    ids: tuple[int | str, ...] = ()
    file: Path | None = None
    classes: tuple[int | str, ...] = ()

    @property
    def names(self) -> bool:
        """True where images are named one by one."""
        return bool(self.ids or self.file)

    def positions(self, dataset: data.Dataset, private: torch.Tensor, deleted: torch.Tensor, anchors: torch.Tensor) -> Named:
        """Ascending int64 positions among the loaded images; of a class those that aren't deleted yet; and what to say.

        private: bool mask (N,). deleted, anchors: int64 positions. Raises UserError for images that are unknown, gone
        already or public.
        """
        ids, notes = self._named(dataset)
        public, again = ids[~private[ids]], ids[torch.isin(ids, deleted)]
        reasons = (public, "public, known to the backbone or the centres"), (again, "deleted already")
        if wrong := [f"{images_called(dataset, some)} {why}" for some, why in reasons if len(some)]:
            way = "anchors can be deleted where the system is trained with --anchors-from private"
            way = f"; {way}" if torch.isin(public, anchors).any() else ""
            raise UserError(f"{'; '.join(wrong)}: nothing is changed{way}")
        there = private & ~as_mask(deleted, len(private))
        chosen = [ids]
        for label in self._labels(dataset):
            chosen.append(((dataset.train.labels == label) & there).nonzero().squeeze(1))
            if not len(chosen[-1]):
                name = class_name(dataset.classes, label)
                raise UserError(f"--class {name}: no private image is of this class, or all are deleted already")
        return Named(torch.cat(chosen).unique(), notes)

    def done(self, dataset: data.Dataset, private: torch.Tensor, deleted: torch.Tensor) -> bool:
        """True if it names images, and all of them are deleted already. Arguments as of `positions`."""
        ids, _ = self._named(dataset)
        named = as_mask(ids, len(private))
        for label in self._labels(dataset):
            of_class = (dataset.train.labels == label) & private
            if not of_class.any():  # there never were any: a mistake
                return False
            named |= of_class
        return bool(named.any()) and not (named & ~as_mask(deleted, len(private))).any()

    def _named(self, dataset: data.Dataset) -> tuple[torch.Tensor, tuple[str, ...]]:
        """The images that numbers and names mean, ascending int64 positions, and what to say of them."""
        found = []
        if self.ids:
            words = [w for word in self.ids for w in ([word] if isinstance(word, int) else as_words(word))]
            found.append(named(words, dataset.whole, "--ids"))
        if self.file:
            found.append(read_file(self.file, dataset.whole, "--ids-file"))
        positions = torch.cat([torch.empty(0, dtype=torch.int64), *(one.positions for one in found)])
        return positions.unique(), tuple(note for one in found for note in one.notes)

    def _labels(self, dataset: data.Dataset) -> list[int]:
        there = dataset.train.labels.unique().tolist()
        return class_numbers(self.classes, dataset.classes, there, "--class") if self.classes else []


def images_called(dataset: data.Dataset, positions: torch.Tensor) -> str:
    """ "image train/cat/1.png is", or "images 3, 7 are": the images at int64 positions as the subject of a sentence."""
    several = len(positions) > 1
    return f"image{'s' * several} {listed(dataset.whole.called(positions))} {'are' if several else 'is'}"


def in_words(dataset: data.Dataset, of: torch.Tensor, ids: torch.Tensor, verb: str) -> str:
    """A request to a system in a line. of: bool mask (N,) of its images; ids: ascending int64 positions among all images."""
    own = of.nonzero().squeeze(1)
    inside = torch.searchsorted(own, ids)
    return forgetting.by_class(dataset.train.labels[own], dataset.classes, inside, verb, "private ")


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
        what = f"--anchors {count}: there are {len(candidates)} images to choose from, and some must stay"
        some = max(1, len(candidates) // 5)
        raise UserError(f"{what}: give --anchors {some}, for instance, and of lmeraser.py no more --parts than anchors")
    # By a draw over all positions, so that neither pixels nor labels, nor which other images there are, have a say in it.
    order = torch.randperm(len(private), generator=torch.Generator().manual_seed(0))
    anchors = order[torch.isin(order, candidates)][:count].sort().values
    if not from_private:
        private[anchors] = False
    return private, anchors


def as_mask(positions: torch.Tensor, count: int) -> torch.Tensor:
    """Positions int64 as a bool mask (count,)."""
    return torch.isin(torch.arange(count), positions)
