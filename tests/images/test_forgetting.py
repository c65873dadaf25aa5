"""Draws of images, what a run says before it starts, and the names that forget sets have in files and tables."""

import re

import pytest
import torch

import data
import evaluate
import finetune
import pretrain
import retrain
from tests.helpers import call, one_line, rows_of
from unlearning.core.errors import UserError
from unlearning.evaluation import collect
from unlearning.evaluation.flags import Scoring
from unlearning.images.forgetting import ForgetRequest, by_class, in_words
from unlearning.vision.identity import forget_identity, own_of
from unlearning.vision.shared import Shared


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def resolved(dataset, **request):
    return dataset.forgotten(ForgetRequest(**request))


def test_requests_of_earlier_versions_have_the_same_images_names_and_identities(digits, tmp_path):
    """Files that are there already are found again: the tag is in their names, the identity in their rows."""
    (tmp_path / "ids.txt").write_text("17\n3\n", encoding="utf-8")
    order = torch.randperm(1433, generator=torch.Generator().manual_seed(0))
    three = (digits.train.labels == 3).nonzero().squeeze(1)
    for request, positions, tag, identity in (
        ({"classes": ("3",)}, three, "class3", None),
        ({"share": 0.1}, order[:143].sort().values, "random0.1", {"random": 0.1, "seed": 0}),
        ({"file": tmp_path / "ids.txt"}, torch.tensor([3, 17]), "fileae60e78d", None),
    ):
        found = resolved(digits, **request)
        assert torch.equal(found.positions, positions) and found.tag == tag and found.notes == ()
        assert (found.draw, forget_identity(found.positions, found.draw) == identity) in ((identity, True), (None, False))
    digest = forget_identity(three)
    assert digest == forget_identity(three, resolved(digits, classes=("3",)).draw) and list(digest) == ["positions"]
    new = {"forget_class": ["3"], "forget_count": None, "of_class": None, "lr": 0.1}
    assert own_of(new) == {"lr": 0.1}


def test_a_draw_of_a_number_is_so_many_of_these_classes_and_the_same_for_every_seed(digits):
    labels = digits.train.labels
    found = resolved(digits, count=100)
    assert len(found.positions.unique()) == 100 and torch.equal(found.positions, found.positions.sort().values)
    torch.manual_seed(7)
    assert torch.equal(resolved(digits, count=100).positions, found.positions)
    assert (
        found.tag == "count100" and found.draw == {"count": 100, "seed": 0} and len(labels[found.positions].unique()) == 10
    )
    of = resolved(digits, count=60, of=("5", "id:3"))
    assert set(labels[of.positions].tolist()) == {3, 5} and len(of.positions.unique()) == 60
    assert of.tag == "count60-of3-5" and of.draw == {"count": 60, "of": [3, 5], "seed": 0}
    share = resolved(digits, share=0.5, of=("3",))
    assert set(labels[share.positions].tolist()) == {3} and len(share.positions) == 73 == len(share.positions.unique())
    assert share.tag == "random0.5-of3" and share.draw == {"random": 0.5, "of": [3], "seed": 0}
    everything = resolved(digits, count=146, of=("3",))
    assert torch.equal(everything.positions, (labels == 3).nonzero().squeeze(1))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"count": 147, "of": ("3",)}, "--forget-count 147: class 3 has 146 images"),
        ({"count": 2000}, "--forget-count 2000: the training set has 1,433 images"),
        ({"count": 1433}, "the forget set has 1433 of 1433 training images; it needs some, not all"),
        ({"share": 0.001, "of": ("3",)}, "the forget set has 0 of 1433 training images"),
        ({"count": 5, "of": ("x",)}, "--of-class x: the classes are 0 to 9"),
        ({"of": ("3",)}, "--of-class says of which classes --forget-count or --forget-random draws: give one of these"),
        ({"classes": ("3",), "of": ("5",)}, "--of-class says of which classes"),
        ({"classes": tuple("0123456789")}, "the forget set has 1433 of 1433 training images"),
        ({}, "nothing to forget: give --forget-class, --forget-random, --forget-count or --forget-file"),
    ],
    ids=str,
)
def test_draws_that_cannot_be(digits, request_, message):
    with pytest.raises(UserError, match=re.escape(message)):
        resolved(digits, **request_)


