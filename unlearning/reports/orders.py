"""How alike measures order a table's methods, and how many of them each measure tells apart.

A measure says how far a method is from the Retrain of the same seed. Two measures that order methods alike say the same
thing twice; one that tells few pairs of methods apart can't decide which is better.
"""

import itertools
import warnings
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

from unlearning.reports.columns import COLUMNS
from unlearning.reports.results import by_seed

TITLE = "How alike measures order the methods, and how many pairs of methods they tell apart"
NOTE = (
    "Kendall's tau-b over the methods' means, all measures as distances from Retrain: 1 where two of them order all pairs "
    "of methods alike. Told apart: by a t-test at 5 %, paired by seed, without a correction for the number of pairs."
)
DISTANCES = ("gap", "probe_gap", "ncc_gap", "activation_f", "js_f", "js_r")  # from Retrain already
LEVELS = ("MIA_AUC", "rmia", "relearn_steps", "recovery1")  # far from Retrain as far as they differ from its value
FEWEST = 5  # methods
ALPHA = 0.05

Seeds = dict[int, float]  # a number for each seed
Distances = dict[str, dict[int, Seeds]]  # by measure and a row's place


def table(rows: Sequence[Any]) -> tuple[list[str], list[list[str]]] | None:
    """Header and body of a table of measures, of the rows of one network and forget set; None where there is too little.

    A cell is Kendall's tau-b of two measures over the methods' means: 1 where they order all pairs alike, -1 where they
    order none so. The last column is the share of pairs of methods, in percent, that differ in the measure by a t-test over
    seeds at 5 %, paired by seed, without a correction for their number; "–" for one seed.
    """
    if any("point" in row for row in rows):  # a tuning's rows are no methods
        return None
    found = distances(rows)
    names = [COLUMNS[name].title for name in found]
    if len(found) < 2:
        return None
    body = []
    for name, title in zip(found, names, strict=True):
        cells = ["–" if name == other else _number(tau(found[name], found[other])) for other in found]
        body.append([title, *cells, _number(told_apart(found[name]), 0)])
    return ["measure", *names, "pairs told apart %"], body


def tau(one: dict[int, Seeds], other: dict[int, Seeds]) -> float:
    """Kendall's tau-b of two measures over the rows that have both; nan where one of them is the same for all."""
    from scipy import stats

    both = [place for place in one if place in other]
    means = ([fmean(measure[place].values()) for place in both] for measure in (one, other))
    return float(stats.kendalltau(*means).statistic)


def told_apart(measure: dict[int, Seeds]) -> float:
    """The share of pairs of rows of the same seeds, in percent, whose difference isn't 0 by a t-test at ALPHA; nan where no
    pair has two seeds."""
    from scipy import stats

    pairs = [(a, b) for a, b in itertools.combinations(measure.values(), 2) if a.keys() == b.keys() and len(a) > 1]
    with warnings.catch_warnings():  # of differences that are the same for all seeds: p is 0, or nan where they are 0
        warnings.simplefilter("ignore", RuntimeWarning)
        found = [stats.ttest_rel([*a.values()], [b[seed] for seed in a]).pvalue < ALPHA for a, b in pairs]
    return float(100 * np.mean(found)) if pairs else float("nan")


def distances(rows: Sequence[Any]) -> Distances:
    """Of each measure that at least FEWEST methods have, how far they are from Retrain. Original and Retrain are none."""
    retrain: Any = next((row for row in rows if row["method"] == "retrain"), {"metrics": {}})
    methods = {place: row for place, row in enumerate(rows) if row["method"] not in ("original", "retrain")}
    found: Distances = {}
    for name in (*DISTANCES, *LEVELS):
        values = {place: by_seed(row, name) for place, row in methods.items()}
        right = by_seed(retrain, name) if name in LEVELS else {}
        far = {
            place: {seed: abs(value - right.get(seed, 0)) for seed, value in seeds.items()}
            for place, seeds in values.items()
            if seeds and (name in DISTANCES or seeds.keys() == right.keys())
        }
        if len(far) >= FEWEST:
            found[name] = far
    return found


def _number(value: float, digits: int = 2) -> str:
    return "–" if np.isnan(value) else f"{value:z.{digits}f}"
