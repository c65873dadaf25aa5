"""Images that a request doesn't name though they are the same as some that it names: a network that keeps them forgets
nothing."""

import filecmp
import hashlib
import math
import os
from collections.abc import Hashable, Sequence

import torch
from torch.nn import functional

from unlearning.images.pictures import NOWHERE
from unlearning.images.splits import ImageFiles

CHUNK = 2**26  # bytes of images that are looked at together
HEAD = 2**16  # bytes of a file that tell it from others of its size
WORD = 8  # bytes of an int64


def twins(images: torch.Tensor | ImageFiles, forget: torch.Tensor, stay: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The images to forget that others are the same as, and these: int64 positions, each a part of what is given.

    images: uint8 (N, C, H, W), which are compared pixel by pixel, or files, which are compared byte by byte. forget, stay:
    int64 positions, of files that are there. Those of one digest are compared alone: 8 GiB take a few seconds.
    """
    digests = _of_files(images, forget, stay) if isinstance(images, ImageFiles) else _of_pixels(images)
    first: dict[Hashable, int] = {}
    named: dict[int, list[int]] = {}  # images to forget, by the first that is the same
    for place in forget.tolist():
        one = first.setdefault(digests[place], place)
        if _same(images, one, place):
            named.setdefault(one, []).append(place)
    others = [(first[digests[place]], place) for place in stay.tolist() if digests[place] in first]
    pairs = [(one, place) for one, place in others if _same(images, one, place)]
    both = sorted(same for one in {one for one, _ in pairs} for same in named[one]), [place for _, place in pairs]
    return torch.tensor(both[0], dtype=torch.int64), torch.tensor(both[1], dtype=torch.int64)


def _of_pixels(images: torch.Tensor) -> Sequence[Hashable]:
    """A number for each image, by which different ones differ: a random sum of its bytes, eight at a time."""
    width = math.prod(images.shape[1:])
    weights = torch.randint(-(2**62), 2**62, (-(-width // WORD),), generator=torch.Generator().manual_seed(0)) * 2 + 1
    found = []
    for some in images.split(max(1, CHUNK // max(1, width))):
        rows = functional.pad(some.reshape(len(some), width), (0, -width % WORD)).contiguous()
        found.append((rows.clone().view(torch.int64) * weights).sum(1))
    return torch.cat(found).tolist()


def _of_files(images: ImageFiles, forget: torch.Tensor, stay: torch.Tensor) -> Sequence[Hashable]:
    """As `_of_pixels`, of files: their size, and where one to forget has that too, a digest of their beginning."""
    sizes = [os.path.getsize(path) if path != NOWHERE else -1 for path in images.paths]
    wanted = {sizes[place] for place in forget.tolist()}
    digests: list[Hashable] = list(sizes)
    for place in [*forget.tolist(), *stay.tolist()]:
        if sizes[place] in wanted:
            with open(images.paths[place], "rb") as file:
                digests[place] = sizes[place], hashlib.sha256(file.read(HEAD)).digest()
    return digests


def _same(images: torch.Tensor | ImageFiles, one: int, other: int) -> bool:
    if isinstance(images, ImageFiles):
        return filecmp.cmp(images.paths[one], images.paths[other], shallow=False)
    return torch.equal(images[one], images[other])
