"""Files that name images: every format gives the same forget set, and what is wrong is said in one line."""

import csv
import json
import os
import re

import numpy as np
import pytest
import torch

import data
import finetune
import pretrain
import retrain
from tests.helpers import UNPACKABLE, call, make_unpackable, one_line
from tests.test_data import folder_of_images
from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.images.forgetting import ForgetRequest
from unlearning.images.request_files import read_file
from unlearning.vision.identity import forget_identity

WANTED = [3, 17, 1432]  # of the 1,433 training images of digits


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def thinned():
    return data.load("digits", subset=300)


@pytest.fixture(scope="module")
def animals(tmp_path_factory):
    """Two classes of four images: train/ant/0.png to train/bee/3.png."""
    root = tmp_path_factory.mktemp("here") / "animals"
    folder_of_images(root)
    return data.load(f"folder:{root}", img_size=8)


def mask(count=1433, positions=WANTED):
    found = np.zeros(count, dtype=bool)
    found[positions] = True
    return found


def as_text(text, encoding="utf-8"):
    return lambda file: file.write_bytes(text.encode(encoding))


def as_json(content):
    return lambda file: file.write_text(json.dumps(content), encoding="utf-8")


def as_npz(**arrays):
    return lambda file: np.savez(file, **arrays)


def as_array(values):
    def write(file):
        with open(file, "wb") as stream:  # np.save would add its own ending to a name
            np.save(stream, values, allow_pickle=True)

    return write


def as_tensor(values):
    return lambda file: torch.save(values, file)


def as_large(path):
    """65 MiB of zeros that take no room on the disk."""
    with open(path, "wb") as file:
        file.truncate(65 * 2**20)


