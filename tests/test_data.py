"""Splits as properties, augmentation against a slow reference, and each data set's file format on tiny files."""

import dataclasses
import gzip
import hashlib
import itertools
import pickle
import shutil
import struct
import subprocess
from functools import partial

import numpy as np
import pytest
import scipy.io
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import data
import finetune
import lora
import loraprune
import models
import pretrain
import retrain
import rfau
from baselines import badteacher, delete, gradascent, neglora, randomlabel, regun, scrub, ssd
from tests.helpers import call, served, while_waiting
from unlearning.core.errors import RunFailed, UserError
from unlearning.images import folders, forgetting, readers, splits
from unlearning.images.classes import class_numbers
from unlearning.images.named import NAMED_SETS

LABELS = st.lists(st.integers(0, 4), min_size=6, max_size=60).map(torch.tensor)


def split_of(labels):
    return data.Split(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)


@settings(deadline=None, max_examples=60)
@given(LABELS, st.floats(0.05, 0.95))
def test_forget_and_retain_are_a_partition(labels, share):
    try:
        forget, tag = forgetting.forget_indices(split_of(labels), share=share)
    except UserError:
        assert round(share * len(labels)) in (0, len(labels))
        return
    retain = forgetting.retain_indices(len(labels), forget)
    assert torch.cat([forget, retain]).sort().values.tolist() == list(range(len(labels)))
    assert len(forget) == round(share * len(labels))
    assert tag == f"random{share:g}"


@settings(deadline=None, max_examples=60)
@given(LABELS, st.sets(st.integers(0, 4), min_size=1, max_size=3))
def test_forgetting_classes_takes_all_of_them_and_nothing_else(labels, classes):
    present = set(labels.tolist())
    try:
        forget, _ = forgetting.forget_indices(split_of(labels), classes=sorted(classes))
    except UserError:
        assert not classes <= present or classes == present
        return
    assert set(labels[forget].tolist()) == classes
    assert not classes & set(labels[forgetting.retain_indices(len(labels), forget)].tolist())
    assert set(forgetting.forgotten_classes(labels, forget)) == classes


def test_a_class_and_a_half_is_not_class_forgetting():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert forgetting.forgotten_classes(labels, torch.tensor([0, 1])) == [0]
    assert forgetting.forgotten_classes(labels, torch.tensor([0, 1, 2])) == []


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), st.integers(4, 20), st.data())
def test_a_stratified_draw_is_even_over_equal_classes(classes, each, draw):
    labels = torch.arange(classes).repeat(each)
    count = draw.draw(st.integers(classes, classes * each))
    index = data.stratified(labels, count)
    assert len(index.unique()) == count
    per_class = labels[index].bincount(minlength=classes)
    assert per_class.max() - per_class.min() <= 1


def per_class(split, classes):
    return split.labels.bincount(minlength=classes).tolist()


def uneven(root, sizes=(40, 40, 4, 1)):
    """A folder of classes of these sizes, two test images each."""
    for part in ("train", "test"):
        for label, size in enumerate(sizes):
            (root / part / f"c{label}").mkdir(parents=True)
            for i in range(size if part == "train" else 2):
                Image.new("RGB", (8, 8), (label, i, 0)).save(root / part / f"c{label}" / f"{i}.png")
    return f"folder:{root}"


def test_a_subset_keeps_an_image_of_every_class(tmp_path, capsys):
    name = uneven(tmp_path)
    assert per_class(data.load(name, img_size=8, subset=8).train, 4) == [3, 3, 1, 1]
    assert per_class(data.load(name, img_size=8, subset=4, test_subset=4).train, 4) == [1, 1, 1, 1]
    held = data.load(name, img_size=8, validation=0.1, test_subset=5)
    assert per_class(held.train, 4) == [36, 37, 3, 1] and per_class(held.test, 3) == [2, 2, 1]
    assert capsys.readouterr().err == "--validation 0.1: no image is held out of class 3 (c3)\n"
    data.load(name, img_size=8, validation=0.03)
    assert "no image is held out of class 3 (c3)" in capsys.readouterr().err
    data.load(name, img_size=8, validation=0.97)
    assert "no image stays for training of class " in capsys.readouterr().err
    data.load(name, img_size=8, validation=0.03, quiet=True)
    assert not capsys.readouterr().err
    for share, count in ((0.001, 0), (0.999, 85)):
        with pytest.raises(UserError, match=f"--validation {share}: it would hold {count} of 85 training images out"):
            data.load(name, img_size=8, validation=share)


