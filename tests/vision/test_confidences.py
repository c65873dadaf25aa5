"""How sure a network was of each image: the sum over the epochs, the file, and requests that are cut out of it."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import data
import models
import pretrain
from tests.helpers import FP32, call, files, one_line, stopped
from tests.test_data import folder_of_images
from unlearning.core import seals
from unlearning.core.device import Compute
from unlearning.core.files import read_torch, write_torch
from unlearning.images.request_files import read_file
from unlearning.vision import confidences
from unlearning.vision.confidences import Confidence

FLAGS = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--precision", "fp32", "--quiet", "--epochs", 3)


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", subset=120)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with x.pth, an original, and x_confidence.csv."""
    path = tmp_path_factory.mktemp("whole") / "x.pth"
    call(pretrain, *FLAGS, "--batch-size", 32, "--confidence", "--output", path)
    return path.parent


def lines(path):
    """The lines of a file of confidences, as dictionaries without the seal's column."""
    assert seals.is_own(path)
    with path.open(encoding="utf-8", newline="") as file:
        *header, _ = next(csv.reader(file))
        return [dict(zip(header, row, strict=True)) for row in csv.reader(file)]


def test_it_is_the_mean_over_the_epochs_and_a_run_that_continues_has_each_once(place, digits, tmp_path, monkeypatch):
    """Of images as they are, in evaluation mode, and the weights are those without it."""
    flags = (*FLAGS, "--batch-size", 32, "--output", tmp_path / "x.pth")
    states = [models.load_checkpoint(place / "x.pth")["state_dict"]]
    for epoch in (1, 2):
        stopped(monkeypatch, epoch, pretrain, *flags, "--confidence")
        states.append(read_torch(tmp_path / "x.pth.partial")["model"])
    call(pretrain, *flags, "--confidence")
    assert (tmp_path / "x_confidence.csv").read_bytes() == (place / "x_confidence.csv").read_bytes()
    plain = models.load_checkpoint(call(pretrain, *flags[:-1], tmp_path / "plain.pth"))["state_dict"]
    assert all(torch.equal(value, states[0][name]) for name, value in plain.items())
    network = models.build(models.load_checkpoint(place / "x.pth")).eval()
    expected = torch.zeros(120)
    for state in states:
        network.load_state_dict(state)
        with torch.no_grad():
            expected += network(digits.train.images / 255).softmax(1)[torch.arange(120), digits.train.labels] / 3
    rows = lines(place / "x_confidence.csv")
    numbers = digits.whole.positions.tolist()
    assert sorted(int(row["index"]) for row in rows) == numbers != list(range(120))
    for row in rows:
        position = numbers.index(int(row["index"]))
        assert int(row["label"]) == digits.train.labels[position]
        assert float(row["confidence"]) == pytest.approx(expected[position].item(), abs=1e-5)
    values = [float(row["confidence"]) for row in rows]
    assert values == sorted(values) and values[0] < values[-1] - 0.1


