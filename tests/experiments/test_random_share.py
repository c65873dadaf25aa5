"""Random forgetting from end to end on digits."""

import pytest

from tests.experiments.tables import SMALL, make
from unlearning.experiments import random_share
from unlearning.metrics import statistics


@pytest.mark.pictures("metrics", "relearn")
def test_random_forgetting_has_a_table_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(random_share.PRESETS, "quick", SMALL)
    result = make(tmp_path, monkeypatch, "--methods", "lora", "--seeds", "2", "--share", "0.2", table="random")
    assert result["table"] == "random-quick-share0.2-digits"
    assert {row["forget"] for row in result["rows"]} == {"random0.2"}
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "lora"]
    lora = result["rows"][2]["metrics"]
    assert "no class is forgotten" in lora["probe"]["missing"]
    assert len(lora["MIA_AUC"]["values"]) == 2
    retrain = result["rows"][1]["metrics"]
    gaps = [a - b for a, b in zip(lora["TA"]["values"], retrain["TA"]["values"], strict=True)]
    assert lora["dTA"]["values"] == pytest.approx(gaps)  # paired: seed by seed
    assert (lora["dTA"]["mean"], lora["dTA"]["ci95"]) == pytest.approx(statistics.mean_ci95(gaps))
