"""Kills before every operation on files of every script that writes, and the same command again afterwards.

Each run is a process of its own that dies, as by SIGKILL, right before its n-th operation. Then everything that has a name
is old or new, never half and never of two runs, and the same command ends with the files of a run that was never killed,
bit for bit but for clocks, and with no other file.
"""

import importlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file

import evaluate
import export
import finetune
import llmeraser
import lmeraser
import lora
import loraprune
import pretrain
import pruneft
import reproduce
import retrain
import rfau
from baselines import (
    badteacher,
    control,
    delete,
    gradascent,
    l1sparse,
    negate,
    neglora,
    randomlabel,
    regun,
    scrub,
    sisa,
    ssd,
)
from tests.helpers import call
from tests.storm import language
from tests.storm.watch import check_watched
from unlearning.core.files import read_torch
from unlearning.vision import adapter_files

WRITING = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "shutil.move"}
# What differs between equal runs, and digests of files in which that is.
CLOCKS = {
    "seconds",
    "memory_mib",
    "seconds_ratio",
    "latency_ms",
    "of_bare_loop",
    "date",
    "peak",
    "factors_seconds",
    "elapsed",
}
ONCE = {"factors_seconds"}  # isn't there where what it timed had been computed before a kill
CLOCKS |= {"key", "parent", "origin", "seal"}
LIBRARIES = """timm peft torchvision torch_pruning sklearn.svm sklearn.cluster sklearn.linear_model sklearn.datasets filelock
    matplotlib.figure scipy.stats tabulate joblib unlearning.evaluation.collect unlearning.reports.figures
    unlearning.experiments.prunelora"""  # imported once: each run is a copy of this process
KILLED, REFUSED, TRACEBACK = 9, 2, 70  # exit codes
LEAST = 4  # kills of a command, however slow it is
IMAGES = ("--dataset", "digits", "--subset", 200, "--test-subset", 60)
COMMON = (*IMAGES, "--model", "resnet8", "--quiet")
PARTS = (*IMAGES, "--parts", 2, "--epochs", 2, "--jobs", 1, "--quiet")


class Command(NamedTuple):
    """A command that writes. arguments: words, where {} is the folder. after: the command before it, in the same folder."""

    name: str
    script: ModuleType
    arguments: tuple[object, ...]
    after: "Command | None" = None


class Outcome(NamedTuple):
    """What a kill and the same command again have led to. of: all operations of the command. wrong: what isn't as promised;
    None where all is."""

    command: str
    operation: int
    of: int
    wrong: str | None


def commands() -> Iterator[Command]:
    """Every command that writes, once for each way in which it writes."""
    first = Command("pretrain", pretrain, (*COMMON, "--epochs", 3, "--weights", "{}"))
    forget = (*COMMON, "--weights", "{}", "--forget-class", 3, "--epochs", 2, "--output", "{}/out.pth")
    yield first
    yield Command("retrain", retrain, forget)
    unlearning = (finetune, pruneft, lora, loraprune, gradascent, randomlabel, badteacher, scrub, ssd, l1sparse, negate)
    for script in (*unlearning, delete, neglora, regun):
        yield Command(script.__name__.split(".")[-1], script, forget, first)
    yield Command("control", control, (*forget, "--kind", "head-only"), first)
    yield Command("rfau", rfau, (*forget, "--plot", "{}/residuals.png"), first)
    before = Command("lora", lora, forget, first)
    yield Command("lora --overwrite", lora, (*forget, "--lr", 0.01, "--overwrite"), before)
    yield Command("finetune --overwrite over lora", finetune, (*forget, "--overwrite"), before)
    public = Command("retrain", retrain, (*COMMON, "--epochs", 1, "--forget-random", 0.8, "--output", "{}/public.pth"))
    backbone = ("--backbone", "{}/public.pth", "--output", "{}/system", "--seed", 1)
    for script in (lmeraser, sisa):
        name, own = script.__name__.split(".")[-1], ("--anchors", 10)
        train = Command(f"{name} train", script, ("train", *PARTS, *own, *backbone), public)
        yield train
        again = ("train", *PARTS, *own, *backbone, "--lr", 0.1, "--overwrite")
        yield Command(f"{name} train --overwrite", script, again, train)
        yield Command(f"{name} delete", script, ("delete", "{}/system", "--class", 3, "--quiet"), train)
    yield from _of_language()
    yield Command("export --timm", export, ("{}/out.pth", "--timm", "{}/folder"), _vit(lora, forget))
    yield Command("export --onnx", export, ("{}/out.pth", "--onnx", "{}/a.onnx"), before)
    scored = ("{}/out.pth", "--weights", "{}", "--quiet", "--json", "{}/a.json", "--csv", "{}/a.csv", "--latex", "{}/a.tex")
    yield Command("evaluate", evaluate, (*scored, "--plots", "{}/plots"), before)  # the slow ones last: they have the time
    table = (
        "prunelora",
        "--preset",
        "first",
        "--dataset",
        "digits",
        "--subset",
        200,
        "--epochs",
        1,
        "--methods",
        "lora",
        "--quiet",
    )
    yield Command("reproduce", reproduce, (*table, "--results", "{}/results", "--cache", 0))


