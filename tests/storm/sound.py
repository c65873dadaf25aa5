"""A folder with a sound file of each kind, and the commands that read them."""

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import data
import evaluate
import export
import finetune
import lmeraser
import lora
import pretrain
import reproduce
import retrain
from tests.helpers import ROOT, call, files
from tests.storm import language
from tests.storm.malformed import Case, broken, cases
from unlearning.core.errors import UserError
from unlearning.exact.reading import read_system
from unlearning.exact.storage import SYSTEM
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot

IMAGES = ("--dataset", "digits", "--subset", 200, "--test-subset", 60)
COMMON = (*IMAGES, "--model", "resnet8", "--epochs", 1, "--quiet")
PARTS = ("--parts", 2, "--anchors", 10, "--epochs", 1, "--jobs", 1, "--quiet")
KINDS = ("original", "lora", "public", "system", "part", "result", "snapshot", "timm", "onnx", *language.PLACES)
SLOW = ("timm", "onnx", *language.PLACES)  # not in `make test`
PLACES = {"snapshot": ("", "next.pth.partial"), "timm": ("timm", "config.json"), "onnx": ("", "x.onnx")}
PLACES |= {kind: (f"language/{place}", name) for kind, (place, name) in language.PLACES.items()}


def build(folder: Path) -> None:
    """Write a sound file of each kind but those of SLOW."""
    call(pretrain, *COMMON, "--output", folder / "original.pth")
    call(lora, *COMMON, *request(folder / "original.pth"), "--output", folder / "lora.pth")
    call(retrain, *COMMON, "--forget-random", 0.9, "--output", folder / "public.pth")
    call(lmeraser, "train", *IMAGES, *PARTS, "--backbone", folder / "public.pth", "--output", folder / "system")
    call(lmeraser, "delete", folder / "system", "--ids", *private(folder)[:2], "--quiet")
    (folder / "result").mkdir()
    result = json.loads((ROOT / "results/prunelora-first/result.json").read_text(encoding="utf-8"))
    result["rows"] = [row for row in result["rows"] if row["method"] in ("original", "retrain", "lora")]
    for row in result["rows"][1:]:
        del row["curves"]  # a panel of one row is enough
    (folder / "result/result.json").write_text(json.dumps(result), encoding="utf-8")
    with contextlib.suppress(KeyboardInterrupt):
        _unfinished(folder)


def build_slow(folder: Path) -> None:
    """Write the sound files of SLOW."""
    vit = ("--model", "vit_micro", "--output", folder / "vit.pth")
    call(pretrain, *COMMON, *vit)
    call(export, folder / "vit.pth", "--timm", folder / "timm")
    call(export, folder / "lora.pth", "--onnx", folder / "x.onnx")
    language.build(folder / "language")


def _unfinished(folder: Path) -> None:
    """Interrupt a run after the first of its two epochs."""
    write = Snapshot.write

    def interrupted(snapshot: Snapshot, *state: Any) -> None:
        write(snapshot, *state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Snapshot, "write", interrupted)
        _continues(folder)


def _continues(folder: Path, *flags: object, shared: Shared | None = None) -> object:
    """The run that `_unfinished` has begun."""
    original = request(folder / "original.pth")
    return call(lora, *COMMON, "--epochs", 2, *original, "--output", folder / "next.pth", *flags, shared=shared)


def request(original: Path) -> tuple[object, ...]:
    """Flags of a method that forgets class 3."""
    return ("--original", original, "--forget-class", 3)


def private(folder: Path) -> list[int]:
    """The numbers of a system's private images in the full training set."""
    whole = data.load("digits", subset=200, test_subset=60).whole
    return whole.positions[read_system(folder / "system")["private"]].tolist()


def of_kind(kind: str, sound: Path) -> tuple[Path, str]:
    """The folder below `sound` and the name of a kind's file."""
    if kind == "result":
        return sound / "result", "result.json"
    if kind in PLACES:
        place, name = PLACES[kind]
        return sound / place, name
    if kind in ("system", "part"):
        part = next(name for name in read_system(sound / "system")["files"] if name)
        return sound / "system", SYSTEM if kind == "system" else part
    return sound, f"{kind}.pth"


