"""Checkpoints that come with the project: found by name, trusted by their SHA-256, and never in another's place."""

import hashlib

import pytest
import torch

import finetune
import models
import pretrain
import retrain
from tests.helpers import call, files, one_line
from unlearning.core import device, distributed
from unlearning.core.files import read_torch, write_torch
from unlearning.vision import places, shipped

FLAGS = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--quiet")
NAME = "digits-120_resnet8_original-epochs-1_s0.pth"


def listing(folder):
    """Write the list of what lies in a folder of shipped checkpoints."""
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in folder.glob("*.pth")]
    (folder / shipped.SUMS).write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of shipped checkpoints: an original of digits after one epoch."""
    place = tmp_path / "shipped"
    call(pretrain, *FLAGS, "--weights", place)
    listing(place)
    monkeypatch.setattr(shipped, "FOLDER", place)
    return place


def test_a_shipped_original_is_copied_not_trained(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("unlearning.vision.run.fit", None)  # nothing may train
    path = call(pretrain, *FLAGS, "--weights", tmp_path / "mine")
    assert capsys.readouterr().err.endswith(f"there already (shipped): {path}\n")
    assert files(tmp_path / "mine") == {NAME: (folder / NAME).read_bytes()}
    assert call(pretrain, *FLAGS, "--weights", folder) == folder / NAME  # where it lies
    assert "there already (shipped)" in capsys.readouterr().err


@pytest.mark.parametrize("other", [("--seed", 1), ("--lr", 0.3), ("--batch-size", 60), ("--subset", 130), ("--no-flip",)])
def test_what_differs_is_trained(folder, tmp_path, capsys, other):
    path = call(pretrain, *FLAGS, "--weights", tmp_path / "mine", "--output", tmp_path / "mine" / NAME, *other)
    assert "shipped" not in capsys.readouterr().err and path.read_bytes() != (folder / NAME).read_bytes()


def test_what_was_changed_or_is_to_be_made_again_is_trained(folder, tmp_path, capsys):
    before = (folder / NAME).read_bytes()
    path = call(pretrain, *FLAGS, "--weights", tmp_path / "mine", "--overwrite")
    assert "shipped" not in capsys.readouterr().err and path.is_file()
    content = read_torch(folder / NAME)
    name = list(content["state_dict"])[-1]
    content["state_dict"][name] += 1
    write_torch(folder / NAME, content)
    path.unlink()
    capsys.readouterr()
    path = call(pretrain, *FLAGS, "--weights", tmp_path / "mine")
    said = capsys.readouterr().err
    assert (
        "(shipped)" not in said
        and f"{folder / NAME}, which comes with this project, has been changed: another is trained;" in said
    )
    trained, own = (torch.load(file, weights_only=True)["state_dict"][name] for file in (path, folder / NAME))
    assert not torch.equal(trained, own)
    (folder / NAME).unlink()
    path.unlink()
    call(pretrain, *FLAGS, "--weights", tmp_path / "mine")
    assert f"{folder / NAME}, which comes with this project, is missing: another" in capsys.readouterr().err
    (folder / NAME).write_bytes(before)
    assert call(retrain, *FLAGS, "--weights", tmp_path / "mine", "--forget-class", 3).is_file()  # another name
    assert "shipped" not in capsys.readouterr().err


def test_an_unfinished_run_is_gone_on_with(folder, tmp_path, capsys):
    mine = tmp_path / "mine"
    mine.mkdir()
    places.unfinished(mine / NAME).write_bytes(b"cut off")
    code, line = one_line(pretrain, capsys, *FLAGS, "--weights", mine)
    assert code == 2 and ".partial" in line and not (mine / NAME).exists()


def test_another_process_may_have_put_it_there(folder, tmp_path, monkeypatch, capsys):
    """Between a process's look and its lock: it is taken, not trained again."""
    mine = tmp_path / "mine"
    call(pretrain, *FLAGS, "--weights", mine)
    monkeypatch.setattr(places, "is_there", lambda *some: False)
    assert call(pretrain, *FLAGS, "--weights", mine) == mine / NAME
    assert capsys.readouterr().err.count("there already (shipped)") == 2


def test_one_process_of_several_copies_it(folder, tmp_path, monkeypatch):
    """The others find that it comes with the project, whether it is there by now or not."""
    monkeypatch.setattr(distributed, "is_main", lambda: False)
    monkeypatch.setattr(shipped, "copy", lambda output: pytest.fail("each of them copies"))
    call(pretrain, *FLAGS, "--weights", tmp_path / "mine")
    assert not (tmp_path / "mine" / NAME).exists()


@pytest.mark.parametrize("flag", ["curve", "confidence"])
def test_a_file_of_another_run_is_not_taken_for_its_own(folder, tmp_path, capsys, flag):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / NAME.replace(".pth", f"_{flag}.csv")).write_text("mine\n", encoding="utf-8")
    code, line = one_line(pretrain, capsys, *FLAGS, "--weights", mine, f"--{flag}")
    assert code == 2 and "is there already" in line and not (mine / NAME).exists()


def test_what_starts_from_an_original_is_made(folder, tmp_path, capsys):
    """It may have an adapter beside it, which isn't shipped."""
    flags = (*FLAGS, "--weights", tmp_path / "mine", "--original", folder / NAME, "--forget-class", 3)
    made = call(finetune, *flags)
    made.rename(folder / made.name)
    listing(folder)
    capsys.readouterr()
    assert call(finetune, *flags) == made and "shipped" not in capsys.readouterr().err


def test_another_machines_precision_makes_no_other_original(folder, tmp_path, capsys, monkeypatch):
    other = "bf16" if models.load_checkpoint(folder / NAME)["config"]["precision"] == "fp32" else "fp32"
    monkeypatch.setattr(device, "best_precision", lambda model, device: other)
    path = call(pretrain, *FLAGS, "--weights", tmp_path / "mine")
    assert "there already (shipped)" in capsys.readouterr().err
    assert path.read_bytes() == (folder / NAME).read_bytes()


def test_nobody_is_told_to_replace_one(folder, tmp_path, capsys):
    """But a copy, which a run of the same name may replace, is its owner's."""
    copied = call(pretrain, *FLAGS, "--weights", tmp_path / "mine")
    for output, ways in ((folder / NAME, ""), (copied, "--overwrite computes it again, ")):
        code, line = one_line(pretrain, capsys, *FLAGS, "--weights", output.parent, "--output", output, "--lr", 0.3)
        assert code == 2 and line.endswith(f"(--lr); {ways}--output keeps both"), line


def test_a_damaged_list_is_said(folder, capsys, tmp_path):
    sound = (folder / shipped.SUMS).read_text(encoding="utf-8")
    (folder / shipped.SUMS).write_text("\n" + sound.replace("  ", " *") + "\n", encoding="utf-8")  # sha256sum --binary
    assert shipped.is_one(folder / NAME)
    (folder / shipped.SUMS).write_text("one two three\n", encoding="utf-8")
    code, line = one_line(pretrain, capsys, *FLAGS, "--weights", tmp_path / "mine")
    assert code == 2 and f"{folder / shipped.SUMS} is damaged" in line


def test_what_is_shipped_is_as_the_list_says():
    """The list and the files of this project."""
    there = {file.name for file in shipped.FOLDER.glob("*.pth")}
    assert shipped.listed().keys() <= there
    assert all(shipped.is_one(shipped.FOLDER / name) for name in shipped.listed())
