"""Mistakes in command lines: every script answers with one line, exit code 2, and the way out."""

import argparse
import importlib
import os
import re
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT, one_line
from unlearning.core import flags
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import Number, Parser, main
from unlearning.core.paths import folder, input_file, input_path, name_or_path, output_file, output_folder
from unlearning.reports import results

NAMES = [path.stem for path in ROOT.glob("*.py") if path.stem not in ("data", "models")]
NAMES += [f"{folder}.{path.stem}" for folder in ("baselines", "benchmarks") for path in (ROOT / folder).glob("*.py")]
NAMES = sorted(set(NAMES) - {"benchmarks.published_way"})  # no command
MEASURING = ("beyond", "check_rows", "first_minutes", "growth", "shipped", "time_shares")
NO_NUMBERS = {"export", *(f"benchmarks.{name}" for name in MEASURING)}


def parts(parser, words=()):
    """A parser's own subcommands, or itself: (words that lead there and satisfy it, parser)."""
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for action in inner:
        for name, part in action.choices.items():
            yield from parts(part, (*words, name))
    if not inner:
        yield (*words, *needed(parser, None)), parser


def needed(parser, but):
    """Words that satisfy a parser without subcommands, but for those of one flag."""
    found = []
    for action in parser._actions:
        if action.required and action is not but:
            found += [*action.option_strings[-1:], str(next(iter(action.choices))) if action.choices else "1"]
    return found


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
    (
        "retrain",
        ("--original", "x.pth"),
        "--original x.pth; it starts afresh: --model names the network, or --data-of a checkpoint that was made from that",
    ),
    (
        "pretrain",
        ("--original=x",),
        "unrecognized arguments: --original=x; it starts afresh: --model names the network; --help",
    ),
    ("finetune", ("--for", "3"), "did you mean --forget-class or --forget-random or --forget-file or --forget-"),
    ("finetune", ("--epochs", "2", "3"), "finetune.py: unrecognized arguments: 3; --help explains all flags"),
    (
        "finetune",
        ("--epochs", "x"),
        "--epochs: 'x' is not a whole number from 1 to 1,000,000,000; --help explains all flags",
    ),
    ("finetune", ("--epochs", "2.5"), "'2.5' is not a whole number from 1 to 1,000,000,000"),
    ("reproduce", ("random", "--dry-run", "--share", "1e-300"), "'1e-300' is closer to 0 than 1e-30: give 0, or more"),
    ("reproduce", ("random", "--dry-run", "--share", "1e-7"), "'1e-7' is not a number from 1e-06 to 0.999999"),
    ("finetune", ("--lr", "1e308"), "'1e308' is not a number from 1e-30 to 1e+06"),
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


@pytest.mark.parametrize("kind", [value for value in vars(flags).values() if isinstance(value, flags.Number)], ids=str)
def test_numbers_are_within_their_bounds_or_refused(kind):
    """Also those that float() makes 0 or infinite, and the smallest that it has."""
    for word in ("1e308", "-1e308", "1e400", "5e-324", "1e-300", "-5e-324", "1e-400", "inf", "nan", "9" * 400):
        with pytest.raises(argparse.ArgumentTypeError):
            kind(word)
    for word in ("-0.0", "-0", "0", "0e9"):
        if kind.kind is int and not word.lstrip("-").isdigit():
            continue
        if kind.least == 0 and not kind.above:
            assert str(kind(word)) == str(kind.kind(0))
        else:
            with pytest.raises(argparse.ArgumentTypeError):
                kind(word)


@pytest.mark.parametrize(("name", "arguments", "expected"), SAID, ids=[" ".join(case[:1] + case[1]) for case in SAID])
def test_the_line_names_the_way_out(name, arguments, expected, capsys):
    code, line = one_line(importlib.import_module(name), capsys, *arguments)
    assert code == 2 and expected in line


@pytest.mark.parametrize(
    ("name", "flag", "default"),
    [
        ("evaluate", "dataset", "what each file says, which those from elsewhere don't"),
        ("evaluate", "model", "what each file says"),
        ("finetune", "dataset", "fashion-mnist"),
        ("finetune", "model", "resnet20, or what --original holds"),
        ("retrain", "model", "resnet20, or what --data-of holds"),
        ("pretrain", "model", "resnet20"),
    ],
)
def test_help_says_the_default_of_this_command_and_every_kind_of_network(name, flag, default):
    actions = importlib.import_module(name).parser()._actions
    (action,) = (action for action in actions if action.dest == flag)
    assert f"(default: {default})" in action.help
    if default == "fashion-mnist":
        assert action.default == default
    if flag == "model":
        kinds = ("timm:NAME", "torchvision:NAME", "FILE.py:FUNCTION", "vit_small")
        assert all(kind in action.help for kind in kinds) and ("/FOLDER" in action.help) == (name in ("retrain", "pretrain"))