def rank_alone(labels, count):
    """The draw of earlier versions, which may leave classes out."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    place = {label: 0 for label in labels.tolist()}
    rank = torch.empty(len(labels), dtype=torch.float64)
    for position in order.tolist():
        label = labels[position].item()
        rank[position] = (place[label] + 0.5) / int((labels == label).sum())
        place[label] += 1
    return rank.argsort(stable=True)[:count].sort().values


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=6), st.data())
def test_a_draw_with_every_class_is_what_it_was(sizes, draw):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = draw.draw(st.integers(1, len(labels)))
    before, now, held = rank_alone(labels, count), data.stratified(labels, count), data.stratified(labels, count, left=1)
    rest = forgetting.retain_indices(len(labels), before)
    every = len(labels[before].unique()) == len(sizes)
    assert len(now) == len(held) == count
    if every or count < len(sizes):
        assert torch.equal(now, before)
    else:
        assert len(labels[now].unique()) == len(sizes)
    if every and len(labels[rest].unique()) == len(sizes):
        assert torch.equal(held, before)
    elif len(sizes) <= count <= len(labels) - len(sizes):
        assert all(size == 1 or 0 < (labels[held] == c).sum() < size for c, size in enumerate(sizes))


def test_data_that_differ_are_told_apart_in_words(tmp_path):
    """What a file says of its data, against data with one thing changed; files of earlier versions say less."""
    name = uneven(tmp_path, (4, 4))
    source = data.Source(name, tmp_path, img_size=8)
    there = source.load()
    known = source.described(there)
    data.check_same("x.pth", known, there)
    pixels = dataclasses.replace(there, fingerprint="1" * 64)
    fewer = dataclasses.replace(pixels, train=there.train.take(slice(7)), classes=("c0", "cat"))
    larger = data.load(name, img_size=16)
    begin = f"x.pth was trained on {there.tag}, not on this"
    for other, what in (
        (pixels, f"{there.tag}: as many images of the same classes, but other pixels or labels"),
        (fewer, f"{there.tag}: 8 training images, not 7; its classes without c1 and with cat"),
        (dataclasses.replace(pixels, classes=("c1", "c0")), f"{there.tag}: its classes in another order"),
        (
            dataclasses.replace(pixels, test=there.test.take(slice(1))),
            f"{there.tag}: 4 test images, not 1; only training images may be missing",
        ),
        (larger, f"{larger.tag}: 8 pixels a side, not 16"),
    ):
        with pytest.raises(UserError) as error:
            data.check_same("x.pth", known, other)
        assert str(error.value) == f"{begin} {what}"
    old = {key: known[key] for key in ("tag", "fingerprint", "dataset", "img_size")}
    with pytest.raises(UserError, match=r"not on this .*: their fingerprints differ"):
        data.check_same("x.pth", old, fewer)


def test_a_table_of_classes(tmp_path):
    table = data.class_table(data.load(uneven(tmp_path, (3, 1)), img_size=8)).splitlines()
    assert [line.split() for line in table[1:]] == [["0", "c0", "3", "2"], ["1", "c1", "1", "2"]]


def test_random_crop_moves_each_image_by_its_own_whole_offset():
    images = torch.arange(1, 3 * 2 * 16 * 16 + 1, dtype=torch.float32).remainder(251).to(torch.uint8).view(3, 2, 16, 16)
    torch.manual_seed(0)
    cropped = data.random_crop(images)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    for before, after in zip(padded, cropped, strict=True):
        windows = [before[:, y : y + 16, x : x + 16] for y in range(5) for x in range(5)]
        assert any(torch.equal(window, after) for window in windows)


def places(count, side):
    """`count` copies of an image whose two channels say each pixel's row and column, from 1."""
    rows = torch.arange(1, side + 1, dtype=torch.uint8).view(side, 1).expand(side, side)
    return torch.stack([rows, rows.T]).repeat(count, 1, 1, 1)


