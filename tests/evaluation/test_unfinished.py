"""What a killed command has done is found again, by what makes it alone, and goes when it is no longer wanted."""

import argparse

import numpy as np
import pytest
import torch

from tests.helpers import files
from unlearning.core import provenance
from unlearning.core.locks import locked
from unlearning.evaluation.unfinished import keeping

VALUE = {
    "metrics": [
        ({"UA": np.float64(1) / 3, "n": np.int64(3), "gap": {"missing": "x"}}, {"roc": np.arange(3) / 7, "at": None})
    ],
    "logits": [torch.arange(6.0).view(2, 3) / 7],
}


def command(folder, outputs=("a.json",), **flags):
    return keeping(folder, [folder / name for name in outputs], argparse.Namespace(**flags))


def kept(folder, value=1, key="x", **how):
    """Keep a value as a command that is interrupted does; what it finds, whatever was kept before."""
    with pytest.raises(KeyboardInterrupt), command(folder, **how) as unfinished:
        found = unfinished.once({"file": key}, lambda: value)
        raise KeyboardInterrupt
    return found


def test_what_is_read_back_is_what_was_computed(tmp_path):
    """In types and bits."""
    fresh, read = kept(tmp_path, VALUE), kept(tmp_path, "another")
    for found in (fresh, read):
        ((metrics, curves),), (logits,) = found["metrics"], found["logits"]
        assert metrics == {"UA": 1 / 3, "n": 3, "gap": {"missing": "x"}} and type(metrics["n"]) is int
        assert isinstance(curves["roc"], np.ndarray) and np.array_equal(curves["roc"], np.arange(3) / 7)
        assert torch.equal(logits, VALUE["logits"][0]) and curves["at"] is None


def test_a_value_is_found_by_what_makes_it(tmp_path, monkeypatch):
    """By other flags of the command too; not for another file, by another code, or with another number of threads."""
    assert kept(tmp_path, 1, mia="svc") == 1
    assert kept(tmp_path, 2, mia="other") == 1 and kept(tmp_path, 2, overwrite=True) == 1
    assert kept(tmp_path, 3, key="y") == 3
    assert kept(tmp_path, 4, outputs=("b.json",)) == 4
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "code_digest", lambda: "other code")
        assert kept(tmp_path, 5) == 5
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 77)
        assert kept(tmp_path, 6) == 6
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "versions", lambda: {"torch": "another"})
        assert kept(tmp_path, 7) == 7
    assert kept(tmp_path, 8) == 1


def test_a_command_that_ends_well_removes_its_own_and_what_dead_ones_of_its_outputs_have_left(tmp_path):
    left = []
    for key, flags in (("x", {"mia": "svc"}), ("y", {"mia": "other"}), ("x", {"outputs": ("b.json",)})):
        kept(tmp_path, key=key, **flags)
        left += [path for path in tmp_path.iterdir() if path not in left]
    with locked(left[0]), command(tmp_path, mia="other"):
        assert left[1].exists()
    assert set(tmp_path.iterdir()) == {left[0], left[2]}
    (tmp_path / f".{left[1].name}.unlearning-lock").touch()  # of one that was killed before it kept anything
    with command(tmp_path, mia="another") as unfinished:
        assert unfinished.find({"file": "x"}) == 1
    assert list(tmp_path.iterdir()) == [left[2]]


def test_commands_without_outputs_leave_each_others_scores(tmp_path):
    """They have nothing in common by which one could stand in for the other."""
    kept(tmp_path, key="x", outputs=(), checkpoints=["a.pth"])
    (left,) = tmp_path.iterdir()
    with command(tmp_path, outputs=(), checkpoints=["b.pth"]) as unfinished:
        assert unfinished.find({"file": "x"}) is None
    assert list(tmp_path.iterdir()) == [left]
    with command(tmp_path, outputs=(), checkpoints=["a.pth"]) as unfinished:
        assert unfinished.find({"file": "x"}) == 1
    assert list(tmp_path.iterdir()) == []


def test_folders_that_are_made_in_vain_go(tmp_path):
    with command(tmp_path / "new/deeper"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_nothing_is_kept_and_that_is_said(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert kept(tmp_path / "file/weights") == 1 and kept(tmp_path / "file/weights", 2) == 2
    line = "file/weights: Not a directory: should this command be killed, it begins again"
    assert capsys.readouterr().err.count(line) == 2 and files(tmp_path) == {"file": b""}
