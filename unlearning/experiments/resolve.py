"""What a request asks for, on its data: as many images as there are, the classes and images to forget, what can't be had.

All of it is said before anything is trained.
"""

import re
from dataclasses import replace
from typing import Any

import torch

import data
from unlearning.core.errors import UserError
from unlearning.experiments.request import RETAIN, Request
from unlearning.images import classes, forgetting
from unlearning.images.named import NAMED_SETS
from unlearning.vision.originals import checkpoint_in
from unlearning.vision.shared import Shared


def fitted(request: Request, shared: Shared) -> Request:
    """The same with as many images as the preset wants, where the data set has more. Methods learn from all that stay
    where it has at most twice as many as the preset has them learn from. Raises UserError where --subset names more."""
    wanted = {"train": request.sizes.get("subset"), "test": request.sizes.get("test")}
    if not any((*wanted.values(), retain := request.sizes.get(RETAIN))):
        return request
    known = NAMED_SETS.get(request.source.dataset)
    there = known.sizes if known else tuple(len(getattr(shared.load(request.source), split)) for split in wanted)
    if (request.asked_subset or 0) > there[0]:
        raise UserError(f"--subset {request.asked_subset}: {request.source.dataset} has {there[0]:,} training images")
    subset, test = (n if n and n < count else None for count, n in zip(there, wanted.values(), strict=True))
    few = retain and not request.asked_retain and (subset or there[0]) <= 2 * retain
    sizes = {key: value for key, value in request.sizes.items() if not (few and key == RETAIN)}
    return replace(request, source=replace(request.source, subset=subset, test_subset=test), sizes=sizes)


def resolved(request: Request, shared: Any) -> Request:
    """The same with the numbers of the classes to forget, and what the images to forget are called. Raises UserError for
    a class or an image that there isn't, and where none, all, or the same twice would be forgotten, before anything is
    trained.

    shared: what `Table.shared` makes. The data are read only where names, a folder's classes or images are asked for.
    """
    found = _with_classes(request, shared)
    found = _with_earlier(found, shared)
    if request.asked_retain:
        _check_retained(found, request.asked_retain, shared.load(request.source))
    _check_scored(found, shared)
    if not request.images:
        _check_share(request, shared)
        return found
    dataset = shared.load(request.source)
    forgotten = dataset.forgotten(request.images)
    tag = forgetting.whole_tag(dataset.train, forgotten.positions) or forgotten.tag
    if "class" in request.kinds and "images" in request.kinds and tag == forgetting.tag_of_classes(found.forget_classes):
        what = f"{request.images.file or 'the images'} are {dataset.in_words(forgotten.positions, tag)}"
        raise UserError(f"{what}, which is forgotten besides: --only class, or another --forget-class")
    return replace(found, images_tag=tag)


def _check_share(request: Request, shared: Any) -> None:
    """Raise UserError where --share is of none, or of all, of the training images."""
    known = NAMED_SETS.get(request.source.dataset)
    if "images" not in request.kinds or request.share == 0.1:
        return
    count = request.source.subset or (known.sizes[0] if known else len(shared.load(request.source).train))
    if (some := round(request.share * count)) in (0, count):
        raise UserError(
            f"--share {request.share:g}: that is {some:,} of {count:,} training images; some are needed, not all"
        )


def _forgets(request: Request, dataset: data.Dataset) -> list[torch.Tensor]:
    """The forget sets of the table's kinds, int64 positions each; of a sequence what is forgotten at its end."""
    images = request.images or forgetting.ForgetRequest(share=request.share)
    asked = {"class": forgetting.ForgetRequest(classes=request.forget_classes), "images": images}
    return [dataset.forgotten(asked[kind]).positions for kind in request.kinds]


def _check_retained(request: Request, count: int, dataset: data.Dataset) -> None:
    """Raise UserError where so many of the images that stay can't be had."""
    for forget in _forgets(request, dataset):
        dataset.retained(forget, count)


def _check_scored(request: Request, shared: Any) -> None:
    """Raise UserError where --images, or the preset on a user's own data, would score too few images: after all of the
    training that would be said otherwise."""
    count = request.asked_images or (data.is_own(request.source.dataset) and request.sizes.get("images"))
    if not count:
        return
    from unlearning.evaluation.forget_sets import sample  # slow libraries

    dataset = shared.load(request.source)
    if count < len(dataset.train):
        sample(dataset.train, _forgets(request, dataset), count)


def _with_earlier(request: Request, shared: Any) -> Request:
    """`resolved`, with what rows are called whose original has forgotten something before: all of that and what is asked
    for, and the original's own row. Raises UserError where a Retrain would be of another forget set, and for a sequence,
    whose requests are counted."""
    tags: dict[str, None] = {}
    retrained = request.source.validation or "retrain" in (request.methods or ())
    for path in request.originals.values():
        content = checkpoint_in(path) if path.exists() else None
        if not content or not len(before := content["forget"]):
            continue
        if request.table == "sequence":
            what = f"--original {path} has forgotten {content['forget_tag']}"
            raise UserError(f"{what}: a sequence starts from what has forgotten nothing")
        dataset = shared.load(request.source)
        if content["data"]["fingerprint"] != dataset.fingerprint:  # which the first run refuses
            continue
        tags[forgetting.whole_tag(dataset.train, before) or content["forget_tag"]] = None
        for forget in _forgets(request, dataset):
            both = torch.cat([before, forget]).unique()
            if retrained and len(both) > len(forget):
                what = f"--original {path} has forgotten {content['forget_tag']}, which Retrain would be trained on"
                raise UserError(f"{what}: forget that as well, or leave retrain out of --methods")
            tags[forgetting.tag_of(dataset.train, both)] = None
    return replace(request, further_tags=tuple(tags))


def _with_classes(request: Request, shared: Any) -> Request:
    """`resolved`, of the classes alone."""
    if "class" not in request.kinds:
        return request
    known, words = NAMED_SETS.get(request.source.dataset), request.class_words
    if known and all(
        re.fullmatch(r"(id:)?-?\d+(,(id:)?-?\d+)*", word, re.ASCII) for word in words
    ):  # a number is no name there
        names, there = tuple(map(str, range(known.classes))), list(range(known.classes))
        found, class_names = classes.class_numbers(words, names, there, "--forget-class"), request.class_names
    else:
        dataset = shared.load(request.source)
        there, class_names = dataset.train.labels.unique().tolist(), dataset.classes
        found = classes.class_numbers(words, dataset.classes, there, "--forget-class")
    if len(set(found)) == len(there):
        raise UserError(f"--forget-class: these are all of the {len(there)} classes: none would be left to retain")
    return replace(request, forget_classes=tuple(found), class_names=class_names)
