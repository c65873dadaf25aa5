"""Some of the storm's kills, of commands that write in different ways; `make storm` has all."""

import itertools
import signal
import subprocess
import sys

import pytest

from tests.helpers import ROOT
from tests.storm import kills

SOME = ("pretrain", "lora --overwrite", "lmeraser delete")


@pytest.mark.skipif(not hasattr(kills.os, "fork"), reason="a process can't be doubled here")
@pytest.mark.parametrize("name", SOME)
def test_a_kill_is_survived(tmp_path, name):
    (command,) = [one for one in kills.commands() if one.name == name]
    kills.prepare()
    outcomes = list(kills.storm(command, tmp_path, kills.LEAST))
    assert len(outcomes) == kills.LEAST and [one for one in outcomes if one.wrong] == []


def test_kills_are_spread_evenly_however_few_there_is_time_for():
    for count in (1, 2, 3, 17, 258):
        order = kills.spread(count)
        assert sorted(order) == list(range(count))
        for some in range(2, count):
            gaps = [after - before for before, after in itertools.pairwise(sorted(order[:some]))]
            assert max(gaps) <= 2 * -(-count // (some - 1)) and order[0] == 0 and order[1] == count - 1


def test_each_command_has_its_share_of_the_time_and_a_few_kills_at_least(tmp_path, monkeypatch, capsys):
    """What quick ones leave goes to the slow ones after them."""
    clock = [0.0]
    seconds = {"quick": 1, "slow": 100}

    def run(command, folder, at=None):
        clock[0] += seconds[command.name]
        (folder / "a.txt").write_text("done", encoding="utf-8")
        return (kills.KILLED if at is not None else 0), 20

    monkeypatch.setattr(kills, "run", run)
    monkeypatch.setattr(kills.time, "time", lambda: clock[0])
    monkeypatch.setattr(kills, "prepare", lambda: None)
    both = [kills.Command("quick", None, ()), kills.Command("slow", None, ())]
    monkeypatch.setattr(kills, "commands", lambda: iter(both))
    for minutes, slow in ((30, 9), (5, 4), (1000, 20)):
        clock[0] = 0.0
        found = kills.main(None, minutes)
        made = [sum(one.command == name for one in found) for name in seconds]
        assert made == [20, slow] and {one.of for one in found} == {20}
        assert f"slow: {slow} kills of 20, 0 not survived" in capsys.readouterr().out


def test_a_storm_that_is_killed_does_not_vanish_without_a_word():
    """By the signal of a shell that ends, by lack of memory, and where whoever watches over it is killed itself."""
    if sys.platform == "win32":
        pytest.skip("Windows has no such signals")
    code = "import sys; from tests.storm import watch; sys.exit(watch.watched([sys.executable, '-c', sys.argv[1]]))"
    waits = "import time\nfrom tests.storm import watch\nprint('begun', flush=True)\n"
    waits += "while True:\n    watch.check_watched()\n    time.sleep(0.01)"
    for action, word in (
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the storm was killed by SIGKILL, as where memory"),
        (waits, "the storm is stopped by SIGHUP"),
        (waits, "the process that watched over it is gone"),
    ):
        process = subprocess.Popen([sys.executable, "-c", code, action], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8")
        if action is waits:
            assert process.stdout.readline() == "begun\n"
            process.send_signal(signal.SIGHUP if "SIGHUP" in word else signal.SIGKILL)
        assert word in process.stdout.read() and process.wait() not in (0, None)


def test_what_a_kill_has_left_is_seen(tmp_path):
    """A file that is half, one that is old, and one too many."""
    base, whole, work = (tmp_path / name for name in ("base", "whole", "work"))
    for folder, text in ((base, "old"), (whole, "new"), (work, "new")):
        folder.mkdir()
        (folder / "a.txt").write_text(text, encoding="utf-8")
    assert kills._half(work, base, whole) is None and kills.difference(work, whole) is None
    (work / "a.txt").write_text("ne", encoding="utf-8")
    assert kills._half(work, base, whole) == "a.txt is half written" and kills.difference(work, whole) == "a.txt differs"
    (work / "a.txt").write_text("old", encoding="utf-8")
    assert kills._half(work, base, whole) is None and kills.difference(work, whole) == "a.txt differs"
    (work / "b.txt").write_text("?", encoding="utf-8")
    assert kills._half(work, base, whole) == "b.txt belongs to no run" and kills.difference(work, whole) == "b.txt is left"
