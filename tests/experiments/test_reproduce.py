"""reproduce.py from end to end on digits, and the paper's numbers beside ours only where they belong."""

import itertools
import json

import numpy as np
import pytest

import data
import reproduce
from tests.helpers import one_line
from tests.test_data import folder_of_images
from unlearning.evaluation import network
from unlearning.exact.system import read_system
from unlearning.experiments import audit, lmeraser, plan, prunelora, random_share, rfau, tune
from unlearning.language.rows import Data
from unlearning.metrics import statistics
from unlearning.reports import figures, results
from unlearning.vision.flags import load_data


@pytest.fixture(autouse=True)
def short_curves(monkeypatch):
    monkeypatch.setattr(network, "RELEARN_STEPS", (0, 1, 4))


SMALL = {"model": ["resnet8"], "subset": None, "pretrain": [2], "epochs": [1]}


def make(tmp_path, monkeypatch, *arguments, table="prunelora"):
    monkeypatch.chdir(tmp_path)
    config = reproduce.parser().parse_args([table, "--dataset", "digits", "--model", "resnet8", *arguments, "--quiet"])
    config.command = "python reproduce.py"
    reproduce.run(config)
    return json.loads((tmp_path / f"results/{plan.name(config)}.json").read_text())


def complete(*arguments):
    config = reproduce.parser().parse_args([*arguments])
    config.sizes = reproduce.TABLES[config.table].presets[config.preset]
    config.seeds = config.seeds or reproduce.TABLES[config.table].seeds
    config.subset, config.test_subset, config.validation = config.sizes.get("subset"), config.sizes.get("test"), 0.0
    return config


def test_a_table_is_made_resumed_and_protected(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    methods = ("--methods", "loraprune", "mask")
    result = make(tmp_path, monkeypatch, *methods, "--seeds", "2")
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "mask", "loraprune"]
    assert all(row["n"] == 2 and row["metrics"]["gap"]["mean"] >= 0 for row in result["rows"])
    assert {"table", "command", "date", "hardware", "versions", "rows"} <= set(result)
    assert all((tmp_path / f"results/prunelora-quick-digits.{end}").exists() for end in ("md", "tex", "csv", "png"))
    assert all(figures.path(tmp_path / "results/prunelora-quick-digits", name).exists() for name in ("dots", "relearn"))
    capsys.readouterr()
    again = make(tmp_path, monkeypatch, *methods, "--seeds", "2")
    assert capsys.readouterr().err.count("skipped, there already") == 8
    assert again["rows"] == result["rows"]
    before = (tmp_path / "results/prunelora-quick-digits.json").read_text()
    fewer = ("--dataset", "digits", "--model", "resnet8", *methods, "--seeds", "1")
    code, line = one_line(reproduce, capsys, "prunelora", *fewer)
    assert code == 2 and "more rows or seeds" in line
    assert (tmp_path / "results/prunelora-quick-digits.json").read_text() == before


