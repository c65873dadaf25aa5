"""RFAU's table: its rates, and the table from end to end on digits."""

import json

from tests.experiments.tables import SMALL, make, planned
from unlearning.experiments import rfau


def test_rfaus_table_takes_the_rates_of_the_committed_tuning(tmp_path, monkeypatch):
    def row(forget, method, gap):
        same = {"dataset": "digits", "model": "vit_micro", "epochs": 5, "n": 1, "command": "python rfau.py"}
        return same | {"forget": forget, "method": method, "metrics": {"gap": {"mean": gap, "ci95": None}}}

    rows = [
        *(row("class3", f"rfau --lr {rate}", gap) for rate, gap in (("0.001", 3), ("0.003", 1), ("0.01", 2))),
        *(row("random0.1", f"rfau --lr {rate}", gap) for rate, gap in (("0.001", 1), ("0.003", 3))),
        *(row("class3", f"randomlabel --saliency 0.5 --lr {rate}", gap) for rate, gap in (("0.0001", 1), ("0.003", 3))),
        row("class3", "retrain", 0),
        # Where SalUn alone was tuned its label doesn't name the share: its flags do.
        row("random0.1", "randomlabel --lr 0.01", 1) | {"flags": ["--lr 0.01", "--saliency 0.5"]},
    ]
    made_by = {"table": "rfau-tune-quick", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}
    (tmp_path / "rfau-tune-quick").mkdir()
    (tmp_path / "rfau-tune-quick/result.json").write_text(json.dumps(made_by | {"rows": rows}), encoding="utf-8")
    monkeypatch.setattr(rfau, "TUNED", tmp_path)
    runs = planned("rfau", "--seeds", "1")

    def rate_of(script, network, *flags):
        found = {
            a[a.index("--lr") + 1] if "--lr" in a else None for s, a in runs if s == script and {network, *flags} <= {*a}
        }
        assert len(found) == 1
        return found.pop()

    assert rate_of("rfau", "vit_micro", "--forget-class") == "0.003"
    assert rate_of("rfau", "vit_micro", "--forget-random") == "0.001"
    assert rate_of("baselines.randomlabel", "vit_micro", "--saliency", "--forget-class") == "0.0001"
    assert rate_of("baselines.randomlabel", "vit_micro", "--saliency", "--forget-random") == "0.01"
    assert rate_of("rfau", "resnet20", "--forget-class") is None
    assert rate_of("retrain", "vit_micro", "--forget-class") is None


def test_rfaus_table_forgets_a_class_and_images_and_shows_the_gap_over_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(rfau.PRESETS, "quick", SMALL | {"subset": 300, "test": 100})
    result = make(tmp_path, monkeypatch, "--methods", "mask", "finetune", "rfau", "--seeds", "1", table="rfau")
    rows = [(row["forget"], row["method"], row["epochs"]) for row in result["rows"]]
    assert rows == [
        *(("class3", *row) for row in (("original", 2), ("retrain", 2), ("mask", None), ("finetune", 1))),
        *(("class3", "rfau", epochs) for epochs in (1, 2, 5, 20)),
        *(("random0.1", *row) for row in (("original", 2), ("retrain", 2), ("finetune", 1))),
        *(("random0.1", "rfau", epochs) for epochs in (1, 2, 5, 20)),
    ]
    assert {row["dataset"] for row in result["rows"]} == {"digits-300-test100"}
    assert [row["metrics"]["steps"]["mean"] for row in result["rows"][4:8]] == [4, 8, 20, 80]
    assert (tmp_path / "results/rfau-quick-digits/figures/steps.png").stat().st_size > 10_000
    again = make(
        tmp_path, monkeypatch, "--methods", "mask", "finetune", "rfau", "--seeds", "1", "--only", "images", table="rfau"
    )
    assert sorted(again["rows"], key=str) == sorted(result["rows"], key=str)
    assert [run["of"] for run in again["earlier"]] == [["resnet8, class3"]]
