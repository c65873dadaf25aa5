"""TODO unlearning.exact.selection."""

import torch

import data
from unlearning.core.errors import UserError


def private_and_anchors(dataset, content, config):
    """A bool mask (N,) of the private training images, and the anchors' positions.

    A backbone that was trained on a part of these data has seen what isn't in its forget set: that is public. One with
    ImageNet weights has seen none of them: the anchors are set apart as public, but for --anchors-from private.
    """
    count = len(dataset.train)
    private = torch.ones(count, dtype=torch.bool)
    if content["data"]["fingerprint"]:
        if content["data"]["fingerprint"] != dataset.fingerprint:
            raise UserError(f"{config.backbone} was trained on other data than this {dataset.tag}")
        if not len(content["forget"]):
            raise UserError(f"{config.backbone} has seen all images, so none is private; train it with retrain.py")
        private = as_mask(content["forget"], count)
    from_private = config.anchors_from == "private"
    candidates = (private if from_private or private.all() else ~private).nonzero().squeeze(1)
    if not 0 < config.anchors < len(candidates):
        raise UserError(f"--anchors {config.anchors}: there are {len(candidates)} images to choose from, and some must stay")
    anchors = candidates[data.stratified(dataset.train.labels[candidates], config.anchors)]
    if not from_private:
        private[anchors] = False
    return private, anchors


def requested_ids(config, labels, private, deleted):
    """Positions, ascending int64, that --ids, --ids-file and --class name; of a class those that aren't deleted yet."""
    ids = list(config.ids or [])
    if config.ids_file:
        try:
            ids += [int(word) for word in config.ids_file.read_text().split()]
        except (OSError, ValueError) as error:
            raise UserError(f"--ids-file {config.ids_file}: not a list of image numbers ({error})") from None
    if wrong := [i for i in ids if not 0 <= i < len(labels)]:
        raise UserError(f"image {wrong[0]}: image numbers run from 0 to {len(labels) - 1}")
    if len(set(ids)) < len(ids):
        raise UserError(f"image {next(i for i in ids if ids.count(i) > 1)} is named twice")
    if public := [i for i in ids if not private[i]]:
        raise UserError(f"image {public[0]} is public: the backbone or the centres know it")
    if again := set(ids) & set(deleted.tolist()):
        raise UserError(f"image {min(again)} is deleted already")
    if config.forget_class is not None:
        there = private & ~as_mask(deleted, len(labels))
        of_class = ((labels == config.forget_class) & there).nonzero().squeeze(1)
        if not len(of_class):
            raise UserError(f"--class {config.forget_class}: no private image is of this class")
        ids += of_class.tolist()
    return torch.tensor(sorted(set(ids)), dtype=torch.int64)


def as_mask(positions, count):
    """Positions int64 as a bool mask (count,)."""
    return torch.isin(torch.arange(count), positions)
