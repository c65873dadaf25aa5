"""Files and folders that are replaced whole or stay as they were."""

import io
import itertools
import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from tests.helpers import files, full_disk, killed_at
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import (
    check_writable,
    is_interrupted,
    read_torch,
    recover,
    replacing,
    save_tensors,
    staging,
    write_bytes,
    write_text,
    write_torch,
)


def test_of_a_link_to_a_folder_the_link_is_replaced_and_nothing_stays_aside(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "a.txt").write_text("old", encoding="utf-8")
    (tmp_path / "mine").symlink_to(tmp_path / "far")
    with replacing(tmp_path / "mine") as part:
        part.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "mine"] and not (tmp_path / "mine").is_symlink()
    assert (tmp_path / "far" / "a.txt").exists()


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


def write_pair(folder: Path, text: str) -> None:
    with staging(folder / "x.pth") as staged:
        staged.part(folder / "x.pth").write_bytes(text.encode())
        staged.part(folder / "x_adapter").mkdir()
        (staged.part(folder / "x_adapter") / text).write_bytes(text.encode())
        if (folder / "x.onnx").exists():
            staged.without(folder / "x.onnx")


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_what_belongs_together_is_replaced_together_wherever_a_process_dies(tmp_path, before):
    """At no moment the file lies beside another's folder; who writes next finds the old ones or the new ones whole, and
    nothing else."""
    old, new = {"x.pth": b"old", "x_adapter/old": b"old", "x.onnx": b"old"}, {"x.pth": b"new", "x_adapter/new": b"new"}
    seen = set()
    for step in itertools.count():
        folder = tmp_path / str(step)
        folder.mkdir()
        if before == "old":
            write_pair(folder, "old")
            (folder / "x.onnx").write_bytes(b"old")
        dead = killed_at(step, lambda folder=folder: write_pair(folder, "new"))
        there = {name: content for name, content in files(folder).items() if not name.startswith(".")}
        assert "x.pth" not in there or there in (new, new | {"x.onnx": b"old"}) or there == old
        for name in ("x.pth", "x_adapter"):
            recover(folder / name)
        left = files(folder)
        assert left == new or left == ({} if before == "nothing" else old)
        seen.add(left == new)
        if not dead:
            break
    assert seen == {True, False} and step > 3


def test_an_interrupt_while_files_take_their_places_lets_them_finish(tmp_path, monkeypatch):
    write_pair(tmp_path, "old")
    real, calls = Path.rename, itertools.count()

    def rename(self, target):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write_pair(tmp_path, "new")
    assert files(tmp_path) == {"x.pth": b"new", "x_adapter/new": b"new"}


@pytest.mark.parametrize("before", ["nothing", "old"])
def test_what_is_written_already_takes_its_place_or_stays_wherever_a_process_dies(tmp_path, before):
    """It never is lost, nor is what it replaces before it is there."""
    new, seen = {"mine/new": b"new"}, set()

    def replace(folder):
        with staging(folder / "mine") as staged:
            staged.take(folder / "mine", folder / "finished")

    for step in itertools.count():
        folder = tmp_path / str(step)
        (folder / "finished").mkdir(parents=True)
        (folder / "finished/new").write_bytes(b"new")
        if before == "old":
            (folder / "mine").mkdir()
            (folder / "mine/old").write_bytes(b"old")
        dead = killed_at(step, lambda folder=folder: replace(folder))
        recover(folder / "mine")
        old = {"finished/new": b"new"} | ({"mine/old": b"old"} if before == "old" else {})
        assert files(folder) in (old, new)
        seen.add(files(folder) == new)
        if not dead:
            break
    assert seen == {True, False} and step >= (6 if before == "old" else 1)


@pytest.mark.parametrize("nth", [0, 1, 2])
def test_what_is_written_already_stays_where_it_was_if_it_cannot_take_its_place(tmp_path, monkeypatch, nth):
    """Whichever of the renames fails: to the part, of what was there, to its place."""
    for name in ("mine", "finished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name, encoding="utf-8")
    before, real, calls = files(tmp_path), Path.rename, itertools.count()

    def rename(self, target):
        if next(calls) == nth:
            raise OSError("no")
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(RunFailed, match=r"cannot write .*mine"), staging(tmp_path / "mine") as staged:
        staged.take(tmp_path / "mine", tmp_path / "finished")
    assert files(tmp_path) == before


def test_leftovers_go_and_nothing_that_others_call_alike(tmp_path):
    (tmp_path / ".mine.77.unlearning-old").mkdir()
    (tmp_path / ".mine.78.unlearning-tmp").write_bytes(b"half")
    strangers = {
        ".mine.too.79.unlearning-tmp": b"of another",
        ".mine.2023.old": b"a",
        ".mine.7.tmp": b"b",
        ".mine.5.list": b"c",
    }
    for name, content in strangers.items():
        (tmp_path / name).write_bytes(content)
    recover(tmp_path / "mine")
    assert files(tmp_path) == strangers and not (tmp_path / ".mine.77.unlearning-old").exists()


def test_what_comes_while_a_run_is_at_work_is_not_replaced(tmp_path):
    for name in ("x.pth", "x_adapter"):
        with (
            pytest.raises(RunFailed, match=f"{name} has come while this was at work"),
            staging(tmp_path / "x.pth") as staged,
        ):
            staged.part(tmp_path / "x.pth").write_bytes(b"new")
            staged.part(tmp_path / "x_adapter").mkdir()
            (tmp_path / name).write_bytes(b"a stranger's")
        assert files(tmp_path) == {name: b"a stranger's"} and len(list(tmp_path.iterdir())) == 1
        (tmp_path / name).unlink()


def test_a_list_of_moves_that_says_nonsense_is_one_line(tmp_path):
    for text in ("{", "[]", '{"new": 3, "gone": []}'):
        (tmp_path / ".x.pth.5.unlearning-moves").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="moves is damaged: delete it"):
            recover(tmp_path / "x.pth")