@pytest.mark.parametrize(("side", "reach"), [(8, 1), (16, 2), (32, 4)])
def test_random_crop_draws_every_offset_alike(side, reach):
    """Of the (2 reach + 1)^2 offsets each as often as the others, within five standard deviations."""
    torch.manual_seed(0)
    middle = data.random_crop(places(8000, side))[:, :, side // 2, side // 2].int() - side // 2 - 1
    offsets, counts = middle.unique(dim=0, return_counts=True)
    span = range(-reach, reach + 1)
    assert offsets.tolist() == [[down, right] for down in span for right in span]
    share = 1 / len(counts)
    assert (counts - 8000 * share).abs().max() < 5 * (8000 * share * (1 - share)) ** 0.5


def test_random_flip_mirrors_half():
    """Of 4,000, within three standard deviations; left and right alone, and each image by its own coin."""
    images = places(4000, 4)
    torch.manual_seed(0)
    flipped = data.random_flip(images)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert ((flipped == images).flatten(1).all(1) ^ mirrored).all()
    assert abs(mirrored.sum().item() - 2000) < 3 * 1000**0.5
    changes = (mirrored[1:] != mirrored[:-1]).sum().item()
    assert abs(changes - 3999 / 2) < 3 * (3999 / 4) ** 0.5


def test_crop_and_flip_does_both_and_each_without_the_other():
    torch.manual_seed(0)
    done = data.crop_and_flip(places(1000, 8))[:, :, 3:5, 3:5].int()
    mirrored = done[:, 1, 0, 0] > done[:, 1, 0, 1]
    down, right = done[:, 0, 0, 0] - 4, done[:, 1].amin((1, 2)) - 4
    assert len(torch.stack([down, right, mirrored.int()]).unique(dim=1).T) == 3 * 3 * 2


def test_digits_has_every_image_once():
    dataset = data.load("digits")
    assert (len(dataset.train), len(dataset.test)) == (1433, 364)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.images.max() == 255
    assert dataset.fingerprint == data.load("digits").fingerprint != data.load("digits", subset=500).fingerprint


def test_validation_takes_the_test_sets_place_and_never_its_images():
    full, held = data.load("digits"), data.load("digits", validation=0.2)
    assert len(held.train) + len(held.test) == len(full.train)
    rows = {tuple(image.flatten().tolist()) for image in full.test.images}
    originals = {tuple(image.flatten().tolist()) for image in full.train.images}
    assert all(tuple(image.flatten().tolist()) in originals - rows for image in held.test.images)
    assert (held.test.labels.bincount() >= 27).all()


def test_a_test_subset_takes_all_classes_alike():
    full, few = data.load("digits"), data.load("digits", test_subset=50)
    assert few.test.labels.bincount().tolist() == [5] * 10
    assert few.tag == "digits-test50" and few.fingerprint != full.fingerprint
    assert torch.equal(few.train.images, full.train.images)
    with pytest.raises(UserError, match=r"--test-subset 5000: of the test images of digits 10, .* to 364"):
        data.load("digits", test_subset=5000)


def idx(array):
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_mnist_format(tmp_path, name):
    folder = tmp_path / ("MNIST" if name == "mnist" else "FashionMNIST") / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (20, 28, 28)), "t10k": rng.integers(0, 256, (10, 28, 28))}
    for part, pixels in images.items():
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(len(pixels)) % 10))
    dataset = data.load(name, tmp_path)
    assert torch.equal(dataset.train.images[:, 0], torch.from_numpy(images["train"].astype(np.uint8)))
    assert dataset.test.labels.tolist() == list(range(10))
    assert dataset.flip == (name == "fashion-mnist") and NAMED_SETS[name].shape == (1, 28)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def trusted(patch, kind, folder):
    """Have torchvision's data set class take the files in this folder for the official ones."""
    for attribute in ("train_list", "test_list"):
        patch.setattr(kind, attribute, [[file, md5(folder / file)] for file, _ in getattr(kind, attribute)])
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(folder / kind.meta["filename"])})


