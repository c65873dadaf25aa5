"""Which point of its grid a tuning chooses for each row, and --tuned, which runs the rows of other tables at these points.

A point is chosen for a network, a forget set and a row: the one with the least average gap to the Retrain of the same seed,
on images that are held out of training, as a mean over seeds.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from unlearning.core.errors import UserError
from unlearning.experiments.methods import METHODS, tuned_as
from unlearning.metrics.statistics import grouped
from unlearning.reports import folders, results

Flags = tuple[str, ...]  # words of a command line: ("--lr", "0.001", "--rank", "8")


class Tried(NamedTuple):
    """A row of a result that was run at a point of its grid and scored on images held out of training.

    network: as --model names it, a file without its folder. kind: "class" or "images". tag: the forget set's name. row: a
    key of METHODS. own: True for the script's defaults. n: over how many seeds. gap: their mean average gap, None where
    there is no Retrain.
    """

    network: str
    kind: str
    tag: str
    row: str
    point: Flags
    own: bool
    n: int
    gap: float | None


def tried(row: Mapping[str, Any]) -> Tried | None:
    """What a result's row has tried, by its command; None for what is no point of a tuning.

    Its point is what the row says, where it was marked as one: its grid may have had other flags than today's.
    """
    try:
        words, said = shlex.split(row["command"]), shlex.split(row.get("point", ""))
    except ValueError:  # a quotation without an end
        return None
    given, text = dict(pairwise(words)), f" {' '.join(words)} "
    if "--validation" not in given or "--model" not in given:
        return None
    script = words[2] if words[1] == "-m" else words[1].removesuffix(".py")
    alike = [name for name, method in METHODS.items() if method.script == script]
    fitting = [name for name in alike if f" {' '.join(METHODS[name].flags)} " in text or not METHODS[name].flags]
    name = max(fitting, key=lambda name: len(METHODS[name].flags), default="original")
    if tuned_as(name) != name:
        return None
    knobs = [word for word in said if word.startswith("--")] if "point" in row else METHODS[name].knobs
    changed = {word for flag in row.get("flags", knobs) for word in flag.split()[:1]}
    return Tried(
        network=_called(given["--model"]),
        kind="class" if "--forget-class" in given else "images",
        tag=row["forget"],
        row=name,
        point=tuple(word for flag in knobs if flag in given for word in (flag, given[flag])),
        own=changed.isdisjoint(knobs),
        n=row["n"],
        gap=row["metrics"].get("gap", {}).get("mean"),
    )


def best(tries: Iterable[Tried]) -> Flags | None:
    """The point with the least mean average gap; of equal ones the script's own, else the first. None where no gap is known.

    tries: of one row on one network, over forget sets that count alike. A point that lacks seeds of the others is left out.
    """
    points = grouped([one for one in tries if one.gap is not None], lambda one: one.point)
    seeds = {point: sum(one.n for one in group) for point, group in points.items()}
    gaps = {point: round(fmean(one.gap for one in group), 9) for point, group in points.items()}
    whole = [point for point in points if seeds[point] == max(seeds.values())]
    return min(whole, key=lambda point: (gaps[point], not points[point][0].own), default=None)


def mark(rows: list[dict[str, Any]]) -> None:
    """Write into each row of a tuning which row it tunes, at which point of how many, and whether this is chosen."""
    found = [(row, one) for row in rows if (one := tried(row))]
    for group in grouped(found, lambda pair: (pair[1].network, pair[1].tag, pair[1].row)).values():
        chosen, count = best(one for _, one in group), len(METHODS[group[0][1].row].points)
        for row, one in group:
            row.update(tunes=one.row, point=" ".join(one.point), points=count, chosen=one.point == chosen)


def ends(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines about the chosen points of a marked tuning that have the least or the largest of more than two values of a flag:
    what lies beyond wasn't tried."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row.get("chosen"):
            continue
        given = dict(pairwise(row["point"].split()))
        for flag, words in METHODS[row["tunes"]].axes.items():
            values = [float(word) for word in words]
            if len(values) > 2 and flag in given and float(given[flag]) in (min(values), max(values)):
                found.setdefault((row["model"], row["forget"]), []).append(f"{row['tunes']} ({flag} {given[flag]})")
    return [
        f"note: {model}, {forget}: at an end of what was tried: {', '.join(points)}"
        for (model, forget), points in found.items()
    ]


@dataclass(frozen=True)
class Tuned:
    """A tuning's result. path: as given. tries: its rows that were run at points."""

    path: Path
    tries: tuple[Tried, ...]

    @classmethod
    def read(cls, path: Path) -> "Tuned":
        """The tuning in a folder of results or a result file. Raises UserError where there is none."""
        if not path.exists():
            raise UserError(f"--tuned {path}: there is no such folder or file")
        file, _ = folders.place(path)
        tries = tuple(one for row in results.read(file)["rows"] if (one := tried(row)))
        if not any(one.gap is not None for one in tries):
            raise UserError(f"--tuned {path} holds no tuning: python reproduce.py tune makes one")
        return cls(path, tries)

    def point(self, network: str, kind: str, tag: str, row: str) -> Flags | None:
        """The point that it chooses for a row of any table, for this forget set, or where it lacks that, over all that it
        has of this kind; None where it has none."""
        here = [one for one in self.tries if (one.network, one.kind, one.row) == (_called(network), kind, tuned_as(row))]
        return best([one for one in here if one.tag == tag] or here)


def _called(network: str) -> str:
    """A network's name, or what a file of the user's own is called, wherever it lies."""
    return Path(network).name
