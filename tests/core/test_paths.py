"""Paths that nobody has the rights to use, and what no reader may wait on."""

import argparse
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from unlearning.core.errors import UserError
from unlearning.core.paths import check_regular, folder, input_file, input_path, output_file, output_folder

NOBODY = 65534


@pytest.fixture
def closed():
    """A folder that its owner alone may use, with a file in it; in a folder that everyone may."""
    outer = Path(tempfile.mkdtemp())
    outer.chmod(0o755)
    (outer / "closed").mkdir(mode=0o700)
    (outer / "closed" / "file").touch()
    (outer / "secret").touch(mode=0o600)
    yield outer
    shutil.rmtree(outer)


def said_to_nobody(check, path):
    """What a process without any rights is told of a path."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("another user's rights can be tried by root alone")
    reader, writer = os.pipe()
    if not (child := os.fork()):
        os.setuid(NOBODY)
        try:
            check(str(path))
        except argparse.ArgumentTypeError as error:
            os.write(writer, str(error).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, encoding="utf-8") as said:
        return said.read()


@pytest.mark.parametrize(
    ("check", "path"),
    [
        (input_file, "secret"),
        (input_path, "secret"),
        (input_path, "closed"),
        (input_file, "closed/file"),
        (output_file, "new"),
        (output_file, "neither/new"),
        (output_folder, "new"),
        (output_folder, "closed"),
        (folder, "closed/new"),
    ],
)
def test_a_path_without_rights_is_refused(closed, check, path):
    assert check(str(closed / path)) == closed / path  # to root, who may do anything
    assert "right" in (said := said_to_nobody(check, closed / path)) or "Permission denied" in said, said


def test_a_pipe_is_no_file_to_read(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes among files")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe is no file: a pipe, a device or a socket"):
        check_regular(tmp_path / "pipe")
    for sound in (tmp_path, tmp_path / "nothing"):
        check_regular(sound)


def test_a_path_without_a_name_is_called_as_what_it_means(tmp_path, monkeypatch):
    """A lock and an unfinished run lie beside a folder by its name, which "." hasn't, and the root neither."""
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    for kind in (folder, input_path, output_folder):
        assert [kind(text) for text in (".", "..", "b/..")] == [tmp_path / "a", tmp_path, tmp_path / "a"]
        assert [kind(text) for text in ("b", "./b/", "../a")] == [Path("b"), Path("b"), Path("../a")]
    assert folder("/") == Path("/")  # of which files are read
    with pytest.raises(argparse.ArgumentTypeError, match="'/' is the root of all folders"):
        output_folder("/")