def _of_language() -> Iterator[Command]:
    """LLMEraser's, on a tiny random base."""
    made = {"": Command("base", language, ("{}",))}
    for name, (words, before) in language.COMMANDS.items():
        made[name] = Command(name, llmeraser, words, made[before])
        yield made[name]


def _vit(script: ModuleType, forget: tuple[object, ...]) -> Command:
    """A checkpoint of a network that timm has."""
    words = tuple("vit_micro" if word == "resnet8" else word for word in forget)
    original = Command("pretrain", pretrain, (*IMAGES, "--model", "vit_micro", "--quiet", "--epochs", 1, "--weights", "{}"))
    return Command("lora", script, words, original)


def spread(count: int) -> list[int]:
    """0 to count - 1 in an order of which each beginning is spread evenly: first and last, the middle, quarters ..."""
    ends = [0, count - 1] if count > 1 else [0]
    bits = (count - 1).bit_length()
    turned = sorted(range(2**bits), key=lambda number: int(f"{number:0{bits}b}"[::-1], 2) if bits else 0)
    return ends + [number for number in turned if number < count and number not in ends]


def storm(command: Command, place: Path, most: int | None = None, until: float = math.inf) -> Iterator[Outcome]:
    """Kill a command before each of its operations, or before `most` of them at most, and LEAST at least, until the clock
    says `until`; these are spread evenly. place: an empty folder."""
    base, whole, work = place / "base", place / "whole", place / "work"
    work.mkdir()
    for earlier in _chain(command)[:-1]:
        code, _ = run(earlier, work)
        assert not code, f"{earlier.name} ends with {code}"
    _copy(work, base)
    code, count = run(command, work)
    assert not code and count, f"{command.name} ends with {code} after {count} operations"
    _copy(work, whole)
    for done, operation in enumerate(spread(count)[:most]):
        if done >= LEAST and time.time() > until:
            return
        check_watched()
        _copy(base, work)
        code, _ = run(command, work, operation)
        wrong = f"ends with {code} instead of being killed" if code != KILLED else _half(work, base, whole)
        if not wrong:
            code, _ = run(command, work)
            wrong = difference(work, whole)
            if wrong and code:  # else it was killed after its end, and says that all is there
                wrong = f"the same command ends with {code}, and {wrong}"
        yield Outcome(command.name, operation, count, wrong)


def run(command: Command, folder: Path, at: int | None = None) -> tuple[int, int]:
    """Run a command in a process of its own, which dies before its operation `at`: (exit code, number of operations)."""
    assert sys.platform != "win32", "the storm needs fork"
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(read)
        _silently(
            lambda: call(command.script, *(str(word).replace("{}", str(folder)) for word in command.arguments)),
            folder,
            write,
            at,
        )
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        count = len(pipe.read())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), count


def _silently(action: Callable[[], object], folder: Path, pipe: int, at: int | None) -> None:
    """Carry out an action, write a byte for each operation, and end the process with an exit code as `flags.main` does."""
    from unlearning.core.errors import RunFailed, UserError

    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    done, code = 0, 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if _writes(event, arguments, str(folder)):
            if done == at:
                os._exit(KILLED)
            done += 1
            os.write(pipe, b".")

    os.chdir(folder)  # tables keep their checkpoints below the folder they are started in
    sys.addaudithook(hook)
    try:
        action()
    except UserError as error:
        print(error, file=sys.stderr)
        code = REFUSED
    except RunFailed as error:
        print(error, file=sys.stderr)
        code = 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = TRACEBACK
    os._exit(code)


