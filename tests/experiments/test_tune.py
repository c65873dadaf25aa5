"""Tunings: as many points for every row, on images that no network was trained on."""

import importlib
import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

import data
import reproduce
from tests.experiments.tables import SMALL, make, planned
from tests.helpers import one_line
from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.flags import PerModel
from unlearning.experiments import tune
from unlearning.experiments.methods import ALWAYS, BUDGET, METHODS, TUNED, rows_of
from unlearning.experiments.request import Request
from unlearning.experiments.resolve import fitted, resolved
from unlearning.images import forgetting
from unlearning.reports import results
from unlearning.vision.shared import Shared

TUNABLE = [name for name in rows_of("tune") if name not in ALWAYS]


@pytest.mark.parametrize("name", TUNABLE)
def test_every_row_has_as_many_points_and_its_scripts_defaults_among_them(name):
    """Of every network that has defaults of its own."""
    method = METHODS[name]
    assert len(set(method.points)) == len(method.points) == BUDGET
    actions = {action.option_strings[-1]: action for action in importlib.import_module(method.script).parser()._actions}
    defaults = {flag: actions[flag].default for flag in method.knobs}
    networks = {"paper", *itertools.chain(*(value for value in defaults.values() if isinstance(value, PerModel)))}
    found = [tuple(actions[flag].type(point[point.index(flag) + 1]) for flag in method.knobs) for point in method.points]
    for network in networks:
        own = (value.of(network) if isinstance(value, PerModel) else value for value in defaults.values())
        assert tuple(own) in found, network


def test_a_rate_that_is_too_high_for_single_images_has_much_lower_ones():
    rates = [float(point[1]) for point in METHODS["delete"].points]
    default = importlib.import_module("baselines.delete").LR
    assert min(rates) <= min(default.values()) / 10 and max(rates) >= max(default.values())


@pytest.mark.parametrize(("name", "epochs"), [("finetune", "5"), ("rfau", "5"), ("gradascent", "1"), ("ssd", None)])
def test_tuning_runs_each_point_once_a_seed_on_a_tenth_of_the_training_images(name, epochs):
    """For a class and for single images, at one number of epochs, on a network of which nobody has said how to train it."""
    runs = planned("tune", "--preset", "rfau-quick", "--methods", name, "--model", "mobilenetv3_small_050")
    given = [(script, dict(itertools.pairwise(arguments))) for script, arguments in runs]
    assert {one["--validation"] for _, one in given} == {"0.1"}
    assert Counter(script for script, _ in given)["retrain"] == 2 * 3
    mine = [one for script, one in given if script == METHODS[name].script]
    kinds = ["class" if "--forget-class" in one else one["--forget-random"] for one in mine]
    flags = METHODS[name].knobs
    tried = Counter(
        (kind, one["--seed"], *(word for flag in flags for word in (flag, one[flag])))
        for kind, one in zip(kinds, mine, strict=True)
    )
    points = itertools.product(("class", "0.1"), ("0", "1", "2"), METHODS[name].points)
    assert tried == Counter((kind, seed, *point) for kind, seed, point in points)
    assert {one.get("--epochs") for one in mine} == {epochs}
    assert not any("--lr" in one for script, one in given if script == "retrain")


def test_a_tuning_of_somebody_elses_network_makes_a_retrain_to_choose_by(tmp_path, monkeypatch, capsys):
    """And says that its images may be known to that network. Other tables make none unless it is asked for."""
    flags = ("--original", str(tmp_path / "net.pth"), "--model", "resnet8", "--methods", "finetune", "--only", "class")
    scripts = Counter(script for script, _ in planned("tune", *flags, "--seeds", "1"))
    assert scripts == {"retrain": 1, "finetune": 8}
    assert {script for script, _ in planned("rfau", *flags, "--seeds", "1")} == {"finetune"}
    args = reproduce.parser().parse_args(["tune", *flags, "--dry-run", "--dataset", "digits"])
    reproduce.run(args, "python reproduce.py")
    assert "net.pth may have learned the images on which all is scored here" in capsys.readouterr().err


