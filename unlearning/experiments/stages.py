"""Which runs of a table wait for which others, so that the rest can run at once, on any number of machines."""

import argparse
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unlearning.core.flags import Parser
from unlearning.experiments.methods import METHODS
from unlearning.experiments.plan import command
from unlearning.experiments.request import Run
from unlearning.experiments.running import execution_order
from unlearning.vision.flags import source_of

ORIGINAL = METHODS["original"].script


def dependencies(runs: Sequence[Run]) -> list[set[int]]:
    """Of each run the positions of those in `runs` whose outputs it reads.

    A run reads what another's --output names where its own flags name that too: --original, --backbone, an adapter. A method
    that starts from an original and names none reads the one that is found by name: of its network, data and seed.
    """
    parsers: dict[str, Parser] = {}
    asked: list[argparse.Namespace] = []
    for script, arguments in runs:
        if script not in parsers:
            parsers[script] = importlib.import_module(script).parser()
        asked.append(parsers[script].parse_args(arguments))
    written = {args.output: place for place, args in enumerate(asked) if args.output}
    named = {_named(args): place for place, args in enumerate(asked) if runs[place][0] == ORIGINAL}
    found = []
    for place, args in enumerate(asked):
        read = {written[path] for path in map(Path, runs[place][1]) if path in written} - {place}
        if getattr(args, "original", ...) is None and _named(args) in named:
            read.add(named[_named(args)])
        found.append(read)
    return found


def _named(args: argparse.Namespace) -> tuple[Any, ...]:
    """By what an original is found, where no flag names its file."""
    return args.weights, args.model, source_of(args), args.seed


def stages(runs: Sequence[Run], needed: Sequence[set[int]]) -> list[list[int]]:
    """The positions of `runs` by stage: all of a stage can run at once when those before it are done. Within one they are in
    the order in which one machine would run them. needed: of `dependencies`."""
    order = execution_order(runs)
    done: set[int] = set()
    found: list[list[int]] = []
    while left := [place for place in order if place not in done]:
        found.append([place for place in left if needed[place] <= done])
        done |= {*found[-1]}
    return found


def in_shell(runs: Sequence[Run]) -> list[str]:
    """The commands of `runs` as lines for a shell. A comment begins each stage, and one ends them."""
    found, lines = stages(runs, dependencies(runs)), []
    for number, stage in enumerate(found, 1):
        after = f"after all of stage {number - 1}" if number > 1 else "no command of a stage waits for another of it"
        lines += [f"# stage {number} of {len(found)}: {after}", *(command(*runs[place]) for place in stage)]
    return [*lines, "# then reproduce.py again, without --dry-run: it finds these files, scores them and writes the table"]
