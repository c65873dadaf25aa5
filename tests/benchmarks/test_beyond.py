"""Which baseline is nearest to Retrain, and how much farther a try is, by hand."""

import pytest

from benchmarks import beyond
from tests.helpers import ROOT
from unlearning.core.errors import UserError


def row(method, gap, probe=None, seconds=(10.0, 10.0)):
    metrics = {"gap": {"values": list(gap)}, "seconds": {"values": list(seconds)}}
    metrics |= {"probe_gap": {"values": list(probe)}} if probe else {}
    return {"method": method, "forget": "class3", "epochs": 1, "n": 2, "metrics": metrics}


ROWS = [
    row("mask", (0.0, 0.0), (0.0, 0.0)),  # controls
    row("randomlabel --random-mask", (0.0, 0.0), (0.0, 0.0)),
    row("lora", (3.0, 5.0), (8.0, 8.0)),
    row("delete", (1.0, 2.0), (-4.0, 6.0)),
    row("ssd", (9.0, 9.0), (-1.0, 1.0)),
    row("loraprune --regrow", (0.0, 0.0), (0.0, 0.0)),  # another try
]


def test_the_nearest_baseline_by_each_measure_and_the_seconds_of_lora():
    found = beyond.compared(row("loraprune", (2.0, 4.0), (-3.0, 3.0), (10.0, 20.0)), ROWS, tuned=True)
    assert (found["nearest"], found["gap_lost"]["values"]) == ("DELETE", [1.0, 2.0])
    assert (found["ahead"], found["ahead_by_probe"]) == (0, 1)  # 2 and 2 less are more than the interval, 1 and 2 aren't
    assert (found["nearest_by_probe"], found["probe_lost"]["values"]) == ("SSD", [2.0, 2.0])  # magnitudes
    assert (found["cost"]["mean"], found["met"]) == (1.5, "no")


@pytest.mark.parametrize(
    ("gap", "probe", "seconds", "met"),
    [
        ((1.0, 2.0), (1.0, -1.0), (10.0, 10.0), "yes"),  # as near as the nearest
        ((1.0, 2.1), (1.0, -1.0), (10.0, 10.0), "no"),
        ((1.0, 2.0), (1.0, -1.1), (10.0, 10.0), "no"),
        ((1.0, 2.0), (1.0, -1.0), (10.0, 11.0), "no"),
        ((1.0, 2.0), None, (9.0, 9.0), "yes"),  # images, of which no probe is asked
    ],
)
def test_the_goal_is_met_where_no_baseline_is_nearer_and_lora_is_no_cheaper(gap, probe, seconds, met):
    found = beyond.compared(row("loraprune", gap, probe, seconds), ROWS, tuned=True)
    assert found["met"] == met and ("missing" in found["probe_lost"]) == (probe is None)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[3:],  # no LoRA
        [*ROWS, row("lora", (1.0, 1.0))],
        [*ROWS, row("scrub", (1.0,))],
        [*ROWS, row("scrub", (1.0, 1.0)) | {"seeds": [0, 2]}],
        [ROWS[2] | {"seeds": [0, 2]}],
        [row("lora", (3.0, 5.0), seconds=(1.0,))],
    ],
)
def test_rows_that_cannot_be_paired_are_refused(rows):
    with pytest.raises(UserError, match="seeds"):
        beyond.compared(row("loraprune", (2.0, 4.0)), rows, tuned=True)


def test_every_try_of_the_committed_tables_is_a_row():
    rows = beyond.measure([ROOT / "results" / name for name in beyond.TABLES])
    assert {row["table"] for row in rows} == {*beyond.TABLES}
    assert {"loraprune", "loraprune --regrow", "loraprune --prune-head"} <= {row["try"] for row in rows}
    assert {(row["tuned"], row["table"].endswith("-tuned")) for row in rows} == {("yes", True), ("no", False)}
