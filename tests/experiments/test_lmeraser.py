"""LMEraser's table from end to end on digits."""

import itertools
import json
import shlex
from dataclasses import replace
from functools import partial

import pytest
import torch

import data
import lmeraser as lmeraser_script
import reproduce
from baselines import sisa
from tests.exact.test_system import random_backbone
from tests.experiments.tables import make, planned, request_of
from tests.helpers import call, files, full_disk, one_line
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import write_torch
from unlearning.evaluation.unfinished import Unfinished
from unlearning.exact import command as exact_command
from unlearning.exact import learners
from unlearning.exact.reading import assemble, read_system
from unlearning.exact.storage import SYSTEM
from unlearning.experiments import lmeraser
from unlearning.experiments.methods import METHODS, rows_of
from unlearning.experiments.plan import check_nothing_is_lost, command
from unlearning.reports import figures, paper_figures
from unlearning.vision.shared import Shared

SIZES = {"subset": None, "pretrain": {"resnet8": 2}, "private": 0.25}


def test_a_copy_of_another_system_of_the_same_name_is_not_taken():
    state = {"backbone": {"sha256": "a"}, "data": {"fingerprint": "b"}, "config": {"lr": 1}, "ledger": []}
    copy = state | {"ledger": [{"ids": [3]}]}
    assert lmeraser._is_of(copy, state)
    for other in (
        {"backbone": {"sha256": "c"}},
        {"data": {"fingerprint": "c"}},
        {"config": {"lr": 2}},
        {"ledger": [{}, {}]},
    ):
        assert not lmeraser._is_of(copy | other, state)


@pytest.mark.parametrize("name", rows_of("lmeraser"))
def test_a_system_is_called_by_its_row(name):
    script = sisa if name.startswith("sisa") else lmeraser_script
    words = ["train", "--dataset", "digits", *METHODS[name].flags, "--lr", "0.02"]
    settings = script.commands()[1].settings(script.parser().parse_args(words))
    assert lmeraser.label({"method": script.__name__.split(".")[-1], "config": settings}) == name


def test_a_copy_is_there_when_all_of_it_is_deleted(tmp_path, monkeypatch):
    """A disk that is full half way leaves the copy of an earlier run, or none. A system's accuracy is kept."""
    backbone, folder = random_backbone(tmp_path / "backbone.pth"), tmp_path / "system"
    flags = ("--dataset", "digits", "--subset", 300, "--backbone", backbone, "--parts", 2, "--anchors", 30, "--epochs", 1)
    call(lmeraser_script, "train", *flags, "--quiet", "--output", folder)
    request, state = request_of("lmeraser", "--dataset", "digits"), read_system(folder)
    for nth in (1, 2):  # the part, and what belongs to the system
        with full_disk(nth), pytest.raises(RunFailed, match="No space left"):
            lmeraser._deleted_from(folder, state, 1, 0, request, Shared())
        assert {path.name for path in tmp_path.iterdir()} == {"backbone.pth", "system"}
    copy = lmeraser._deleted_from(folder, state, 1, 0, request, Shared())
    write_torch(copy / SYSTEM, read_system(copy) | {"config": state["config"] | {"lr": 9}})  # another system's, by its name
    before = files(tmp_path)
    with full_disk(2), pytest.raises(RunFailed, match="No space left"):
        lmeraser._deleted_from(folder, state, 1, 0, request, Shared())
    assert files(tmp_path) == before
    assert read_system(lmeraser._deleted_from(folder, state, 1, 0, request, Shared()))["config"] == state["config"]
    request = replace(request, kept=Unfinished(tmp_path / ".scores.a.b.partial"))
    right = lmeraser._accuracy(folder, request, Shared())
    monkeypatch.setattr(lmeraser, "_accuracy_now", lambda *_: "computed")
    assert lmeraser._accuracy(folder, request, Shared()) == right
    assert lmeraser._accuracy(copy, request, Shared()) == "computed"


