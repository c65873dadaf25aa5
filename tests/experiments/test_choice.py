"""Which point a tuning chooses, by rows made by hand, and the runs of other tables at these points."""

import json
import shlex

import pytest

import reproduce
from tests.experiments.tables import planned, request_of
from tests.helpers import ROOT, one_line
from unlearning.core.errors import UserError
from unlearning.experiments import plan
from unlearning.experiments.choice import Tuned, best, ends, mark, tried
from unlearning.experiments.methods import METHODS, TUNED

FORGETS = {"class3": "--forget-class 3", "class5": "--forget-class 5", "random0.1": "--forget-random 0.1"}
RUN_BY = {"table": "tune-quick", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}


def row(name, point, gap, forget="class3", network="vit_micro", n=3, own=False, held_out="--validation 0.1 "):
    """A result's row: `name` of METHODS at `point`, with this average gap. own: its flags are the script's defaults."""
    method = METHODS[name]
    script = f"-m {method.script}" if "." in method.script else f"{method.script}.py"
    words = f"{FORGETS[forget]} --epochs 5 {point} {shlex.join(method.flags)}"
    metric = {"missing": "no Retrain"} if gap is None else {"mean": gap, "ci95": None}
    flags = [" ".join(method.flags)] * bool(method.flags) + [point] * (not own)
    found = {"dataset": "digits", "model": network, "forget": forget, "method": f"{name} {point}", "epochs": 5, "n": n}
    command = f"python {script} --model {network} --seed 0 {held_out}{words}".strip()
    return found | {"command": command, "flags": flags, "metrics": {"gap": metric}}


def chosen_of(*rows):
    return best([tried(one) for one in rows])


def written(folder, rows):
    """A folder of results with these rows."""
    (folder / "tuning").mkdir()
    (folder / "tuning/result.json").write_text(json.dumps(RUN_BY | {"rows": rows}), encoding="utf-8")
    return folder / "tuning"


def test_the_least_average_gap_over_seeds_is_chosen_and_of_equal_ones_the_scripts_own():
    first, second, third = (row("finetune", f"--lr {rate}", 2.5) for rate in ("0.001", "0.003", "0.01"))
    assert chosen_of(first, second, row("finetune", "--lr 0.01", 2.25)) == ("--lr", "0.01")
    assert chosen_of(first, second, row("finetune", "--lr 0.01", 2.5, own=True)) == ("--lr", "0.01")
    assert chosen_of(first, row("finetune", "--lr 0.01", 2.75, own=True)) == ("--lr", "0.001")
    assert chosen_of(second, third, first) == ("--lr", "0.003")  # none is the script's own: the first
    assert chosen_of(first, row("finetune", "--lr 0.003", 0.1, n=2)) == ("--lr", "0.001")  # a seed of the other diverged
    assert chosen_of(row("finetune", "--lr 0.001", None)) is None
    without_flags = {key: value for key, value in third.items() if key != "flags"}  # of earlier versions
    assert tried(without_flags).own is False


def test_a_point_at_an_end_of_its_grid_is_named():
    """Of two values each is one, which says nothing; a row that isn't chosen neither."""
    rows = [row("scrub", f"--lr {rate} --msteps 1", gap) for rate, gap in (("0.0001", 1.0), ("0.0005", 2.0), ("0.003", 3.0))]
    rows += [row("l1sparse", "--lr 0.03 --gamma 0.005", 1.0, "class5"), row("finetune", "--lr 0.001", 1.0, "class5")]
    rows += [row("loraprune", f"--lr {rate} --amount 0.25", gap) for rate, gap in (("0.001", 1.0), ("0.0003", 2.0))]
    mark(rows)
    assert ends(rows) == [
        "note: vit_micro, class3: at an end of what was tried: scrub (--lr 0.0001)",
        "note: vit_micro, class5: at an end of what was tried: l1sparse (--lr 0.03)",
    ]


