"""Whatever one field of a file holds: commands take it or refuse it in one line, and never end in a traceback."""

import json
from pathlib import Path

import data
import lmeraser
import lora
import pretrain
import retrain
from tests.helpers import ROOT, call
from unlearning.exact.system import read_system

IMAGES = ("--dataset", "digits", "--subset", 200, "--test-subset", 60)
COMMON = (*IMAGES, "--model", "resnet8", "--epochs", 1, "--quiet")
# Kind of file: its place in a folder of sound ones.
KINDS = {
    "original": "original.pth",
    "lora": "lora.pth",
    "system": "system/system.pth",
    "part": "system/part_0000_0000.pth",
    "result": "result/result.json",
}


def build(folder: Path) -> None:
    """A sound file of each kind."""
    call(pretrain, *COMMON, "--output", folder / "original.pth")
    request = ("--original", folder / "original.pth", "--forget-class", 3, "--output", folder / "lora.pth")
    call(lora, *COMMON, *request)
    call(retrain, *COMMON, "--forget-random", 0.9, "--output", folder / "public.pth")
    small = ("--parts", 2, "--anchors", 10, "--epochs", 1, "--jobs", 1, "--quiet", "--backbone", folder / "public.pth")
    call(lmeraser, "train", *IMAGES, *small, "--output", folder / "system")
    call(lmeraser, "delete", folder / "system", "--ids", private(folder)[0], "--quiet")
    next((folder / "system").glob("part_*.pth")).rename(folder / "system" / "kept")
    (folder / "system" / "kept").rename(folder / KINDS["part"])
    (folder / "result").mkdir()
    result = json.loads((ROOT / "results/prunelora-first/result.json").read_text(encoding="utf-8"))
    result["rows"] = [row for row in result["rows"] if row["method"] in ("original", "retrain", "lora")]
    (folder / "result/result.json").write_text(json.dumps(result), encoding="utf-8")


def private(folder: Path) -> list[int]:
    """Numbers of images that a system's part holds, in the full training set."""
    whole = data.load("digits", subset=200, test_subset=60).whole
    return whole.positions[read_system(folder / "system")["private"]].tolist()