def test_a_tuning_may_forget_images_of_ones_own_choice(tmp_path, monkeypatch):
    """They are called as among the images that are not held out: so a further run knows which rows it would lose."""
    held = set(range(1433)) - set(data.load("digits", validation=0.1).whole.positions.tolist())
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*sorted(held)[:2], 3, 4, 5])), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    flags = ("--dataset", "digits", "--model", "resnet8", "--seeds", "1", "--forget-file", "list.txt")
    for only in ((), ("--only", "images")):
        shared, args = Shared(), reproduce.parser().parse_args(["tune", *flags, *only])
        request = resolved(fitted(Request.from_flags(args, tune.TABLE), shared), shared)
        runs = tune.TABLE.plan(request).runs
        named = [dict(itertools.pairwise(arguments)) for script, arguments in runs if script == "finetune"]
        named = [given for given in named if "--forget-file" in given]
        assert len(named) == 8 and {given["--forget-file"] for given in named} == {"list.txt"}
        assert {given["--validation"] for given in named} == {"0.1"}
        assert any("--forget-class" in words for _, words in runs) == (not only)
        loaded = data.load("digits", validation=0.1, subset=request.source.subset)
        assert request.forget_tags["images"] == forgetting.tag_of_ids(loaded.whole.loaded(torch.tensor([3, 4, 5])))


def with_points(monkeypatch, **grids):
    """Fewer points of rows than a tuning has: the values of a grid, as METHODS has them."""
    for name, grid in grids.items():
        monkeypatch.setitem(METHODS, name, replace(METHODS[name], grid=grid))


@pytest.mark.usefixtures("no_look_beneath")
def test_a_tuning_chooses_one_point_and_another_table_is_run_at_it(tmp_path, monkeypatch, capsys):
    """On digits, a row without a learning rate. One of the points is the script's default."""
    monkeypatch.setitem(tune.PRESETS, "quick", SMALL)
    with_points(monkeypatch, ssd="--alpha 1 10 100")
    flags = ("--methods", "ssd", "--seeds", "1", "--subset", "300")
    result = make(tmp_path, monkeypatch, *flags, "--only", "class", table="tune")
    rows = [row for row in result["rows"] if "tunes" in row]
    assert [row["method"] for row in result["rows"]][:2] == ["original", "retrain"] and len(rows) == 3
    assert {row["points"] for row in rows} == {3} and {row["tunes"] for row in rows} == {"ssd"}
    assert [row["point"] for row in rows if not row["flags"]] == ["--alpha 10"]
    least = min(row["metrics"]["gap"]["mean"] for row in rows)
    (chosen,) = (row for row in rows if row["chosen"])
    assert chosen["metrics"]["gap"]["mean"] == least
    printed = [line.split() for line in capsys.readouterr().out.partition("chosen points")[2].splitlines()]
    assert ["ssd", *chosen["point"].split(), "3", f"{least:.2f}"] in printed
    folder = tmp_path / "results/tune-quick-subset-300-digits"
    assert f"| {chosen['point']} " in (folder / "README.md").read_text(encoding="utf-8").partition("chosen points")[2]
    (run,) = (arguments for script, arguments in planned("prunelora", *flags, "--model", "resnet8", "--tuned", str(folder))
              if script == "baselines.ssd")  # fmt: skip
    assert run[-2:] == chosen["point"].split()


