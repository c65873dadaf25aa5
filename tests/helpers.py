"""Ways to run a script, in this process or as a user would."""

import contextlib
import errno
import functools
import http.server
import itertools
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock

import data
import evaluate
from unlearning.core.device import Compute
from unlearning.core.files import Staged, read_torch, staging
from unlearning.core.flags import PerModel, main
from unlearning.core.locks import locked
from unlearning.evaluation.flags import Scoring
from unlearning.vision import adapter_files
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot

ROOT = Path(__file__).parent.parent
FEW = ("--dataset", "digits", "--subset", 300)  # for what is shown by few images as well as by all
FP32 = Compute("cpu", "fp32", Path("model_weights"), quiet=True)


def call(script, *arguments, shared=None):
    """Run a script's own `run` on an argument list, in this process: the checkpoint's path. Of flags given twice the last
    one counts, so that a test can change one of many."""
    return script.run(script.parser().parse_args(latest(arguments)), f"python {script.__name__}.py", shared)


def stopped(monkeypatch, after, script, *arguments):
    """A run that ends by an error once it has written its state after so many epochs."""
    write = Snapshot.write

    def stopping(self, *given):
        write(self, *given)
        if read_torch(self.path)["epoch"] == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Snapshot, "write", stopping)
        call(script, *arguments)


def latest(arguments):
    """Words of a command line without the flags, and their values, that come again."""
    groups = [[]]
    for word in map(str, arguments):
        groups += [[]] if word.startswith("--") else []
        groups[-1].append(word)
    last = {group[0]: place for place, group in enumerate(groups) if group}
    kept = (group for place, group in enumerate(groups) if place == 0 or last[group[0]] == place)
    return [word for group in kept for word in group]


def forgetting_three(weights, epochs, model="resnet8"):
    """Flags of a method that forgets class 3 of digits, starting from the original in `weights`."""
    where = ("--dataset", "digits", "--model", model, "--weights", weights)
    return (*where, "--forget-class", 3, "--epochs", epochs, "--quiet")


def rows_of(*arguments, beneath=True):
    """The rows of `evaluate.py <arguments>`."""
    from unlearning.evaluation import collect  # takes seconds

    args = evaluate.parser().parse_args(latest([*arguments, "--quiet"]))
    return collect.score_files(args.checkpoints, Scoring.from_flags(args), Shared(args.cache), beneath)


def one_line(script, capsys, *arguments):
    """Run a script's main in this process and expect it to fail: (exit code, its one line)."""
    capsys.readouterr()
    argv, sys.argv = sys.argv, [f"{script.__name__}.py", *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as stop:
            main(getattr(script, "run", None) or script.measure_all, script.parser())
    finally:
        sys.argv = argv
    said = capsys.readouterr().err.splitlines()
    progress = ("continuing ", "downloading ", "forgets ", "run ", "starts from ")
    lines = [line for line in said if not line.startswith(progress) and "images are resized to" not in line]
    assert len(lines) == 1, lines
    return stop.value.code, lines[0]


def shell(*arguments, kill_when=None, file_limit_kib=None, by=None):
    """Run `python <arguments>` as a user would. kill_when: a function; once it is true the process is killed, or gets the
    signal `by`."""
    command = [sys.executable, *map(str, arguments)]
    if file_limit_kib:
        if sys.platform == "win32":
            pytest.skip("Windows has no limit for a process's files")
        command = ["bash", "-c", f'ulimit -f {file_limit_kib}; exec "$@"', "bash", *command]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    if kill_when:
        while process.poll() is None and not kill_when():
            time.sleep(0.005)
        process.send_signal(by) if by else process.kill()
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def changed(action):
    """A flag with another value than its default, as words of a command line."""
    name, default = action.option_strings[-1], action.default
    if isinstance(default, PerModel):
        default = default.of("resnet8", recipe="fast")
    if action.nargs == 0:  # of --muon and --no-muon the one that changes something
        return (action.option_strings[-1 if default else 0],)
    if action.metavar == "LAYER":
        return name, "fc"
    if action.dest == "retain_subset":
        return name, 50
    if action.choices:
        return name, next(choice for choice in action.choices if choice not in (default, "fp32"))
    default = default or 0
    return name, default + 1 if action.type.kind is int else default / 2 or 0.25


def record_of(name, forget=(4, 7), **arguments):
    """What the checkpoint of a network says of itself, but for its weights: of an invented run that forgot two images."""
    shape = {"in_chans": 3, "num_classes": 5, "img_size": 32, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]} | arguments
    return {
        "network": {"name": name, "arguments": shape},
        "method": "lora",
        "config": {"forget_class": [3]},
        "data": {"tag": "digits", "fingerprint": "of digits"},
        "forget": torch.tensor(forget, dtype=torch.int64),
        "forget_tag": "class3",
        "command": "python lora.py --forget-class 3",
        "parent": "of the original",
    }


