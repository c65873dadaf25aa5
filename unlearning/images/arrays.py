"""Images in an archive of NumPy: `npz:FILE`."""

from pathlib import Path

import numpy as np
import torch

from unlearning.core.errors import UserError
from unlearning.core.memory import UNREADABLE, check_archive
from unlearning.core.paths import check_regular
from unlearning.core.words import Say, first_line, say
from unlearning.images.folders import NO_TEST, NoTest
from unlearning.images.splits import Contents, Split

# Names of images and labels: as Keras writes them, as MedMNIST does, and without a split.
TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"))
TEST = (("x_test", "y_test"), ("test_images", "test_labels"), ("x_val", "y_val"), ("val_images", "val_labels"))
SCALE = "(x * 255).round().astype('uint8')"


def read_npz(path: Path, validation: bool = False, say: Say = say) -> Contents:
    """Read images uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), square, and labels of whole numbers from 0, (N,) or (N, 1).

    validation: test images are held out of the training images, so that a file needs no others. say: takes a line
    about validation images that stand in the place of test images. Raises UserError for any other array.
    """
    name = f"npz:{path}"
    check_regular(path)
    check_archive(path)
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single array: write it with numpy.savez")
        with archive:
            return _contents(archive, name, validation, say)
    except OSError as error:
        raise UserError(f"{name}: {error.strerror or error}") from None
    except UNREADABLE as error:
        raise UserError(f"{name} is not an archive of plain NumPy arrays ({first_line(error)})") from None


def _contents(archive, name, validation, say):
    pairs = [_pair(archive, choices, name) for choices in (TRAIN, TEST)]
    if pairs[0] is None:
        raise UserError(
            f"{name} needs {' or '.join(map(' and '.join, TRAIN))}; it has {', '.join(archive.files) or 'nothing'}"
        )
    if pairs[1] is None and not validation:
        raise NoTest(f"{name} has no test images ({' or '.join(map(' and '.join, TEST))}); {NO_TEST}")
    if not validation and "val" in pairs[1][0]:
        say(f"{name}: {pairs[1][0]} are the test images")
    train, *test = (_split(archive, pair, name) for pair in (pairs[:1] if validation else pairs))
    there = train.labels.unique()
    count = len(there)
    if gaps := [place for place, label in enumerate(there.tolist()) if place != label]:
        raise UserError(f"{name}: class {gaps[0]} has no training image; number classes from 0 without gaps")
    for split in test:
        if split.labels.max() >= count:
            what = f"class {int(split.labels.max())} among the test images has no training image"
            raise UserError(f"{name}: {what}")
        if split.images.shape[1:] != train.images.shape[1:]:
            shapes = [" x ".join(map(str, each.images.shape[1:])) for each in (train, split)]
            raise UserError(f"{name}: training images are {shapes[0]}, test images {shapes[1]} (channels, height, width)")
    return Contents(train, test[0] if test else None, [str(label) for label in range(count)])


def _pair(archive, choices, name):
    """The first names of images and labels that the archive holds; None where it holds no such images."""
    for images, labels in choices:
        if images in archive.files:
            if labels not in archive.files:
                raise UserError(f"{name} has {images} but no {labels}")
            return images, labels
    return None


def _split(archive, pair, name):
    images, labels = _images(archive[pair[0]], f"{name}: {pair[0]}"), _labels(archive[pair[1]], f"{name}: {pair[1]}")
    if len(images) != len(labels) or not len(images):
        raise UserError(f"{name}: {len(images)} images in {pair[0]} for {len(labels)} labels in {pair[1]}")
    return Split(images, labels)


def _images(array, name):
    """Images as they are, but with the channels before height and width."""
    if array.dtype != np.uint8:
        raise UserError(f"{name} holds {array.dtype} numbers, not uint8 from 0 to 255; for pixels x from 0 to 1: {SCALE}")
    pixels = torch.from_numpy(array)
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    elif pixels.ndim == 4 and pixels.shape[-1] in (1, 3):
        pixels = pixels.permute(0, 3, 1, 2).contiguous()
    elif pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        wanted = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels"
        raise UserError(f"{name} has the shape {tuple(array.shape)}, which is not {wanted}")
    if pixels.shape[2] != pixels.shape[3] or not pixels.shape[2]:
        size = f"{pixels.shape[2]} x {pixels.shape[3]}"
        raise UserError(f"{name}: images of {size} pixels; networks here take square ones, so pad or resize them")
    return pixels


def _labels(array, name):
    if array.dtype.kind not in "iu":
        raise UserError(f"{name} holds {array.dtype} values; a label is a whole number from 0")
    if array.ndim != 1 and array.shape[1:] != (1,):
        raise UserError(f"{name} has the shape {tuple(array.shape)}: an image needs one label")
    labels = torch.from_numpy(array.reshape(-1).astype(np.int64))
    if len(labels) and labels.min() < 0:
        raise UserError(f"{name} has a label {int(labels.min())}; a label is a whole number from 0")
    return labels