def test_a_copy_that_has_been_changed_is_refused_and_images_that_are_gone_are_not_asked_for(tmp_path):
    """Whoever deletes from a table's copy, or puts a file into it, loses nothing when the table is made again."""
    backbone, folder = random_backbone(tmp_path / "backbone.pth"), tmp_path / "system"
    flags = ("--dataset", "digits", "--subset", 300, "--backbone", backbone, "--anchors", 30, "--epochs", 1, "--quiet")
    call(sisa, "train", *flags, "--parts", 2, "--output", folder)
    request, state = request_of("lmeraser", "--dataset", "digits"), read_system(folder)
    copy = lmeraser._deleted_from(folder, state, 1, 0, request, Shared())
    left = state["private"][~torch.isin(state["private"], read_system(copy)["deleted"])]
    numbers = data.load("digits", subset=300).whole.positions
    call(sisa, "delete", copy, "--quiet", "--ids", numbers[left[0]].item())
    before = files(tmp_path)
    with pytest.raises(UserError, match="isn't replaced: it has been changed since a table made it"):
        lmeraser._deleted_from(folder, state, 1, 0, request, Shared())
    assert files(tmp_path) == before
    ten = lmeraser._deleted_from(folder, state, 10, 0, request, Shared())
    write_torch(ten / SYSTEM, read_system(ten) | {"config": state["config"] | {"lr": 9}})  # of another one before it
    (ten / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="isn't replaced"):
        lmeraser._deleted_from(folder, state, 10, 0, request, Shared())
    first = read_system(ten)["deleted"][0]  # the next one to be drawn takes its place
    call(sisa, "delete", folder, "--quiet", "--ids", numbers[first].item())
    (ten / "notes.txt").unlink()
    again = read_system(lmeraser._deleted_from(folder, read_system(folder), 10, 0, request, Shared()))
    assert len(again["ledger"][-1]["ids"]) == 10 and first not in again["ledger"][-1]["ids"]


def test_two_backbones_of_one_network_are_refused_and_so_is_a_request_for_all_images(tmp_path):
    for name in ("a.pth", "b.pth"):
        random_backbone(tmp_path / name)
    two = ("lmeraser", "--preset", "gpu", "--dataset", "digits", "--model", str(tmp_path / "a.pth"), str(tmp_path / "b.pth"))
    with pytest.raises(UserError, match=r"a.pth and .*b.pth are both a resnet8: a table takes one"):
        planned(*two)
    few = ("lmeraser", "--preset", "small", "--dataset", "fashion-mnist", "--subset", "600")
    with pytest.raises(UserError, match="100 of 600 training images are private, and the table deletes 100 of them"):
        planned(*few)


def test_rows_of_a_checkpoint_are_not_lost_to_another_nor_to_fewer_seeds(tmp_path):
    """They are called by the network that it holds."""
    flags = ("lmeraser", "--preset", "gpu", "--dataset", "digits", "--methods", "sisa --parts 5", "--model")
    paths = [str(random_backbone(tmp_path / name)) for name in ("a.pth", "b.pth")]
    row = {"dataset": "digits", "model": "resnet8", "forget": "delete1", "method": "sisa --parts 5", "epochs": 50, "n": 3}
    made = next(command(*run) for run in planned(*flags, paths[0]) if "sisa" in run[0])
    made_by = {"table": "t", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}, "attack": "svc"}
    file = tmp_path / "result.json"
    file.write_text(json.dumps(made_by | {"rows": [row | {"command": made, "metrics": {}}]}), encoding="utf-8")
    for path, seeds, lost in ((paths[0], 3, None), (paths[0], 1, "2 of its 3 seeds"), (paths[1], 3, "it")):
        request = request_of(*flags, path, "--seeds", seeds)
        check = partial(check_nothing_is_lost, file, request, lmeraser.TABLE.plan(request))
        if lost:
            with pytest.raises(UserError, match=rf"\(resnet8, delete1\); this would lose {lost}: --overwrite"):
                check()
        else:
            check()


@pytest.mark.parametrize("preset", ["small", "gpu", "paper"])
def test_the_flags_of_a_row_are_those_that_its_system_takes(tmp_path, preset):
    """Every command of a table parses and is settled: of a checkpoint, at a precision of the user's, in closed form."""
    path, scripts = str(random_backbone(tmp_path / "a.pth")), {"lmeraser": lmeraser_script, "baselines.sisa": sisa}
    closed = next(row for row in rows_of("lmeraser") if "ridge" in row)
    rows = ("sisa --parts 20",) if preset == "paper" else ("lmeraser --parts 100", closed)
    asked = (
        "lmeraser",
        "--preset",
        preset,
        "--dataset",
        "cifar10",
        "--model",
        path,
        "--precision",
        "fp32",
        "--methods",
        *rows,
    )
    for script, words in planned(*asked):
        assert "--input-size" not in words
        args = exact_command._settled(scripts[script].parser().parse_args(words), scripts[script].commands()[1])
        assert args.precision == (None if "ridge" in words else "fp32")


