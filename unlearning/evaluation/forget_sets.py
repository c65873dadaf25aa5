"""Which forget sets a file is scored on, on which images, and what these are called."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

import data
from unlearning.core.errors import UserError
from unlearning.evaluation.entries import Entry, NotScored, dataset_of
from unlearning.evaluation.flags import Scoring
from unlearning.exact.selection import images_called
from unlearning.images import forgetting
from unlearning.images.splits import Split
from unlearning.vision.shared import Shared


def scored_on(entry: Entry, dataset: data.Dataset, images: int | None = None) -> data.Dataset:
    """Of a file's data the images that it is scored on: of a system those that are private. images: of `Scoring`."""
    if images and images < len(dataset.test):
        dataset = replace(dataset, test=dataset.test.take(data.stratified(dataset.test.labels, images)))
    if entry.scored is None:
        return dataset
    missing = torch.isin(entry.scored, dataset.missing).nonzero().squeeze(1)
    return replace(dataset, train=dataset.train.take(entry.scored), missing=missing)


def drawn(entries: Sequence[Entry], scoring: Scoring, shared: Shared) -> list[Entry]:
    """The entries, to be scored on as many training images as `scoring` says at most, the same for all of the same images.

    Of each class, and in it of what each forget set has and hasn't, the sample has its share, and one image at least: so a
    class is forgotten as a whole among them where it is among all. Raises UserError where they are too few for that.
    """
    if scoring.images is None:
        return list(entries)
    samples = {
        images: _sample(entry, entries, scoring, shared)
        for images, entry in {entry.images: entry for entry in entries}.items()
    }
    return [replace(entry, drawn=samples[entry.images]) for entry in entries]


def _sample(entry: Entry, entries: Sequence[Entry], scoring: Scoring, shared: Shared) -> torch.Tensor | None:
    """As `Entry.drawn`, of all entries that are scored on the images of this one."""
    own, count = scored_on(entry, dataset_of(entry, scoring, shared)).train, scoring.images or 0
    if len(own) <= count:
        return None
    alike = {tag: positions for one in entries if one.images == entry.images for positions, tag in one.forgets}
    rows = sample(own, [own_positions(entry, alike[tag]) for tag in sorted(alike)], count)
    return rows if entry.private is None else entry.private[rows]


def sample(train: Split, forgets: Sequence[torch.Tensor], count: int) -> torch.Tensor:
    """The rows of `train`, ascending int64, that `drawn` takes: `count` of more. forgets: int64 positions of each forget set
    among them. Raises UserError where they are too few."""
    inside = torch.zeros(len(train), len(forgets), dtype=torch.int64)
    for place, forget in enumerate(forgets):
        inside[forget, place] = 1
    strata = torch.cat([train.finest[:, None], inside], 1).unique(dim=0, return_inverse=True)[1]
    if (least := int(strata.max()) + 1) > count:
        raise UserError(f"--images {count}: fewer than {least}, one of each class, forgotten and not")
    return data.stratified(strata, count)


def tagged(entry: Entry, scoring: Scoring, shared: Shared) -> Entry:
    """The entry; a list of images that are just a class is called like that class, so that both are compared."""
    if not len(entry.forget):
        return entry
    return replace(entry, forget_tag=_tag(entry, entry.forget, entry.forget_tag, dataset_of(entry, scoring, shared)))


def _tag(entry: Entry, forget: torch.Tensor, tag: str | None, dataset: data.Dataset) -> str | None:
    return forgetting.whole_tag(scored_on(entry, dataset).train, own_positions(entry, forget)) or tag


def own_positions(entry: Entry, forget: torch.Tensor) -> torch.Tensor:
    """A forget set of the file, positions in the training images, as positions in the images that it is scored on."""
    if entry.scored is None:
        return forget
    return torch.searchsorted(entry.scored, forget[torch.isin(forget, entry.scored)])


def forget_sets(
    entry: Entry, entries: Iterable[Entry], scoring: Scoring, shared: Shared
) -> tuple[tuple[torch.Tensor, str], ...]:
    """The forget sets (positions, tag) that a file is scored on: its own, else those of the other files of its network.

    Raises NotScored for an original beside which no file of its network has forgotten anything.
    """
    own = [(entry.forget, entry.forget_tag)] if len(entry.forget) else []
    if scoring.forget:
        wanted = _wanted(entry, scoring.forget, dataset_of(entry, scoring, shared))
        if own and not torch.equal(own[0][0], wanted[0]):
            raise UserError(f"{entry.path} has forgotten {entry.forget_tag}, not {wanted[1]}")
        own = [wanted]
    alike = [other for other in entries if len(other.forget) and other.network == entry.network]
    if entry.method == "original":  # of several, each is asked about what is set against it
        own_seed = [other for other in alike if not other.origin and other.seed == entry.seed]
        alike = [other for other in alike if entry.sha256 == other.origin] + own_seed or alike
    found = own or list({other.forget_tag: (other.forget, other.forget_tag) for other in alike}.values())
    if not found:
        raise NotScored(f"{entry.path} doesn't say what to forget: give --forget-class, or unlearned files as well")
    return tuple(found)  # type: ignore[arg-type]  # with a forget set comes its tag


def _wanted(entry: Entry, request: forgetting.ForgetRequest, dataset: data.Dataset) -> tuple[torch.Tensor, str]:
    """The forget set (positions, tag) that the flags name: of a system, of a class or of a draw those that are private."""
    found = dataset.forgotten(request)
    positions, tag = found.positions, found.tag
    if entry.private is None:
        return positions, _tag(entry, positions, tag, dataset) or tag
    inside = positions[torch.isin(positions, entry.private)]
    if request.file and len(inside) < len(positions):
        public = positions[~torch.isin(positions, entry.private)]
        raise UserError(f"{request.file}: {images_called(dataset, public)} public in {entry.path}")
    if not 0 < len(inside) < len(entry.private):
        raise UserError(f"{entry.path}: {len(inside)} of its {len(entry.private)} private images are in {tag}")
    return inside, tag


def lists(entries: Iterable[Entry], scoring: Scoring) -> dict[str, str]:
    """The names of the files that named forget sets, by their tags: of the request of `scoring`, or of an entry."""
    found: dict[str, str] = {}
    for entry in entries:
        if scoring.forget and scoring.forget.file:
            found |= dict.fromkeys((tag for _, tag in entry.forgets), scoring.forget.file.name)
        elif entry.listed_in and entry.forget_tag:
            found.setdefault(entry.forget_tag, entry.listed_in)
    return found


def request_in_words(entries: Iterable[Entry], scoring: Scoring, shared: Shared) -> list[str]:
    """What is to be said of the forget set that `scoring` names, on each of the data of the entries: lines.

    Where scoring is quiet only what is odd about it.
    """
    said: dict[str, None] = {}
    for entry in entries if scoring.forget else ():
        dataset = dataset_of(entry, scoring, shared)
        own = scored_on(entry, dataset)
        kind = "" if entry.private is None else "private "
        said |= dict.fromkeys(dataset.forgotten(scoring.forget).notes)  # type: ignore[arg-type]  # there is one
        forget = own_positions(entry, entry.forgets[0][0])
        if scoring.compute.quiet:
            continue
        said[forgetting.by_class(own.train.labels, own.classes, forget, "forgets", kind)] = None
    return list(said)
