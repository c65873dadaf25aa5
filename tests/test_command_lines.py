"""Mistakes in command lines: every script answers with one line, exit code 2, and the way out."""

import argparse
import importlib
import sys

import pytest

from tests.helpers import ROOT, one_line
from unlearning.core.flags import Number, Parser

NAMES = [path.stem for path in ROOT.glob("*.py") if path.stem not in ("data", "models")]
NAMES += [f"{folder}.{path.stem}" for folder in ("baselines", "benchmarks") for path in (ROOT / folder).glob("*.py")]
NAMES = sorted(set(NAMES) - {"benchmarks.published_way"})  # no command


def parts(parser, words=()):
    """A parser's own subcommands, or itself: (words that lead there and satisfy it, parser)."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for name, part in action.choices.items():
            yield from parts(part, (*words, name))
    if not inner:
        needed = []
        for action in parser._actions:
            value = str(next(iter(action.choices))) if action.choices else "1"
            if action.required:
                needed += [*action.option_strings[-1:], value]
        yield (*words, *needed), parser


def mistakes(parser):
    """Malformed command lines and what the answer has in it."""
    for words, part in parts(parser):
        yield (*words, "--nonsense"), "unrecognized arguments: --nonsense"
        yield (*words, "--nonsense=3", "4"), "--nonsense=3"
        for action in part._actions:
            if not action.option_strings or isinstance(action, argparse._HelpAction):
                continue
            flag = action.option_strings[-1]
            yield (*words, flag[:-1]), flag  # abbreviated, and the flag that was meant is named
            if action.nargs == 0:
                yield (*words, f"{flag}=3"), flag
                continue
            if action.nargs != "?":
                yield (*words, flag), f"argument {flag}: expected"
            if action.choices:
                yield (*words, flag, f"{next(iter(action.choices))}x"), "did you mean"
            elif callable(action.type) and isinstance(action.type, Number):
                count = action.nargs if isinstance(action.nargs, int) else 1
                yield (*words, flag, *["x"] * count), f"argument {flag}: "
            if action.nargs == "+":
                value = next(iter(action.choices)) if action.choices else 1
                yield (*words, flag, value, flag, value), f"given twice; give its values at once: {flag} {value} {value}"


@pytest.mark.parametrize("name", NAMES)
def test_a_malformed_command_line_gets_one_line(name, capsys):
    script = importlib.import_module(name)
    cases = list(mistakes(script.parser()))
    assert len(cases) >= 3
    for arguments, part in cases:
        code, line = one_line(script, capsys, *arguments)
        assert code == 2 and part in line, (arguments, line)
        assert "usage:" not in line and "\n" not in line, (arguments, line)
        assert any(way in line for way in ("; --help explains all flags", "; did you mean")), (arguments, line)


SAID = [
    ("finetune", ("--epoch", "3"), "finetune.py: unrecognized arguments: --epoch 3; did you mean --epochs?"),
    ("finetune", ("--for", "3"), "did you mean --forget-class or --forget-random or --forget-file or --forget-count?"),
    ("finetune", ("--epochs", "2", "3"), "finetune.py: unrecognized arguments: 3; --help explains all flags"),
    (
        "finetune",
        ("--epochs", "x"),
        "argument --epochs: 'x' is not a whole number from 1 to 1,000,000,000; --help explains all flags",
    ),
    ("finetune", ("--epochs", "2.5"), "'2.5' is not a whole number from 1 to 1,000,000,000"),
    ("finetune", ("--precision", "fp31"), "invalid choice: 'fp31' (choose from fp32, bf16); did you mean fp32?"),
    ("finetune", ("--forget-class", "3", "--forget-random", "0.1"), "not allowed with argument --forget-class"),
    ("finetune", ("--forget-class", "3", "--forget-class", "5"), "give its values at once: --forget-class 3 5"),
    ("lmeraser", (), "arguments are required: action; action: train, delete, show; --help explains all flags"),
    ("lmeraser", ("trian",), "invalid choice: 'trian' (choose from train, delete, show); did you mean train?"),
    ("lmeraser", ("train", "--part", "3"), "lmeraser.py train: unrecognized arguments: --part 3; did you mean --parts?"),
    ("baselines.sisa", ("delete", "a", "--idss", "3"), "unrecognized arguments: --idss 3; did you mean --ids"),
    ("baselines.sisa", ("delete",), "the following arguments are required: folder; --help explains all flags"),
    ("llmeraser", ("remove", "a", "--method", "influnce"), "did you mean influence or finetune?"),
    ("llmeraser", ("forget", "a"), "choose from finetune, remove, modify, correct, evaluate"),
    ("reproduce", ("prunlora",), "did you mean prunelora"),
    ("reproduce", (), "required: table; table: prunelora, random, sequence"),
    ("export", (), "the following arguments are required: checkpoint; --help explains all flags"),
    ("benchmarks.compare", ("--methods", "finetun"), "did you mean finetune?"),
    ("benchmarks.throughput", ("--device", "cuda:9"), "--device cuda:9"),
]


@pytest.mark.parametrize(("name", "arguments", "expected"), SAID, ids=[" ".join(case[:1] + case[1]) for case in SAID])
def test_the_line_names_the_way_out(name, arguments, expected, capsys):
    code, line = one_line(importlib.import_module(name), capsys, *arguments)
    assert code == 2 and expected in line


def test_a_list_keeps_its_default_and_a_single_value_the_last_one():
    parser = Parser()
    parser.add_argument("--sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--lr", type=float)
    assert parser.parse_args([]).sizes == [1]
    assert vars(parser.parse_args(["--lr", "1", "--sizes", "2", "3", "--lr", "2"])) == {"sizes": [2, 3], "lr": 2.0}


def test_a_stdout_without_the_tables_signs_gets_others(monkeypatch, tmp_path):
    from unlearning.core.flags import main

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with open(tmp_path / "table.txt", "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        main(lambda args, command: print("81.2 ± 0.3"), Parser())
    assert (tmp_path / "table.txt").read_text(encoding="utf-8") == "81.2 ? 0.3\n"