def write_cifar(folder, files, key, classes, meta):
    """Python batches as the official archives hold them: rows of 3,072 bytes, red then green then blue."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows = {}
    for name in files:
        rows[name] = rng.integers(0, 256, (10, 3072)).astype(np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": rows[name], key: [i % classes for i in range(10)]}))
    (folder / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: [f"name{i}" for i in range(classes)]}))
    return rows


@pytest.mark.parametrize(("name", "dataset"), [("cifar10", "CIFAR10"), ("cifar100", "CIFAR100")])
def test_cifar_format(tmp_path, monkeypatch, name, dataset):
    kind = getattr(torchvision.datasets, dataset)
    files = [f for f, _ in kind.train_list + kind.test_list]
    key, classes = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
    folder = tmp_path / kind.base_folder
    rows = write_cifar(folder, files, key, classes, kind.meta)
    trusted(monkeypatch, kind, folder)
    loaded = data.load(name, tmp_path)
    assert loaded.train.images.shape == (10 * (len(files) - 1), 3, 32, 32) and NAMED_SETS[name].shape == (3, 32)
    assert loaded.test.images[4].flatten().tolist() == rows[files[-1]][4].tolist()
    assert len(loaded.classes) == classes
    assert loaded.classes[2] == "name2"


def write_svhn(root, monkeypatch, count=10):
    """Files as SVHN's, of so many images each, which torchvision takes for its own: their pixels (32, 32, 3, N)."""
    folder = root / "svhn"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(2).integers(0, 256, (32, 32, 3, count)).astype(np.uint8)
    kind, listed = torchvision.datasets.SVHN, {}
    for split in ("train", "test"):
        file = folder / f"{split}_32x32.mat"
        scipy.io.savemat(file, {"X": pixels, "y": np.arange(count).reshape(-1, 1) % 10 + 1})
        listed[split] = [kind.split_list[split][0], file.name, md5(file)]
    monkeypatch.setattr(kind, "split_list", listed)
    return pixels


def test_svhn_format(tmp_path, monkeypatch):
    pixels = write_svhn(tmp_path, monkeypatch)
    loaded = data.load("svhn", tmp_path)
    assert loaded.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]  # the file's 10 is the digit 0
    assert torch.equal(loaded.train.images[3], torch.from_numpy(pixels[..., 3]).permute(2, 0, 1))
    assert not loaded.flip and NAMED_SETS["svhn"].shape == (3, 32)


def write_gtsrb(root, classes=43, each=2, tests=5):
    """Files as the benchmark's archives hold them: a folder of PPM files for each class, of images of one colour and many
    sizes, the red one saying which class; the answers to test images in a table of their own."""
    place = root / "gtsrb"
    sizes = itertools.cycle(((15, 19), (48, 48), (250, 230)))
    for label in range(classes):
        folder = place / "GTSRB" / "Training" / f"{label:05d}"
        folder.mkdir(parents=True)
        for track in range(each):
            Image.new("RGB", next(sizes), (label, track, 200)).save(folder / f"00000_{track:05d}.ppm")
        (folder / f"GT-{label:05d}.csv").write_text("Filename;Width;Height\n", encoding="utf-8")
    folder = place / "GTSRB" / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number in range(tests):
        width, height = next(sizes)
        Image.new("RGB", (width, height), (7 * number, 0, 0)).save(folder / f"{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;{width};{height};5;5;{width - 5};{height - 5};{7 * number}")
    (place / "GT-final_test.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_gtsrb_format(tmp_path, monkeypatch):
    """Signs of all sizes at one side, in their colours, each with the label of its folder or table; none is mirrored."""
    write_gtsrb(tmp_path)
    monkeypatch.setitem(NAMED_SETS, "gtsrb", dataclasses.replace(NAMED_SETS["gtsrb"], sizes=(86, 5)))
    loaded = data.load("gtsrb", tmp_path)
    assert loaded.train.images.shape == (86, 3, 48, 48) and loaded.train.images.dtype == torch.uint8
    assert loaded.train.labels.tolist() == [label for label in range(43) for _ in range(2)]
    colours = torch.tensor([[label, track, 200] for label in range(43) for track in range(2)], dtype=torch.uint8)
    assert (loaded.train.images == colours[:, :, None, None]).all()
    assert loaded.test.labels.tolist() == loaded.test.images[:, 0, 0, 0].tolist() == [0, 7, 14, 21, 28]
    assert len({*loaded.classes}) == 43 and (loaded.classes[14], loaded.classes[40]) == ("stop", "roundabout")
    assert class_numbers(["Speed_limit 30", "13"], loaded.classes, range(43), "--forget-class") == [1, 13]
    assert not loaded.flip and NAMED_SETS["gtsrb"].shape == (3, 48)


def test_gtsrb_that_is_half_unpacked_or_damaged_is_refused(tmp_path, monkeypatch):
    """torchvision looks whether its folders are there, and for nothing in them."""
    write_gtsrb(tmp_path)
    with pytest.raises(UserError, match="holds 86 training and 5 test images, not 26,640 training and 12,630"):
        data.load("gtsrb", tmp_path)
    monkeypatch.setitem(NAMED_SETS, "gtsrb", dataclasses.replace(NAMED_SETS["gtsrb"], sizes=(86, 5)))
    damaged = tmp_path / "gtsrb/GTSRB/Training/00007/00000_00001.ppm"
    damaged.write_bytes(damaged.read_bytes()[:30])
    with pytest.raises(UserError, match=r"00007/00000_00001\.ppm is not a readable image"):
        data.load("gtsrb", tmp_path)
    (tmp_path / "gtsrb/GT-final_test.csv").unlink()
    with pytest.raises(UserError, match=r"GT-final_test.csv.*; put the contents of its three archives into .*gtsrb"):
        data.load("gtsrb", tmp_path)


def folder_of_images(root, size=8, classes=("ant", "bee")):
    for part in ("train", "test"):
        for label, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (size, size), (label * 100, i, 7)).save(root / part / name / f"{i}.png")


