"""Measures of one order are told, and pairs of methods that a measure can't tell apart aren't counted."""

import math

import pytest

from unlearning.reports import orders, tables


def rows_of(**measures):
    """A row for each method, of a Retrain and six others; a measure's values are a list of seeds for each."""
    names = ["retrain", *(f"m{i}" for i in range(6))]
    return [
        {
            "method": name,
            "metrics": {key: {"mean": sum(v[i]) / len(v[i]), "ci95": None, "values": v[i]} for key, v in measures.items()},
        }
        for i, name in enumerate(names)
    ]


def test_orders_of_measures():
    """Distances as they are, levels as they differ from Retrain's, on either side of it."""
    gap = [[0.0]] + [[float(i)] for i in range(1, 7)]
    probe = [[0.0]] + [[float(i)] for i in (6, 5, 4, 3, 2, 1)]
    auc = [[50.0]] + [[50.0 + i * (-1) ** i] for i in range(1, 7)]
    header, body = orders.table(rows_of(gap=gap, probe_gap=probe, MIA_AUC=auc))
    assert header == ["measure", "average gap", "probe gap", "MIA-AUC %", "pairs told apart %"]
    assert body[0][1:] == ["–", "-1.00", "1.00", "–"] and body[1][3] == "-1.00"


def test_ties_are_in_neither_order():
    """tau-b by hand: of 15 pairs five are in one order, four in the other, and six tied in one measure."""
    one = {i: {0: float(x)} for i, x in enumerate([1, 2, 3, 4, 5, 6])}
    other = {i: {0: float(x)} for i, x in enumerate([1, 1, 1, 1, 0, 2])}
    alike, against, tied = 5, 4, 6
    assert orders.tau(one, other) == pytest.approx((alike - against) / math.sqrt(15 * (15 - tied)))


def test_pairs_that_seeds_tell_apart():
    """By differences of the same seeds, however far the seeds lie from each other; by hand: t = mean / (sd / sqrt 3)."""
    apart = {0: {0: 1.0, 1: 20.0, 2: 300.0}, 1: {2: 301.0, 0: 2.0, 1: 21.1}}
    assert orders.told_apart(apart) == 100
    same = apart | {2: {0: 1.0, 1: 20.0, 2: 300.0}}
    assert orders.told_apart(same) == pytest.approx(200 / 3)
    assert orders.told_apart(apart | {1: {0: 9.0, 1: 12.0, 2: 301.0}}) == 0
    assert math.isnan(orders.told_apart({0: {0: 1.0}, 1: {0: 2.0}}))
    assert math.isnan(orders.told_apart(apart | {1: {0: 2.0, 1: 21.1, 4: 301.0}}))  # other seeds


def test_rows_are_measured_from_a_retrain_of_the_same_seeds():
    """A level's distance is that from the Retrain of the seed, in whatever order they come; other seeds have none."""
    rows = rows_of(MIA_AUC=[[50.0, 70.0], *([51.0 + i, 72.0] for i in range(6))])
    seeds = ([5, 9], [9, 5], *[[5, 9]] * 4, [5, 8])
    far = orders.distances([row | {"seeds": found} for row, found in zip(rows, seeds, strict=True)])["MIA_AUC"]
    assert far[1] == {9: 19.0, 5: 22.0} and far[2] == {5: 2.0, 9: 2.0} and sorted(far) == [1, 2, 3, 4, 5]


def test_few_methods_or_one_measure_have_no_table():
    gap = [[0.0]] + [[float(i)] for i in range(1, 7)]
    assert orders.table(rows_of(gap=gap)) is None
    assert orders.table(rows_of(gap=gap, probe_gap=gap)[:5]) is None
    tried = [row | {"point": "--lr 1"} for row in rows_of(gap=gap, probe_gap=gap)]
    assert orders.table(rows_of(gap=gap, probe_gap=gap)) and orders.table(tried) is None
    about = {"dataset": "digits", "model": "resnet8", "forget": "class3", "epochs": 5, "n": 1, "command": "python x.py"}
    for rows, shown in ((rows_of(gap=gap, probe_gap=gap), True), (rows_of(gap=gap), False)):
        page = tables.markdown({"table": "t", "rows": [about | row for row in rows]} | RUN)
        assert (orders.TITLE in page) == shown


def test_rows_of_other_seeds_than_retrains_have_no_distance_from_it():
    rows = rows_of(
        gap=[[0.0]] + [[float(i)] * 3 for i in range(1, 7)], MIA_AUC=[[50.0]] + [[float(i)] * 3 for i in range(1, 7)]
    )
    assert orders.distances(rows).keys() == {"gap"}


RUN = {"command": "python x.py", "date": "2026-01-01", "hardware": "a CPU", "versions": {}}
