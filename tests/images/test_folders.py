"""Folders and tables of pictures: which files are read, in which order, and what is said of the rest."""

import dataclasses
import hashlib
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
import evaluate
import lmeraser
import pretrain
from tests.helpers import call
from tests.test_data import folder_of_images
from unlearning.core.errors import UserError
from unlearning.images import folders, forgetting
from unlearning.vision.shared import Shared


def picture(file, value, size=(8, 8)):
    """A picture of one colour, the file's folder made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 10, 20)).save(file)


def tree(root, classes=("ant", "bee"), parts=("train", "test"), each=4):
    """A folder of pictures whose red says the class and whose number of pictures is `each` a class and part."""
    for part in parts:
        for number, name in enumerate(classes):
            for i in range(each):
                picture(root / part / name / f"{i}.png", number * 20)
    return root


def loaded(root, **how):
    return data.load(f"folder:{root}", img_size=8, **how)


def test_the_fingerprint_of_an_ordinary_folder_is_what_it_was(tmp_path):
    """By the rule of earlier versions: torchvision's order of files, PIL's RGB, shapes and bytes of both splits."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 13), ("test", 5)):
        for name in ("Zebra", "ant", "bee 2"):
            for i in range(count):
                file = tmp_path / part / name / ("deep" if i % 3 else ".").strip(".") / f"{i}.{'JPG' if i % 2 else 'png'}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (8, 8 + i % 2, 3)).astype(np.uint8)).save(file)
    from torchvision.datasets import ImageFolder

    digest = hashlib.sha256()
    for part in ("train", "test"):
        listed = ImageFolder(tmp_path / part)
        pixels = [np.array(Image.open(file).convert("RGB").resize((8, 8))) for file, _ in listed.samples]
        images, labels = np.stack(pixels).transpose(0, 3, 1, 2), np.array(listed.targets)
        for array in (images, labels):
            digest.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    assert loaded(tmp_path).fingerprint == digest.hexdigest()


def test_numeric_class_names_are_in_numeric_order(tmp_path):
    dataset = loaded(tree(tmp_path, [str(number) for number in range(12)], each=1))
    assert dataset.classes == tuple(map(str, range(12)))
    index, _ = forgetting.forget_indices(dataset.train, classes=[2])
    assert dataset.train.images[index, 0].unique().tolist() == [40]
    assert folders.in_order(["10", "9", "x"]) == ["10", "9", "x"] and folders.in_order(["10", "9", "010"]) == [
        "9",
        "010",
        "10",
    ]


def test_val_stands_in_for_a_test_split(tmp_path, capsys):
    for part in ("val", "valid", "validation"):
        root = tree(tmp_path / part, parts=("train", part))
        assert len(loaded(root).test) == 8
        assert f"folder:{root}: {part}/ is the test split\n" == capsys.readouterr().err
    tree(tmp_path / "val", ("ant", "bee"), parts=("test",), each=2)
    assert len(loaded(tmp_path / "val").test) == 4
    assert capsys.readouterr().err == f"folder:{tmp_path / 'val'}: test/ is the test split, and val/ isn't used\n"


def test_rows_of_a_table_that_stand_in_for_test_rows_or_are_left_out_are_said(tmp_path, capsys):
    tree(tmp_path, parts=("train", "val", "test"))
    lines = [f"{path.relative_to(tmp_path)},{path.parent.name},{path.parts[-3]}" for path in tmp_path.glob("*/*/*.png")]
    for parts, said in (
        (("train", "test"), ""),
        (("train", "val"), "rows of val are the test split"),
        (("train", "val", "test"), "rows of test are the test split, and those of val aren't used"),
    ):
        some = [line for line in lines if line.rsplit(",")[-1] in parts]
        (tmp_path / "list.csv").write_text("\n".join(["file,label,split", *some]), encoding="utf-8")
        data.load(f"csv:{tmp_path / 'list.csv'}", img_size=8)
        assert capsys.readouterr().err == (f"csv:{tmp_path / 'list.csv'}: {said}\n" if said else "")