def test_a_folder_has_one_name_however_it_is_written(tmp_path, monkeypatch):
    folder_of_images(tmp_path / "many")
    monkeypatch.chdir(tmp_path)
    written = ("folder:many", "folder:./many", "folder:many/", f"folder:{tmp_path}/many")
    loaded = data.load("folder:many", img_size=8)
    assert loaded.tag == f"many-{loaded.fingerprint[:6]}-8px"
    assert {data.load(name, img_size=8).tag for name in written} == {loaded.tag}
    assert {data.Source(name, tmp_path) for name in written} == {data.Source("folder:many", tmp_path)}
    assert data.Source("folder:many", tmp_path).described(loaded)["dataset"] == "folder:many"
    monkeypatch.setenv("HOME", str(tmp_path))  # a shell leaves the sign as it is after a colon
    assert data.Source("folder:~/many", tmp_path) == data.Source("folder:many", tmp_path)
    monkeypatch.chdir(tmp_path / "many")
    assert data.load("folder:.", img_size=8).tag == loaded.tag
    assert data.short_name("cifar10") == "cifar10" and data.short_name("folder:../x/y") == "y"
    assert data.short_name("csv:a/list.csv") == "list" and data.short_name("npz:list.npz") == "list"


def test_folder_format_and_class_order(tmp_path):
    folder_of_images(tmp_path)
    loaded = data.load(f"folder:{tmp_path}", img_size=16)
    assert loaded.classes == ("ant", "bee")
    assert loaded.train.images.shape == (8, 3, 16, 16)
    assert loaded.train.labels.tolist() == [0] * 4 + [1] * 4
    assert (loaded.train.images[:, 0] == (loaded.train.labels * 100)[:, None, None]).all()
    (tmp_path / "test" / "bee" / "0.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="not a readable image"):
        data.load(f"folder:{tmp_path}")


STREAMED = {
    "pretrain": (pretrain, ("--epochs", 2)),
    "retrain": (retrain, ("--forget-class", 1, "--epochs", 1)),
    "finetune": (finetune, ("--forget-random", 0.1, "--epochs", 1)),
    "lora": (lora, ("--forget-class", 1, "--epochs", 1)),
    "gradascent": (gradascent, ("--forget-class", 1, "--epochs", 1, "--retain-weight", 0.5)),
    "randomlabel": (randomlabel, ("--forget-class", 1, "--epochs", 1, "--saliency", 0.5)),
    "badteacher": (badteacher, ("--forget-class", 1, "--epochs", 1)),
    "rfau": (rfau, ("--forget-class", 1, "--epochs", 1)),
    "delete": (delete, ("--forget-class", 1, "--epochs", 1)),
    "neglora": (neglora, ("--forget-class", 1, "--epochs", 1, "--bound", 5)),
    "regun": (regun, ("--forget-class", 1, "--epochs", 1)),
    "loraprune": (loraprune, ("--forget-class", 1, "--epochs", 1, "--forget-loss", "residual")),
    "scrub": (scrub, ("--forget-class", 1, "--epochs", 1)),
    "ssd": (ssd, ("--forget-random", 0.1, "--alpha", 1.5, "--batch-size", 32)),
}


def test_a_folder_too_large_for_memory_is_read_as_it_is_used(tmp_path, monkeypatch, capsys):
    """Every method gives the same bits as with all images in memory."""
    digits = data.load("digits", subset=90, test_subset=30)
    for part, split in (("train", digits.train), ("test", digits.test)):
        for row, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            folder = tmp_path / "tree" / part / str(label.item() % 3)
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{row}.png")
    found = {}
    for way, limit in (("streamed", 0), ("resident", folders.RESIDENT)):
        monkeypatch.setattr(folders, "RESIDENT", limit)
        weights = tmp_path / way
        common = (
            "--dataset",
            f"folder:{tmp_path / 'tree'}",
            "--img-size",
            8,
            "--weights",
            weights,
            "--device",
            "cpu",
        )
        for method, (script, flags) in STREAMED.items():
            model = ("--model", "resnet8") if script in (pretrain, retrain) else ("--original", found[way, "pretrain"][0])
            path = call(script, *common, *model, *flags)
            found[way, method] = path, models.load_checkpoint(path)["state_dict"]
        assert ("stay in their files" in capsys.readouterr().err) == (limit == 0)
    for method in STREAMED:
        for name, tensor in found["resident", method][1].items():
            assert torch.equal(tensor, found["streamed", method][1][name]), (method, name)


def test_files_stand_for_a_tensor(tmp_path):
    folder_of_images(tmp_path)
    images = data.load(f"folder:{tmp_path}", img_size=16).train.images
    files = data.ImageFiles(sorted(map(str, (tmp_path / "train").rglob("*.png"))), 16)
    assert (len(files), files.shape) == (len(images), images.shape)
    rows = torch.tensor([6, 0, 3])
    for index in (rows, slice(None, None, 3), torch.arange(8) % 2 == 0):
        assert torch.equal(files[index], images[index])
        assert torch.equal(files.take(index)[:], images[index])
    order = [rows, rows[:1], rows[1:]]
    for some in (files, images):
        assert all(torch.equal(x, images[r]) for x, r in zip(data.batches(some, order), order, strict=True))
    assert torch.equal(splits.concatenate(files, files.take(rows))[:], torch.cat([images, images[rows]]))
    (tmp_path / "train" / "bee" / "0.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="not a readable image"):
        list(data.batches(files, [torch.arange(8)]))


def offline(*_, **__):
    raise RuntimeError("Error downloading")


def test_missing_files_are_named_with_their_place(tmp_path, monkeypatch):
    for kind in ("MNIST", "CIFAR10", "GTSRB"):
        monkeypatch.setattr(getattr(torchvision.datasets, kind), "download", offline)
    with pytest.raises(UserError, match=r"put cifar-10-python\.tar\.gz into"):
        data.load("cifar10", tmp_path)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz.* into .*MNIST/raw"):
        data.load("mnist", tmp_path)
    with pytest.raises(UserError, match=r"no GTSRB files.*into .*gtsrb"):
        data.load("gtsrb", tmp_path)


def test_a_truncated_file_is_an_error_and_not_a_short_data_set(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28)))[:5000])
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(count)))
    with pytest.raises(UserError, match="MNIST"):
        data.load("mnist", tmp_path)