def test_rows_of_other_networks_stay(tmp_path, monkeypatch, capsys):
    """With what made them; a network's own rows are replaced, but not by fewer."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL | {"model": ["resnet8", "vit_micro"], "pretrain": [2, 2]})
    first = make(tmp_path, monkeypatch, "--methods", "mask", "--seeds", "1")
    both = make(tmp_path, monkeypatch, "--model", "vit_micro", "--methods", "mask", "--seeds", "1")
    assert [row["model"] for row in both["rows"]] == ["resnet8"] * 3 + ["vit_micro"] * 3
    assert both["rows"][:3] == first["rows"]
    assert both["earlier"] == [{"of": ["resnet8, class3"]} | {key: first[key] for key in results.PROVENANCE}]
    table = (tmp_path / "results/prunelora-quick-digits.md").read_text()
    assert "resnet8, class3: `python reproduce.py` on" in table
    again = make(tmp_path, monkeypatch, "--methods", "mask", "zero-row", "--seeds", "1")
    assert [row["model"] for row in again["rows"]] == ["vit_micro"] * 3 + ["resnet8"] * 4
    assert [run["of"] for run in again["earlier"]] == [["vit_micro, class3"]]
    capsys.readouterr()
    code, line = one_line(
        reproduce, capsys, "prunelora", "--dataset", "digits", "--model", "resnet8", "--methods", "mask", "--seeds", "1"
    )
    assert code == 2 and "more rows or seeds" in line


def test_a_rows_command_makes_that_rows_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    result = make(tmp_path, monkeypatch, "--methods", "loraprune", "--seeds", "1")
    words = result["rows"][-1]["command"].split()
    assert words[:2] == ["python", "loraprune.py"]
    config = reproduce.loraprune.parser().parse_args(words[2:])
    config.command, config.reuse = "", True
    path = reproduce.loraprune.run(config)  # reuse accepts nothing but the same settings
    assert path.parent.name == "prunelora-quick-digits"


def test_head_only_runs_after_lora_and_stands_before_it(tmp_path, monkeypatch):
    """Its input is made from what LoRA has kept, network by network; the table's order is another matter."""
    config = complete("prunelora", "--seeds", "2")
    runs = prunelora.prunelora(config)
    order = plan.execution_order(runs)
    assert sorted(order) == list(range(len(runs)))
    groups = [(runs[place][1][1], runs[place][1][5]) for place in order]
    assert len(dict.fromkeys(groups)) == sum(a != b for a, b in itertools.pairwise([None, *groups])) == 4
    for group in dict.fromkeys(groups):
        names = [runs[place][0].__name__ for place, other in zip(order, groups, strict=True) if other == group]
        assert names[0] == "pretrain" and set(names[-3:]) == {"control"} and "control" not in names[:-3]
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    result = make(tmp_path, monkeypatch, "--methods", "head-only", "lora", "--seeds", "1")
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "head-only", "lora"]


def test_the_papers_numbers_stand_only_beside_its_data_and_networks(tmp_path):
    folder_of_images(tmp_path, classes=data.CIFAR10_CLASSES)
    cifar, other = data.load(f"folder:{tmp_path}"), data.load("digits")
    for dataset, forget, model, expected in (
        (cifar, "class3", "resnet50", True),
        (cifar, "class5", "resnet50", False),
        (cifar, "class3", "resnet20", False),
        (other, "class3", "resnet50", False),
    ):
        row = {"model": model, "method": "loraprune", "epochs": 5, "forget": forget}
        prunelora.add_published([row], dataset)
        assert ("published" in row) == expected
    row = {"model": "vit_small", "method": "lora", "epochs": 10, "forget": "class3"}
    prunelora.add_published([row], cifar)
    assert row["published"] == {"UA": 95.58, "RA": 97.81, "TA": 85.16, "MIA": 99.58}


def test_every_preset_of_every_table_names_commands_that_parse(tmp_path, monkeypatch):
    rows = [(f"film {i}", answer) for i, answer in enumerate(["Yes", "No"] * 20)]
    texts = Data(rows, rows, rows, ["No", "Yes"], "x")
    monkeypatch.setattr(rows, "load_rows", lambda *_: texts)  # MovieLens isn't there without a network
    monkeypatch.chdir(tmp_path)
    for table, entry in reproduce.TABLES.items():
        for preset in entry.presets:
            runs = entry.runs(complete(table, "--preset", preset))
            assert len(runs) > 10
            for script, arguments in runs:
                script.parser().parse_args(arguments)