def test_seeds_delete_other_images_and_systems_of_one_seed_the_same(tmp_path):
    backbone, request, found = random_backbone(tmp_path / "backbone.pth"), request_of("lmeraser", "--dataset", "digits"), {}
    flags = ("--dataset", "digits", "--subset", 300, "--backbone", backbone, "--anchors", 30, "--epochs", 1, "--quiet")
    for seed, parts in ((0, 2), (0, 3), (1, 2)):
        folder = call(sisa, "train", *flags, "--seed", seed, "--parts", parts, "--output", tmp_path / f"{seed}-{parts}")
        copies = [lmeraser._deleted_from(folder, read_system(folder), 10, n, request, Shared()) for n in (0, 1)]
        found[seed, parts] = [read_system(copy)["deleted"].tolist() for copy in copies]
    assert found[0, 2] == found[0, 3]
    four = [tuple(draw) for draw in found[0, 2] + found[1, 2]]
    assert len(set(four)) == 4 and all(len(draw) == 10 for draw in four)


@pytest.mark.pictures("cost")
def test_lmerasers_table_counts_what_deletions_cost(tmp_path, monkeypatch, capsys):
    flags = ["--epochs", "2", "--anchors", "100"]
    sizes = SIZES | {"subset": 600, "test": 100, "flags": flags, "rates": []}
    monkeypatch.setitem(lmeraser.PRESETS, "quick", sizes)
    monkeypatch.setattr(lmeraser, "REQUESTS", {1: 3, 10: 1})
    methods = ("--methods", "lmeraser --parts 50", "sisa --parts 5")
    result = make(tmp_path, monkeypatch, *methods, "--seeds", "2", table="lmeraser")
    rows = {(row["forget"], row["method"]): row for row in result["rows"]}
    words = {row["forget"]: row["forgotten"] for row in result["rows"]}
    assert words == {"delete1": "1 image", "delete10": "10 images", "class3": "class 3"}
    kinds = (lmeraser.ONE, "lmeraser --parts 50", "sisa --parts 5")
    assert list(rows) == [(request, kind) for request in ("delete1", "delete10", "class3") for kind in kinds]
    assert all(row["n"] == 2 for row in rows.values())
    for request in ("delete1", "delete10", "class3"):
        whole = rows[request, lmeraser.ONE]["metrics"]
        assert whole["sample_epochs_ratio"]["values"] == whole["seconds_ratio"]["values"] == [1, 1]
    # One image of 150 private ones: all others for one prompt, a fifth of them in SISA, fewer in clusters.
    assert rows["delete1", lmeraser.ONE]["metrics"]["sample_epochs"]["values"] == [2 * 149, 2 * 149]
    fifth = rows["delete1", "sisa --parts 5"]["metrics"]["sample_epochs_ratio"]["mean"]
    assert 4 < fifth < 6 < rows["delete1", "lmeraser --parts 50"]["metrics"]["sample_epochs_ratio"]["mean"]
    weights = tmp_path / "model_weights/lmeraser-quick-digits"
    copies = [read_system(path) for path in sorted(weights.glob("*_lmeraser50*_s0_deleted-1-*"))]
    spent = [state["ledger"][0]["sample_epochs"] for state in copies]
    assert len(spent) == 3
    assert rows["delete1", "lmeraser --parts 50"]["metrics"]["sample_epochs"]["values"][0] == pytest.approx(sum(spent) / 3)
    assert len({tuple(state["deleted"].tolist()) for state in copies}) == 3  # three images, the same for every system
    others = [read_system(path) for path in sorted(weights.glob("*_sisa5*_s0_deleted-1-*"))]
    assert [s["deleted"].tolist() for s in others] == [s["deleted"].tolist() for s in copies]
    assert (tmp_path / "results/lmeraser-quick-digits/figures/cost.png").stat().st_size > 10_000
    monkeypatch.setattr(figures, "pictures", lambda rows: {})
    capsys.readouterr()
    other = make(tmp_path, monkeypatch, *methods, "--seeds", "2", "--forget-class", "5", "--overwrite", table="lmeraser")
    assert capsys.readouterr().err.count("there already: ") == 2 * 4
    assert [row for row in other["rows"] if row["forget"] != "class5"] == result["rows"]  # from the copies that are there
    labels = data.load("digits", subset=600).train.labels
    for seed, folder in enumerate(sorted(weights.glob("*_lmeraser50*_deleted-class5-0"))):
        gone = read_system(folder)["ledger"][0]["ids"]
        assert set(labels[gone].tolist()) == {5}, seed
    row = next(row for row in other["rows"] if row["forget"] == "class5")
    assert row["metrics"]["sample_epochs"] != rows["class3", lmeraser.ONE]["metrics"]["sample_epochs"]
    code, line = one_line(reproduce, capsys, "lmeraser", "--dataset", "digits", "--forget-class", "3", "5")
    assert code == 2 and "one class" in line


