"""Differences are of the same seeds, and the committed ones are those of the committed table."""

import pytest

from benchmarks import differences
from tests.helpers import ROOT
from unlearning.reports import results


def test_a_difference_is_paired_by_seed():
    """By hand: 1, 2 and 3 have the mean 2 and the half-width 4.3027 / sqrt 3; the rows themselves scatter by hundreds."""
    rows = [
        {"method": name, "metrics": {"TA": {"values": values}}}
        for name, values in (("lora", [101.0, 202.0, 303.0]), ("mask", [100.0, 200.0, 300.0]))
    ]
    found = differences.difference(rows, "lora", "mask", "TA")
    assert (found["difference"], found["interval"]) == pytest.approx((2, 4.3027 / 3**0.5), rel=1e-4)


def test_committed_differences_are_those_of_the_committed_table():
    table = results.read(ROOT / "results/prunelora-first/result.json")
    committed = results.read_json(ROOT / "results/benchmarks/differences.json")["rows"]
    for row, again in zip(committed, differences.measured(table["rows"]), strict=True):
        assert row == {key: pytest.approx(value) if isinstance(value, float) else value for key, value in again.items()}