def finished_run(output, name, **arguments):
    """A run of `record_of` whose files will lie at `output` once they are committed."""
    return Run("lora", Settings({}), FP32, None, Staged(output), record=record_of(name, **arguments))


def save_adapter(peft_model, run, masks=None, compact=False):
    """Write an adapter beside a checkpoint that isn't there."""
    with staging(run.staged.main) as staged:
        adapter_files.save(peft_model, replace(run, staged=staged), masks, compact)


def dies(action):
    """Carry out an action in a process of its own: True if that ended at once, as a killed one does, by `killed`."""
    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def killed_once(begun, action):
    """Carry out an action in a process of its own that is killed once `begun()` is true: True if it came to that."""
    if sys.platform == "win32":
        pytest.skip("Windows has no fork")
    child, ended = os.fork(), (0, 0)
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    while not ended[0] and not begun():
        time.sleep(0.005)
        ended = os.waitpid(child, os.WNOHANG)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(ended[1]) == -signal.SIGKILL


def killed(*_, **__):
    """What `dies` calls in the place of a function."""
    os._exit(9)


OPERATIONS = [(os, "replace"), (Path, "rename"), (Path, "unlink"), (Path, "write_text"), (shutil, "rmtree")]


def killed_at(step, action):
    """Carry out an action in a process that dies before its operation number `step` on files: True if it came to that."""

    def counted():
        left = itertools.count(step, -1)
        for owner, name in OPERATIONS:
            real = getattr(owner, name)
            setattr(owner, name, lambda *a, real=real, **k: real(*a, **k) if next(left) else killed())
        action()

    return dies(counted)


def lines_of(card):
    """The Python of a Markdown text: its first block."""
    return card.split("```python\n")[1].split("```")[0]


UNPACKABLE = ("encrypted", "of an unknown method", "damaged LZMA")


def packed_again(path, method):
    """Pack the members of an archive in another way: one of zipfile's."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def make_unpackable(path, kind):
    """Change an archive of NumPy, members that aren't compressed, to one of UNPACKABLE."""
    if kind == "damaged LZMA":
        packed_again(path, zipfile.ZIP_LZMA)
    content = bytearray(path.read_bytes())
    flag, method = (1, 0) if kind == "encrypted" else (0, 99)
    for start in [found.start() for found in re.finditer(b"PK\3\4", content)]:
        if kind == "damaged LZMA":
            name, more = struct.unpack("<HH", content[start + 26 : start + 30])
            content[start + 30 + name + more + 9] ^= 0xFF  # the first byte behind LZMA's properties
        else:
            content[start + 6 : start + 10] = struct.pack("<HH", flag, method)
    for start in [found.start() for found in re.finditer(b"PK\1\2", content) if kind != "damaged LZMA"]:
        content[start + 8 : start + 12] = struct.pack("<HH", flag, method)
    path.write_bytes(content)


def files(folder):
    """{path below the folder: bytes} of every file in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def full_disk(nth=1):
    """A disk that is full from the `nth` file on that is written while the context lasts: what is written isn't flushed.

    Yields a list that grows by one with each file.
    """
    written, flush = [], os.fsync

    def no_room(descriptor):
        written.append(descriptor)
        if len(written) >= nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", no_room)
        yield written


@contextlib.contextmanager
def served(folder):
    """The address of a server on this machine that hands out the files of a folder while the context lasts."""
    handler = functools.partial(Silent, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def while_waiting(path, action, meanwhile, capsys):
    """What `action` returns, which waits for the lock on `path` while `meanwhile` is carried out under it."""
    found = []
    with locked(path):
        thread, said = threading.Thread(target=lambda: found.append(action())), ""
        thread.start()
        while "waiting for it" not in said and thread.is_alive():
            time.sleep(0.02)
            said += capsys.readouterr().err
        assert thread.is_alive()
        meanwhile()
    thread.join()
    return found[0]


class Silent(http.server.SimpleHTTPRequestHandler):
    """A handler that doesn't print each request."""

    def log_message(self, *_):
        pass


def built_once(tmp_path_factory, name, build):
    """A folder with what `build(folder)` writes into it, built by one of the workers of a test run for all of them."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    folder, done = root / name, root / f"{name}.done"
    with FileLock(root / f"{name}.lock"):
        if not done.exists():
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


class Altered(Shared):
    """Reads digits whose images at some training positions, int64 (N,), are inverted and have the next label."""

    def __init__(self, positions):
        super().__init__()
        self.positions = positions

    def load(self, source):
        dataset = super().load(source)
        images, labels = dataset.train.images.clone(), dataset.train.labels.clone()
        images[self.positions] = 255 - images[self.positions]
        labels[self.positions] = (labels[self.positions] + 1) % 10
        return replace(dataset, train=data.Split(images, labels), fingerprint="of altered images")


class Pixel(torch.nn.Module):
    """Logits (s x, 0, 0) of a pixel x from 0 to 1."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * torch.nn.functional.pad(x.flatten(1), (0, 2))