def test_a_half_replaced_file_says_what_to_do(tmp_path):
    write_pair(tmp_path, "old")
    assert killed_at(5, lambda: write_pair(tmp_path, "new"))
    assert is_interrupted(tmp_path / "x.pth") and not is_interrupted(tmp_path / "x_adapter")
    with pytest.raises(UserError, match="was being replaced when its process was killed"):
        read_torch(tmp_path / "x.pth")


def test_a_flipped_byte_is_noticed(tmp_path):
    """Wherever in the tensors it is."""
    write_torch(tmp_path / "x.pth", {"a": torch.arange(64.0)})
    content = (tmp_path / "x.pth").read_bytes()
    begin = content.index(torch.arange(64.0).numpy().tobytes())
    assert torch.equal(read_torch(tmp_path / "x.pth")["a"], torch.arange(64.0))
    for place in range(begin, begin + 256, 15):
        (tmp_path / "x.pth").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(UserError, match=r"x.pth is not a readable checkpoint"):
            read_torch(tmp_path / "x.pth")


def headers(content: bytes) -> list[int]:
    """The places of the bytes of a zip file that say what is in it: local headers, central directory and its end."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        local = {member.header_offset: 30 + len(member.filename) for member in archive.infolist()}
        places = [range(begin, begin + size) for begin, size in local.items()]
        return sorted(itertools.chain(*places, range(archive.start_dir, len(content))))


@pytest.mark.parametrize("bits", [0x10, *(pytest.param(bits, marks=pytest.mark.slow) for bits in (0x01, 0x20, 0x80, 0xFF))])
def test_a_flipped_bit_of_a_header_is_refused_or_changes_nothing(tmp_path, bits):
    """One of them has torch.load leave a tensor's memory unwritten, and checksums don't cover it."""
    path = tmp_path / "x"
    tensor = torch.tensor([1.5, -2.0])
    torch.save({"a": tensor}, path)
    content, refused = path.read_bytes(), 0
    places = headers(content)
    for place in places:
        path.write_bytes(content[:place] + bytes([content[place] ^ bits]) + content[place + 1 :])
        try:
            read = read_torch(path)
        except UserError:
            refused += 1
        else:
            assert list(read) == ["a"] and torch.equal(read["a"], tensor), f"byte {place}, bits {bits:#x}"
    assert refused > len(places) / 3


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_torch_may_read_is_one_whose_checksum_was_looked_at(tmp_path):
    torch.save({"a": torch.tensor([1.5, -2.0])}, tmp_path / "x")
    with zipfile.ZipFile(tmp_path / "x") as archive:
        members = [(member.filename, archive.read(member)) for member in archive.infolist()]
    for name, twice in (("plain", False), ("double", True)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:  # as other tools pack it
            for member, content in members:
                for _ in range(1 + (twice and member.endswith("data/0"))):
                    archive.writestr(member, content)
    assert read_torch(tmp_path / "plain")["a"].tolist() == [1.5, -2.0]
    with pytest.raises(UserError, match="double is not a readable checkpoint"):
        read_torch(tmp_path / "double")


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


def test_tensors_are_the_same_bytes_each_time_and_have_the_rights_of_any_file(tmp_path):
    """The library's own header has its entries in another order in each process, and its file can be read by nobody else."""
    tensors = {"b": torch.arange(3.0), "a": torch.tensor([[True]]), "ß": torch.zeros(2, dtype=torch.float16)}
    about = {"z": "1", "format": "pt", "a": "2", "fits": "plain"}
    before = os.umask(0o027)
    try:
        save_tensors(tmp_path / "x", tensors, about)
    finally:
        os.umask(before)
    content = (tmp_path / "x").read_bytes()
    with safe_open(tmp_path / "x", "pt") as file:
        assert file.metadata() == about
    again = load_file(tmp_path / "x")
    assert again.keys() == tensors.keys() and all(torch.equal(again[name], value) for name, value in tensors.items())
    assert b'"__metadata__":{"a":"2","fits":"plain","format":"pt","z":"1"}' in content
    assert sys.platform == "win32" or (tmp_path / "x").stat().st_mode & 0o777 == 0o640
    save_tensors(tmp_path / "y", tensors, dict(reversed(about.items())))
    assert (tmp_path / "y").read_bytes() == content


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