def test_help_says_how_files_from_elsewhere_are_scored():
    (action,) = (action for action in importlib.import_module("evaluate").parser()._actions if action.dest == "checkpoints")
    assert "from elsewhere with --dataset, and --model" in action.help


def test_a_flag_that_is_given_twice_has_one_value():
    parser = Parser()
    parser.add_argument("--sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--lr", type=float, default=1.0)
    assert parser.parse_args([]).sizes == [1]
    assert vars(parser.parse_args(["--lr", "2", "--sizes", "2", "3", "--lr", "2.0"])) == {"sizes": [2, 3], "lr": 2.0}


@pytest.mark.parametrize("first", ["2", "1"], ids=["other", "default"])
def test_a_flag_with_two_values_is_refused(first, capsys):
    parser = Parser()
    parser.add_argument("--lr", type=float, default=1.0)
    with pytest.raises(SystemExit):
        parser.parse_args(["--lr", first, "--lr", "3"])
    assert f"argument --lr: given twice, as '{first}' and as '3'" in capsys.readouterr().err


# What is typed, and its value where it is a number at all, written as one has to be.
TYPED = {
    "-1": -1,
    "0": 0,
    "nan": None,
    "inf": None,
    "1e400": 10**400,
    "1" + "0" * 400: 10**400,
    "9223372036854775808": 2**63,
}
TYPED |= {
    "1e39": 10**39,
    "1_0": None,
    "１０": None,
    "٣": None,
    "": None,
    " 1": None,
    "0x1": None,
    "1" + "0" * 5000: 10**5000,
}


def flags_of(fits):
    """(name of the script, parser, flag, words for the others that it needs) of all flags for whose type `fits` is true."""
    for name in NAMES:
        for _, part in parts(importlib.import_module(name).parser()):
            for action in part._actions:
                if fits(action.type):
                    yield name, part, action, needed(part, action)


def refusal(parser, action, others, value, capsys):
    """What a parser prints of a flag's value that it refuses; None where it takes it. It must be one line, exit code 2."""
    count = action.nargs if isinstance(action.nargs, int) else 1
    words = [*others, *action.option_strings[-1:], *[value] * count]
    try:
        parser.parse_args(words)
    except SystemExit as stop:
        said = capsys.readouterr().err
        assert stop.code == 2 and said.count("\n") == 1 and said.endswith("\n"), (words, said)
        assert len(said) < 600, said
        return said
    return None


def test_every_number_has_bounds_and_ascii_digits(capsys):
    seen = set()
    for name, parser, action, others in flags_of(lambda kind: isinstance(kind, Number)):
        seen.add(name)
        kind = action.type
        for text, value in TYPED.items():
            fits = value is not None and kind.least <= value <= kind.most
            fits &= not (kind.above and value == kind.least) and not (kind.below and value == kind.most)
            fits &= kind.kind is float or not re.search("[.e]", text)
            said = refusal(parser, action, others, text, capsys)
            assert (said is None) == fits, (name, action.dest, text)
            assert fits or f"argument {action.option_strings[-1]}: " in said
        for bound, left_out in ((kind.least, kind.above), (kind.most, kind.below)):
            assert (refusal(parser, action, others, str(bound), capsys) is None) != left_out, (name, action.dest)
        assert re.search(r"[0-9]", f"[{kind}]") and f"[{kind}]" in " ".join(parser.format_help().split())
    assert seen >= set(NAMES) - NO_NUMBERS


