"""Which commit a result names."""

import subprocess

import pytest

from unlearning.core import provenance


def git(folder, *words):
    same = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", folder, *same, *words], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with one script, in the place of this project's."""
    (tmp_path / "clone/unlearning").mkdir(parents=True)
    (tmp_path / "clone/a.py").write_text("1\n", encoding="utf-8")
    git(tmp_path / "clone", "init", "-q")
    git(tmp_path / "clone", "add", ".")
    git(tmp_path / "clone", "commit", "-q", "-m", "a")
    monkeypatch.setattr(provenance, "ROOT", (tmp_path / "clone").resolve())
    return tmp_path / "clone"


def test_the_commit_is_that_of_the_code(clone, monkeypatch):
    digits = provenance.commit()
    assert len(digits) == 12 and set(digits) <= set("0123456789abcdef")
    (clone / "notes.md").write_text("x", encoding="utf-8")
    assert provenance.commit() == digits
    (clone / "mine.py").write_text("x", encoding="utf-8")
    assert provenance.commit() == f"{digits} + changes"
    (clone / "mine.py").unlink()
    (clone / "a.py").write_text("2\n", encoding="utf-8")
    assert provenance.commit() == f"{digits} + changes"


def test_another_clones_commit_is_never_named(clone, tmp_path, monkeypatch):
    mine = provenance.commit()
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "b")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit() == mine
    monkeypatch.delenv("GIT_DIR")
    unpacked = other / "unpacked"  # a download, within somebody's repository
    unpacked.mkdir()
    monkeypatch.setattr(provenance, "ROOT", unpacked.resolve())
    assert provenance.commit() == "unknown"
    monkeypatch.setattr(provenance, "ROOT", clone.resolve())
    (clone / ".git/index").write_bytes(b"broken")
    assert provenance.commit() == "unknown"
