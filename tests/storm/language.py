"""LLMEraser's part of the storm: a tiny random base with rows, the commands that write, and files to be damaged.

The module is itself a script of the storm's, which writes base and rows: `call(language, folder)`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llmeraser
from tests.helpers import call
from unlearning.core.flags import Parser
from unlearning.language.session import Workspace

LIBRARIES = "transformers.models.llama.modeling_llama scipy.linalg curvlinops tests.language.conftest"
WEIGHTS = "adapter_model.safetensors"
# Each kind of file: its folder, its name.
PLACES = {
    "record": ("adapter", "record.json"),
    "peft config": ("adapter", "adapter_config.json"),
    "adapter": ("adapter", WEIGHTS),
    "factors": ("", "adapter_ekfac.pth"),
}
BEFORE = ("--weights", "{}", "--quiet")
TUNED = ("finetune", "--base", "{}/base", "--train", "{}/train.jsonl", "--validation", "{}/unseen.jsonl", *BEFORE)
TUNE = (*TUNED, "--evaluations", 3, "--output", "{}/adapter")
ASK = ("remove", "{}/adapter", "--ids", 3, 5, *BEFORE, "--output", "{}/answer", "--curvature", "gauss-newton")
EKFAC = (*ASK, "--solver", "ekfac")
CORRECT = ("correct", "{}/answer", "--request", "{}/right.jsonl", *BEFORE, "--output", "{}/next", "--method", "npo")
# Every way in which it writes: the name, the words, the name of the command before it.
COMMANDS: dict[str, tuple[tuple[object, ...], str]] = {
    "llmeraser finetune": (TUNE, ""),
    "llmeraser finetune --overwrite": ((*TUNE, "--rank", 2, "--overwrite"), "llmeraser finetune"),
    "llmeraser remove": (ASK, "llmeraser finetune"),
    "llmeraser remove --solver ekfac": (EKFAC, "llmeraser finetune"),
    "llmeraser remove --overwrite": ((*ASK, "--damping", 0.5, "--overwrite"), "llmeraser remove"),
    "llmeraser correct": (CORRECT, "llmeraser remove"),
}


def parser() -> Parser:
    """The folder to write to."""
    found = Parser(__doc__)
    found.add_argument("folder", type=Path)
    return found


def run(args: argparse.Namespace, command: str, shared: Any = None) -> Path:
    """Write a base, rows to train on and to choose by, and a request."""
    from tests.language.conftest import lines_of_rows, save_base, write_lines

    save_base(args.folder / "base")
    write_lines(args.folder / "train.jsonl", lines_of_rows(12, 0))
    write_lines(args.folder / "unseen.jsonl", lines_of_rows(6, 1))
    write_lines(args.folder / "right.jsonl", [{"id": "1", "response": "w3"}])
    return args.folder


def words(some: tuple[object, ...], folder: Path) -> list[str]:
    """A command's words, {} being the folder."""
    return [str(word).replace("{}", str(folder)) for word in some]


def build(folder: Path) -> None:
    """Write an adapter, what is frozen of its rows, and its factors."""
    run(argparse.Namespace(folder=folder), "")
    call(llmeraser, *words(TUNE, folder))
    call(llmeraser, *words(EKFAC, folder))


def readers(folder: Path) -> list[Callable[[], object]]:
    """What reads an adapter's folder, and what lies beside it, each a command."""
    shared = Workspace()
    score = ("evaluate", "{}/adapter", "{}/answer", "--test", "{}/unseen.jsonl", "--generate", 1, *BEFORE)
    other = ("--output", "{}/other")
    every = (score, TUNE, (*ASK, *other), (*EKFAC, *other, "--overwrite"), (*TUNE, "--overwrite"))
    return [lambda some=some: call(llmeraser, *words(some, folder), shared=shared) for some in every]  # type: ignore[misc]
