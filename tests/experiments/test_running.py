"""Carrying out the runs of a table: what is said on the way."""

import itertools

import pytest

import models
import pretrain
import reproduce
from tests.experiments.tables import SMALL, planned, request_of
from tests.helpers import call, one_line
from unlearning.core.errors import Diverged
from unlearning.core.files import sha256
from unlearning.experiments import prunelora
from unlearning.experiments.methods import rows_of
from unlearning.experiments.plan import chosen
from unlearning.experiments.resolve import fitted
from unlearning.experiments.running import Taken, carry_out, run_all
from unlearning.vision import shipped
from unlearning.vision.shared import Shared


def test_the_time_left_is_that_of_runs_of_the_same_kind():
    def run(script, seed, *words):
        return script, ["--model", "resnet8", *words, "--seed", str(seed)]

    taken, slow, quick = Taken(), [run("lora", seed) for seed in range(3)], [run("control", seed) for seed in range(3)]
    assert taken.left(slow) == ""
    taken.add(slow[0], 600)
    assert taken.left(slow[1:]) == ", about 20 min left"
    taken.add(quick[0], 2)
    assert taken.left(slow[1:] + quick[1:]) == ", about 20 min left"
    assert taken.left(quick[1:]) == ", about 4 s left"
    assert taken.left([run("pruneft", 0)]) == ", about 5 min left"  # as long as the others of its network
    assert taken.left([("lora", ["--model", "vit_micro"])] * 40) == ", about 3.3 h left"


def test_what_comes_with_the_project_says_nothing_of_how_long_a_training_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    flags = ["--dataset", "digits", "--subset", "100", "--model", "resnet8", "--epochs", "1", "--quiet", "--weights"]
    made, seconds = carry_out(("pretrain", [*flags, "shipped"]), Shared())
    assert seconds > 0
    (tmp_path / "shipped" / shipped.SUMS).write_text(f"{sha256(made)}  {made.name}\n", encoding="utf-8")
    copied, seconds = carry_out(("pretrain", [*flags, "mine"]), Shared())
    assert copied.parent.name == "mine" and seconds == 0


def test_a_tuning_leaves_out_what_diverges_and_other_tables_stop_there(tmp_path, monkeypatch, capsys):
    """The order of the others stays."""
    monkeypatch.chdir(tmp_path)
    common = ["--dataset", "digits", "--subset", "100", "--model", "resnet8", "--epochs", "1", "--quiet"]
    rates = ("0.001", "1000000", "0.002")
    runs = [("baselines.l1sparse", [*common, "--forget-class", "3", "--batch-size", "16", "--lr", rate]) for rate in rates]
    call(pretrain, *common)
    capsys.readouterr()
    paths = run_all(runs, Shared(), quiet=True, diverging=True)
    assert [models.load_checkpoint(path)["config"]["lr"] for path in paths] == [0.001, 0.002]
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: "))
    assert "--lr 1000000" in line and "the loss is nan" in line
    with pytest.raises(Diverged, match="the loss is nan"):
        run_all(runs, Shared(), quiet=True)


@pytest.mark.usefixtures("no_look_beneath")
def test_a_table_says_which_run_it_is_at_and_what_is_forgotten(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    monkeypatch.chdir(tmp_path)
    asked = ("prunelora", "--dataset", "digits", "--model", "resnet8", "--methods", "finetune", "mask", "--seeds", "1")
    call(reproduce, *asked)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith("run ")] == [f"run {i} of 4" for i in (1, 2, 3, 4)]
    assert sum("left" in line for line in lines) == 3
    assert lines.count("forgets 31 of 300 images: all 31 of class 3") == 3  # all but the original
    call(reproduce, *asked)
    again = capsys.readouterr().err
    assert "left" not in again and "forgets" not in again and again.count("there already") == 4