def test_gzip_of_debians_package_is_unpacked_where_torchvision_reads(tmp_path, monkeypatch, capsys):
    """apt is replaced by a function that lays out the package's files; the unpacking and the reading are real."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    monkeypatch.setattr(shutil, "which", lambda name: name)

    def archive(command, cwd=None, **_):
        files, said = tmp_path.resolve() / "debian-dataset-fashion-mnist/files/usr/share/datasets/fashion-mnist", ""
        if "--print-uris" in command:
            said = "'http://deb.debian.org/debian/pool/main/d/x_all.deb' x_all.deb 30900652 SHA256:39e1\n"
        elif "download" in command:
            (cwd / "dataset-fashion-mnist_0_all.deb").touch()
        elif "-x" in command:
            files.mkdir(parents=True)
            for part, count in (("train", 20), ("t10k", 10)):
                for kind, array in (("images-idx3", np.ones((count, 28, 28))), ("labels-idx1", np.arange(count) % 10)):
                    (files / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
        return subprocess.CompletedProcess(command, 0, said)

    monkeypatch.setattr(subprocess, "run", archive)
    loaded = data.load("fashion-mnist", tmp_path)
    assert (len(loaded.train), len(loaded.test)) == (20, 10)
    assert not list(tmp_path.glob("*debian*"))
    said = capsys.readouterr().err.splitlines()
    place = tmp_path / "debian-dataset-fashion-mnist"
    assert said[1:] == [f"downloading package dataset-fashion-mnist (31 MB) from deb.debian.org to {place}"]


def test_files_that_lack_where_nothing_can_be_written_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "locked", lambda path: (_ for _ in ()).throw(RunFailed(f"cannot write {path}")))
    with pytest.raises(UserError, match=r"no MNIST files and no download \(cannot write .*\); put train-images"):
        data.load("mnist", tmp_path)


def test_of_two_commands_that_begin_at_once_one_downloads(tmp_path, monkeypatch, capsys):
    """The other waits, and reads what has come."""
    monkeypatch.setattr(torchvision.datasets.MNIST, "download", offline)
    folder = tmp_path / "MNIST/raw"

    def comes():
        folder.mkdir(parents=True)
        for part, count in (("train", 20), ("t10k", 10)):
            for kind, array in (("images-idx3", np.ones((count, 28, 28))), ("labels-idx1", np.arange(count) % 10)):
                (folder / f"{part}-{kind}-ubyte").write_bytes(idx(array))

    read = partial(data.load, "mnist", tmp_path)
    assert len(while_waiting(tmp_path / "MNIST", read, comes, capsys).train) == 20


def test_torchvisions_download_is_one_line_in_a_log(tmp_path, monkeypatch, capsys):
    """A server on this machine stands for MNIST's; torchvision downloads, checks and unpacks."""
    kind, resources = torchvision.datasets.MNIST, []
    (tmp_path / "there").mkdir()
    for part, count in (("train", 20), ("t10k", 10)):
        for name, array in (("images-idx3", np.ones((count, 28, 28))), ("labels-idx1", np.arange(count) % 10)):
            file = tmp_path / "there" / f"{part}-{name}-ubyte.gz"
            file.write_bytes(gzip.compress(idx(array)))
            resources.append((file.name, hashlib.md5(file.read_bytes()).hexdigest()))
    monkeypatch.setattr(kind, "resources", resources)
    with served(tmp_path / "there") as address:
        monkeypatch.setattr(kind, "mirrors", [address])
        loaded = data.load("mnist", tmp_path / "here")
    assert (len(loaded.train), len(loaded.test)) == (20, 10)
    assert capsys.readouterr().err == f"downloading MNIST (12 MB) from {address.split('/')[2]} to {tmp_path / 'here'}\n"
    assert len(data.load("mnist", tmp_path / "here").test) == 10 and not capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": [11]}, "classes are 0 to 9"),
        ({"share": 1.5}, "not a share"),
        ({"file": "nowhere.txt"}, "nowhere.txt"),
        ({}, "nothing to forget"),
    ],
)
def test_wrong_forget_sets(arguments, message):
    with pytest.raises(UserError, match=message):
        forgetting.forget_indices(data.load("digits").train, **arguments)