def test_no_test_split_takes_validation(tmp_path):
    root = tree(tmp_path / "alone", parts=("train",))
    with pytest.raises(UserError, match=r"it has no test/ and no val/; give --validation SHARE"):
        loaded(root)
    dataset = loaded(root, validation=0.25)
    assert (len(dataset.train), len(dataset.test)) == (6, 2)
    (root / "test" / "ant").mkdir(parents=True)
    with pytest.raises(UserError, match=r"test has no class folder with images; give --validation"):
        loaded(root)
    (root / "test" / "ant" / "0.png").write_bytes(b"never opened")
    assert loaded(root, validation=0.25).fingerprint == dataset.fingerprint


def test_what_is_no_training_data_is_one_line(tmp_path):
    (tmp_path / "train").mkdir()
    for path, message in ((tmp_path / "nowhere", "there is no folder"), (tmp_path, "has no class folder with images")):
        with pytest.raises(UserError, match=f"needs train/<class>/ with images in each: .*{message}"):
            loaded(path)
    tree(tmp_path / "more", ("ant", "bee"))
    picture(tmp_path / "more" / "test" / "cat" / "0.png", 1)
    with pytest.raises(UserError, match="train and test don't hold the same classes: cat only in one of them"):
        loaded(tmp_path / "more")


def test_a_folder_without_train_says_what_to_move_or_to_name(tmp_path, monkeypatch):
    """Only where that is plain."""
    tree(tmp_path / "pets", parts=("", "test"))
    (tmp_path / "pets" / "empty").mkdir()
    moved = f"; ant, bee are in the folder itself: move them into {tmp_path / 'pets' / 'train'}"
    with pytest.raises(UserError, match=f"{re.escape(moved)}$"):  # it has a test split
        loaded(tmp_path / "pets")
    shutil.rmtree(tmp_path / "pets" / "test")
    share = ", and as there is no test/ and no val/, give --validation SHARE"
    with pytest.raises(UserError, match=f"{re.escape(moved + share)}$"):
        loaded(tmp_path / "pets")
    with pytest.raises(UserError, match=f"{re.escape(moved)}$"):
        loaded(tmp_path / "pets", validation=0.2)
    tree(tmp_path / "split")
    for part in ("train", "test"):
        with pytest.raises(UserError, match=f"; give the folder above it: folder:{re.escape(str(tmp_path / 'split'))}$"):
            loaded(tmp_path / "split" / part)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"; give the folder above it: folder:split$"):
        loaded("split/train")
    monkeypatch.chdir(tmp_path / "split" / "train")
    with pytest.raises(UserError, match=f"; give the folder above it: folder:{re.escape(str(tmp_path / 'split'))}$"):
        loaded(".")
    for nothing in (tmp_path / "nowhere", tmp_path / "pets" / "empty"):
        with pytest.raises(UserError, match=f"there is no folder {re.escape(str(nothing / 'train'))}$"):
            loaded(nothing)