def test_a_dry_run_prints_the_commands_in_their_order_and_makes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = ("prunelora", "--preset", "first", "--methods", "lora", "head-only")
    call(reproduce, *asked, "--dry-run")
    lines = capsys.readouterr().out.splitlines()
    names = [line.removeprefix("python ").removeprefix("-m ").partition(" ")[0] for line in lines]
    assert names == ["#", "pretrain.py", "retrain.py", "#", "lora.py", "baselines.control", "#"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "part"),
    [((), "6000"), (("--subset", "12001"), "6000"), (("--subset", "12000"), None), (("--dataset", "digits"), None)],
)
def test_the_first_preset_learns_from_a_part_of_what_is_large(size, part):
    request = fitted(request_of("prunelora", "--preset", "first", "--methods", "finetune", "bias", *size), Shared())
    flags = dict(reproduce.table_of("prunelora").plan(request).runs)
    found = flags["finetune"]
    assert found[found.index("--retain-subset") + 1] == part if part else "--retain-subset" not in found
    assert not any("--retain-subset" in flags[script] for script in ("pretrain", "retrain"))


def test_the_first_preset_leaves_rows_out_that_its_methods_may_name():
    """But not those of the tuning, which gives all methods the same."""

    def rows(*arguments):
        request = request_of(*arguments, "--preset", "first")
        return chosen(fitted(request, Shared()))

    left = set(rows("prunelora", "--methods", *rows_of("prunelora"))) - set(rows("prunelora"))
    assert left == {*prunelora.PRESETS["first"]["without"]} and len(left) == 11
    assert rows("prunelora", "--methods", "negate") == ["original", "retrain", "negate"]
    assert rows("tune") == rows_of("tune")


@pytest.mark.parametrize("preset", ["first", "quick"])
def test_sizes_are_changed_by_flags_and_named(preset):
    runs = planned("prunelora", "--preset", preset, "--subset", "500", "--epochs", "1", "4", "--methods", "lora")
    own = [arguments for script, arguments in runs if script == "lora" and arguments[arguments.index("--seed") + 1] == "0"]
    assert {arguments[arguments.index("--epochs") + 1] for arguments in own} == {"1", "4"}
    assert all(arguments[arguments.index("--subset") + 1] == "500" for arguments in own)
    assert {arguments[arguments.index("--weights") + 1] for _, arguments in runs} == {
        f"model_weights/prunelora-{preset}-subset-500-epochs-1-4"
    }


@pytest.mark.parametrize("table", ["prunelora", "sequence"])
def test_methods_learn_from_a_part_that_a_flag_names(table):
    """Of data that a preset's own number would leave whole too; networks trained from scratch learn from all."""
    flags = ("--preset", "first", "--dataset", "digits", "--retain-subset", "700", "--images", "50", "--methods", "lora")
    request = fitted(request_of(table, *flags, data_of=Shared()), Shared())
    runs = reproduce.table_of(table).plan(request).runs
    part = {script: dict(itertools.pairwise(arguments)).get("--retain-subset") for script, arguments in runs}
    assert part == {"pretrain": None, "retrain": None, "lora": "700"}
    assert request.scoring.images == 50
    assert request.name == f"{table}-first-retain-subset-700-images-50" + "-digits" * (table == "prunelora")


@pytest.mark.parametrize(("table", "most"), [("prunelora", 1287), ("sequence", 715), ("random", 900)])
def test_more_than_stay_are_refused_before_anything_is_trained(table, most, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = (table, "--preset", "quick", "--dataset", "digits", "--dry-run", "--retain-subset", "1300")
    code, line = one_line(reproduce, capsys, *flags)
    assert code == 2 and "--retain-subset 1300: of the images that stay" in line and f"to {most} can be kept" in line
    assert not list(tmp_path.iterdir())


def test_a_size_that_a_table_lacks_is_refused(capsys):
    code, line = one_line(reproduce, capsys, "lmeraser", "--epochs", "3")
    assert code == 2 and "lmeraser has no --epochs" in line