def test_lmerasers_table_counts_what_deletions_cost(tmp_path, monkeypatch, capsys):
    sizes = {"model": ["resnet8"], "subset": None, "pretrain": [2], "private": 0.25}
    flags = ["--epochs", "2", "--anchors", "200"]
    monkeypatch.setitem(lmeraser.LMERASER_PRESETS, "quick", sizes | {"flags": flags})
    monkeypatch.setattr(lmeraser, "REQUESTS", {1: 3, 10: 1})
    methods = ("--methods", "lmeraser --parts 50", "sisa --parts 5")
    result = make(tmp_path, monkeypatch, *methods, "--seeds", "2", table="lmeraser")
    rows = {(row["forget"], row["method"]): row for row in result["rows"]}
    kinds = (lmeraser.ONE, "lmeraser --parts 50", "sisa --parts 5")
    assert list(rows) == [(request, kind) for request in ("delete1", "delete10", "class3") for kind in kinds]
    assert all(row["n"] == 2 for row in rows.values())
    for request in ("delete1", "delete10", "class3"):
        whole = rows[request, lmeraser.ONE]["metrics"]
        assert whole["sample_epochs_ratio"]["values"] == whole["seconds_ratio"]["values"] == [1, 1]
    # One image of 358 private ones: all others for one prompt, a fifth of them in SISA, fewer in clusters.
    assert rows["delete1", lmeraser.ONE]["metrics"]["sample_epochs"]["values"] == [2 * 357, 2 * 357]
    fifth = rows["delete1", "sisa --parts 5"]["metrics"]["sample_epochs_ratio"]["mean"]
    assert 4 < fifth < 6 < rows["delete1", "lmeraser --parts 50"]["metrics"]["sample_epochs_ratio"]["mean"]
    weights = tmp_path / "model_weights/lmeraser-quick-digits"
    copies = [read_system(path) for path in sorted(weights.glob("*_lmeraser50_s0_deleted-1-*"))]
    spent = [state["ledger"][0]["sample_epochs"] for state in copies]
    assert len(spent) == 3
    assert rows["delete1", "lmeraser --parts 50"]["metrics"]["sample_epochs"]["values"][0] == pytest.approx(sum(spent) / 3)
    assert len({tuple(state["deleted"].tolist()) for state in copies}) == 3  # three images, the same for every system
    others = [read_system(path) for path in sorted(weights.glob("*_sisa5_s0_deleted-1-*"))]
    assert [s["deleted"].tolist() for s in others] == [s["deleted"].tolist() for s in copies]
    assert figures.path(tmp_path / "results/lmeraser-quick-digits", "cost").stat().st_size > 10_000
    capsys.readouterr()
    again = make(tmp_path, monkeypatch, *methods, "--seeds", "2", table="lmeraser")
    assert again["rows"] == result["rows"] and capsys.readouterr().err.count("skipped, there already") == 2 * 4
    code, line = one_line(reproduce, capsys, "lmeraser", "--dataset", "digits", "--forget-class", "3", "5")
    assert code == 2 and "one class" in line


def test_tuning_uses_validation_images():
    runs = tune.tune(complete("tune", "--methods", "finetune"))
    assert all("--validation" in arguments for _, arguments in runs)
    rates = [a[a.index("--lr") + 1] for s, a in runs if s is reproduce.finetune and "resnet8" in a]
    assert rates == list(tune.GRID)


def test_random_forgetting_has_a_table_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(random_share.RANDOM_PRESETS, "quick", SMALL)
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


def test_rfaus_table_takes_the_rates_of_the_committed_tuning(tmp_path, monkeypatch):
    def row(forget, method, gap):
        return {"model": "vit_micro", "forget": forget, "method": method, "metrics": {"gap": {"mean": gap}}}

    rows = [
        *(row("class3", f"rfau --lr {rate}", gap) for rate, gap in (("0.001", 3), ("0.003", 1), ("0.01", 2))),
        *(row("random0.1", f"rfau --lr {rate}", gap) for rate, gap in (("0.001", 1), ("0.003", 3))),
        *(row("class3", f"randomlabel --saliency 0.5 --lr {rate}", gap) for rate, gap in (("0.0001", 1), ("0.003", 3))),
        row("class3", "retrain", 0),
    ]
    (tmp_path / "rfau-tune-quick.json").write_text(json.dumps({"rows": rows}))
    monkeypatch.setattr(rfau, "TUNED", tmp_path)
    runs = rfau.plan_rfau(complete("rfau", "--seeds", "1"))

    def rate_of(script, network, *flags):
        found = {
            a[a.index("--lr") + 1] if "--lr" in a else None for s, a in runs if s is script and {network, *flags} <= {*a}
        }
        assert len(found) == 1
        return found.pop()

    assert rate_of(reproduce.rfau, "vit_micro", "--forget-class") == "0.003"
    assert rate_of(reproduce.rfau, "vit_micro", "--forget-random") == "0.001"
    assert rate_of(reproduce.randomlabel, "vit_micro", "--saliency", "--forget-class") == "0.0001"
    assert rate_of(reproduce.rfau, "resnet20", "--forget-class") is None
    assert rate_of(reproduce.retrain, "vit_micro", "--forget-class") is None