def as_large_array(path):
    """An array's first bytes, by which it would take 8 EiB."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": (2**60,)})


def read(tmp_path, name, write, dataset):
    write(tmp_path / name)
    return read_file(tmp_path / name, dataset.whole, "--forget-file")


def refusal(tmp_path, name, write, dataset):
    with pytest.raises(UserError) as refused:
        read(tmp_path, name, write, dataset)
    assert "\n" not in str(refused.value)
    return str(refused.value).replace(f"--forget-file {tmp_path / name}", "FILE")


FORMS = {
    "ids.txt": as_text("17\n3\n1432\n"),
    "commas": as_text("17, 3 1432"),
    "windows.txt": as_text("\ufeff17\r\n3\r\n\r\n1432\r\n"),
    "powershell.txt": as_text("\ufeff17\r\n3\r\n1432\r\n", "utf-16-le"),
    "comments.txt": as_text("# asked on Monday\n17 # the seventeenth\n3\n  # nothing\n1432"),
    "index.csv": as_text("# of May\nlabel,Index\n1,17\n2,3\n\n1,1432\n"),
    "position.tsv": as_text("position\tx\n17\t\n3\t\n1432\t\n"),
    "excel.csv": as_text("\ufeffx;number\r\n;17\r\n;3\r\n;1432\r\n"),
    "sealed.csv": lambda file: file.write_bytes(seals.sealed(b"label,index\n1,17\n2,3\n1,1432\n", "csv")),
    "quoted.csv": as_text('"a, b","id"\n"1,2","17"\n"x","3"\n"y","1432"\n'),
    "ids.npy": as_array(np.array([17, 3, 1432], dtype=np.int32)),
    "column.npy": as_array(np.array([[17], [3], [1432]])),
    "mask.npy": as_array(mask()),
    "one.npz": as_npz(anything=np.array([17, 3, 1432], dtype=np.uint64)),
    "several.npz": as_npz(retain=np.arange(5), forget=mask()),
    "ids.pt": as_tensor(torch.tensor(WANTED)),
    "list.pt": as_tensor([17, 3, 1432]),
    "mask.pth": as_tensor({"forget": torch.from_numpy(mask())}),
    "ids.json": as_json([17, 3, 1432]),
    "key.json": as_json({"forget": [17, 3, 1432], "why": "asked"}),
    "mask.json": as_json(mask().tolist()),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_format_names_the_same_images(tmp_path, digits, name):
    found = read(tmp_path, name, FORMS[name], digits)
    assert found.positions.tolist() == WANTED and found.positions.dtype == torch.int64 and found.notes == ()


FLOATS, ZEROS = np.array([17.0, 3.0]), np.zeros(1433, dtype=np.int64)
COLUMNS = (
    "FILE: it needs a column called index, id, position, number or, where images are files, file, filename, path, "
    "image, name; "
)
REFUSED = [
    ("a.txt", as_text(""), "FILE: it names no image"),
    ("a.txt", as_text("# nothing\n"), "FILE: it names no image"),
    ("a.txt", as_text("1433\n-1\n5\n"), "FILE: no image 1433, -1; image numbers run from 0 to 1432"),
    ("a.txt", as_text("\n".join(map(str, range(1500, 1512)))), "1508, 1509 and 2 more; image numbers run from 0 to 1432"),
    ("a.txt", as_text("3\ncat.png\n9999"), "FILE: no image 9999; image numbers run from 0 to 1432; no image 'cat.png': "
     "images of digits have no file names; numbers run from 0 to 1432"),
    ("a.txt", as_text("1_0"), "FILE: no image '1_0': "),
    ("a.txt", as_text("3.0"), "FILE: no image '3.0': "),
    ("a.txt", as_text("é", "latin-1"), "FILE: its text is not UTF-8 (unexpected end of data at byte 0)"),
    ("a.dat", as_array(ZEROS), "FILE: it is not a text file; known endings are .csv, .tsv, .json, .npy, .npz, .pt, .pth"),
    ("a.txt", as_text("0\n1\n" + "0\n" * 1431), "FILE: 1,433 numbers, all 0 or 1, are as many as there are training images"),
    ("a.npy", as_array(ZEROS), "FILE: 1,433 numbers, all 0 or 1, are as many as there are training images; as a mask "
     "give booleans, as image numbers leave out the doubles"),
    ("a.json", as_json(ZEROS.tolist()), "FILE: 1,433 numbers, all 0 or 1"),
    ("a.npy", as_array(mask(300, [7])), "FILE: its mask has 300 values, and the full training set 1,433 images"),
    ("a.pt", as_tensor(torch.zeros(1433, dtype=torch.bool)), "FILE: it names no image"),
    ("a.npy", as_array(FLOATS), "FILE: it needs whole numbers, names or booleans, not float64"),
    ("a.npy", as_array(np.eye(3, dtype=np.int64)), "FILE: it needs one dimension, and has the shape (3, 3)"),
    ("a.npy", as_array(np.array([2**64 - 1], dtype=np.uint64)), "FILE: no image 18446744073709551615; image numbers"),
    ("a.npy", as_array(np.array([{}], dtype=object)), "FILE: it is no array, or one that can't be read without running "
     "code"),
    ("a.npy", as_text(""), "FILE: it is no array"),
    ("a.npz", as_text("PK\x03\x04 broken"), "FILE: it is no array"),
    ("a.npz", as_npz(one=FLOATS, two=FLOATS), "FILE: it needs one array, or one called forget; it has one, two"),
    ("a.pt", as_tensor({"x": torch.tensor([1])}), "FILE: it needs a list called forget; it has x"),
    ("a.pt", as_tensor(7), "FILE: it needs a list of numbers, names or booleans, not int"),
    ("a.pt", as_text("x"), "a.pt is not a readable checkpoint: damaged, cut off, or another kind of file"),
    ("a.json", as_json({"ids": [1]}), "FILE: it needs a list called forget; it has ids"),
    ("a.json", as_json("x"), "FILE: it needs a list of numbers, names or booleans, not str"),
    ("a.json", as_json([1, 2.0]), "FILE: 2.0 is neither the number nor the name of an image"),
    ("a.json", as_json([1, True]), "FILE: True is neither the number nor the name of an image"),
    ("a.json", as_json(["3"]), "FILE: no image '3': images of digits have no file names"),
    ("a.json", as_text("[1,"), "FILE: it is not JSON (Expecting value: line 1 column 4 (char 3))"),
    ("a.json", as_text(""), "FILE: it names no image"),
    ("a.json", as_text('{"forget": [3], "forget": [17]}'), "FILE: it has the key 'forget' twice"),
    ("a.csv", as_text("id\n3\n6,7\n"), "FILE: row 2 has 2 cells, and its first line 1"),
    ("a.tsv", as_text("id\twhy\n3\tx\n\n6\t7\ty\n"), "FILE: row 2 has 3 cells, and its first line 2"),
    ("a.csv", as_text("id,why\n3\n"), "FILE: row 1 has 1 cells, and its first line 2"),
    ("a.csv", as_text(""), "FILE: it names no image"),
    ("a.csv", as_text("index\n"), "FILE: it names no image"),
    ("a.csv", as_text("17\n3\n"), COLUMNS + "its first line has 17"),
    ("a.csv", as_text("name,label\na.png,3\n"), COLUMNS + "its first line has name, label"),
    ("a.csv", as_text("id,x,index\n1,2,3\n"), COLUMNS + "it has id, index; keep one"),
    ("a.csv", as_text("x,index\n1,17\n2,3.0\n"), "FILE: '3.0' in row 2 of column index is not an image number"),
    ("a.csv", as_text("x,index\n1,\n"), "FILE: '' in row 1 of column index is not an image number"),
    ("a.csv", as_text("index,index\n1,2\n"), "FILE: two of its columns have one name"),
    ("a.pt", as_tensor(torch.eye(2).to_sparse()), "FILE: it needs whole numbers, names or booleans, not a tensor of"),
    ("a.pt", as_tensor(torch.ones(2, dtype=torch.bfloat16)), "FILE: it needs whole numbers, names or booleans, not a"),
    ("a.json", as_text("[" * 100_000), "FILE: its lists lie more than 64 deep in each other"),
    ("a.txt", as_text("1" * 5000), "FILE: no image '1111"),
    ("a.csv", as_text("index\n" + "1" * 5000), "in row 1 of column index is not an image number"),
    ("a.txt", as_text("１７"), "FILE: no image '１７': "),
    ("a.npy", as_large_array, "FILE: it is no array"),
    ("a.txt", as_large, "FILE: it has 65 MiB, and a list of images at most 64"),
    ("a.npy", as_large, "FILE: it has 65 MiB, and a list of images at most 64"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "write", "message"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_a_file_lacks_is_said_in_one_line(tmp_path, digits, name, write, message):
    assert message in refusal(tmp_path, name, write, digits)


def test_files_that_cannot_be_read(tmp_path, digits):
    for file, why in ((tmp_path / "nowhere.txt", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(UserError, match=re.escape(f"--forget-file {file} cannot be read ({why})")):
            read_file(file, digits.whole, "--forget-file")


@pytest.mark.parametrize("text", ["3 17\n", "\n 3,+17 ;3\t\n", "3\n17", "3 # three\n17\n"])
def test_a_text_of_numbers_is_read_at_once_as_line_by_line(tmp_path, digits, text):
    assert read(tmp_path, "a.txt", as_text(text), digits).positions.tolist() == [3, 17]


def test_a_pipe_is_not_waited_for(tmp_path, digits):
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes among files")
    for name in ("a.txt", "a.npy", "a.pt"):
        with pytest.raises(UserError, match="is no file: a pipe"):
            read(tmp_path, name, os.mkfifo, digits)


def test_doubles_count_once_and_are_said(tmp_path, digits):
    found = read(tmp_path, "a.txt", as_text("17\n3\n17\n3\n3"), digits)
    assert found.positions.tolist() == [3, 17]
    assert found.notes == (f"--forget-file {tmp_path / 'a.txt'}: 3 images named more than once, counted once",)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["train/bee/1.png"], [5]),
        (["train\\bee\\1.png", "./train/ant/0.png"], [0, 5]),
        (["bee/1.png"], [5]),
        (["{root}/train/bee/1.png"], [5]),
        (["{root}\\train\\bee\\1.png"], [5]),
        (["train/bee/*"], [4, 5, 6, 7]),
        (["bee/[12].png", "train/*/3.png"], [3, 5, 6, 7]),
        (["*/0.png"], [0, 4]),
        (["**/0.png", "{root}/train/ant/?.png"], [0, 1, 2, 3, 4]),
        (["train/ant/**"], [0, 1, 2, 3]),
        (["{root}/train/**/2.png"], [2, 6]),
        (["7", "train/bee/0.png"], [4, 7]),
    ],
)
def test_images_of_a_folder_go_by_name_and_pattern(tmp_path, animals, lines, expected):
    root = animals.whole.root
    text = "\n".join(line.format(root=root) for line in lines)
    assert read(tmp_path, "a.txt", as_text(text), animals).positions.tolist() == expected


def test_names_in_tables_arrays_and_json_and_paths_from_here(tmp_path, animals, monkeypatch):
    names = ["train/bee/1.png", "ant/0.png"]
    table = as_text("label,filename\n1,train/bee/1.png\n0,ant/0.png\n")
    both = as_text("id,path\n900,train/bee/1.png\n901,ant/0.png\n")  # another table's ids
    forms = {"a.csv": table, "b.csv": both, "a.npy": as_array(np.array(names)), "a.json": as_json({"forget": names})}
    for name, write in forms.items():
        assert read(tmp_path, name, write, animals).positions.tolist() == [0, 5], name
    root = animals.whole.root
    monkeypatch.chdir(root.parent)
    assert read(tmp_path, "a.txt", as_text("animals/train/bee/2.png"), animals).positions.tolist() == [6]
    monkeypatch.chdir(root / "train")
    assert read(tmp_path, "a.txt", as_text("../train/bee/2.png"), animals).positions.tolist() == [6]
    (tmp_path / "link").symlink_to(root)
    assert read(tmp_path, "a.txt", as_text(f"{tmp_path}/link/train/bee/3.png"), animals).positions.tolist() == [7]


def test_a_path_is_that_file_before_it_is_a_pattern_or_the_end_of_another_path(tmp_path):
    folder_of_images(tmp_path / "odd")
    for part in ("train", "test"):
        (tmp_path / "odd" / part / "ant" / "0.png").rename(tmp_path / "odd" / part / "ant" / "a[1].png")
        (tmp_path / "odd" / part / "ant" / "1.png").rename(tmp_path / "odd" / part / "ant" / "a1.png")
    nested = tmp_path / "odd/train/bee/train/ant"  # a file whose last parts are another's path
    nested.mkdir(parents=True)
    (tmp_path / "odd/train/bee/2.png").rename(nested / "2.png")
    odd = data.load(f"folder:{tmp_path / 'odd'}", img_size=8)
    files = odd.whole.files
    words = {"ant/a[1].png": "train/ant/a[1].png", "ant/a[12].png": "train/ant/a1.png", "train/ant/2.png": "train/ant/2.png"}
    for word, expected in words.items():
        (position,) = read(tmp_path, "a.txt", as_text(word), odd).positions.tolist()
        assert files[position] == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train/cat/1.png\nbee/9.png", "FILE: no training image is called train/cat/1.png, bee/9.png"),
        ("test/bee/1.png", "FILE: no training image is called test/bee/1.png"),
        ("/elsewhere/bee/1.png", "FILE: no training image is called /elsewhere/bee/1.png"),
        ("train/cat/*\nbee/*", "FILE: no training image matches train/cat/*"),
        ("1.png", "FILE: several images are called 1.png (train/ant/1.png, train/bee/1.png)"),
        ("8\nx.png\nx*", "FILE: no image 8; image numbers run from 0 to 7; no training image is called x.png; no training "
         "image matches x*"),
    ],
)  # fmt: skip
def test_unknown_names_are_all_listed(tmp_path, animals, text, message):
    assert refusal(tmp_path, "a.txt", as_text(text), animals).endswith(message)


@pytest.mark.parametrize("how", [{"subset": 300}, {"validation": 0.25}, {"subset": 200, "validation": 0.5}], ids=str)
def test_a_number_is_the_same_image_whatever_is_left_out(tmp_path, digits, how):
    """The pixels and the label of an image that is named by its number are those of that number in the full set."""
    part = data.load("digits", **how)
    numbers = part.whole.positions[torch.tensor([0, 7, 50])]
    assert numbers.tolist() != [0, 7, 50]
    found = read(tmp_path, "a.txt", as_text("\n".join(map(str, numbers.tolist()))), part)
    assert found.positions.tolist() == [0, 7, 50] and not found.notes
    assert torch.equal(part.train.images, digits.train.images[part.whole.positions])
    assert torch.equal(part.train.labels, digits.train.labels[part.whole.positions])
    as_mask = read(tmp_path, "a.npy", as_array(mask(1433, numbers.tolist())), part)
    assert torch.equal(as_mask.positions, found.positions)


def test_what_was_left_out_is_counted_and_an_error_where_nothing_is_left(tmp_path, thinned):
    inside = thinned.whole.positions[:2].tolist()
    outside = sorted(set(range(1433)) - set(thinned.whole.positions.tolist()))[:3]
    found = read(tmp_path, "a.txt", as_text(" ".join(map(str, inside + outside))), thinned)
    left = f"--forget-file {tmp_path / 'a.txt'}: 3 of 5 images left out by --subset or --validation, 2 remain"
    assert found.positions.tolist() == [0, 1] and found.notes == (left,)
    said = refusal(tmp_path, "a.txt", as_text(" ".join(map(str, outside))), thinned)
    assert said == "FILE: --subset or --validation has left out all of its 3 images"


COMMON = ("--model", "resnet8", "--epochs", 1)


def test_what_an_unlearned_checkpoint_has_forgotten_is_retrained_and_kept_by_number(tmp_path, capsys, digits):
    """Also on another part of the data, where its positions are others; what isn't there is said."""
    where = (*COMMON, "--dataset", "digits", "--weights", tmp_path)
    small = (*where, "--subset", 120)
    part = data.load("digits", subset=120)
    numbers = part.whole.positions[[5, 40, 41]].tolist()
    (tmp_path / "ids.txt").write_text(" ".join(map(str, [*numbers, numbers[0]])), encoding="utf-8")
    call(pretrain, *small, "--quiet", "--output", tmp_path / "original.pth")
    capsys.readouterr()
    flags = ("--original", tmp_path / "original.pth", "--forget-file", tmp_path / "ids.txt")
    unlearned = call(finetune, *small, *flags)
    said = capsys.readouterr().err.splitlines()
    labels = part.train.labels[[5, 40, 41]]
    counts = sorted(labels.unique().tolist(), key=lambda c: (-int((labels == c).sum()), c))
    assert said[0].endswith("ids.txt: 1 image named more than once, counted once")
    assert said[1] == "forgets 3 of 120 images: " + ", ".join(f"{int((labels == c).sum())} of class {c}" for c in counts)
    found = torch.load(unlearned, weights_only=True)
    assert found["forget"].tolist() == [5, 40, 41] and found["forget_images"].tolist() == numbers
    again = call(retrain, *small, "--quiet", "--forget-file", unlearned)
    assert torch.load(again, weights_only=True)["forget"].tolist() == [5, 40, 41]
    whole = ForgetRequest(file=unlearned).resolve(digits.train, digits.whole)
    assert whole.positions.tolist() == sorted(numbers)
    other = {key: value for key, value in found.items() if key != "forget_images"}  # as earlier versions wrote them
    torch.save(other, tmp_path / "old.pth")
    old = ForgetRequest(file=tmp_path / "old.pth")
    assert old.resolve(part.train, part.whole).positions.tolist() == [5, 40, 41]
    code, line = one_line(retrain, capsys, *where, "--forget-file", tmp_path / "old.pth")
    assert code == 2 and "it was made with other images (digits-120), and can't say which of these it has" in line
    damaged = {"forget_images": torch.tensor([5000])}, {"forget_images": [1]}, {"forget": None}, {"data": None}
    for name, content in (("whole", found), *((f"bad{i}", found | damage) for i, damage in enumerate(damaged))):
        torch.save(content, tmp_path / f"{name}.pth")
    no_fit = "its forget set doesn't fit 1,433 training images: it is damaged"
    wrong = {
        "original": "it has forgotten nothing",
        "bad0": no_fit,
        "bad1": no_fit,
        "bad2": "doesn't say what it has forgotten",
    }
    wrong["bad3"] = "it was made with other images (None)"
    for name, message in wrong.items():
        assert message in refusal(tmp_path, f"{name}.pth", lambda file: None, digits)


