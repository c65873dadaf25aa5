"""One process at a time writes a file: the others wait, and what a killed one has left is cleared up."""

import multiprocessing
import os
import sys
import threading

import pytest

from tests.helpers import files
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.locks import is_held, locked, recover_within


def hold(path, pipe):
    with locked(path):
        pipe.send("held")
        pipe.recv()


def holder(path):
    """Another process, a copy of this one where there are such, that holds the lock on `path` until it is released."""
    context = multiprocessing.get_context(None if sys.platform == "win32" else "fork")
    here, there = context.Pipe()
    process = context.Process(target=hold, args=(path, there), daemon=True)
    process.start()
    assert here.recv() == "held"
    process.pipe = here
    return process


def release(process):
    process.pipe.send("end")
    process.join()


def kill(process):
    process.kill()
    process.join()
    assert process.exitcode


def test_a_second_process_says_for_whom_it_waits_and_comes_when_that_is_done(tmp_path, capsys):
    path, came = tmp_path / "x.pth", []
    with locked(path):
        assert (tmp_path / ".x.pth.unlearning-lock").exists()
    assert files(tmp_path) == {}
    process = holder(path)

    def wait():
        with locked(path):
            came.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and came == []
    release(process)
    thread.join(30)
    assert came == [True]
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith(f"{path} is being written by process {process.pid} on ")
    assert "waiting" in line and files(tmp_path) == {}


def test_a_killed_holder_keeps_nobody_out(tmp_path):
    process = holder(tmp_path / "x.pth")
    (tmp_path / f".x.pth.{process.pid}.unlearning-tmp").write_bytes(b"half")
    (tmp_path / f".x_adapter.{process.pid}.unlearning-tmp").mkdir()
    assert is_held(tmp_path / "x.pth")
    kill(process)
    with locked(tmp_path / "x.pth", [tmp_path / "x_adapter"]):
        assert [file.name for file in tmp_path.iterdir()] == [".x.pth.unlearning-lock"]
    assert list(tmp_path.iterdir()) == [] and not is_held(tmp_path / "x.pth")


def test_what_is_written_along_is_cleared_of_dead_processes_alone(tmp_path):
    """Live ones are known by their number, and those of other machines by their lock."""
    live, dead = holder(tmp_path / "c.png"), holder(tmp_path / "b.png")
    kill(dead)
    here = [("a.png", live.pid), ("x_adapter", live.pid), ("b.png", live.pid)]
    there = [("c.png", dead.pid), ("big.pth.partial", dead.pid)]  # by their numbers dead, as those of other machines
    gone = [("a.png", dead.pid), ("b.png", dead.pid), ("x_adapter", dead.pid), ("b.png", os.getpid())]
    parts = {tmp_path / f".{name}.{process}.unlearning-tmp": name for name, process in [*here, *there, *gone]}
    for part in parts:
        part.write_bytes(b"half")
    with locked(tmp_path / "x.pth", [tmp_path / "x_adapter"]):
        recover_within(tmp_path, "*.png")
    kept = {f".{name}.{process}.unlearning-tmp" for name, process in [*here, *there]}
    assert {part.name for part in parts if part.exists()} == kept
    with locked(tmp_path / "a.png"):  # whose holder knows that nobody else writes it
        assert not any(part.exists() for part, name in parts.items() if name == "a.png")
    release(live)


def test_of_several_processes_of_one_run_the_first_alone_holds_it_and_none_waits(tmp_path, monkeypatch):
    process = holder(tmp_path / "x.pth")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"x.pth is being written by process"), locked(tmp_path / "x.pth"):
        pass
    monkeypatch.setenv("RANK", "1")
    with locked(tmp_path / "x.pth"):
        assert process.is_alive()
    release(process)


@pytest.mark.parametrize("kind", ["folder", "link", "link to nothing", "fifo"])
def test_what_lies_in_the_place_of_a_lock_is_named_and_stays(tmp_path, kind):
    """What a link leads to isn't written, nobody waits for a pipe, and it is the user's to mend."""
    place = tmp_path / ".x.pth.unlearning-lock"
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    if kind == "fifo" and sys.platform == "win32":
        pytest.skip("Windows has no such files")
    make = {"folder": place.mkdir, "fifo": lambda: os.mkfifo(place)}
    make.get(kind, lambda: place.symlink_to(tmp_path / ("mine" if kind == "link" else "none")))()
    with pytest.raises(UserError, match=r"where the lock on x.pth is to be: move it"), locked(tmp_path / "x.pth"):
        pass
    assert is_held(tmp_path / "x.pth") and files(tmp_path) | {place.name: b""} == {"mine": b"mine", place.name: b""}
    assert place.is_symlink() or place.is_dir() or place.exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed, match=r"cannot write .*file/x.pth"), locked(tmp_path / "file/x.pth"):
        pass
