"""The curve of a run: what it scores, that it disturbs nothing, and that it is continued and kept."""

import csv
from dataclasses import replace

import pytest
import torch

import data
import finetune
import lora
import models
import pretrain
from baselines import control
from tests.helpers import FP32, call, files, one_line, stopped
from unlearning.core import seals
from unlearning.core.content import Misfit
from unlearning.images import forgetting
from unlearning.metrics.predictions import accuracy
from unlearning.vision import curves, train
from unlearning.vision.predict import predict


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Flags of a method that forgets class 3 of 120 digits, starting from an original that is hardly trained."""
    where = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--precision", "fp32", "--quiet")
    path = tmp_path_factory.mktemp("small") / "original.pth"
    call(pretrain, *where, "--epochs", 4, "--output", path)
    return (*where, "--original", path, "--forget-class", 3, "--batch-size", 32)


def lines(path):
    """The lines of a curve's file, as dictionaries without the seal's column."""
    assert seals.is_own(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:7] == list(curves.COLUMNS)
    return [{name: row[name] for name in curves.COLUMNS} for row in rows]


@pytest.mark.parametrize("script", [finetune, lora])  # lora: adapters, dropout, cached outputs of the frozen part
def test_a_curve_says_each_epoch_and_changes_no_bit(script, small, tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "LIMIT", 50)
    flags = (*small, "--epochs", 3)
    plain = call(script, *flags, "--output", tmp_path / "plain.pth")
    path = call(script, *flags, "--output", tmp_path / "x.pth", "--curve")
    one, other = (models.load_checkpoint(file)["state_dict"] for file in (plain, path))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert not curves.Curve.file_for(plain).exists()
    rows = lines(tmp_path / "x_curve.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {(row["UA_images"], row["RA_images"], row["TA_images"]) for row in rows} == {("12", "50", "50")}
    assert len({(row["UA"], row["RA"], row["TA"]) for row in rows}) > 1
    dataset, network = data.load("digits", subset=120), models.build(models.load_checkpoint(path))
    kept = [split.take(split.labels != 3) for split in (dataset.train, dataset.test)]
    some = [split.take(data.stratified(split.labels, 50)) for split in kept]
    splits = dataset.train.take(dataset.train.labels == 3), *some
    gone, retained, tested = (accuracy(predict(network, split, FP32), split.labels) for split in splits)
    assert [float(rows[-1][name]) for name in curves.SCORED] == pytest.approx([100 - gone, retained, tested], abs=1e-4)


def test_scoring_is_not_counted_as_unlearning(small, tmp_path, monkeypatch):
    now, scored = [0.0], []

    def clock(_):
        now[0] += 1
        return now[0]

    def slow(self, model, epoch):
        now[0] += 1000
        scored.append(epoch)
        return {"epoch": float(epoch)}

    monkeypatch.setattr(train, "clock", clock)
    monkeypatch.setattr(curves.Curve, "point", slow)
    path = call(finetune, *small, "--epochs", 2, "--output", tmp_path / "x.pth", "--curve")
    assert scored == [1, 2] and models.load_checkpoint(path)["cost"]["seconds"] < 1000


def test_sets_of_a_curve():
    """Random images forget no class, so that all test images count; images that are gone can't be scored."""
    dataset = data.load("digits")
    whole, _ = forgetting.forget_indices(dataset.train, classes=[3, 5])
    sizes = {name: len(split) for name, split in curves.Curve(dataset, FP32, forget=whole).splits.items()}
    assert sizes == {"UA": len(whole), "RA": 1000, "TA": int((~torch.isin(dataset.test.labels, torch.tensor([3, 5]))).sum())}
    few = torch.arange(20)
    assert len(curves.Curve(dataset, FP32, forget=few).splits["TA"]) == len(dataset.test) == 364
    gone = replace(dataset, missing=few)
    point = curves.Curve(gone, FP32, forget=few).point(models.create_for("resnet8", dataset)[0], 1)
    assert "UA" not in point and point["UA_images"] == 0 and {"RA", "TA"} <= point.keys()


def test_an_original_has_a_curve_without_ua(tmp_path):
    flags = ("--dataset", "digits", "--subset", 100, "--model", "resnet8", "--epochs", 2, "--quiet")
    call(pretrain, *flags, "--output", tmp_path / "x.pth", "--curve")
    rows = lines(tmp_path / "x_curve.csv")
    assert [(row["epoch"], row["UA"], row["UA_images"], row["RA_images"]) for row in rows] == [
        ("1", "", "0", "100"),
        ("2", "", "0", "100"),
    ]


