"""Exporting: the file that was there is replaced or stays. What it holds: vision/test_pruning.py."""

import pytest

import export
import pretrain
from tests.helpers import call, files, full_disk
from unlearning.core.errors import RunFailed


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    """Where the network answers differently, and on a full disk."""
    path = call(pretrain, "--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--quiet",
                "--output", tmp_path / "x.pth")  # fmt: skip
    (tmp_path / "x.onnx").write_bytes(b"old")
    before, again = files(tmp_path), (export, path, "--onnx", tmp_path / "x.onnx", "--overwrite")

    def differs(*_):
        raise RunFailed("the ONNX file answers differently")

    monkeypatch.setattr(export, "export", differs)  # making one takes ten seconds
    with pytest.raises(RunFailed, match="answers differently"):
        call(*again)
    assert files(tmp_path) == before
    monkeypatch.setattr(export, "export", lambda *_: b"new")
    with full_disk(), pytest.raises(RunFailed, match=r"cannot write .*x\.onnx: No space left"):
        call(*again)
    assert files(tmp_path) == before
    call(*again)
    assert files(tmp_path) == before | {"x.onnx": b"new"}