def _writes(event: str, arguments: tuple[Any, ...], folder: str) -> bool:
    """True for what Python is about to do to a file below a folder, but reading."""
    if event == "open":
        path, mode, flags = arguments
        writes = any(sign in (mode or "") for sign in "wax+") or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    else:
        path, writes = (arguments or (None,))[0], event in WRITING
    return writes and isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(folder)


def _chain(command: Command) -> list[Command]:
    return [*(_chain(command.after) if command.after else []), command]


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)


def _half(work: Path, base: Path, whole: Path) -> str | None:
    """What has a name after a kill and is neither as before nor as after the whole run, or lies beside another's."""
    for file in sorted(path for path in work.rglob("*") if path.is_file()):
        name = file.relative_to(work)
        if any(part.startswith(".") for part in name.parts) or file.suffix == ".partial":
            continue
        if file.parent.name == "system" and file.suffix == ".pth":
            continue  # a system's parts have names of their own, and system.pth says which count
        known = [root / name for root in (base, whole) if (root / name).is_file()]
        if file.parent.name == "frozen" and known and _part_of(file, known[-1]):
            continue  # states of rows, which become more as more rows are asked about
        if not any(alike(file, one) for one in known):
            return f"{name} is half written" if known else f"{name} belongs to no run"
    checkpoint, folder = work / "out.pth", work / "out_adapter"
    if checkpoint.exists() and folder.exists() and adapter_files.recorded(checkpoint) != adapter_files.digests(folder):
        return "out.pth lies beside another's adapter"
    return None


def _part_of(file: Path, whole: Path) -> bool:
    """True where a file of torch.save holds some of what another holds, the same."""
    some, every = read_torch(file), read_torch(whole)
    return all(_same(value, every.get(key)) for key, value in some.items())


def difference(one: Path, other: Path) -> str | None:
    """In what two folders differ, but for clocks; None where they don't."""
    names = [{path.relative_to(root).as_posix() for path in root.rglob("*")} for root in (one, other)]
    if odd := names[0] ^ names[1]:
        return f"{min(odd)} is {'left' if min(odd) in names[0] else 'missing'}"
    differing = [name for name in sorted(names[0]) if (one / name).is_file() and not alike(one / name, other / name)]
    return f"{differing[0]} differs" if differing else None


def alike(one: Path, other: Path) -> bool:
    """True for files that hold the same but for clocks. Of pictures and pages, in which clocks are drawn, all are alike."""
    if one.read_bytes() == other.read_bytes():
        return True
    if one.suffix == ".pth":
        return _same(read_torch(one), read_torch(other))
    if one.suffix == ".safetensors":
        return _same(load_file(one), load_file(other))
    if one.suffix == ".json":
        return _same(*(json.loads(path.read_text(encoding="utf-8")) for path in (one, other)))
    return one.suffix in (".png", ".md", ".csv", ".tex", ".html") and one.name != "residuals.png"  # in that there is none


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        if not isinstance(other, dict) or (one.keys() ^ other.keys()) - ONCE:
            return False
        return all(key in CLOCKS or _same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other or one != one  # NaN


def prepare() -> None:
    """Import what runs need, and compute with one thread: a process that has started threads can't be copied."""
    torch.set_num_threads(1)
    for name in LIBRARIES.split():
        importlib.import_module(name)


def main(most: int | None = None, minutes: float = math.inf) -> list[Outcome]:
    """The storm over all commands. minutes: for all; each may take an equal part of what those before it have left."""
    import tempfile

    prepare()
    for name in language.LIBRARIES.split():
        importlib.import_module(name)
    found, until, every = [], time.time() + 60 * minutes, list(commands())
    for place, command in enumerate(every):
        started = time.time()
        share = (until - started) / (len(every) - place)
        with tempfile.TemporaryDirectory() as folder:
            own = list(storm(command, Path(folder), most, started + share))
        found += own
        bad = [outcome for outcome in own if outcome.wrong]
        of, took = f"{len(own)} kills of {own[0].of}", f"{time.time() - started:.0f} s"
        print(f"{command.name}: {of}, {len(bad)} not survived, {took}", flush=True)
        for outcome in bad[:5]:
            print(f"    before operation {outcome.operation}: {outcome.wrong}", flush=True)
    return found


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
