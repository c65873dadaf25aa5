"""Tables whose runs are Ray's tasks: the same numbers, though a worker dies."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import psutil
import pytest

import models
import pretrain
import reproduce
from tests.helpers import ROOT, call, one_line
from unlearning.core.device import threads
from unlearning.core.errors import Diverged, UserError
from unlearning.experiments import cluster, prunelora

ASKED = (
    "--seeds",
    "1",
    "--methods",
    "lora",
    "head-only",
    "--cache",
    "0",
)  # caches of one process are a last digit's difference
SIZES = {"subset": None, "pretrain": {"resnet8": 12}, "epochs": [2]}


def test_without_ray_one_line_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(tmp_path)
    code, line = one_line(reproduce, capsys, "prunelora", "--preset", "first", "--ray")
    assert code == 2 and "--ray needs Ray: pip install" in line
    code, line = one_line(reproduce, capsys, "prunelora", "--preset", "first", "--cores", "2")
    assert code == 2 and "--cores is for --ray" in line
    assert not list(tmp_path.iterdir())


def workers():
    """Processes of this machine that carry out a run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "".join(process.cmdline()).startswith("ray::in_worker"):
                found.append(process)
    return found


def wait(until, seconds=240):
    """Wait until a function gives something: this. Raises AssertionError where it takes too long."""
    end = time.monotonic() + seconds
    while not (found := until()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def training(folder):
    """The workers, once each of them has written a snapshot of what it trains below `folder`; else none."""
    found, snapshots = workers(), [path for path in folder.rglob("*.pth.partial") if path.is_file()]
    return found if len(found) == len(snapshots) else []


@pytest.mark.slow
def test_a_table_by_ray_is_the_same_though_a_worker_is_killed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SIZES)
    places = [tmp_path / name for name in ("one", "many")]
    for place in places:
        place.mkdir()
    killed = []

    def kill_one():
        killed.append(wait(lambda: training(places[1]))[0])
        killed[0].kill()

    def table(place, *flags):
        monkeypatch.chdir(place)
        path = call(reproduce, "prunelora", "--dataset", "digits", "--model", "resnet8", *ASKED, *flags)
        return json.loads(path.read_text(encoding="utf-8"))

    with threads(1):
        alone = table(places[0])
        assert "continuing" not in capsys.readouterr().err
        killer = threading.Thread(target=kill_one)
        killer.start()
        by_ray = table(places[1], "--ray")
        killer.join()
    assert killed and capsys.readouterr().err.count("continuing after epoch") == 1
    for one, other in zip(alone["rows"], by_ray["rows"], strict=True):
        assert one["command"] == other["command"] and one["device"] == other["device"]
        differ = {name for name in one["metrics"] if one["metrics"][name] != other["metrics"][name]}
        assert differ <= {"seconds", "memory_mib"}, one["method"]
    assert not workers()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "code", "at_sigint"),
    [
        (signal.SIGINT, 130, signal.default_int_handler),
        (signal.SIGTERM, 143, signal.default_int_handler),
        (signal.SIGTERM, 143, signal.SIG_IGN),  # as a shell starts its background jobs
    ],
)
def test_what_is_stopped_leaves_no_worker_and_is_continued(by, code, at_sigint, tmp_path):
    flags = ("prunelora", "--preset", "first", "--dataset", "digits", "--methods", "finetune", "--ray", "--device", "cpu")
    command = [sys.executable, ROOT / "reproduce.py", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    begin = partial(signal.signal, signal.SIGINT, at_sigint)
    process = subprocess.Popen(command, cwd=tmp_path, **pipes, preexec_fn=begin)
    wait(lambda: training(tmp_path))
    process.send_signal(by)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and said.splitlines()[-1] == "reproduce.py: stopped; the same command continues"
    assert "Traceback" not in said
    wait(lambda: not workers(), 10)
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=300)
    assert again.returncode == 0 and "continuing after epoch" in again.stderr
    assert [line for line in again.stderr.splitlines() if line.startswith("done: ")] == [
        f"done: {count} of 3 runs" for count in (1, 2, 3)
    ]


@pytest.mark.slow
def test_a_mistake_in_a_run_is_its_one_line_and_what_waits_for_it_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wrong = ("lora", ["--dataset", "digits", "--original", "nowhere.pth", "--forget-class", "3", "--output", "a.pth"])
    after = ("lora", ["--dataset", "digits", "--original", "a.pth", "--forget-class", "4"])
    with pytest.raises(UserError, match=r"nowhere\.pth"):
        cluster.run_all([wrong, after], "", 1, "cpu", quiet=True)
    with pytest.raises(UserError, match="--cores 4096: no machine has so many"):
        cluster.run_all([wrong], "", 4096, "cpu")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_workers_whose_runs_diverge_are_left_out_of_a_tuning_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", "digits", "--subset", "100", "--model", "resnet8", "--epochs", "1", "--quiet"]
    call(pretrain, *common)
    common += ["--forget-class", "3", "--batch-size", "16"]
    runs = [("baselines.l1sparse", [*common, "--lr", rate]) for rate in ("1000000", "0.002")]
    (path,) = cluster.run_all(runs, "", 1, "cpu", quiet=True, diverging=True)
    assert models.load_checkpoint(path)["config"]["lr"] == 0.002
    assert capsys.readouterr().err.count("left out: python -m baselines.l1sparse") == 1
    with pytest.raises(Diverged):
        cluster.run_all(runs, "", 1, "cpu", quiet=True)