def test_every_flag_with_a_path_looks_at_it(tmp_path, capsys):
    """What no file system has, or what leads nowhere; what a file's or a folder's place is taken by."""
    file, pipe, loop, dangling = (tmp_path / name for name in ("file", "pipe", "loop", "dangling"))
    file.touch()
    result = tmp_path / "result.json"
    results.write(result, {"table": "prunelora-quick", "command": "python reproduce.py prunelora"})
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes among files")
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    dangling.symlink_to(tmp_path / "nothing")
    never = ["x" * 256, "x" * 300 + "/y", "x/" * 2500, "a\0b", "\udcff", loop, loop / "x", pipe, "/dev/zero"]
    wrong = {name_or_path: never, input_path: [*never, "", dangling, file / "x"]}
    wrong |= {input_file: [*wrong[input_path], tmp_path], output_file: [*wrong[input_path], tmp_path, "x" * 240]}
    wrong[results.Output] = [*wrong[output_file], file, result]  # no result file, and a table's
    wrong |= {folder: [*wrong[input_path], file, "x" * 240], output_folder: [*wrong[input_path], file, "x" * 240]}
    seen = set()
    for name, parser, action, others in flags_of(lambda kind: kind in wrong or isinstance(kind, results.Output)):
        seen.add(name)
        kind = results.Output if isinstance(action.type, results.Output) else action.type
        for path in wrong[kind]:
            assert refusal(parser, action, others, str(path), capsys), (name, action.dest, path)
        own = tmp_path / "own.json"
        if kind is results.Output:
            results.write(own, {"table": action.type.table, "command": f"python -m {name}"})
        sound = {folder: tmp_path, output_folder: tmp_path, results.Output: own}.get(kind, file)
        for path in (sound, tmp_path / "new", tmp_path / "neither" / "new"):
            assert refusal(parser, action, others, str(path), capsys) is None, (name, action.dest, path)
    assert seen >= set(NAMES) - {"benchmarks.many_models"}


def test_a_result_at_its_usual_place_is_looked_at_too(tmp_path, monkeypatch, capsys):
    """argparse looks at a default only where it is a text; else what somebody has changed there would be replaced."""
    outputs = list(flags_of(lambda kind: isinstance(kind, results.Output)))
    assert len(outputs) > 15 and all(isinstance(action.default, str) for _, _, action, _ in outputs)
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "results/benchmarks/beyond.json"
    results.write(mine, {"table": "beyond", "command": "python -m benchmarks.beyond", "rows": []})
    parser = importlib.import_module("benchmarks.beyond").parser()
    assert parser.parse_args([]).output == mine.relative_to(tmp_path)
    mine.write_text(mine.read_text(encoding="utf-8").replace("rows", "my rows"), encoding="utf-8")
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert "argument --output: 'results/benchmarks/beyond.json' isn't as this project wrote it" in capsys.readouterr().err


def test_no_number_and_no_path_is_read_in_another_way():
    """argparse's int and float take nan, "1_0" and other scripts' digits, and have no bounds; Path takes anything."""
    assert not [(name, action.dest) for name, _, action, _ in flags_of((int, float, complex, Path).__contains__)]


def test_a_stdout_without_the_tables_signs_gets_others(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with open(tmp_path / "table.txt", "w", encoding="ascii") as file:
        monkeypatch.setattr(sys, "stdout", file)
        main(lambda args, command: print("81.2 ± 0.3"), Parser())
    assert (tmp_path / "table.txt").read_text(encoding="utf-8") == "81.2 ? 0.3\n"


ENDS = [
    (UserError("a\nb"), 2, "x.py: a\\nb"),
    (RunFailed("a \x1b[31mred"), 1, "x.py: a \\x1b[31mred"),
    (OSError(28, "No space left on device", "a.bin"), 1, "x.py: a.bin: No space left on device"),
    (MemoryError(), 1, "x.py: there is too little memory: try a smaller --batch-size or network"),
    (torch.OutOfMemoryError("CUDA\nmore"), 1, "x.py: there is too little memory: try a smaller --batch-size or network"),
]


@pytest.mark.parametrize(("error", "code", "line"), ENDS, ids=lambda value: type(value).__name__)
def test_what_the_system_refuses_is_one_line(monkeypatch, capsys, error, code, line):
    def run(args, command):
        raise error

    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as stop:
        main(run, Parser(prog="x.py"))
    assert stop.value.code == code and capsys.readouterr().err == line + "\n"


def test_memory_that_torch_does_not_get_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(SystemExit) as stop:
        main(lambda args, command: torch.empty(2**50), Parser(prog="x.py"))
    assert stop.value.code == 1 and "too little memory" in capsys.readouterr().err


def test_a_mistake_of_the_program_has_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with pytest.raises(ZeroDivisionError):
        main(lambda args, command: 1 / 0, Parser(prog="x.py"))


def test_an_output_that_is_closed_at_its_end_is_no_error(monkeypatch):
    """What is printed last waits in a buffer until the end."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sys, "argv", ["x.py"])
    with open(writer, "w", encoding="ascii") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        main(lambda args, command: print("a"), Parser(prog="x.py"))
        nobody.flush()