def test_a_deletion_after_which_nothing_is_trained_has_no_ratio(tmp_path, monkeypatch):
    """Its images were all that their parts held. One such seed takes the row its ratio, and all of them its dot."""
    costs = {lmeraser.ONE: (100, 100), "lmeraser --parts 50": (0, 4), "sisa --parts 20": (0, 0)}
    common = {"model": "resnet8", "dataset": "digits", "forget": "delete1", "epochs": 1, "clusters": 1}
    rows = [
        common | {"method": method, "seed": seed, "metrics": {"sample_epochs": images, "seconds": 0.5, "accuracy": 50.0}}
        for method, both in costs.items()
        for seed, images in enumerate(both)
    ]
    monkeypatch.setattr(lmeraser, "_rows_of", lambda *_: rows)
    whole, *others = lmeraser.score([tmp_path], None, None, None)
    assert whole["metrics"]["seconds_ratio"]["values"] == [1, 1]
    for row, name in itertools.product(others, ("sample_epochs_ratio", "seconds_ratio")):
        assert "nothing was trained again" in row["metrics"][name]["missing"]
    (axis,) = paper_figures.cost([whole, *others]).axes
    assert {x for bars in axis.containers for x in bars.lines[0].get_xdata()} == {100, 2}


def test_the_tuning_scores_each_pair_of_rates_on_validation_images(tmp_path, monkeypatch):
    grid = (("0.1", "0.5"), ("0.01",))
    flags = ["--epochs", "3", "--anchors", "200"]
    monkeypatch.setitem(lmeraser.PRESETS, "quick", SIZES | {"flags": flags, "rates": ["--lr", "9"], "grid": grid})
    monkeypatch.setattr(lmeraser, "TUNED", (lmeraser.ONE, "lmeraser --parts 10"))
    result = make(tmp_path, monkeypatch, "--seeds", "2", "--precision", "fp32", table="lmeraser-tune")
    names = [f"{row} --lr {lr} --head-lr 0.01" for row in lmeraser.TUNED for lr in grid[0]]
    assert [(row["method"], row["n"]) for row in result["rows"]] == [(name, 2) for name in names]
    weights = tmp_path / "model_weights/lmeraser-tune-quick-precision-fp32-digits"
    held_out = data.load("digits", validation=0.1)
    for row, rate in zip(result["rows"], grid[0] * 2, strict=True):
        assert row["dataset"] == held_out.tag and shlex.split(row["command"]).count("--lr") == 1
        parts = 1 if row["method"].startswith(lmeraser.ONE) else 10
        systems = [(path, read_system(path)) for path in weights.glob("*_s?")]
        wanted = {"parts": parts, "lr": float(rate)}
        own = {state["seed"]: path for path, state in systems if wanted.items() <= state["config"].items()}
        right = []
        for seed in (0, 1):
            with torch.no_grad():
                answers = learners.build(assemble(own[seed]))(held_out.test.images.float() / 255).argmax(1)
            right.append(100 * (answers == held_out.test.labels).double().mean().item())
        assert row["metrics"]["validation"]["values"] == pytest.approx(right)
