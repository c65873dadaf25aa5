"""Trees of pictures, a folder for each class: `folder:PATH`."""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from unlearning.core.errors import UserError
from unlearning.images.splits import ImageFiles, Split

RESIDENT = 8 * 2**30  # bytes of a folder's images that are held in memory; one number for all machines, for fingerprints


def read_folder(path: Path, img_size: int) -> tuple[Split, Split, list[str]]:
    """Read `train|test/<class>/*` below `path`; classes are numbered alphabetically."""
    from torchvision.datasets import ImageFolder

    trees = []
    for part in ("train", "test"):
        try:
            trees.append(ImageFolder(path / part))
        except (FileNotFoundError, OSError) as error:
            raise UserError(f"folder:{path} needs {part}/<class>/ with images in each ({error})") from None
    train, test = trees
    if train.classes != test.classes:
        raise UserError(f"folder:{path}: train and test don't hold the same classes")
    files = [ImageFiles([file for file, _ in tree.samples], img_size) for tree in trees]
    held: list[ImageFiles | torch.Tensor] = [*files]
    needed = sum(len(images) for images in files) * 3 * img_size**2
    if needed > RESIDENT:
        print(f"folder:{path}: {needed / 2**30:,.0f} GiB of images stay in their files", file=sys.stderr, flush=True)
    else:
        held = [images[:] for images in files]
    splits = [Split(x, torch.tensor(tree.targets, dtype=torch.int64)) for x, tree in zip(held, trees, strict=True)]
    names = tuple(Path(file).relative_to(path).as_posix() for file, _ in train.samples)
    return replace(splits[0], names=names), splits[1], train.classes
