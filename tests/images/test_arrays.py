"""Archives of NumPy: the layouts that are read, and a line for each that isn't."""

import numpy as np
import pytest
import torch

import data
from tests.helpers import UNPACKABLE, make_unpackable
from unlearning.core.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 5, 5, 3)).astype(np.uint8)
LABELS = np.arange(12) % 3


def written(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return f"npz:{folder / 'a.npz'}"


def keras(images=IMAGES, labels=LABELS, **others):
    return {"x_train": images, "y_train": labels, "x_test": IMAGES[:6], "y_test": LABELS[:6]} | others


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES, LABELS),
        (IMAGES.transpose(0, 3, 1, 2), LABELS.reshape(-1, 1).astype(np.uint8)),
    ],
)
def test_colours_lie_last_or_first(tmp_path, images, labels):
    dataset = data.load(written(tmp_path, **keras(images, labels)))
    assert torch.equal(dataset.train.images, torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert dataset.train.labels.tolist() == LABELS.tolist() and dataset.classes == ("0", "1", "2")
    assert (
        dataset.tag == f"a-{dataset.fingerprint[:6]}" and dataset.flip and dataset.normalisation == ((0.5,) * 3, (0.5,) * 3)
    )


def test_grey_images_have_one_channel(tmp_path, capsys):
    """Names of MedMNIST, whose validation images stand in where there are no test images."""
    grey = IMAGES[..., 0]
    arrays = {"train_images": grey, "train_labels": LABELS, "val_images": grey[:3], "val_labels": LABELS[:3]}
    dataset = data.load(written(tmp_path, **arrays))
    assert torch.equal(dataset.train.images[:, 0], torch.from_numpy(grey)) and len(dataset.test) == 3
    assert capsys.readouterr().err == f"npz:{tmp_path / 'a.npz'}: val_images are the test images\n"
    arrays |= {"test_images": grey[:6], "test_labels": LABELS[:6]}
    assert len(data.load(written(tmp_path, **arrays)).test) == 6 and not capsys.readouterr().err


def test_images_without_a_split_take_validation(tmp_path):
    name = written(tmp_path, images=IMAGES, labels=LABELS)
    with pytest.raises(UserError, match=r"has no test images .*; give --validation"):
        data.load(name)
    dataset = data.load(name, validation=0.25)
    assert len(dataset.train) == 9 and sorted(dataset.test.labels.tolist()) == [0, 1, 2]


MALFORMED = [
    ({"a": LABELS}, "needs x_train and y_train or .*; it has a"),
    ({}, "it has nothing"),
    ({"x_train": IMAGES}, "has x_train but no y_train"),
    (keras(IMAGES / 255.0), r"x_train holds float64 numbers, not uint8 from 0 to 255; .*\(x \* 255\).round"),
    (keras(IMAGES.astype(np.uint16)), "holds uint16 numbers"),
    (keras(IMAGES.astype(object)), "is not an archive of plain NumPy arrays .*allow_pickle"),
    (keras(IMAGES[:, :4]), "images of 4 x 5 pixels; networks here take square ones"),
    (keras(IMAGES[..., :2]), r"shape \(12, 5, 5, 2\), which is not \(N, H, W\)"),
    (keras(IMAGES[0, 0]), r"shape \(5, 3\), which is not"),
    (keras(labels=LABELS / 1.0), "y_train holds float64 values; a label is a whole number"),
    (keras(labels=np.eye(3, dtype=int)[LABELS]), r"y_train has the shape \(12, 3\): an image needs one label"),
    (keras(labels=LABELS - 1), "has a label -1"),
    (keras(labels=LABELS + 1), "class 0 has no training image; number classes from 0 without gaps"),
    (keras(labels=LABELS * 2), "class 1 has no training image"),
    (keras(labels=LABELS[:5]), "12 images in x_train for 5 labels in y_train"),
    (keras(IMAGES[:0], LABELS[:0]), "0 images in x_train for 0 labels"),
    (keras(y_test=LABELS[:6] + 2), "class 4 among the test images has no training image"),
    (keras(x_test=IMAGES[:6, :3, :3]), r"training images are 3 x 5 x 5, test images 3 x 3 x 3"),
]


@pytest.mark.parametrize(("arrays", "message"), MALFORMED, ids=[message[:30] for _, message in MALFORMED])
def test_a_malformed_archive_is_one_line(tmp_path, arrays, message):
    with pytest.raises(UserError, match=rf"npz:.*a.npz.*{message}"):
        data.load(written(tmp_path, **arrays))


def test_a_file_that_is_no_archive_is_one_line(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "text.npz").write_text("hello", encoding="utf-8")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "one.npy", IMAGES)
    for name in ("a.npz", "text.npz", "empty.npz", "one.npy"):
        with pytest.raises(UserError, match=f"{name} is not an archive of plain NumPy arrays"):
            data.load(f"npz:{tmp_path / name}")
    with pytest.raises(UserError, match=r"nowhere.npz: No such file"):
        data.load(f"npz:{tmp_path / 'nowhere.npz'}")


@pytest.mark.parametrize("kind", UNPACKABLE)
def test_an_archive_that_python_cannot_unpack_is_one_line(tmp_path, kind):
    name = written(tmp_path, x_train=IMAGES, y_train=LABELS, x_test=IMAGES, y_test=LABELS)
    make_unpackable(tmp_path / "a.npz", kind)
    with pytest.raises(UserError, match=r"a.npz is not an archive of plain NumPy arrays"):
        data.load(name)
