"""What a checkpoint keeps of a user's files, by which data are known again though images to be forgotten are deleted.

Each training file has its name, a digest of eight bytes, and its label; the test images have one digest together. A folder
that lacks some of these files, and is the same in all others, is completed: the missing images have their places, numbers
and labels, but no pixels.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlearning.core.errors import UserError
from unlearning.core.words import encoded, listed
from unlearning.images.pictures import NOWHERE
from unlearning.images.splits import Contents, ImageFiles, Split


@dataclass(frozen=True)
class Files:
    """The training files of a folder or a table, in order, before --validation and --subset take of them.

    digests: int64 (N,). labels: int64 (N,).
    """

    names: Sequence[str]
    digests: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, contents: Contents) -> "Files":
        """Those that were read."""
        return cls(contents.files, _digests(contents.train.images), contents.train.labels)

    def differing(self, other: "Files") -> list[str]:
        """In words, which files the other has not, which it has besides, and which are others there."""
        own, theirs = ({name: place for place, name in enumerate(files.names)} for files in (self, other))
        gone, new = [name for name in own if name not in theirs], [name for name in theirs if name not in own]
        same = [name for name in own if name in theirs]
        a, b = (torch.tensor([places[name] for name in same], dtype=torch.int64) for places in (own, theirs))
        unlike = (self.digests[a] != other.digests[b]) | (self.labels[a] != other.labels[b])
        changed = [same[place] for place in unlike.nonzero().squeeze(1).tolist()]
        kinds = (("missing files", gone), ("new files", new), ("files with other pixels or another label", changed))
        return [f"{kind} ({len(names):,}): {listed(names)}" for kind, names in kinds if names]


@dataclass(frozen=True)
class Known:
    """What a checkpoint says of its data; equal to another where the fingerprints are.

    says: what `data.Source.described` has written.
    """

    fingerprint: str
    says: Mapping[str, Any] = field(compare=False, repr=False)

    @classmethod
    def of(cls, says: Mapping[str, Any]) -> "Known | None":
        """None where it keeps no files: data of other kinds, and checkpoints of earlier versions. Raises UserError for a
        damaged one."""
        if "files" not in says:
            return None
        names, numbers = says["files"].get("names"), [says["files"].get(key) for key in ("digests", "labels")]
        sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
        sound &= all(isinstance(x, torch.Tensor) and x.shape == (len(names),) and x.dtype == torch.int64 for x in numbers)
        classes: Any = says.get("classes")
        sound &= isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        if sound and len(numbers[1]):
            sound &= bool(numbers[1].min() >= 0 and numbers[1].max() < len(classes))
        if not (sound and isinstance(says.get("test_fingerprint"), str)):
            raise UserError("what a checkpoint says of its data's files is damaged")
        return cls(says["fingerprint"], says)

    @property
    def files(self) -> Files:
        """The files that it was made with."""
        return Files(**self.says["files"])


def completed(contents: Contents, here: Files, known: Known) -> tuple[Contents, Files, torch.Tensor]:
    """The contents and the files with those that are missing since, and a bool mask (N,) of these among the training images;
    as they are, and nothing missing, where they differ in anything else. here: the files of `contents`."""
    files, nothing = known.files, torch.zeros(len(contents.train), dtype=torch.bool)
    places = {name: place for place, name in enumerate(files.names)}
    rows = torch.tensor([places.get(name, -1) for name in here.names], dtype=torch.int64)
    if list(contents.classes) != known.says["classes"] or len(rows) == len(files.names) or (rows < 0).any():
        return contents, here, nothing
    if not (torch.equal(here.digests, files.digests[rows]) and torch.equal(here.labels, files.labels[rows])):
        return contents, here, nothing
    gone = torch.ones(len(files.names), dtype=torch.bool)
    gone[rows] = False
    images = contents.train.images
    whole: torch.Tensor | ImageFiles
    if isinstance(images, ImageFiles):
        paths = np.full(len(gone), NOWHERE, dtype=images.paths.dtype)
        paths[rows.numpy()] = images.paths
        whole = ImageFiles(paths, images.shape[-1])
    else:
        whole = images.new_zeros(len(gone), *images.shape[1:])
        whole[rows] = images
    return contents._replace(train=Split(whole, files.labels), files=files.names), files, gone


def fingerprint(*splits: Split) -> str:
    """A SHA-256 of every byte of images and labels; of images that stay in their files, of these files' names and sizes."""
    digest = hashlib.sha256()
    for split in splits:
        for part in (split.images, split.labels):
            digest.update(str(tuple(part.shape)).encode())
            if isinstance(part, ImageFiles):  # their bytes would take as long as an epoch
                digest.update(encoded("".join(map(_name_and_size, part.paths))))
            else:
                digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digests(images):
    parts = images.paths if isinstance(images, ImageFiles) else images.numpy()
    texts = (encoded(_name_and_size(part)) if isinstance(images, ImageFiles) else part.tobytes() for part in parts)
    eight = b"".join(hashlib.sha256(text).digest()[:8] for text in texts)
    return torch.from_numpy(np.frombuffer(eight, dtype=np.int64).copy())


def _name_and_size(path):
    return f"{Path(path).name} {os.path.getsize(path) if path != NOWHERE else 0}\n"