def test_a_row_is_known_by_its_command_whatever_it_is_called():
    """With the flags of its grid alone as its point, and of rows of one script the one with most flags."""
    known = {
        "randomlabel --saliency 0.5": "--lr 0.01",
        "loraprune --forget-loss delete": "--lr 0.003 --amount 0.25",
        "loraprune": "--lr 0.003 --amount 0.25",
        "head-only": "--lr 0.1",
        "ssd": "--alpha 30",
        "neglora --bound 5": "--lr 0.001 --beta 0.05",
        "gradascent --retain-weight 0.9": "--lr 0.001",
    }
    for name, point in known.items():
        found = tried(row(name, point, 1.0) | {"method": "another name"})
        assert (found.row, " ".join(found.point)) == (name, point)
    for name in ("original", "retrain", "mask", "loraprune --regrow"):  # nothing is tuned
        assert tried(row(name, "", 1.0)) is None, name
    assert tried(row("finetune", "--lr 0.01", 1.0, held_out="")) is None  # scored on test images
    assert tried({"command": "python finetune.py --validation 0.1 --model 'resnet8"}) is None


def test_rows_are_marked_once_for_each_network_forget_set_and_row():
    rows = [
        row("retrain", "", 0.0),
        *(row("finetune", f"--lr {rate}", gap) for rate, gap in (("0.001", 3.0), ("0.01", 1.0))),
        *(row("finetune", f"--lr {rate}", gap, "random0.1") for rate, gap in (("0.001", 1.0), ("0.01", 3.0))),
        *(row("finetune", f"--lr {rate}", gap, network="resnet8") for rate, gap in (("0.001", 1.0), ("0.01", 3.0))),
        *(row("lora", f"--lr 0.001 --rank {rank}", gap) for rank, gap in (("8", 2.0), ("16", 4.0))),
    ]
    mark(rows)
    assert [one.get("chosen") for one in rows] == [None, False, True, True, False, True, False, True, False]
    assert (rows[-1]["tunes"], rows[-1]["point"], rows[-1]["points"]) == ("lora", "--lr 0.001 --rank 16", 8)
    assert "points" not in rows[0]


def test_a_tuning_is_asked_for_this_forget_set_or_else_for_all_of_its_kind(tmp_path):
    rates = ("0.001", "0.003", "0.01")
    gaps = {"class3": (1.0, 2.0, 9.0), "class5": (9.0, 3.0, 1.0), "random0.1": (3.0, 2.0, 1.0)}
    rows = [
        row("finetune", f"--lr {rate}", gap, forget, "own/net.py:small")
        for forget, found in gaps.items()
        for rate, gap in zip(rates, found, strict=True)
    ]
    tuned = Tuned.read(written(tmp_path, [*rows, row("rfau", "--lr 0.001", 1.0), row("neglora", "--lr 0.001", 1.0)]))
    asked = {
        ("class", "class3"): "0.001",
        ("class", "class5"): "0.01",
        ("class", "class0-1"): "0.003",  # (2 + 3) / 2 is less than (1 + 9) / 2
        ("images", "fileabc"): "0.01",
    }
    for (kind, tag), rate in asked.items():
        assert tuned.point("moved/net.py:small", kind, tag, "finetune") == ("--lr", rate)
    assert tuned.point("net.py:large", "class", "class3", "finetune") is None
    ablation = tuned.point("vit_micro", "class", "class3", "rfau --shift head")
    assert ablation == ("--lr", "0.001")  # as what it is an ablation of
    assert tuned.point("vit_micro", "class", "class3", "neglora --prune") is None  # which is tuned by itself
    assert tuned.point("vit_micro", "class", "class3", "mask") is None


def test_tunings_of_earlier_versions_are_read():
    """The committed ones, whichever they are now, as they have chosen; and one whose grid had a flag that today's lacks."""
    folders = [path for path in sorted((ROOT / "results").glob("*tune-*")) if not path.name.startswith("lmeraser")]
    compared = 0
    for path in folders:
        tuned = Tuned.read(path)
        assert len(tuned.tries) >= 8
        for one in json.loads((path / "result.json").read_text(encoding="utf-8"))["rows"]:
            if one.get("chosen"):
                kind = "class" if one["forget"].startswith("class") else "images"
                point = tuned.point(one["model"], kind, one["forget"], one["tunes"])
                assert " ".join(point) == one["point"], path
                compared += 1
    assert compared >= 8
    points = ("--lr 0.001 --forget-weight 0.3", "--lr 0.001 --forget-weight 1")
    assert "--forget-weight" not in METHODS["neglora"].knobs
    rows = [row("neglora", point, gap) | {"point": point} for point, gap in zip(points, (3.0, 1.0), strict=True)]
    assert chosen_of(*rows) == ("--lr", "0.001", "--forget-weight", "1")
    assert tried(rows[0] | {"point": "--lr '0.001"}) is None