def test_rfaus_table_forgets_a_class_and_images_and_shows_the_gap_over_steps(tmp_path, monkeypatch):
    monkeypatch.setitem(rfau.RFAU_PRESETS, "quick", SMALL | {"subset": 300, "test": 100})
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
    assert figures.path(tmp_path / "results/rfau-quick-digits", "steps").stat().st_size > 10_000
    again = make(
        tmp_path, monkeypatch, "--methods", "mask", "finetune", "rfau", "--seeds", "1", "--only", "images", table="rfau"
    )
    assert sorted(again["rows"], key=str) == sorted(result["rows"], key=str)
    assert [run["of"] for run in again["earlier"]] == [["resnet8, class3"]]


def test_an_audit_compares_as_many_retrained_networks(tmp_path, monkeypatch):
    monkeypatch.setitem(audit.AUDIT_PRESETS, "quick", SMALL | {"subset": 300})
    result = make(tmp_path, monkeypatch, "--methods", "mask", "lora", "--seeds", "3", table="audit")
    rows = {(row["forget"], row["method"]): row for row in result["rows"]}
    assert set(rows) == {
        *(("class3", method) for method in ("original", "retrain", "mask", "lora")),
        *(("random0.1", method) for method in ("original", "retrain", "lora")),
    }
    assert {row["n"] for row in result["rows"]} == {3}
    assert len(list((tmp_path / "model_weights/audit-quick-digits").glob("*retrain*.pth"))) == 12
    mask = rows["class3", "mask"]["metrics"]
    assert mask["UA"]["mean"] == mask["ulira"]["mean"] == 100  # a constant answer is told from a Retrain at once
    assert mask["forgetting"]["mean"] == 0
    for row in rows.values():
        assert len(row["metrics"]["ulira"]["values"]) == 3
        assert 0 <= row["metrics"]["forgetting"]["mean"] <= 1
        assert row["metrics"]["klom_f"]["mean"] > 0


def test_the_audits_floor_is_a_coin():
    """Two samples of one kind of network: U-LiRA scores 50 within its interval, and the mean ratio in `neurips` is 1."""
    generator = np.random.default_rng(0)
    first, second = (
        [{"UA": 10.0, "RA": 90.0, "TA": 80.0, **{side: generator.normal(size=300) for side in "frt"}} for _ in range(16)]
        for _ in range(2)
    )
    found = audit.compare(first, second)
    assert abs(found["ulira"]["mean"] - 50) < 1.5 * found["ulira"]["ci95"]
    assert found["neurips"]["mean"] == found["forgetting"]["mean"] > 0.05
    apart = audit.compare([one | {"f": one["f"] + 9} for one in first], second)
    assert apart["ulira"]["mean"] > 99
    assert apart["forgetting"]["mean"] < 0.01 < apart["klom_f"]["mean"] - found["klom_f"]["mean"]


def test_a_row_or_preset_that_a_table_lacks_is_named(capsys):
    code, line = one_line(reproduce, capsys, "random", "--dataset", "digits", "--methods", "mask")
    assert code == 2 and "random has no row 'mask'" in line
    code, line = one_line(reproduce, capsys, "audit", "--dataset", "digits", "--preset", "gpu")
    assert code == 2 and "audit has no preset gpu" in line


def test_data_are_kept_between_runs():
    config = reproduce.parser().parse_args(["prunelora", "--dataset", "digits"])
    config.subset, config.test_subset, config.validation = None, None, 0.0
    assert load_data(config) is load_data(config)