def all_cases(kind: str, sound: Path) -> list[Case]:
    """Every damaged file of a kind."""
    folder, name = of_kind(kind, sound)
    return list(broken(kind, folder, name) if kind in ("onnx", "adapter") else cases(kind, folder, name))


def damage(case: Case, sound: Path, folder: Path) -> None:
    """Make `folder` a copy of the sound one with the case's file in it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    place, _ = of_kind(case.kind, sound)
    case.write(folder / place.relative_to(sound))


def survives(case: Case, sound: Path, folder: Path, shared: Shared) -> bool:
    """Let every command read a damaged file: whether one has refused it.

    Raises AssertionError where one ends in another exception than a refusal, or writes something before it refuses.
    """
    damage(case, sound, folder)
    before, refused = files(folder), False
    for read in readers(case.kind, sound, folder, shared):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read()
        except UserError:
            refused = True
            assert files(folder) == before, f"{case.kind}: {case.field} {case.fault}: refused, and something is written"
        except BaseException as error:
            raise AssertionError(f"{case.kind}: {case.field} {case.fault} ends in {error!r}") from error
        before = files(folder)
    return refused


def readers(kind: str, sound: Path, folder: Path, shared: Shared) -> list[Callable[[], object]]:
    """What reads a file of this kind in `folder`, each a command."""
    if kind in ("original", "lora"):
        return _of_checkpoints(folder / f"{kind}.pth", folder, shared)
    train = ("train", *IMAGES, *PARTS, "--backbone", folder / "public.pth", "--output")
    if kind == "public":
        return [lambda: call(lmeraser, *train, folder / "another", shared=shared)]
    if kind == "snapshot":
        return [lambda: _continues(folder, shared=shared), lambda: _continues(folder, "--overwrite", shared=shared)]
    if kind == "timm":
        forget = ("--forget-class", 3, "--epochs", 1, "--quiet", "--output", folder / "next.pth")
        return [
            lambda: call(finetune, *IMAGES, "--original", folder / "timm", *forget, shared=shared),
            lambda: call(export, folder / "timm", "--timm", folder / "another"),
            lambda: call(export, folder / "vit.pth", "--timm", folder / "timm"),
            lambda: call(export, folder / "vit.pth", "--timm", folder / "timm", "--overwrite"),
        ]
    if kind == "onnx":
        onnx = (folder / "lora.pth", "--onnx", folder / "x.onnx")
        return [lambda: call(export, *onnx), lambda: call(export, *onnx, "--overwrite")]
    if kind in language.PLACES:
        return language.readers(folder / "language")
    if kind == "part":
        return [lambda: _scored(folder / "system", shared)]
    if kind == "system":
        gone = private(sound)[5]
        return [
            lambda: call(evaluate, "--list", "--weights", folder),
            lambda: call(lmeraser, "show", folder / "system"),
            lambda: _scored(folder / "system", shared),
            lambda: call(lmeraser, "delete", folder / "system", "--ids", gone, "--quiet", shared=shared),
            lambda: _forgets_the_same(folder / "system", folder, shared),
            lambda: call(lmeraser, *train, folder / "system", shared=shared),
        ]
    card = ("--row", folder / "result/result.json", "--timm", folder / "timm")
    return [lambda: call(reproduce, "draw", folder / "result"), lambda: call(export, folder / "lora.pth", *card)]


def _of_checkpoints(file: Path, folder: Path, shared: Shared) -> list[Callable[[], object]]:
    again = folder / "original.pth" if file.stem == "lora" else file.with_name("lora.pth")
    return [
        lambda: call(evaluate, "--list", "--weights", folder),
        lambda: _scored(file, shared, "--forget-class", 3),
        lambda: call(export, file, "--timm", folder / "timm"),
        lambda: call(finetune, *COMMON, *request(file), "--output", folder / "next.pth", shared=shared),
        lambda: _forgets_the_same(file, folder, shared),
        lambda: call(lora, *COMMON, *request(again), "--output", file, shared=shared),
    ]


def _scored(path: Path, shared: Shared, *flags: object) -> object:
    return call(evaluate, path, *flags, "--quiet", "--weights", path.parent / "none", shared=shared)


def _forgets_the_same(path: Path, folder: Path, shared: Shared) -> object:
    return call(retrain, *COMMON, "--forget-file", path, "--output", folder / "again.pth", shared=shared)