def test_the_tenths_of_the_real_file_are_requests(place, digits, tmp_path):
    """As `head` and `tail` cut them, with the seal's column and the others in it."""
    head, *rest = (place / "x_confidence.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    for name, some in (("most.csv", rest[:12]), ("least.csv", rest[-12:]), ("all.csv", rest)):
        (tmp_path / name).write_text("".join([head, *some]), encoding="utf-8")
        found = read_file(tmp_path / name, digits.whole, "--forget-file")
        assert digits.whole.positions[found.positions].tolist() == sorted(int(line.split(",")[0]) for line in some)


def test_images_of_a_folder_go_by_file_whether_they_lie_in_memory_or_are_read_while_used(tmp_path):
    folder_of_images(tmp_path / "pets")
    (tmp_path / "pets/train/ant/0.png").rename(tmp_path / 'pets/train/ant/a, "b" [1].png')
    flags = ("--dataset", f"folder:{tmp_path / 'pets'}", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet")
    checkpoint = call(pretrain, *flags, "--batch-size", 4, "--confidence", "--output", tmp_path / "x.pth")
    rows, pets = lines(tmp_path / "x_confidence.csv"), data.load(f"folder:{tmp_path / 'pets'}", img_size=8)
    assert {row["file"]: int(row["label"]) for row in rows} == {file: "bee" in file for file in pets.whole.files}
    found = read_file(tmp_path / "x_confidence.csv", pets.whole, "--forget-file")
    assert found.positions.tolist() == list(range(8))
    files = data.ImageFiles([tmp_path / "pets" / file for file in pets.whole.files], 8)
    network, read = models.build(models.load_checkpoint(checkpoint)), data.Split(files, pets.train.labels)
    totals = []
    for dataset in (pets, replace(pets, train=read)):
        scores = Confidence(dataset, Compute("cpu", "bf16", Path("."), quiet=True))
        scores.add(network, 1)
        totals.append(scores.kept["total"])
    assert torch.equal(*totals)


def test_lines_are_ordered_before_they_are_rounded_and_then_by_number(digits):
    total = torch.ones(120, dtype=torch.float64)
    total[[7, 8, 9, 5]] = torch.tensor([0.5, 0.25, 0.25 - 1e-9, 0.5], dtype=torch.float64)
    scores = Confidence(digits, FP32, kept={"epochs": 2, "total": total})
    numbers, labels = digits.whole.positions, digits.train.labels
    wanted = [(9, "0.125000"), (8, "0.125000"), (5, "0.250000"), (7, "0.250000"), (0, "0.500000")]
    expected = ["index,label,confidence", *(f"{numbers[i]},{labels[i]},{mean}" for i, mean in wanted)]
    assert scores.table().splitlines()[:6] == expected


def test_images_that_are_missing_have_no_line_and_an_answer_that_is_no_number_counts_0(digits, monkeypatch):
    """Also where logits of not all images are held at once."""
    monkeypatch.setattr(confidences, "AT_ONCE", 50)
    scores = Confidence(replace(digits, missing=torch.tensor([0, 3])), FP32)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).requires_grad_(False)
    network[1].weight.zero_(), network[1].bias.copy_(torch.arange(10).log())
    scores.add(network, 1)
    scores.add(network, 2)
    rows = list(csv.DictReader(scores.table().splitlines()))
    assert len(rows) == 118 and not {str(int(digits.whole.positions[i])) for i in (0, 3)} & {row["index"] for row in rows}
    assert all(row["confidence"] == f"{int(row['label']) / 45:.6f}" for row in rows)
    network[1].bias.fill_(torch.nan)
    scores.add(network, 3)
    scores.check(scores.kept, 3)
    assert scores.table().splitlines()[-1].endswith(f",9,{9 / 45 * 2 / 3:.6f}")


def test_an_unfinished_run_may_lack_it_but_not_have_it_damaged(tmp_path, monkeypatch, capsys):
    flags = (*FLAGS, "--output", tmp_path / "x.pth")
    stopped(monkeypatch, 2, pretrain, *flags, "--confidence")
    sound = read_torch(tmp_path / "x.pth.partial")
    kept = sound["confidence"]
    wrong = [
        (kept | {"total": kept["total"][:100]}, "confidence.total is a tensor of float64 and shape (100,)"),
        (kept | {"total": kept["total"].float()}, "confidence.total is a tensor of float32"),
        (kept | {"total": kept["total"] * torch.nan}, "confidence.total holds NaN"),
        (kept | {"total": kept["total"] - 1}, "confidence.total runs from -"),
        (kept | {"total": kept["total"] + 2}, "confidence.total runs from 2"),
        (kept | {"epochs": 3}, "confidence.epochs is 3"),
        (kept | {"epochs": 0}, "confidence.epochs is 0"),
        ({"total": kept["total"]}, "confidence.epochs is missing"),
        ([], "confidence is a list"),
    ]
    for value, what in wrong:
        write_torch(tmp_path / "x.pth.partial", sound | {"confidence": value})
        code, line = one_line(pretrain, capsys, *flags, "--confidence")
        assert code == 2 and f"x.pth.partial (delete it to begin again): its {what}" in line and "damaged" in line
    del sound["confidence"]
    write_torch(tmp_path / "x.pth.partial", sound)
    capsys.readouterr()
    call(pretrain, *flags, "--confidence")
    assert "--confidence: 2 of 3 epochs were made without it, and aren't in " in capsys.readouterr().err
    assert len(lines(tmp_path / "x_confidence.csv")) == 120


def test_nobodys_file_is_replaced_and_it_goes_with_its_checkpoint(place, tmp_path, capsys):
    flags = (*FLAGS[:-1], 1, "--output", tmp_path / "x.pth")
    mine = tmp_path / "x_confidence.csv"
    edited, rows = (place / mine.name).read_bytes() + b"my notes\n", seals.sealed(b"method,UA\n", "csv")
    for theirs in (edited, rows):
        mine.write_bytes(theirs)
        code, line = one_line(pretrain, capsys, *flags, "--confidence", "--overwrite")
        assert code == 2 and seals.FOREIGN in line and files(tmp_path) == {mine.name: theirs}
    mine.write_bytes(seals.sealed(b"file,label,confidence\n", "csv"))  # of other data
    call(pretrain, *flags, "--confidence", "--curve", "--overwrite")
    assert len(lines(mine)) == 120
    (tmp_path / "x_curve.csv").unlink(), mine.unlink()
    capsys.readouterr()
    call(pretrain, *flags, "--confidence", "--curve")
    what = "without x_curve.csv and x_confidence.csv: --overwrite makes all"
    assert capsys.readouterr().err == f"there already: {tmp_path / 'x.pth'}, {what}\n"
    call(pretrain, *flags, "--confidence", "--overwrite")
    assert files(tmp_path).keys() == {"x.pth", mine.name}
    call(pretrain, *flags, "--overwrite")
    assert files(tmp_path).keys() == {"x.pth"}