@pytest.mark.parametrize("table", TUNED)
def test_tuned_rows_are_run_at_their_points_and_all_others_as_before(table, tmp_path):
    points = {("finetune", "class3"): "--lr 0.03", ("finetune", "random0.1"): "--lr 0.00001"}
    points[("loraprune", "class3")] = "--lr 0.003 --amount 0.25"
    folder = written(tmp_path, [row(name, point, 1.0, forget) for (name, forget), point in points.items()])
    flags = (table, "--preset", "quick", "--model", "resnet8", "vit_micro", "--seeds", "1")
    before, after = planned(*flags), planned(*flags, "--tuned", str(folder))
    assert len(before) == len(after)
    changed = {}
    for (script, old), (same, new) in zip(before, after, strict=True):
        assert script == same
        old, new = (shlex.join(words).replace(f"{table}-quick-tuned", f"{table}-quick") for words in (old, new))
        if old != new:
            kind = "class3" if "--forget-class" in new else "random0.1"
            point = f" {points[script, kind]}"
            in_files = point.replace(" --", "-").replace(" ", "-")  # a request's file is another one at another point
            assert (table == "sequence") == (f"_{script}{in_files}_class" in new)
            assert "--model vit_micro" in new and new.replace(point, "").replace(in_files, "") == old
            changed.setdefault((script, kind), []).append(new)
    kinds = {kind if kind == "class" else "images" for kind in request_of(table).kinds}
    expected = {key for key in points if ("class" if key[1] == "class3" else "images") in kinds}
    assert changed.keys() == expected
    if table == "prunelora":  # with ablations, which no tuning has by themselves
        assert len(changed["loraprune", "class3"]) == 3
    request = request_of(*flags, "--tuned", str(folder))
    lines = plan.notes(request)
    (of_vit,) = (line for line in lines if "on vit_micro, where a class is" in line) if "class" in kinds else ("",)
    lacking = of_vit.partition(" no point for ")[2].partition(" on ")[0].split(", ")
    assert len(lines) == 2 * len(kinds)
    if "class" in kinds:
        assert "head-only" in lacking and not {"finetune", "loraprune", "loraprune --regrow", "mask"}.intersection(lacking)
        assert any("any row on resnet8, where a class is forgotten" in line for line in lines)
    assert plan.notes(request_of(*flags)) == []


def test_what_is_no_tuning_is_one_line(tmp_path, monkeypatch, capsys):
    """And so is a table that has no rows of that kind; nothing is written."""
    tested = written(tmp_path, [row("finetune", "--lr 0.01", 1.0, held_out="")])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.json").write_text("[]", encoding="utf-8")
    for flags, message in (
        (("prunelora", "--tuned", tested), "tuning holds no tuning: python reproduce.py tune makes one"),
        (("rfau", "--tuned", "nowhere"), "--tuned nowhere: there is no such folder or file"),
        (("random", "--tuned", "notes.json"), "notes.json is not a result file"),
        (("tune", "--tuned", tested), "tune has no --tuned; prunelora, random, audit, rfau, sequence have"),
        (("lmeraser", "--tuned", tested), "lmeraser has no --tuned"),
    ):
        code, line = one_line(reproduce, capsys, *flags, "--dataset", "digits", "--dry-run")
        assert code == 2 and message in line, line
    without_retrain = tmp_path / "without"
    without_retrain.mkdir()
    with pytest.raises(UserError, match="holds no tuning"):
        Tuned.read(written(without_retrain, [row("finetune", "--lr 0.01", None)]))
    assert {path.name for path in tmp_path.iterdir()} == {"tuning", "notes.json", "without"}
