"""Every command that README, docs and docstrings name parses."""

import ast
import importlib
import re
import shlex

import pytest

from tests.helpers import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = [*ROOT.glob("*.py"), *ROOT.glob("baselines/*.py"), *ROOT.glob("benchmarks/*.py")]
SPAN = re.compile(r"(?:^ *(?:\$ )?|`)(?:[A-Z_]+=\S+ )*((?:python|torchrun|accelerate launch) [^`\n]+)", re.MULTILINE)
NEXT = re.compile(r"\s+(?:&&|\|\|?|>>?)\s+|;\s+")  # what a shell reads as the end of a command's arguments
BARE = ("benchmarks.attack_draws", "benchmarks.scoring")  # prose names them without arguments
OWN = "shrink"  # the example of a method of one's own, which another test runs


def commands(text):
    """The commands in a text, on lines of their own or in backticks, without comments or the words in a next column."""
    for found in SPAN.findall(re.sub(r"\\\n\s*", "", text)):
        line = re.split(r"\s{5,}", found.partition(" # ")[0])[0].strip()
        yield from (part for part in NEXT.split(line) if part.startswith(("python ", "torchrun ", "accelerate ")))


def split(command):
    """A module's name and its arguments, None where some are left open; None for what is no command of this project."""
    words = shlex.split(command)
    words = words[1:] if words[0] in ("python", "torchrun") else words[2:]
    while words and words[0].startswith("--"):  # the launcher's own
        words = words[1 if "=" in words[0] or words[0] in ("--standalone", "--multi_gpu") else 2 :]
    if words[:1] == ["-m"]:
        name, arguments = words[1], words[2:]
    else:
        name, arguments = words[0].removesuffix(".py"), words[1:]
    if any(word == "..." or re.fullmatch(r"<.+>", word) for word in arguments):
        arguments = None
    mine = (ROOT / (name.replace(".", "/") + ".py")).exists()
    return (name, arguments) if mine else None


def every():
    for page in PAGES:
        yield from ((page.name, command) for command in commands(page.read_text(encoding="utf-8")))
    for source in SOURCES:
        doc = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        yield from ((source.name, command) for command in commands(doc))


def test_all_commands_parse(capsys):
    seen, scripts = 0, set()
    for place, command in every():
        found = split(command)
        if found is None:
            assert OWN in command, f"{place}: {command} names no script"
            continue
        name, arguments = found
        parser = importlib.import_module(name).parser()
        try:
            parser.parse_args(["--help"] if arguments is None or (not arguments and name in BARE) else arguments)
        except SystemExit as stop:
            assert stop.code == 0, f"{place}: {command}: {capsys.readouterr().err}"
        seen += 1
        scripts.add(name)
    assert seen > 100, seen
    assert len(scripts) > 20, scripts


def test_a_wrong_command_is_noticed():
    parser = importlib.import_module("finetune").parser()
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--modl", "x"])
    assert stop.value.code == 2
    assert split("torchrun --nproc-per-node 2 finetune.py --seed 1") == ("finetune", ["--seed", "1"])
    assert split("torchrun --standalone --nproc-per-node=2 lora.py") == ("lora", [])
    assert split("accelerate launch --multi_gpu --num_processes 2 lora.py") == ("lora", [])
    assert split("python -m baselines.control --kind mask") == ("baselines.control", ["--kind", "mask"])
    assert split("python lora.py --rank <rank>") == split("python lora.py ...") == ("lora", None)
    assert split("python elsewhere.py --rank 2") is None


def test_commands_are_found_however_they_are_written():
    page = """```
python lora.py --rank 2 \\
    --epochs 1
OMP_NUM_THREADS=1 python finetune.py --seed 1 && python evaluate.py *.pth > rows.txt
```
See `python -m baselines.control --kind mask`, and what python is not.

    $ python rfau.py          # comment
    python export.py a.pth      a next column
"""
    assert list(commands(page)) == [
        *("python lora.py --rank 2 --epochs 1", "python finetune.py --seed 1", "python evaluate.py *.pth"),
        *("python -m baselines.control --kind mask", "python rfau.py", "python export.py a.pth"),
    ]
