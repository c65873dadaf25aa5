"""Requests one after the other: forget sets add up, and the table says whether earlier ones come back."""

import pytest
import torch

import data
import evaluate
import finetune
import lora
import models
import reproduce
import retrain
from tests.experiments.tables import SMALL, make, request_of
from tests.helpers import FP32, call, one_line, rows_of
from unlearning.evaluation import network
from unlearning.experiments import sequence
from unlearning.images import forgetting
from unlearning.metrics import predictions
from unlearning.vision.predict import predict


def test_an_unlearned_checkpoint_is_an_original(weights, tmp_path, capsys):
    """What it has forgotten isn't trained on again, and is scored along."""
    first = weights / "digits_resnet8_class3_finetune2_s0.pth"
    common = ("--dataset", "digits", "--original", first, "--epochs", 1, "--weights", tmp_path)
    second = call(lora, *common, "--forget-class", 5)
    said = capsys.readouterr().err
    assert "all 146 of class 3, all 145 of class 5; 146 of them were forgotten before" in said
    checkpoint, labels = models.load_checkpoint(second), data.load("digits").train.labels
    assert second.name == "digits_resnet8_class3-5_lora1-from-class3_finetune2_s0.pth"
    assert forgetting.forgotten_classes(labels, checkpoint["forget"]) == [3, 5] and checkpoint["forget_tag"] == "class3-5"
    assert call(lora, *common, "--forget-class", 5, "--quiet") == second  # there already
    call(retrain, "--dataset", "digits", "--model", "resnet8", "--forget-class", 3, 5, "--epochs", 2, "--weights", tmp_path,
         "--quiet")  # fmt: skip
    rows = rows_of(second, "--weights", tmp_path, beneath=False)
    assert [row["method"] for row in rows] == ["retrain", "lora"] and rows[1]["forget"] == "class3-5"
    assert "mean" in rows[1]["metrics"]["gap"]
    drawn = call(finetune, *common, "--forget-random", 0.1, "--quiet")
    kept = models.load_checkpoint(drawn)
    assert set(range(len(labels))) > set(kept["forget"].tolist()) > set((labels == 3).nonzero().squeeze(1).tolist())
    assert kept["identity"]["forget"].keys() == {"positions"}  # no longer a draw
    others = [str(label) for label in range(10) if label != 3]
    code, line = one_line(finetune, capsys, *common, "--forget-class", *others)
    assert code == 2 and "has forgotten already nothing is left to retain" in line
    assert one_line(evaluate, capsys, second, "--forget-class", 5, "--weights", tmp_path)[0] == 2


def test_requests_come_in_the_order_in_which_they_are_written(capsys):
    """However they are divided; a class that was forgotten can't be forgotten again."""
    flags = ("sequence", "--dataset", "digits", "--forget-class")
    for words in (("4", "3", "0"), ("4,3,0",), ("4", "3,0")):
        assert sequence.requests(request_of(*flags, *words)) == [4, 3, 0]
    for words in (("3", "3"), ("3,1,3",), ("3", "id:3")):
        code, line = one_line(reproduce, capsys, *flags, *words, "--dry-run")
        assert (code, line) == (2, "reproduce.py: --forget-class names 3 twice: each request forgets another class")


@pytest.mark.parametrize("table", ["sequence", "tune"])
def test_a_table_whose_rows_have_one_length_takes_one(table, capsys):
    code, line = one_line(reproduce, capsys, table, "--dataset", "digits", "--epochs", 1, 3, "--dry-run")
    assert (code, line) == (2, f"reproduce.py: {table} takes one number of --epochs: its rows are of one length")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """The folder of a table of three requests, and its rows."""
    folder = tmp_path_factory.mktemp("sequence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "beneath", lambda *_: ({}, {}))
        patch.setitem(sequence.PRESETS, "quick", SMALL | {"subset": 200, "pretrain": {"resnet8": 6}, "forget": ("0", "1")})
        flags = ("--methods", "neglora", "neglora --prune", "--seeds", "2", "--forget-class", "2", "7", "4")
        rows = make(folder, patch, *flags, table="sequence")["rows"]
    return folder, rows


def test_each_request_has_rows_for_all_that_is_forgotten_so_far(table):
    _, rows = table
    found = [(row["request"], row["forget"], row["method"], row["n"]) for row in rows]
    assert found == [
        (count, forget, method, 2)
        for count, forget in ((1, "class2"), (2, "class2-7"), (3, "class2-4-7"))
        for method in ("original", "retrain", "neglora", "neglora --prune")
    ]
    assert all("mean" in row["metrics"]["gap"] for row in rows)


def test_rows_of_one_script_have_their_own_seeds_of_what_was_forgotten_earlier(table):
    _, rows = table
    later = [row for row in rows if row["request"] > 1 and row["method"] != "original"]
    assert len(later) == 6 and {len(row["metrics"]["UA_earlier"]["values"]) for row in later} == {2}


def test_what_was_forgotten_earlier_is_measured_on_its_own(table):
    folder, rows = table
    (row,) = [row for row in rows if (row["request"], row["method"]) == (3, "neglora")]
    dataset = data.load("digits", subset=200, test_subset=100)
    earlier = dataset.train.take(dataset.train.labels.eq(2) | dataset.train.labels.eq(7))
    for seed in (0, 1):
        path = (
            folder / "model_weights" / "sequence-quick-forget-class-2-7-4-digits" / f"resnet8_neglora_class2-7-4_s{seed}.pth"
        )
        logits = predict(models.build(models.load_checkpoint(path)), earlier, FP32)
        expected = 100 - predictions.accuracy(logits, earlier.labels)
        assert row["metrics"]["UA_earlier"]["values"][seed] == pytest.approx(expected)
    part = torch.arange(0, len(dataset.train), 3)  # of --images
    seen = dataset.train.take(part).labels
    asked = dataset.train.take(part[(seen == 2) | (seen == 7)])
    expected = 100 - predictions.accuracy(predict(models.build(models.load_checkpoint(path)), asked, FP32), asked.labels)
    request = request_of("sequence", "--dataset", "digits", "--precision", "fp32", "--device", "cpu")
    assert sequence.earlier(path, dataset, [2, 7, 4], request, part) == pytest.approx(expected)
    first = [row["metrics"]["UA_earlier"]["missing"] for row in rows[:4]]
    assert "no request" in first[0] and "before the first" in first[2]
