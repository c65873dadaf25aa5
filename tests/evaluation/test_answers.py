"""What networks answered: matrices that agree with the table, images of the forget set, and the page that shows them."""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import data
import evaluate
import finetune
import lmeraser
import models
import pretrain
import retrain
from tests.exact.test_system import random_backbone
from tests.helpers import FP32, call, one_line
from tests.reports.test_page import Read
from unlearning.core.files import read_torch
from unlearning.evaluation import answers, collect
from unlearning.evaluation.flags import Scoring
from unlearning.reports import figures
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

DIGITS = ("--dataset", "digits", "--model", "resnet8", "--quiet")


def scored(*arguments, keep="pictures"):
    """(rows, accounts) of `evaluate.py <arguments>`, without a look beneath the head."""
    args = evaluate.parser().parse_args([*map(str, arguments), "--quiet", "--precision", "fp32"])
    rows = collect.score_files(args.checkpoints, Scoring.from_flags(args), Shared(args.cache), beneath=False, keep=keep)
    return rows, [row.pop("account") for row in rows]


def the_page(weights, tmp_path, *arguments):
    """`evaluate.py <arguments> --html FILE`: the page, read."""
    call(evaluate, *arguments, "--weights", weights, "--quiet", "--html", tmp_path / "new" / "page.html")
    return Read((tmp_path / "new" / "page.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["resnet8", "vit_micro"])
def answered(weights, request):
    path = next(weights.glob(f"digits_{request.param}_class3_lora2_s0.pth"))
    return scored(path, "--weights", weights)


def test_matrices_agree_with_the_table(answered):
    rows, accounts = answered
    assert [account.method for account in accounts] == ["original", "retrain", "lora"]
    digits = data.load("digits")
    three = digits.train.labels == 3
    for row, account in zip(rows, accounts, strict=True):
        test, forgotten = account.after.test, account.after.forgotten
        assert test.sum(1).tolist() == digits.test.labels.bincount().tolist()
        assert forgotten.sum() == forgotten[3].sum() == int(three.sum())
        kept = np.arange(10) != 3
        found = {key: row["metrics"][key]["mean"] for key in ("UA", "UA_test", "TA")}
        assert 100 - 100 * forgotten[3, 3] / forgotten.sum() == pytest.approx(found["UA"])
        assert 100 - 100 * test[3, 3] / test[3].sum() == pytest.approx(found["UA_test"])
        assert 100 * np.trace(test[kept][:, kept]) / test[kept].sum() == pytest.approx(found["TA"])
    assert accounts[2].before is accounts[0].after
    assert not np.array_equal(accounts[2].after.test, accounts[0].after.test)


def test_images_are_the_first_of_the_forget_set(answered):
    _, accounts = answered
    digits = data.load("digits")
    first = (digits.train.labels == 3).nonzero().squeeze(1)[:12]
    expected = digits.train.images[first].permute(0, 2, 3, 1).numpy()
    for account in accounts:
        assert account.asked.images.dtype == np.uint8 and np.array_equal(account.asked.images, expected)
        assert account.asked.truth == ["3"] * 12
    model = models.build(models.load_checkpoint(path := accounts[2].after.file.path), path)
    probability = predict(model, digits.train.take(first), FP32).softmax(1)
    assert [name for name, _ in accounts[2].after.examples] == [str(c) for c in probability.argmax(1).tolist()]
    assert [p for _, p in accounts[2].after.examples] == pytest.approx(probability.max(1).values.tolist(), abs=1e-4)


def test_images_are_spread_over_classes_and_are_always_the_same():
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    shown = data.first_of_each(labels[10:], 12)
    assert (shown + 10).tolist() == [10, 11, 12, 13, 14, 50, 51, 52, 53, 54, 55, 56]
    assert torch.equal(data.first_of_each(labels[10:], 12), shown)
    assert data.first_of_each(torch.tensor([0, 2]), 12).tolist() == [0, 1]
    assert data.first_of_each(torch.zeros(9, dtype=torch.int64), 4).tolist() == [0, 1, 2, 3]


def test_confusion_counts_by_hand():
    logits = torch.tensor([[9.0, 0, 0], [0, 9, 0], [0, 9, 0], [0, 0, 9]])
    found = answers.confusion(logits, torch.tensor([0, 0, 1, 2]), 4)
    assert found.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def test_nothing_is_kept_that_nobody_asked_for(weights):
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    _, accounts = scored(path, "--weights", weights, keep="answers")
    assert all(len(a.asked.images) == 0 and not a.asked.truth and not a.after.examples for a in accounts)


def test_the_page_of_real_files(weights, tmp_path, monkeypatch, capsys):
    """Without images, then with them; tables don't hear of it. The digest is what the page's own commands give, the
    first in a shell, the second as Python."""
    monkeypatch.setattr(figures, "PICTURES", {"metrics": figures.PICTURES["metrics"]})
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    read = the_page(weights, tmp_path, path, "--json", tmp_path / "a.json")
    assert "146 of 1,433 training images" in read.words
    assert hashlib.sha256(path.read_bytes()).hexdigest() in read.words
    assert not [tag for tag, _ in read.tags if tag == "img"]
    check, extract = (line for line in read.text.splitlines() if line.startswith("python -c"))
    command = f"{shlex.quote(sys.executable)} {extract.replace('FILE.pth', str(path)).removeprefix('python ')}"
    subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(shlex.split(check)[2], {})
    digest = capsys.readouterr().out.strip()
    assert len(digest) == 64 and digest in read.words
    assert len((tmp_path / "list.txt").read_text(encoding="utf-8").split()) == 146
    pictures = ("--pictures", "--plots", tmp_path / "plots", "--json", tmp_path / "b.json", "--overwrite")
    read = the_page(weights, tmp_path, path, *pictures)
    assert len([tag for tag, _ in read.tags if tag == "img"]) == 12
    for name in ("confusion", "images"):
        with Image.open(tmp_path / "plots" / f"{path.stem}-{name}.png") as image:
            assert image.width > 500
    tables = [json.loads((tmp_path / name).read_text(encoding="utf-8")) for name in ("a.json", "b.json")]
    assert tables[0] == tables[1] and "account" not in tables[0]["rows"][0]


@pytest.fixture(scope="module")
def forgetful(weights, tmp_path_factory):
    """A folder with networks that forgot a list and a random share, by two methods and with two seeds."""
    folder = tmp_path_factory.mktemp("forgetful")
    original = folder / "digits_resnet8_original_s0.pth"
    shutil.copy(weights / original.name, original)
    (folder / "list.txt").write_text("5\n3 900\n77\n", encoding="utf-8")
    for forget in (("--forget-file", folder / "list.txt"), ("--forget-random", 0.1)):
        common = (*DIGITS, "--weights", folder, *forget, "--epochs", 1)
        for seed in (0, 1):
            call(finetune, *common, "--original", original, "--seed", seed)
        call(retrain, *common)
    return folder


def test_lists_random_shares_and_seeds(forgetful, tmp_path):
    files = [*forgetful.glob("*finetune*.pth"), *forgetful.glob("*retrain*.pth")]
    read = the_page(forgetful, tmp_path, *files, "--pictures")
    assert read.words.count("What was asked") == 2
    assert "4 of 1,433 training images" in read.words and "143 of 1,433 training images" in read.words
    digest = hashlib.sha256(np.array([3, 5, 77, 900], "<i8").tobytes()).hexdigest()
    assert digest in read.words and "digits, resnet8, list.txt, 4 images" in read.words
    assert "Names" not in read.words and "names.txt" not in read.words  # these images have none
    assert len([tag for tag, _ in read.tags if tag == "img"]) == 4 + 12
    for path in files:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in read.words
    assert "(the first of its seeds)" in read.words and "probe: no class is forgotten as a whole." in read.words


def test_without_original_and_retrain(weights, tmp_path):
    read = the_page(tmp_path / "nowhere", tmp_path, weights / "digits_resnet8_class3_lora2_s0.pth", "--pictures")
    assert "No Original was found" in read.words and "No Retrain was found" in read.words


def test_class_names_from_a_folder_stay_text(tmp_path):
    bad = """<img src=x onerror="document.title='x'"> & 'y'"""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("ant", bad):
            (tmp_path / "tree" / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "tree" / part / name / f"{i}.png")
    common = ("--dataset", f"folder:{tmp_path / 'tree'}", "--img-size", 8, "--model", "resnet8", "--quiet")
    common += ("--weights", tmp_path, "--epochs", 1)
    call(pretrain, *common)
    path = call(finetune, *common, "--forget-class", 0)
    read = the_page(tmp_path, tmp_path, path, "--pictures")
    assert [a["src"][:15] for tag, a in read.tags if tag == "img"] == ["data:image/png;"] * 8
    assert f"0 ({bad}): all 8" in read.words and "1 (ant)" in read.words
    names = models.load_checkpoint(path)["forget_names"]
    assert f"Names{', '.join(names)} Names, SHA-256" in read.words and names[0] == f"train/{bad}/0.png"
    (tmp_path / "names.txt").write_text("\n".join(reversed(names)), encoding="utf-8")
    (way,) = re.findall(r"LC_ALL=C sort -u names.txt \| sha256sum", read.words)
    shell = subprocess.run(way, shell=True, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert len(shell.stdout.split()[0]) == 64 and shell.stdout.split()[0] in read.words
    assert "['forget_names']" in read.words


def test_a_system_is_scored_and_its_digest_can_be_checked(tmp_path):
    backbone, folder = random_backbone(tmp_path / "backbone.pth"), tmp_path / "system"
    flags = ("--dataset", "digits", "--subset", 300, "--backbone", backbone, "--parts", 3, "--anchors", 30, "--epochs", 1)
    call(lmeraser, "train", *flags, "--quiet", "--output", folder)
    gone = read_torch(folder / "system.pth")["private"][-3:]
    call(lmeraser, "delete", folder, "--ids", *data.load("digits", subset=300).whole.positions[gone].tolist(), "--quiet")
    read = the_page(tmp_path / "nowhere", tmp_path, folder, "--pictures")
    assert "3 of 270 private training images" in read.words and "a system of several learners" in read.words
    assert hashlib.sha256(gone.numpy().tobytes()).hexdigest() in read.words
    assert "The images were deleted exactly: each part that had seen one" in read.words
    assert "No Retrain was found" not in read.words and "no proof of forgetting" not in read.words
    shell = subprocess.run("LC_ALL=C sha256sum * | sha256sum", shell=True, cwd=folder, capture_output=True, encoding="utf-8")
    assert shell.stdout.split()[0] in read.words
    assert len([tag for tag, _ in read.tags if tag == "img"]) == 3


def test_refusals_before_anything_is_scored(weights, tmp_path, capsys):
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    mine = tmp_path / "mine.html"
    mine.write_text("mine", encoding="utf-8")
    refused = {
        ("--html", mine): "exists; --overwrite replaces it",
        ("--html", tmp_path / "a", "--markdown", tmp_path / "a"): "written twice",
        ("--html", path, "--overwrite"): "written twice",
        ("--html", tmp_path, "--overwrite"): "is a folder",
        ("--pictures",): "--html FILE or --plots",
    }
    for flags, said in refused.items():
        code, line = one_line(evaluate, capsys, path, *flags)  # without --quiet: a scored file would be said
        assert code == 2 and said in line
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / f"{path.stem}-images.png").write_text("mine", encoding="utf-8")
    code, line = one_line(evaluate, capsys, path, "--plots", tmp_path / "plots", "--pictures")
    assert code == 2 and "holds pictures" in line
    assert mine.read_text(encoding="utf-8") == "mine" and path.stat().st_size > 1000
