"""Files and folders that are replaced whole or stay as they were."""

import os

import pytest
from safetensors import SafetensorError

from unlearning.core.errors import RunFailed
from unlearning.core.files import replacing


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
