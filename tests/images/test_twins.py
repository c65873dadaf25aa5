"""Images that are the same as some that a request names, and stay."""

import shutil

import pytest
import torch
from PIL import Image

import data
import retrain
from tests.helpers import call
from unlearning.images.splits import ImageFiles
from unlearning.images.twins import twins


@pytest.mark.parametrize("shape", [(1, 3, 3), (1, 8, 8), (3, 5, 7)])
def test_twins_are_those_of_which_every_pixel_is_the_same(shape):
    """Of 200 images that differ in one pixel at least, and copies of three."""
    images = torch.zeros(200, *shape, dtype=torch.uint8)
    images.view(200, -1)[:, -1] = torch.arange(200)
    images[[150, 160]], images[170], images[10] = images[3].clone(), images[7].clone(), images[9].clone()
    named, others = twins(images, torch.tensor([3, 7, 9, 10, 11]), torch.arange(100, 200))
    assert named.tolist() == [3, 7] and others.tolist() == [150, 160, 170]
    named, others = twins(images, torch.tensor([9, 20, 160, 170]), torch.tensor([3, 10, 150]))
    assert named.tolist() == [9, 160] and others.tolist() == [3, 10, 150]
    assert [len(some) for some in twins(images, torch.tensor([3, 150, 160]), torch.tensor([7, 170]))] == [0, 0]


def test_images_of_one_digest_are_compared(monkeypatch):
    images = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1)
    images[4] = 0
    monkeypatch.setattr("unlearning.images.twins._of_pixels", lambda images: [0] * len(images))
    named, others = twins(images, torch.tensor([0]), torch.arange(1, 5))
    assert named.tolist() == [0] and others.tolist() == [4]


def test_files_that_stay_where_they_are_are_compared_byte_by_byte(tmp_path):
    contents = [b"a", b"b", b"a", b"ab", b"x" * 70_000 + b"1", b"x" * 70_000 + b"2", b"x" * 70_000 + b"1"]
    for place, content in enumerate(contents):
        (tmp_path / str(place)).write_bytes(content)
    files = ImageFiles([str(tmp_path / str(place)) for place in range(7)] + [""], 8)  # one isn't there
    named, others = twins(files, torch.tensor([0, 4]), torch.tensor([1, 2, 3, 5, 6]))
    assert named.tolist() == [0, 4] and others.tolist() == [2, 6]


def test_a_run_says_which_copies_of_named_images_stay(tmp_path, capsys):
    for place in range(8):
        for label, name in enumerate(("ant", "bee")):
            for part in ("train", "test"):
                (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), (100 * label, 9 * place, 7)).save(tmp_path / part / name / f"{place}.png")
    for place in range(6):
        shutil.copy(tmp_path / "train/ant/1.png", tmp_path / f"train/bee/copy{place}.png")
    wanted = tmp_path / "a.txt"
    where = ("--dataset", f"folder:{tmp_path}", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet")
    run = (retrain, *where, "--weights", tmp_path / "w", "--output", tmp_path / "w/x.pth", "--overwrite")
    wanted.write_text("ant/1.png\nant/2.png\n", encoding="utf-8")
    call(*run, "--forget-file", wanted)
    names = ", ".join(f"train/bee/copy{place}.png" for place in range(5))
    said = f"1 of the 2 images to forget have the same pixels as others that stay, {names} and 1 more: name these too\n"
    assert said in capsys.readouterr().err
    wanted.write_text("ant/1.png\nbee/copy*.png\n", encoding="utf-8")
    call(*run, "--forget-file", wanted)
    assert "same pixels" not in capsys.readouterr().err
    dataset = data.load(f"folder:{tmp_path}", img_size=8)
    assert dataset.left_twins(torch.tensor([1])) and not dataset.left_twins(torch.tensor([1]), torch.arange(2, 22))