def test_a_run_that_continues_has_every_epoch_once(small, tmp_path, monkeypatch, capsys):
    flags = (*small, "--epochs", 3)
    call(finetune, *flags, "--output", tmp_path / "whole.pth", "--curve")
    stopped(monkeypatch, 2, finetune, *flags, "--output", tmp_path / "x.pth", "--curve")
    assert not curves.Curve.file_for(tmp_path / "x.pth").exists()
    call(finetune, *flags, "--output", tmp_path / "x.pth", "--curve")
    assert (tmp_path / "x_curve.csv").read_bytes() == (tmp_path / "whole_curve.csv").read_bytes()
    stopped(monkeypatch, 2, finetune, *flags, "--output", tmp_path / "late.pth")
    capsys.readouterr()
    call(finetune, *flags, "--output", tmp_path / "late.pth", "--curve")
    assert "2 of 3 epochs were made without it" in capsys.readouterr().err
    assert lines(tmp_path / "late_curve.csv") == lines(tmp_path / "whole_curve.csv")[2:]


def test_points_that_no_run_has_kept_are_refused():
    curve = curves.Curve(data.load("digits", subset=50), FP32, forget=torch.arange(5))
    point = {"epoch": 1.0, "UA": 50.0} | {f"{name}_images": 5.0 for name in curves.SCORED}
    curve.check([point, point | {"epoch": 2.0}], 2)
    late, twice, over = [point | {"epoch": 3.0}], [point, point], [point | {"UA": 101.0}]
    for wrong in (late, twice, over, [point | {"x": 1.0}], [{"epoch": 1.0}], point):
        with pytest.raises(Misfit):
            curve.check(wrong, 2)


def test_a_curve_of_another_checkpoint_is_not_replaced(small, tmp_path, capsys):
    """x and x.pth would have one name for theirs."""
    call(finetune, *small, "--epochs", 1, "--output", tmp_path / "x", "--curve")
    before = files(tmp_path)
    code, line = one_line(finetune, capsys, *small, "--epochs", 2, "--output", tmp_path / "x.pth", "--curve", "--overwrite")
    what = f"{tmp_path / 'x_curve.csv'} may be that of {tmp_path / 'x'}: give another --output"
    assert code == 2 and what in line and files(tmp_path) == before


def test_nobodys_file_is_replaced_and_a_curve_goes_with_its_checkpoint(small, tmp_path, capsys):
    flags = (*small, "--epochs", 1, "--output", tmp_path / "x.pth")
    curve = tmp_path / "x_curve.csv"
    curve.write_text("my notes\n", encoding="utf-8")
    code, line = one_line(finetune, capsys, *flags, "--curve")
    assert code == 2 and "x_curve.csv is there already" in line
    code, line = one_line(finetune, capsys, *flags, "--curve", "--overwrite")
    assert code == 2 and seals.FOREIGN in line
    assert files(tmp_path) == {"x_curve.csv": b"my notes\n"}
    call(finetune, *flags)
    assert curve.read_text(encoding="utf-8") == "my notes\n"
    call(finetune, *flags, "--overwrite")  # a replaced checkpoint takes no stranger's file along
    assert curve.read_text(encoding="utf-8") == "my notes\n"
    curve.unlink()
    capsys.readouterr()
    call(finetune, *flags, "--curve")
    assert capsys.readouterr().err == f"there already: {tmp_path / 'x.pth'}, without x_curve.csv: --overwrite makes both\n"
    call(finetune, *flags, "--curve", "--overwrite")
    before = curve.read_bytes()
    call(finetune, *flags, "--curve")  # there already
    call(finetune, *flags, "--curve", "--overwrite")
    assert curve.read_bytes() == before
    call(finetune, *flags, "--overwrite")
    assert files(tmp_path).keys() == {"x.pth"}


def test_a_control_without_epochs_has_no_curve(small, tmp_path, capsys):
    flags = (*small, "--output", tmp_path / "x.pth")
    call(control, *flags, "--kind", "mask", "--curve")
    assert "no epoch was trained" in capsys.readouterr().err and files(tmp_path).keys() == {"x.pth"}