def test_a_retrain_of_what_a_checkpoint_has_forgotten_is_that_of_the_same_request(tmp_path, capsys):
    """By its file's name and its identity, so that tables set it beside the checkpoint; on other images it is a list."""
    where = (*COMMON, "--dataset", "digits", "--subset", 120, "--weights", tmp_path, "--quiet")
    for request in (("--forget-class", 3), ("--forget-random", 0.1), ("--forget-count", 3, "--of-class", 5)):
        first = call(retrain, *where, *request)
        capsys.readouterr()
        assert call(retrain, *where, "--forget-file", first) == first
        assert capsys.readouterr().err == f"there already: {first}\n"
        found = torch.load(first, weights_only=True)
        part = data.load("digits", subset=120)
        again = part.forgotten(ForgetRequest(file=first))
        assert forget_identity(again.positions, again.draw) == found["identity"]["forget"]
        old = {key: value for key, value in found.items() if key != "identity"}
        torch.save(old, tmp_path / "old.pth")
        if "random" in first.name:
            assert part.forgotten(ForgetRequest(file=tmp_path / "old.pth")).draw == {"random": 0.1, "seed": 0}
        elsewhere = data.load("digits", subset=400).forgotten(ForgetRequest(file=first))
        assert elsewhere.tag.startswith("file") and elsewhere.draw is None