@pytest.mark.parametrize("kind", ["folder", "csv", "npz"])
def test_classes_are_listed_without_a_test_split(tmp_path, capsys, kind):
    tree(tmp_path / "some", parts=("train",), each=3)
    rows = [f"train/{name}/{i}.png,{name}" for name in ("ant", "bee") for i in range(3)]
    (tmp_path / "some" / "list.csv").write_text("\n".join(["file,label", *rows]), encoding="utf-8")
    np.savez(tmp_path / "some" / "a.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.arange(6) % 2)
    where = {"folder": tmp_path / "some", "csv": tmp_path / "some" / "list.csv", "npz": tmp_path / "some" / "a.npz"}
    side = () if kind == "npz" else ("--img-size", 8)
    flags = ("--dataset", f"{kind}:{where[kind]}", *side, "--list-classes")
    for script, action in ((pretrain, ()), (lmeraser, ("train",)), (evaluate, ())):
        capsys.readouterr()
        assert call(script, *action, *flags) is None
        table = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        first, second = ("0", "1") if kind == "npz" else ("ant", "bee")
        assert table == [["0", first, "3", "0"], ["1", second, "3", "0"]]
    with pytest.raises(UserError, match="give --validation SHARE"):  # to train there has to be one
        call(pretrain, *flags[:-1], "--weights", tmp_path)


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    tree(tmp_path)
    monkeypatch.setattr(folders.os, "walk", lambda top, onerror, followlinks: onerror(PermissionError(13, "no", str(top))))
    with pytest.raises(UserError, match="train/ant can't be read: no"):
        loaded(tmp_path)


def test_links_in_a_circle_and_pipes_are_one_line(tmp_path):
    """Two links would lead through 2**40 folders before the system ends it; whoever opens a pipe waits for ever."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes among files")
    root = tree(tmp_path / "pets")
    links = [root / "train" / "ant" / name for name in ("one", "two")]
    for link in links:
        link.symlink_to(".", target_is_directory=True)
    with pytest.raises(UserError, match=r"ant/one leads to .*train/ant: remove one of them$"):
        loaded(root)
    for link in links:
        link.unlink()
    os.mkfifo(root / "train" / "ant" / "z.png")
    with pytest.raises(UserError, match=r"z\.png is not a readable image \(.* is no file: a pipe"):
        loaded(root)


def test_every_format_is_read_and_the_rest_is_counted(tmp_path, capsys):
    tree(tmp_path)
    suffixes = ("gif", "webp", "jp2", "tga", "ico", "jfif", "PNG", "ppm", "bmp", "tiff")
    for suffix in suffixes:
        picture(tmp_path / "train" / "ant" / f"x.{suffix}", 0)
    for name in (
        "bee/Thumbs.db",
        "bee/notes.txt",
        "ant/.DS_Store",
        "ant/._0.png",
        "ant/more.txt",
        "ant/README",
        "stray.png",
    ):
        (tmp_path / "train" / name).write_bytes(b"\0")
    for name in (".cache", "empty", "ant/.ipynb_checkpoints"):
        (tmp_path / "train" / name).mkdir()
    picture(tmp_path / "train" / ".cache" / "0.png", 0)
    picture(tmp_path / "train" / "ant" / ".ipynb_checkpoints" / "0.png", 0)
    dataset = loaded(tmp_path)
    assert dataset.train.labels.tolist() == [0] * (4 + len(suffixes)) + [1] * 4 and dataset.classes == ("ant", "bee")
    counted = "9 files that are no pictures of a class (1 .db, 1 .png, 2 .txt, 4 hidden, 1 without a suffix)"
    empty = "class folders that are hidden or hold no images (train/.cache, train/empty)"
    assert capsys.readouterr().err == f"folder:{tmp_path}: skipped {counted} and {empty}\n"
    assert loaded(tmp_path, quiet=True).fingerprint == dataset.fingerprint and not capsys.readouterr().err


def test_resizing_is_said_once_with_the_largest(tmp_path, capsys):
    tree(tmp_path)
    loaded(tmp_path)
    assert not capsys.readouterr().err
    picture(tmp_path / "train" / "ant" / "wide.png", 1, (30, 20))
    picture(tmp_path / "test" / "ant" / "high.png", 1, (21, 31))
    loaded(tmp_path)
    what = "images are resized to 8 x 8 pixels without keeping their aspect ratio; the largest is 21 x 31"
    assert capsys.readouterr().err == f"folder:{tmp_path}: {what}\n"
    loaded(tmp_path, quiet=True)
    assert not capsys.readouterr().err


def test_unreadable_pictures_of_both_splits_are_named_at_once(tmp_path):
    tree(tmp_path)
    for name in ("train/ant/0.png", "test/bee/3.png"):
        (tmp_path / name).write_bytes(b"no")
    with pytest.raises(UserError, match=r"2 files are not readable images: .*train/ant/0.png \(.*test/bee/3.png \("):
        loaded(tmp_path)


def test_a_channel_that_is_the_same_everywhere_does_no_harm(tmp_path):
    """Pictures of one and the same colour: constants normalise them, not their own standard deviation of 0."""
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            picture(tmp_path / part / name / "0.png", 0)
    flags = ("--dataset", f"folder:{tmp_path}", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet")
    assert call(pretrain, *flags, "--output", tmp_path / "x.pth").exists()


def table(root, text, encoding="utf-8"):
    """A table beside pictures 0.png to 7.png, whose red is their number."""
    for number in range(8):
        picture(root / "pictures" / f"{number}.png", number)
    (root / "list.csv").write_text(text, encoding=encoding)
    return f"csv:{root / 'list.csv'}"


LABELS = ("10", "9", "10", "9", "9", "10", "9", "10")
PARTS = ("train", "train", "train", "train", "test", "TEST", "val", "val")
ROWS = [f"pictures/{n}.png,{label},{part}" for n, (label, part) in enumerate(zip(LABELS, PARTS, strict=True))]
HEADED = "\n".join(["File,Label,Split", *ROWS]) + "\n"


def test_a_table_names_files_labels_and_splits(tmp_path, capsys):
    dataset = data.load(table(tmp_path, HEADED, "utf-8-sig"), img_size=8)
    assert dataset.classes == ("9", "10") and dataset.tag == f"list-{dataset.fingerprint[:6]}-8px"
    assert dataset.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and dataset.train.labels.tolist() == [1, 0, 1, 0]
    assert dataset.test.images[:, 0, 0, 0].tolist() == [4, 5] and dataset.test.labels.tolist() == [0, 1]
    assert "rows of test are the test split, and those of val aren't used" in capsys.readouterr().err
    without = "".join(line + "\n" for line in HEADED.splitlines() if not line.lower().endswith("test"))
    dataset = data.load(table(tmp_path, without), img_size=8)
    assert dataset.test.images[:, 0, 0, 0].tolist() == [6, 7]
    semicolons = HEADED.replace(",", ";").replace("Label", "target").replace("File", " path ") + "\n;;\n"
    assert data.load(table(tmp_path, semicolons), img_size=8).train.labels.tolist() == [1, 0, 1, 0]


def test_a_table_without_splits_takes_validation(tmp_path):
    name = table(tmp_path, "\n".join(line.rpartition(",")[0] for line in HEADED.splitlines()))
    with pytest.raises(UserError, match="has no rows of split test or val; give --validation"):
        data.load(name)
    dataset = data.load(name, img_size=8, validation=0.25)
    assert (len(dataset.train), len(dataset.test)) == (6, 2) and dataset.test.labels.tolist() == [1, 0]


MALFORMED = [
    (
        HEADED.replace("File", "name"),
        "needs one column named file or filename or path or image; it has none among name, label",
    ),
    (HEADED.replace("Split", "path"), "needs one column named file .*; it has file and path"),
    (HEADED.replace("Label", "kind"), "needs one column named label or class or target; it has none among"),
    ("", "it has none among no columns"),
    (HEADED.replace(",9,train", ",9", 1), "line 3: 2 cells for 3 columns"),
    (HEADED.replace(",9,train", ",,train", 1), "line 3: an empty cell"),
    (HEADED.replace(",9,train", ",9,dev", 1), "line 3: its split is 'dev', neither train nor test nor val"),
    (HEADED.replace("/3.png", "/../pictures/1.png"), "lines 3 and 5 name the same file .*1.png"),
    (HEADED.replace("/3.", "/33.").replace("/6.", "/66."), "2 of 8 files aren't there: .*33.png, .*66.png"),
    (HEADED.replace("train", "test"), "has no training images"),
    (HEADED + 'pictures/8.png,"9,train\n', "line 10: unexpected end of data"),
]


@pytest.mark.parametrize(("text", "message"), MALFORMED, ids=[message[:30] for _, message in MALFORMED])
def test_a_malformed_table_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError, match=rf"csv:.*list.csv.*{message}"):
        data.load(table(tmp_path, text))


def test_a_table_that_is_none_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"csv:.*nowhere.csv: No such file"):
        data.load(f"csv:{tmp_path / 'nowhere.csv'}")
    with pytest.raises(UserError, match="is not a text in UTF-8"):
        data.load(table(tmp_path, HEADED + "é", "latin-1"))


def test_a_table_of_a_folders_files_is_the_same_data(tmp_path):
    """Their pixels and labels give the fingerprint, and not how they were named."""
    tree(tmp_path)
    lines = [
        f"{file.relative_to(tmp_path)},{file.parent.name},{file.parent.parent.name}"
        for file in sorted(tmp_path.rglob("*.png"))
    ]
    (tmp_path / "list.csv").write_text("\n".join(["file,label,split", *lines]), encoding="utf-8")
    assert data.load(f"csv:{tmp_path / 'list.csv'}", img_size=8).fingerprint == loaded(tmp_path).fingerprint
    assert torch.equal(data.load(f"csv:{tmp_path / 'list.csv'}", img_size=8).test.labels, loaded(tmp_path).test.labels)


def test_one_picture_under_two_names_is_refused(tmp_path):
    """Forgetting one of them would leave it in training."""
    folder_of_images(tmp_path / "x")
    (tmp_path / "x/train/bee/again.png").symlink_to(tmp_path / "x/train/ant/0.png")
    with pytest.raises(UserError, match=r"ant/0\.png and .*again\.png are one file"):
        data.load(f"folder:{tmp_path / 'x'}")
    (tmp_path / "x.csv").write_text("file,label\nx/train/ant/0.png,ant\nx/train/bee/again.png,bee\n", encoding="utf-8")
    with pytest.raises(UserError, match="lines 2 and 3 name the same file"):
        data.load(f"csv:{tmp_path / 'x.csv'}", validation=0.5)


def test_a_training_image_that_is_a_test_image_too_is_refused(tmp_path):
    folder_of_images(tmp_path / "x")
    shutil.rmtree(tmp_path / "x/test")
    (tmp_path / "x/test").symlink_to("train")
    with pytest.raises(UserError, match=r"train/.* and .*test/.* are one file: a test image may not be a training image"):
        data.load(f"folder:{tmp_path / 'x'}")


def test_a_line_about_data_is_said_once_however_often_they_are_read(tmp_path, capsys):
    """By all runs of one process, though other data are read in between."""
    (tree(tmp_path / "a", parts=("train", "val")) / "train/ant/notes.txt").touch()
    shared, sources = Shared(), [data.Source(f"folder:{tmp_path / 'a'}", tmp_path, img_size=side) for side in (8, 12)]
    for _ in range(2):
        for source in sources:
            shared.load(source)
    resized = "images are resized to 12 x 12 pixels without keeping their aspect ratio; the largest is 8 x 8"
    lines = ["skipped 1 files that are no pictures of a class (1 .txt)", "val/ is the test split", resized]
    assert capsys.readouterr().err.splitlines() == [f"folder:{tmp_path / 'a'}: {line}" for line in lines]
    Shared().load(dataclasses.replace(sources[1], quiet=True))
    assert not capsys.readouterr().err


def test_files_outside_a_tables_folder_have_one_name_wherever_a_command_is_given(tmp_path, monkeypatch):
    """Of two pictures that lie alike, one in the folder and one beside it, each has a name of its own."""
    inside, outside = f"{tmp_path}/tables/photos/c.png", f"{tmp_path}/far/d.png"
    cells = {"photos/a.png": "x", "../photos/a.png": "x", "../photos/b.png": "y", inside: "y", outside: "x", "e.png": "y"}
    table = tmp_path / "tables" / "list.csv"
    for number, cell in enumerate(cells):
        picture(Path(os.path.normpath(table.parent / cell)), 40 * number)
    table.write_text("\n".join(["file,label", *map(",".join, cells.items())]), encoding="utf-8")
    wanted = ("photos/a.png", "../photos/a.png", "../photos/b.png", "photos/c.png", outside, "e.png")
    for here in (tmp_path, tmp_path / "tables", tmp_path / "far"):
        monkeypatch.chdir(here)
        whole = data.load(f"csv:{os.path.relpath(table)}", img_size=8, validation=0.4).whole
        assert whole.files == wanted
        assert (
            whole.numbers_of([*wanted, *(os.path.normpath(table.parent / file) for file in wanted)], "it") == [*range(6)] * 2
        )
