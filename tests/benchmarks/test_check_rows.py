"""Rows that come out again are told from rows that don't."""

import contextlib
import json
import math
import shlex

import pytest

import reproduce
from benchmarks import check_rows
from tests.experiments.tables import SMALL, make
from tests.helpers import ROOT
from unlearning.experiments import prunelora


def test_one_more_run_lies_in_its_interval():
    """By hand, of three seeds: t is 4.3027; never narrower than a point."""
    mean, half = check_rows.interval([90.0, 92.0, 94.0])
    assert mean == 92 and half == pytest.approx(4.3027 * 2 * math.sqrt(4 / 3), rel=1e-4)
    assert check_rows.interval([100.0, 100.0]) == (100, 1)


def test_the_command_of_a_table_is_given_for_these_rows_and_one_seed(tmp_path):
    typed = "python reproduce.py prunelora --preset first --methods mask 'loraprune --regrow' --ray --cores 1 --seeds 3"
    typed += " --results my --epochs 2"
    words = shlex.split(check_rows.again(typed, ["finetune", "lora --rank 2"], tmp_path))
    assert words[:6] == ["python", "reproduce.py", "prunelora", "--preset", "first", "--epochs"]
    assert words[7:] == ["--methods", "finetune", "lora --rank 2", "--seeds", "1", "--data-dir", str(tmp_path), "--quiet"]
    reproduce.parser().parse_args(words[2:])


def test_the_command_of_a_table_is_given_from_another_folder(tmp_path):
    """Its paths are whole then; a flag may hold its value."""
    typed = (
        "python reproduce.py random --tuned results/tune-first --results=mine --seeds=3 --dataset folder:tests --epochs=2"
    )
    words = shlex.split(check_rows.again(typed, ["lora"], tmp_path))
    tuned, images = ROOT / "results/tune-first", ROOT / "tests"
    assert words[3:9] == ["--tuned", str(tuned), "--dataset", f"folder:{images}", "--epochs", "2"]
    assert words[9:] == ["--methods", "lora", "--seeds", "1", "--data-dir", str(tmp_path), "--quiet"]


@pytest.mark.slow
def test_rows_are_made_again_and_compared(tmp_path, monkeypatch, capsys):
    """In this process, where a subprocess would do it. Another accuracy than the committed one is one line."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    flags = ("--methods", "finetune", "mask", "--seeds", "2")
    result = make(tmp_path, monkeypatch, *flags)
    folder = tmp_path / "results/prunelora-quick-digits"

    def run(command, place):
        with contextlib.chdir(place):
            reproduce.run(reproduce.parser().parse_args(shlex.split(command)[2:]), command)

    monkeypatch.setattr(check_rows, "seconds_of", run)
    result["command"] = f"python reproduce.py prunelora --dataset digits --model resnet8 {shlex.join(flags)}"
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    check_rows.measure_all(check_rows.parser().parse_args([str(folder), "--methods", "finetune"]), "")
    assert "5 metrics lie in their intervals" in capsys.readouterr().out
    row = next(row for row in result["rows"] if row["method"] == "finetune")
    row["metrics"]["RA"] = {"mean": 50.0, "ci95": 0.0, "values": [50.0, 50.0]}
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(check_rows.RunFailed, match=r"outside their intervals: resnet8, class3, finetune: RA"):
        check_rows.measure_all(check_rows.parser().parse_args([str(folder), "--methods", "finetune", "mask"]), "")
    row["n"] = 1
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
    with pytest.raises(check_rows.UserError, match="finetune has one seed"):
        check_rows.measure_all(check_rows.parser().parse_args([str(folder), "--methods", "finetune"]), "")