def test_forget_file(tmp_path):
    file = tmp_path / "ids.txt"
    file.write_text("17\n3\n17\n", encoding="utf-8")
    index, tag = forgetting.forget_indices(data.load("digits").train, file=file)
    assert index.tolist() == [3, 17]
    assert tag.startswith("file")
    file.write_text("17\n999999\n", encoding="utf-8")
    with pytest.raises(UserError, match="0 to 1432"):
        forgetting.forget_indices(data.load("digits").train, file=file)


@pytest.mark.parametrize("arguments", [("nonsense",), ("digits", "data", 3), ("digits", "data", None, 1.0)])
def test_wrong_data_requests(arguments):
    with pytest.raises(UserError):
        data.load(*arguments)


def test_a_folder_or_file_that_is_named_without_its_kind_is_told_which_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    (tmp_path / "list.csv").write_text("", encoding="utf-8")
    for name, way in (
        ("pets", "; pets itself is folder:pets"),
        ("list.csv", "; list.csv itself is csv:list.csv"),
        ("cifar", ""),
    ):
        with pytest.raises(UserError, match=rf"unknown data set '{name}'; there are .*npz:FILE{way}$"):
            data.load(name)


def test_a_forget_set_in_words():
    dataset = data.load("digits")
    named = dataclasses.replace(dataset, classes=tuple("abcdefghij"))

    def words(of, **request):
        return of.in_words(*forgetting.forget_indices(of.train, **request))

    assert words(dataset, classes=[3]) == "class 3" and words(named, classes=[3]) == "class 3 (d)"
    assert words(named, classes=[3, 1]) == "classes 1 (b), 3 (d)"
    assert words(dataset, classes=range(8)) == "classes 0, 1, 2, 3, 4 and 3 more"
    assert words(dataset, share=0.1) == "random share 0.1"
    assert dataset.in_words(torch.tensor([1, 2]), "file1a2b3c4d") == "list 1a2b3c4d, 2 images"


