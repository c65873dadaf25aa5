"""RFAU's table from end to end on digits."""

import pytest

from tests.experiments.tables import SMALL, make
from unlearning.experiments import rfau


@pytest.mark.pictures("steps")
@pytest.mark.usefixtures("no_look_beneath")
def test_rfaus_table_forgets_a_class_and_images_and_shows_the_gap_over_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(rfau.PRESETS, "quick", SMALL | {"subset": 150})
    result = make(tmp_path, monkeypatch, "--methods", "mask", "finetune", "rfau", "--seeds", "1", table="rfau")
    rows = [(row["forget"], row["method"], row["epochs"]) for row in result["rows"]]
    assert rows == [
        *(("class3", *row) for row in (("original", 2), ("retrain", 2), ("mask", None), ("finetune", 1))),
        *(("class3", "rfau", epochs) for epochs in (1, 2, 5, 20)),
        *(("random0.1", *row) for row in (("original", 2), ("retrain", 2), ("finetune", 1))),
        *(("random0.1", "rfau", epochs) for epochs in (1, 2, 5, 20)),
    ]
    assert {row["dataset"] for row in result["rows"]} == {"digits-150-test100"}
    assert [row["metrics"]["steps"]["mean"] for row in result["rows"][4:8]] == [2, 4, 10, 40]
    assert (tmp_path / "results/rfau-quick-digits/figures/steps.png").stat().st_size > 10_000
    again = make(
        tmp_path, monkeypatch, "--methods", "mask", "finetune", "rfau", "--seeds", "1", "--only", "images", table="rfau"
    )
    before, after = (
        {(row["forget"], row["method"], row["epochs"]): row for row in made["rows"]} for made in (result, again)
    )
    assert before.keys() == after.keys()
    for key, row in after.items():
        if key[0] == "class3":
            assert row == before[key]
        else:  # made again, from layers that were cached in another order: the last bits may differ
            values = {name: metric["values"] for name, metric in row["metrics"].items() if "values" in metric}
            assert values == {name: pytest.approx(before[key]["metrics"][name]["values"], rel=1e-5) for name in values}
    assert [run["of"] for run in again["earlier"]] == [["resnet8, class3"]]
