"""Carries out a table's runs: in which order, and how long they will take."""

import contextlib
import importlib
import io
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from unlearning.core.errors import Diverged
from unlearning.core.words import say
from unlearning.experiments.plan import command
from unlearning.experiments.request import Run
from unlearning.vision import shipped

CONTROL = "baselines.control"


def run_all(runs: Sequence[Run], shared: Any, quiet: bool = False, diverging: bool = False) -> list[Path]:
    """Run what is missing and return the checkpoints' paths, in order. shared: what the runs hand on to each other.
    diverging: leave runs out that diverge, and name them.

    Before each run it says which it is and, once one of its kind has been timed, how long all that are left will take.
    """
    paths: dict[int, Path] = {}
    order, taken = execution_order(runs), Taken()
    for done, place in enumerate(order):
        if not quiet:
            left = taken.left([runs[later] for later in order[done:]])
            say(f"run {done + 1} of {len(runs)}{left}")
        with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():  # the table is the result
            try:
                paths[place], seconds = carry_out(runs[place], shared)
            except Diverged as reason:
                if not diverging:
                    raise
                say_left_out(runs[place], reason)
                continue
        if seconds:
            taken.add(runs[place], seconds)
    return [paths[place] for place in sorted(paths)]


def say_left_out(run: Run, reason: Diverged) -> None:
    """Name a run that diverged."""
    say(f"left out: {command(*run)}: {reason}")


def carry_out(run: Run, shared: Any) -> tuple[Path, float]:
    """(a run's checkpoint, the seconds that it took); 0 where it was there already, or comes with the project."""
    name, arguments = run
    script, started = importlib.import_module(name), time.time()
    path = script.run(script.parser().parse_args(arguments), command(name, arguments), shared)
    made = _modified(path) >= started and not shipped.is_one(path)
    return path, time.time() - started if made else 0.0


class Taken:
    """How long runs have taken, by their kind: script, network and flags but for the seed."""

    def __init__(self) -> None:
        self.seconds: dict[tuple, list[float]] = {}

    def add(self, run: Run, seconds: float) -> None:
        """Count a run that was computed."""
        for kind in self._kinds(run):
            self.seconds.setdefault(kind, []).append(seconds)

    def left(self, runs: Sequence[Run]) -> str:
        """ ", about 12 min left" for runs that are still to do; empty as long as nothing has been timed."""
        if not self.seconds:
            return ""
        expected = sum(sum(known) / len(known) for known in map(self._nearest, runs))
        return f", about {_duration(expected)} left"

    def _nearest(self, run: Run) -> list[float]:
        """The seconds of runs that are most like this one."""
        return next(self.seconds[kind] for kind in self._kinds(run) if kind in self.seconds)

    def _kinds(self, run: Run) -> list[tuple]:
        """From the narrowest kind to the widest, which all runs are of."""
        script, arguments = run
        words = [word for flag, word in pairwise(["", *arguments]) if "--seed" not in (flag, word)]
        network = [word for flag, word in pairwise(arguments) if flag in ("--model", "--backbone", "--base")]
        return [(script, *words), (script, *network), ("any", *network), ()]


def _modified(path: Path) -> float:
    """When a checkpoint was written; of a folder its newest file."""
    return max(file.stat().st_mtime for file in ([path] if path.is_file() else path.iterdir()))


def _duration(seconds: float) -> str:
    """ "40 s", "12 min", "3.5 h"."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def execution_order(runs: Sequence[Run]) -> list[int]:
    """The positions of `runs` in the order to run them: controls after the other methods of their network and seed, for what
    head-only needs is made from what LoRA has kept, but not the other way round."""
    if not any(script == CONTROL for script, _ in runs):
        return list(range(len(runs)))
    groups: dict[tuple, list[int]] = {}
    for place, (_, arguments) in enumerate(runs):
        key = tuple(arguments[arguments.index(flag) + 1] for flag in ("--model", "--seed"))
        groups.setdefault(key, []).append(place)
    return [place for group in groups.values() for place in sorted(group, key=lambda place: runs[place][0] == CONTROL)]