@pytest.mark.usefixtures("no_look_beneath")
def test_a_tuning_of_one_more_method_leaves_the_others_and_what_made_them(tmp_path, monkeypatch, capsys):
    """And where it has more seeds, these are of that method alone; fewer than there are would lose some."""
    monkeypatch.setitem(tune.PRESETS, "quick", SMALL | {"epochs": [1]})
    with_points(monkeypatch, ssd="--alpha 3 10", negate="--lr 0.00001 0.001")
    flags = ("--only", "class", "--subset", "300")
    first = make(tmp_path, monkeypatch, *flags, "--seeds", "1", "--methods", "ssd", table="tune")
    both = make(tmp_path, monkeypatch, *flags, "--seeds", "2", "--methods", "negate", table="tune")
    seeds = Counter((row.get("tunes", row["method"]), row["n"]) for row in both["rows"])
    assert seeds == {("original", 2): 1, ("retrain", 2): 1, ("ssd", 1): 2, ("negate", 2): 2}
    assert [row for row in both["rows"] if row.get("tunes") == "ssd"] == first["rows"][2:]
    made = {key: first[key] for key in results.PROVENANCE}
    assert both["earlier"] == [{"of": ["resnet8, class3, ssd"]} | made]
    monkeypatch.chdir(tmp_path)
    again = ("tune", "--dataset", "digits", "--model", "resnet8", *flags, "--seeds", "1", "--quiet", "--methods")
    code, line = one_line(reproduce, capsys, *again, "negate")
    assert code == 2 and "negate --lr 1e-05 (resnet8, class3); this would lose 1 of its 2 seeds" in line
    after = make(tmp_path, monkeypatch, *flags, "--seeds", "1", "--methods", "ssd", table="tune")
    assert after["rows"] == both["rows"] and [run["of"] for run in after["earlier"]] == [
        [f"resnet8, class3, {name}" for name in ("original", "retrain", "negate")]
    ]
    code, line = one_line(reproduce, capsys, *again, "l1sparse", "--mia", "unlearn-sparse")
    assert code == 2 and "holds ssd (resnet8, class3), scored by --mia svc: give that, or --overwrite" in line
    older = {"of": ["resnet8, class3"]} | made | {"command": "of the whole forget set"}
    first, both = ({key: value for key, value in one.items() if key != seals.FIELD} for one in (first, both))
    results.write(tmp_path / "older.json", first | {"earlier": [older]})
    new = both | {"rows": [row for row in both["rows"] if row.get("tunes") != "ssd"]}
    for changed in ({"attack": "unlearn-sparse"}, {"rows": [row | {"fingerprint": "of others"} for row in new["rows"]]}):
        with pytest.raises(UserError, match="holds resnet8, class3, ssd, which were scored on other data or by another"):
            results.joined(new | changed, tmp_path / "older.json")
        rows = results.joined(new | changed, tmp_path / "older.json", overwrite=True)["rows"]
        assert {row.get("tunes") for row in rows} == {None, "negate"}
    results.write(tmp_path / "more.json", both)
    for attack, seeds in (("svc", 2), ("unlearn-sparse", 1)):  # of another attack, which replaces, those of more seeds go
        rows = results.joined(first | {"attack": attack}, tmp_path / "more.json", overwrite=True)["rows"]
        assert {row["n"] for row in rows if "tunes" not in row} == {seeds}
    (run,) = results.joined(new, tmp_path / "older.json")["earlier"]
    assert (run["of"], run["command"]) == (["resnet8, class3, ssd"], "of the whole forget set")


@pytest.mark.parametrize(("seeds", "other", "stays"), [(1, "negate", True), (2, "negate", False), (1, "ssd", False)])
def test_rows_of_a_tuning_keep_what_they_are_measured_by(tmp_path, seeds, other, stays):
    """Not where Original and Retrain have come with more seeds, or all rows are made again."""
    row = {"dataset": "digits", "model": "resnet8", "forget": "class3", "epochs": 1, "command": "c"}
    made_by = {"table": "t", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}

    def written(n, tried, gap):
        rows = [row | {"method": name, "n": n} for name in ("original", "retrain")]
        rows += [row | {"method": tried, "tunes": tried, "n": n}]
        return made_by | {"rows": [one | {"metrics": {"gap": {"mean": gap, "ci95": None, "values": [gap]}}} for one in rows]}

    results.write(tmp_path / "result.json", written(1, "ssd", 1.0))
    rows = results.joined(written(seeds, other, 2.0), tmp_path / "result.json")["rows"]
    assert [one["metrics"]["gap"]["mean"] for one in rows] == ([1.0, 1.0] if stays else [2.0, 2.0]) + [1.0, 2.0][
        other == "ssd" :
    ]


def test_each_table_that_can_be_tuned_has_its_presets_here_and_reproduce_knows_them_all():
    for table in TUNED:
        for name, sizes in reproduce.table_of(table).presets.items():
            keys = ("model", "subset", "test", "pretrain", "scratch", "dataset")
            alike = [tune.PRESETS[key] for key in (name, f"{table}-{name}") if key in tune.PRESETS]
            alike = [one for one in alike if one["epochs"][0] == sizes["epochs"][0]]  # a tuning has one number of them
            assert any(all(one.get(key) == sizes.get(key) for key in keys) for one in alike), (table, name)
    assert {*reproduce.PRESETS, *reproduce.OF_TUNE} == tune.PRESETS.keys()