def test_a_request_in_a_line_names_classes_by_size_and_whole_ones_as_such():
    labels = torch.tensor([0] * 4 + [1] * 1200 + [2] * 3 + [3] * 2)
    classes = ("ant", "bee", "2", "cat")
    forget = torch.tensor([0, 1, *range(4, 1204), 1204, 1207, 1208])
    line = (
        "forgets 1,205 of 1,209 images: all 1,200 of class 1 (bee), 2 of class 0 (ant), all 2 of class 3 (cat), 1 of class 2"
    )
    assert by_class(labels, classes, forget, "forgets") == line
    many = torch.arange(100).repeat_interleave(2)
    line = by_class(many, tuple(map(str, range(100))), torch.arange(0, 200, 2), "forgets", "private ")
    assert line.startswith("forgets 100 of 200 private images: 1 of class 0, 1 of class 1, ")
    assert line.endswith("1 of class 4 and 95 more classes")


def test_tags_in_words():
    labels, classes, some = torch.tensor([0, 0, 1, 1]), ("ant", "bee"), torch.tensor([0, 2])
    words = {
        "random0.1": "random share 0.1",
        "random1e-05": "random share 1e-05",
        "random0.1-of1": "random share 0.1 of class 1 (bee)",
        "count100": "100 random images",
        "count100-of0-1": "100 random images of classes 0 (ant), 1 (bee)",
        "file1a2b3c4d": "list 1a2b3c4d, 2 images",
    }
    assert {tag: in_words(labels, classes, some, tag) for tag in words} == words
    assert in_words(labels, classes, some[:1], "file1a2b3c4d", "some.txt") == "some.txt, 1 image"
    assert in_words(labels, classes, some, "random0.1", None) == "random share 0.1"
    assert in_words(labels, classes, torch.tensor([0, 1]), "file1a2b3c4d", "some.txt") == "class 0 (ant)"


def test_each_script_says_what_it_is_about_to_forget_and_quiet_ones_do_not(tmp_path, capsys):
    where = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--weights", tmp_path)
    file = call(pretrain, *where, "--output", tmp_path / "original.pth")
    counts = data.load("digits", subset=120).train.labels.bincount().tolist()
    first, second = sorted((3, 5), key=lambda c: -counts[c])  # the larger one first
    parts = f"all {counts[first]} of class {first}, all {counts[second]} of class {second}"
    assert "forgets" not in capsys.readouterr().err
    call(finetune, *where, "--original", file, "--forget-class", "5,id:3")
    assert capsys.readouterr().err.splitlines()[0] == f"forgets {counts[3] + counts[5]} of 120 images: {parts}"
    call(finetune, *where, "--original", file, "--forget-class", "3", "5")
    assert "there already" in capsys.readouterr().err  # the same request in other words
    call(retrain, *where, "--forget-count", 4, "--of-class", "7", "--quiet")
    assert "forgets" not in capsys.readouterr().err
    args = evaluate.parser().parse_args([str(file), "--forget-count", "4", "--of-class", "7", "--weights", str(tmp_path)])
    collect.score_files(args.checkpoints, Scoring.from_flags(args), Shared(args.cache), beneath=False)
    assert capsys.readouterr().err.splitlines()[0] == "forgets 4 of 120 images: 4 of class 7"
    number = int(data.load("digits", subset=120).whole.positions[9])
    (tmp_path / "twice.txt").write_text(f"{number} {number}", encoding="utf-8")
    rows_of(file, "--forget-file", tmp_path / "twice.txt", "--weights", tmp_path, beneath=False)  # quietly
    note = f"--forget-file {tmp_path / 'twice.txt'}: 1 image named more than once, counted once"
    assert note in (said := capsys.readouterr().err.splitlines()) and not any("forgets" in line for line in said)
    code, said = one_line(evaluate, capsys, file, "--forget-class", "seven", "--weights", tmp_path)
    assert code == 2 and said.endswith("--forget-class seven: the classes are 0 to 9")
