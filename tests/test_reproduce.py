"""reproduce.py from end to end on digits, and the paper's numbers beside ours only where they belong."""

import json

from conftest import one_line
from test_data import folder_of_images

import cli
import data
import reproduce


def make(tmp_path, monkeypatch, *arguments):
    monkeypatch.chdir(tmp_path)
    config = reproduce.parser().parse_args(["prunelora", "--dataset", "digits", "--model", "resnet8", *arguments, "--quiet"])
    config.command = "python reproduce.py"
    reproduce.run(config)
    return json.loads((tmp_path / "results/prunelora-quick-digits.json").read_text())


def test_a_table_is_made_resumed_and_protected(tmp_path, monkeypatch, capsys):
    methods = ("--methods", "loraprune", "mask")
    result = make(tmp_path, monkeypatch, *methods, "--seeds", "2")
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "mask", "loraprune"]
    assert all(row["n"] == 2 and row["metrics"]["gap"]["mean"] >= 0 for row in result["rows"])
    assert {"table", "command", "date", "hardware", "versions", "rows"} <= set(result)
    assert all((tmp_path / f"results/prunelora-quick-digits.{end}").exists() for end in ("md", "png"))
    capsys.readouterr()
    again = make(tmp_path, monkeypatch, *methods, "--seeds", "2")
    assert capsys.readouterr().err.count("skipped, there already") == 8
    assert again["rows"] == result["rows"]
    before = (tmp_path / "results/prunelora-quick-digits.json").read_text()
    code, line = one_line(reproduce, capsys, "prunelora", "--dataset", "digits", "--model", "resnet8", *methods)
    assert code == 2 and "more rows or seeds" in line
    assert (tmp_path / "results/prunelora-quick-digits.json").read_text() == before


def test_a_rows_command_makes_that_rows_checkpoint(tmp_path, monkeypatch):
    result = make(tmp_path, monkeypatch, "--methods", "loraprune")
    words = result["rows"][-1]["command"].split()
    assert words[:2] == ["python", "loraprune.py"]
    config = reproduce.loraprune.parser().parse_args(words[2:])
    config.command, config.reuse = "", True
    path = reproduce.loraprune.run(config)  # reuse accepts nothing but the same settings
    assert path.parent.name == "prunelora-quick-digits"


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
        reproduce.add_published([row], dataset)
        assert ("published" in row) == expected
    row = {"model": "vit_small", "method": "lora", "epochs": 10, "forget": "class3"}
    reproduce.add_published([row], cifar)
    assert row["published"] == {"UA": 95.58, "RA": 97.81, "TA": 85.16, "MIA": 99.58}


def test_every_preset_names_commands_that_parse():
    for preset in reproduce.PRESETS:
        config = reproduce.parser().parse_args(["prunelora", "--preset", preset, "--seeds", "2"])
        config.subset, config.validation = reproduce.PRESETS[preset]["subset"], 0.0
        runs = reproduce.prunelora(config)
        assert len(runs) > 20
        for script, arguments in runs:
            script.parser().parse_args(arguments)


def test_tuning_uses_validation_images():
    config = reproduce.parser().parse_args(["tune", "--methods", "finetune"])
    config.subset, config.validation = 1000, 0.0
    runs = reproduce.tune(config)
    assert all("--validation" in arguments for _, arguments in runs)
    rates = [a[a.index("--lr") + 1] for s, a in runs if s is reproduce.finetune and "resnet8" in a]
    assert rates == list(reproduce.GRID)


def test_data_are_kept_between_runs():
    config = reproduce.parser().parse_args(["prunelora", "--dataset", "digits"])
    config.subset, config.validation = None, 0.0
    assert cli.load_data(config) is cli.load_data(config)