def test_a_checkpoint_of_a_folder_knows_its_images_by_name(tmp_path, animals, capsys):
    """Another image in the folder moves all numbers, and no name."""
    root = tmp_path / "moved"
    folder_of_images(root)
    flags = (*COMMON, "--img-size", 8, "--quiet", "--weights", tmp_path)
    (tmp_path / "names.csv").write_text("path\ntrain\\bee\\1.png\n", encoding="utf-8")
    named = call(retrain, *flags, "--dataset", f"folder:{root}", "--forget-file", tmp_path / "names.csv")
    found = torch.load(named, weights_only=True)
    assert found["forget_names"] == ["train/bee/1.png"] and found["forget_images"].tolist() == [5]
    (root / "train/ant/0.png").unlink()
    dataset = data.load(f"folder:{root}", img_size=8)
    assert read_file(named, dataset.whole, "--forget-file").positions.tolist() == [4]


def test_csv_files_are_read_as_the_library_writes_them(tmp_path, digits):
    with open(tmp_path / "a.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["comment", "position"], ['a "quoted", text', 17], ["# not a comment", 3], ["", 1432]])
    assert read_file(tmp_path / "a.csv", digits.whole, "--forget-file").positions.tolist() == [3, 17, 1432]


@pytest.mark.parametrize("kind", UNPACKABLE)
def test_an_archive_that_python_cannot_unpack_is_one_line(digits, tmp_path, kind):
    np.savez(tmp_path / "a.npz", forget=WANTED)
    make_unpackable(tmp_path / "a.npz", kind)
    with pytest.raises(UserError, match=r"--forget-file .*a.npz: it is no array, or one that can't be read"):
        read_file(tmp_path / "a.npz", digits.whole, "--forget-file")


def test_numbers_of_a_checkpoint_hold_for_no_other_images_in_an_archive_of_the_same_name(tmp_path):
    arrays = {f"{kind}_{part}": np.zeros((20, 8, 8), np.uint8) if kind == "x" else np.arange(20) % 2
              for part in ("train", "test") for kind in "xy"}  # fmt: skip
    np.savez(tmp_path / "x.npz", **arrays)
    dataset = data.load(f"npz:{tmp_path / 'x.npz'}")
    of = {"dataset": dataset.whole.dataset, "fingerprint": "of other images", "tag": "x-0a", "validation": 0.0}
    made = {"state_dict": {}, "forget": torch.tensor([1]), "forget_images": torch.tensor([3]), "data": of | {"subset": 8}}
    assert read(tmp_path, "part.pth", as_tensor(made), dataset).positions.tolist() == [3]
    message = refusal(tmp_path, "other.pth", as_tensor(made | {"data": of}), dataset)
    assert message == "FILE: it was made with other images (x-0a), and can't say which of these it has forgotten"


def test_the_column_of_a_table_of_images_is_that_of_a_request(tmp_path, animals):
    """Beside numbers that are somebody's own."""
    found = read(tmp_path, "some.csv", as_text("id,image,label\n7,train/ant/0.png,ant\n0,train/bee/1.png,bee\n"), animals)
    assert found.positions.tolist() == [0, 5]
