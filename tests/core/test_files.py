"""Files and folders that are replaced whole or stay as they were."""

import os
import pickle

import pytest
import torch
from safetensors import SafetensorError

from tests.helpers import files, full_disk
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import check_writable, replacing, write_bytes, write_text, write_torch


def test_a_folder_is_replaced_or_stays(tmp_path, monkeypatch):
    """Also where the last of the two renames fails, or the writing itself."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "a.txt").write_text("old", encoding="utf-8")

    def write(part, fail=None):
        part.mkdir()
        (part / "b.txt").write_text("new", encoding="utf-8")
        if fail:
            raise fail

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no")))
        with pytest.raises(RunFailed, match="cannot write"), replacing(folder) as part:
            write(part)
    for error in (OSError("full"), SafetensorError("full")):
        with pytest.raises(RunFailed, match="cannot write"), replacing(folder) as part:
            write(part, error)
    assert [file.name for file in tmp_path.iterdir()] == ["mine"] and (folder / "a.txt").read_text(encoding="utf-8") == "old"
    with replacing(folder) as part:
        write(part)
    assert [file.name for file in folder.iterdir()] == ["b.txt"]
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_an_interrupt_between_the_two_renames_puts_the_old_folder_back(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.txt").write_text("old", encoding="utf-8")
    before = files(tmp_path)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "mine") as part:
        part.mkdir()
    assert files(tmp_path) == before


@pytest.mark.parametrize("write", [write_text, write_torch, lambda path, text: write_bytes(path, text.encode())])
def test_a_file_is_replaced_or_stays_with_every_byte(tmp_path, write):
    """Nothing lies beside it afterwards, be it there before or not."""
    write(tmp_path / "a", "old")
    before = files(tmp_path)
    for name in ("a", "b"):
        with full_disk(), pytest.raises(RunFailed, match=f"cannot write .*{name}: No space left"):
            write(tmp_path / name, "new")
        assert files(tmp_path) == before
    write(tmp_path / "a", "new")
    assert files(tmp_path) != before


def test_what_cannot_be_stored_replaces_nothing(tmp_path):
    """The writer fails half way, after the first tensor."""
    write_torch(tmp_path / "x.pth", {"a": torch.ones(3)})
    before = files(tmp_path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        write_torch(tmp_path / "x.pth", {"a": torch.zeros(1000), "b": lambda: 0})
    assert files(tmp_path) == before


def test_no_folder_is_replaced_by_a_file(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/a.txt").write_text("mine", encoding="utf-8")
    for write in (lambda path: write_text(path, "x"), lambda path: write_torch(path, {"a": 1})):
        with pytest.raises(UserError, match="precious is a folder"):
            write(tmp_path / "precious")
    assert (tmp_path / "precious/a.txt").read_text(encoding="utf-8") == "mine"


def test_a_place_that_cannot_be_written_is_named_before_the_work(tmp_path):
    check_writable(tmp_path / "new/deeper")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write into .*file/x"):
        check_writable(tmp_path / "file/x")
    with pytest.raises(RunFailed, match="cannot write"):
        write_text(tmp_path / "file/x.html", "text")