def test_known_sizes_are_those_of_the_data():
    dataset = data.load("digits")
    assert NAMED_SETS["digits"].sizes == (len(dataset.train), len(dataset.test))
    assert NAMED_SETS["digits"].shape == tuple(dataset.train.images.shape[1:3])
    assert NAMED_SETS.keys() == readers.READERS.keys()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(9) % 10, r"its training images are 20, with 9 labels"),
        (np.arange(21) % 10, r"its training images are 20, with 21 labels"),
        (np.arange(20), r"its training images have a label 19, and classes are 0 to 9"),
    ],
)
def test_files_with_other_labels_than_images_are_refused(tmp_path, labels, message):
    """Too few used to be dropped without a word, too many to end in a traceback."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.arange(20 * 784).reshape(20, 28, 28).astype(np.uint8)
    right = (np.arange(20) % 10).astype(np.uint8)
    for part, labels_ in (("train", labels.astype(np.uint8)), ("t10k", right)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels_))
    with pytest.raises(UserError, match=rf"mnist: {message}.*: the files in .* are damaged"):
        data.load("mnist", tmp_path)
    (raw / "train-labels-idx1-ubyte").write_bytes(idx(right))
    assert data.load("mnist", tmp_path).train.labels.tolist() == right.tolist()


@pytest.mark.parametrize(("cell", "message"), [("x" * 1001, "a label of 1,001 characters"), ("a\0b", "a NUL")])
def test_a_label_that_is_no_name_is_one_line(tmp_path, cell, message):
    (tmp_path / "t.csv").write_text(f"file,label,split\na.png,{cell},train\n", encoding="utf-8")
    with pytest.raises(UserError, match=f"line 2: {message}"):
        data.load(f"csv:{tmp_path / 't.csv'}")


def test_positions_beyond_the_images_are_named():
    dataset = data.load("digits", subset=200)
    data.check_positions("x.pth", torch.tensor([0, 199]), dataset)
    with pytest.raises(UserError, match=r"x.pth: it names image 200, and there are 200 training images: it is damaged"):
        data.check_positions("x.pth", torch.tensor([0, 200]), dataset)


def test_two_splits_are_joined_with_their_origin_where_it_is_one():
    whole = data.load("digits", subset=20).train
    first, other = whole.take(torch.tensor([4, 1])), whole.take(torch.tensor([7, 0, 4]))
    both = first.joined(other)
    rows = [4, 1, 7, 0, 4]
    assert torch.equal(both.images, whole.images[rows]) and torch.equal(both.labels, whole.labels[rows])
    images, places = both.source
    assert images is whole.source[0] and torch.equal(images[places], both.images)
    elsewhere = data.Split(whole.images.clone(), whole.labels)
    assert first.joined(elsewhere).origin is None and len(first.joined(elsewhere)) == 22
