"""reproduce.py from end to end on digits: what it keeps, refuses and names."""

import json
import re
import shlex
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

import data
import finetune
import loraprune
import pretrain
import reproduce
from data import Source
from tests.experiments.tables import SMALL, make, request_of
from tests.helpers import call, dies, files, killed, one_line, while_waiting
from tests.test_data import folder_of_images
from unlearning.core.errors import UserError
from unlearning.evaluation import network
from unlearning.experiments import prunelora
from unlearning.experiments.methods import ADDED, ALWAYS, METHODS, row_of
from unlearning.experiments.plan import check_nothing_is_lost, command
from unlearning.experiments.request import Request
from unlearning.experiments.resolve import resolved
from unlearning.reports import figures, folders, results
from unlearning.vision import originals
from unlearning.vision.shared import Shared


@pytest.mark.pictures("metrics", "relearn")
def test_a_table_is_made_resumed_and_protected(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    methods = ("--methods", "loraprune", "mask")
    result = make(tmp_path, monkeypatch, *methods, "--seeds", "2")
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "mask", "loraprune"]
    assert all(row["n"] == 2 and row["metrics"]["gap"]["mean"] >= 0 for row in result["rows"])
    assert {"table", "command", "date", "hardware", "versions", "rows"} <= set(result)
    folder = tmp_path / "results/prunelora-quick-digits"
    assert all((folder / name).exists() for name in folders.FILES.values())
    assert {"metrics.png", "relearn.png"} <= {path.name for path in (folder / "figures").iterdir()}
    assert "[prunelora-quick-digits](prunelora-quick-digits/)" in (tmp_path / "results/README.md").read_text(
        encoding="utf-8"
    )
    monkeypatch.setattr(figures, "pictures", lambda rows: {})
    capsys.readouterr()
    again = make(tmp_path, monkeypatch, *methods, "--seeds", "2")
    assert capsys.readouterr().err.count("there already: ") == 8
    assert again["rows"] == result["rows"]
    before = (tmp_path / "results/prunelora-quick-digits/result.json").read_text(encoding="utf-8")
    fewer = ("--dataset", "digits", "--model", "resnet8", *methods, "--seeds", "1")
    code, line = one_line(reproduce, capsys, "prunelora", *fewer)
    assert code == 2 and "would lose 1 of its 2 seeds" in line
    assert (tmp_path / "results/prunelora-quick-digits/result.json").read_text(encoding="utf-8") == before


def test_a_killed_table_scores_nothing_again_and_two_at_once_both_end_well(tmp_path, monkeypatch, capsys):
    """Killed between its result and what is drawn from it. The second waits for the first's results, and doesn't replace
    them where they are more than its own by then."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    scored, score = [], network.score
    monkeypatch.setattr(network, "score", lambda *given: scored.append(1) or score(*given))
    folder = tmp_path / "results/prunelora-quick-subset-200-digits"

    def table():
        return make(tmp_path, monkeypatch, "--methods", "mask", "--seeds", "1", "--subset", "200")

    with monkeypatch.context() as patch:
        patch.setattr(folders, "_drawings", killed)
        assert dies(table)
    assert "result.json" in files(folder) and "README.md" not in files(folder)
    capsys.readouterr()
    first = table()
    assert scored == [] and capsys.readouterr().err.count("there already: ") == 3
    assert set(folders.FILES.values()) <= files(folder).keys()
    assert not [name for name in files(tmp_path) if "/." in name]

    def second():
        try:
            return table()["rows"]
        except UserError as error:
            return str(error)

    more = first | {"rows": [{key: row[key] for key in row if key != "seeds"} | {"n": 2} for row in first["rows"]]}
    ends = [
        while_waiting(folder, second, partial((folder / "result.json").write_text, json.dumps(written)), capsys)
        for written in (first, more)
    ]
    assert len(scored) == 6 and ends[0] == first["rows"]  # to the last bit, though those were read back
    assert "this would lose 1 of its 2 seeds" in ends[1]
    assert json.loads((folder / "result.json").read_text(encoding="utf-8")) == more


@pytest.mark.usefixtures("no_look_beneath")
def test_rows_of_other_networks_stay(tmp_path, monkeypatch, capsys):
    """With what made them; a network's own rows are replaced, but not by fewer."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL | {"pretrain": {"resnet8": 2, "resnet20": 2}})
    first = make(tmp_path, monkeypatch, "--methods", "mask", "--seeds", "1")
    both = make(tmp_path, monkeypatch, "--model", "resnet20", "--methods", "mask", "--seeds", "1")
    assert [row["model"] for row in both["rows"]] == ["resnet8"] * 3 + ["resnet20"] * 3
    assert both["rows"][:3] == first["rows"]
    assert both["earlier"] == [{"of": ["resnet8, class3"]} | {key: first[key] for key in results.PROVENANCE}]
    table = (tmp_path / "results/prunelora-quick-digits/README.md").read_text(encoding="utf-8")
    assert "resnet8, class3: `python reproduce.py` on" in table
    again = make(tmp_path, monkeypatch, "--methods", "mask", "zero-row", "--seeds", "1")
    assert [row["model"] for row in again["rows"]] == ["resnet8"] * 4 + ["resnet20"] * 3  # where they stood
    assert [run["of"] for run in again["earlier"]] == [["resnet20, class3"]]
    capsys.readouterr()
    code, line = one_line(
        reproduce, capsys, "prunelora", "--dataset", "digits", "--model", "resnet8", "--methods", "mask", "--seeds", "1"
    )
    assert code == 2 and "zero-row (resnet8, class3); this would lose it" in line


@pytest.mark.usefixtures("no_look_beneath")
def test_rows_are_added_to_a_table_and_replaced_in_it(tmp_path, monkeypatch, capsys):
    """What made each is on record, also once other networks' rows have come; what others are measured by stays."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL | {"pretrain": {"resnet8": 2, "resnet20": 2}})
    first = make(tmp_path, monkeypatch, "--methods", "mask", "bias", "--seeds", "1")
    made = {key: first[key] for key in results.PROVENANCE}
    for row in ("zero-row", "mask"):
        both = make(tmp_path, monkeypatch, "--methods", row, "--seeds", "1", "--add")
    assert [row["method"] for row in both["rows"]] == ["original", "retrain", "mask", "bias", "zero-row"]
    assert both["rows"][:2] == first["rows"][:2] and both["rows"][3] == first["rows"][3]
    older, newer = both["earlier"]
    assert older == {"of": [f"resnet8, class3, {name}" for name in ("original", "retrain", "bias")]} | made
    assert newer["of"] == ["resnet8, class3, zero-row"]
    other = make(tmp_path, monkeypatch, "--model", "resnet20", "--methods", "mask", "--seeds", "1")
    assert [run["of"] for run in other["earlier"]] == [older["of"], newer["of"], ["resnet8, class3, mask"]]
    flags = ("prunelora", "--dataset", "digits", "--model", "resnet8", "--methods", "mask", "--add", "--seeds")
    code, line = one_line(reproduce, capsys, *flags, "2")
    assert code == 2 and "of 1 seeds: --add needs --seeds 1, by which its rows are measured" in line
    code, line = one_line(reproduce, capsys, "tune", "--add")
    assert (code, line) == (2, "reproduce.py: tune has no --add; prunelora, random, rfau have")


def test_rows_are_added_where_original_and_retrain_are_those_of_the_table(tmp_path):
    """Two machines may differ by some images in a thousand; another training, other images or other seeds by more."""
    committed = results.read(Path(reproduce.__file__).parent / "results/prunelora-first/result.json")
    results.write(tmp_path / "result.json", committed)
    rows = {row_of(row): row for row in committed["rows"]}
    ssd = {"ssd": rows["ssd"] | {"flags": ["--retain-subset 6000", "--alpha 30"]}}

    def with_(name, **changes):
        return committed | {"rows": [*({name: rows[name]} | {name: rows[name] | changes} | ssd).values()]}

    near, far = (
        {"TA": {"values": [value + off for value in rows["retrain"]["metrics"]["TA"]["values"]]}} for off in (0.5, 1)
    )
    metrics = rows["retrain"]["metrics"]
    after = results.added(with_("retrain", metrics=metrics | near), tmp_path / "result.json", row_of, ALWAYS)["rows"]
    assert after == [ssd["ssd"] if row["method"] == "ssd" else row for row in committed["rows"]]
    for name, changes in (
        ("retrain", {"metrics": metrics | far}),
        ("original", {"fingerprint": "of others"}),
        ("original", {"seeds": [1, 2, 3]}),
    ):
        with pytest.raises(UserError, match=f"measured its rows by another {name}"):
            results.added(with_(name, **changes), tmp_path / "result.json", row_of, ALWAYS)


def test_each_committed_row_is_of_the_row_whose_script_made_it():
    """At the point of a tuning too, whose flags aren't the row's own."""
    root = Path(reproduce.__file__).parent / "results"
    rows = [
        row for table in ADDED for file in sorted(root.glob(f"{table}-*/result.json")) for row in results.read(file)["rows"]
    ]
    assert len(rows) > 200
    for row in rows:
        if row["command"].startswith("python") and row["method"] not in ALWAYS:
            method, words = METHODS[row_of(row)], shlex.split(row["command"])
            assert (words[2] if words[1] == "-m" else words[1].removesuffix(".py")) == method.script
            assert set(method.flags) <= set(words)


def test_rows_of_two_attacks_do_not_stand_in_one_table(tmp_path):
    """Their columns have one name: other networks' rows would be taken for what they aren't, the same ones be replaced."""
    committed = results.read(Path(reproduce.__file__).parent / "results/prunelora-first/result.json")
    file, said = tmp_path / "result.json", r"result.json holds rows that were scored by --mia svc: give that, or --overwrite"
    for model in ("resnet8", "vit_micro"):
        flags = ("prunelora", "--preset", "first", "--model", model, "--seeds", 3, "--mia", "unlearn-sparse")
        request = request_of(*flags, "--results", tmp_path)
        for before in (committed, committed | {"attack": "unlearn-sparse", "earlier": [committed | {"of": ["x, class3"]}]}):
            file.write_text(json.dumps(before), encoding="utf-8")
            with pytest.raises(UserError, match=said):
                check_nothing_is_lost(file, request, prunelora.TABLE.plan(request))


def test_a_table_from_networks_that_come_with_the_project_is_made_again(tmp_path):
    """What made them is not a command of its plan; other rows, and seeds of theirs, are kept from being lost as ever."""
    flags = ("prunelora", "--preset", "first", "--methods", "mask", "--results", tmp_path)
    committed = results.read(Path(reproduce.__file__).parent / "results/prunelora-first/result.json")
    rows = [row for row in committed["rows"] if row["method"] in ("original", "retrain", "mask")]
    file = tmp_path / "result.json"
    file.write_text(json.dumps(committed | {"rows": rows}), encoding="utf-8")
    request = request_of(*flags, "--seeds", 3)
    check_nothing_is_lost(file, request, prunelora.TABLE.plan(request))
    shipped, rows[0]["command"] = rows[0]["command"], "trained elsewhere: bob's net.pth"
    file.write_text(json.dumps(committed | {"rows": rows}), encoding="utf-8")
    check_nothing_is_lost(file, request, prunelora.TABLE.plan(request))
    with pytest.raises(UserError, match=r"original .* this would lose 2 of its 3 seeds"):
        check_nothing_is_lost(file, request_of(*flags), prunelora.TABLE.plan(request))
    for wrong in ("--lr 0.1", "'"):  # by another recipe; no command
        rows[0]["command"] = f"python pretrain.py --dataset fashion-mnist --model resnet8 --seed 0 {wrong}"
        file.write_text(json.dumps(committed | {"rows": rows}), encoding="utf-8")
        with pytest.raises(UserError, match=r"original .* this would lose it"):
            check_nothing_is_lost(file, request, prunelora.TABLE.plan(request))
    rows[0]["command"], rows[2]["command"] = shipped, rows[1]["command"]
    file.write_text(json.dumps(committed | {"rows": rows}), encoding="utf-8")
    with pytest.raises(UserError, match=r"mask .* this would lose it"):
        check_nothing_is_lost(file, request, prunelora.TABLE.plan(request))


@pytest.mark.usefixtures("no_look_beneath")
def test_a_table_from_a_checkpoint_of_this_project_is_made_again_and_extended(tmp_path, monkeypatch):
    """Its original is no run of the plan, and is the same file's. One of another file of that name is another row."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    images = ("--dataset", "digits", "--subset", 300, "--test-subset", 100, "--weights", tmp_path, "--quiet")
    start, other = tmp_path / "net.pth", tmp_path / "other.pth"
    call(pretrain, *images, "--model", "resnet8", "--epochs", 1, "--output", start)
    call(finetune, *images, "--original", start, "--forget-class", 3, "--epochs", 1, "--output", other)
    for first, second, method in ((start, other, "original"), (other, start, "finetune")):
        file = tmp_path / method / "x.pth"
        file.parent.mkdir()
        shutil.copy(first, file)
        flags = ("--original", str(file), "--seeds", "1", "--results", str(file.parent), "--methods", "mask")
        made = make(tmp_path, monkeypatch, *flags)
        assert {row["method"] for row in made["rows"]} == {method, "mask"}
        assert make(tmp_path, monkeypatch, *flags)["rows"] == made["rows"]
        assert len(make(tmp_path, monkeypatch, *flags, "zero-row")["rows"]) == 3
        shutil.copy(second, file)
        with pytest.raises(UserError, match=rf"{method} \(resnet8, class3\); this would lose it"):
            make(tmp_path, monkeypatch, *flags, "zero-row")
        shutil.rmtree(tmp_path / "model_weights")


def test_columns_that_a_flag_asks_for_are_not_lost_where_it_is_not_given(tmp_path):
    """Nor rows of a network that its arguments tell from another of its name."""
    committed = results.read(Path(reproduce.__file__).parent / "results/prunelora-first/result.json")
    (row,) = [row for row in committed["rows"] if row["method"] == "finetune"]
    file, flags = tmp_path / "result.json", ("prunelora", "--preset", "first", "--seeds", 3, "--methods", "finetune")
    for column, flag in (("recovered1", "--recovery"), ("MIA svc loss", "--every-attack")):
        more = row | {"metrics": row["metrics"] | {column: row["metrics"]["UA"]}}
        file.write_text(json.dumps(committed | {"rows": [more]}), encoding="utf-8")
        for given in ((), (flag,), ("--overwrite",)):
            request = request_of(*flags, *given)
            check = partial(check_nothing_is_lost, file, request, prunelora.TABLE.plan(request))
            if given:
                check()
            else:
                with pytest.raises(
                    UserError, match=rf"finetune \(resnet8, class3\); this would lose its columns of {flag}:"
                ):
                    check()
    file.write_text(
        json.dumps(committed | {"rows": [row | {"model": "resnet8 (img_size 28, in_chans 1)"}]}), encoding="utf-8"
    )
    request = request_of(*flags, "--seeds", 1)
    with pytest.raises(UserError, match="would lose 2 of its 3 seeds"):
        check_nothing_is_lost(file, request, prunelora.TABLE.plan(request))


def test_rows_of_images_that_have_changed_are_not_lost(tmp_path, monkeypatch, capsys):
    """The same command on a folder to which images have come: its name is the same, and so is the table's."""
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "animals", classes=("bee", "cat"))
    flags = ("prunelora", "--preset", "small", "--dataset", "folder:animals", "--model", "resnet8", "--seeds", "1")
    flags = (*flags, "--methods", "mask", "--forget-class", "bee")
    request = request_of(*flags, data_of=Shared())
    made = next(command(*run) for run in prunelora.TABLE.plan(request).runs if "control" in run[0])
    row = {"dataset": "animals-abcdef", "model": "resnet8", "forget": "class0", "method": "mask", "epochs": None, "n": 1}
    made_by = {"table": request.name, "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}
    results.write(request.folder / "result.json", made_by | {"rows": [row | {"command": made, "metrics": {}}]})
    code, line = one_line(reproduce, capsys, *flags)
    tag = Shared().load(request.source).tag
    why = f"it is of animals-abcdef, and these images are {tag}"
    assert code == 2 and f"mask (resnet8, class0); this would lose it, for {why}: --overwrite" in line
    assert not (tmp_path / "model_weights").exists()
    check_nothing_is_lost(request.folder / "result.json", request, prunelora.TABLE.plan(request), "animals-abcdef")


@pytest.mark.usefixtures("no_look_beneath")
def test_as_many_rows_of_other_methods_replace_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    make(tmp_path, monkeypatch, "--methods", "mask", "--seeds", "1")
    before = (tmp_path / "results/prunelora-quick-digits/result.json").read_text(encoding="utf-8")
    arguments = ("prunelora", "--dataset", "digits", "--model", "resnet8", "--methods", "zero-row", "--seeds", "1")
    code, line = one_line(reproduce, capsys, *arguments)
    assert code == 2 and "mask (resnet8, class3); this would lose it" in line
    assert (tmp_path / "results/prunelora-quick-digits/result.json").read_text(encoding="utf-8") == before
    make(tmp_path, monkeypatch, "--methods", "mask", "zero-row", "--seeds", "1", "--cache", "0")  # more, by the way


@pytest.mark.usefixtures("no_look_beneath")
def test_a_rows_command_makes_that_rows_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    result = make(tmp_path, monkeypatch, "--methods", "loraprune", "--seeds", "1")
    words = result["rows"][-1]["command"].split()
    assert words[:2] == ["python", "loraprune.py"]
    path = call(loraprune, *words[2:])  # what is there already is accepted with nothing but the same settings
    assert path.parent.name == "prunelora-quick-digits"


def test_a_row_or_preset_that_a_table_lacks_is_named(capsys):
    code, line = one_line(reproduce, capsys, "random", "--dataset", "digits", "--methods", "mask")
    assert code == 2 and "random has no row 'mask'" in line
    code, line = one_line(reproduce, capsys, "audit", "--dataset", "digits", "--preset", "gpu")
    assert code == 2 and "audit has no preset gpu" in line


@pytest.mark.parametrize(("table", "only"), [("prunelora", "images"), ("random", "class"), ("lmeraser", "class")])
def test_only_is_for_tables_that_forget_both(table, only, capsys):
    code, line = one_line(reproduce, capsys, table, "--dataset", "digits", "--only", only)
    assert code == 2 and f"{table} has no --only" in line


def test_data_are_kept_between_runs():
    source, shared = Source("digits", Path("data")), Shared()
    assert shared.load(source) is shared.load(source)


def test_what_would_forget_nothing_or_all_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    """Also by --dry-run, which would print commands that fail."""
    monkeypatch.chdir(tmp_path)
    classes, share = ("prunelora", "--forget-class", *range(10)), ("random", "--share")
    for (table, *flags), said in (
        (classes, "--forget-class: these are all of the 10 classes: none would be left to retain"),
        ((*share, 0.0001), "--share 0.0001: that is 0 of 1,433 training images; some are needed, not all"),
        ((*share, 0.9999), "--share 0.9999: that is 1,433 of 1,433 training images; some are needed, not all"),
    ):
        for more in ((), ("--dry-run",)):
            code, line = one_line(reproduce, capsys, table, "--preset", "first", "--dataset", "digits", *flags, *more)
            assert (code, line) == (2, f"reproduce.py: {said}") and not files(tmp_path)


def test_another_class_is_another_forget_set_and_replaces_nothing(tmp_path, monkeypatch, capsys):
    """And a quiet table prints itself alone, not the files of its runs, which scripts print though they are quiet."""
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    first = make(tmp_path, monkeypatch, "--methods", "mask", "--seeds", "1")
    out = capsys.readouterr().out
    assert out.startswith("digits-300-test100, resnet8, class 3") and "_s0.pth" not in out and "accuracy on" not in out
    assert f"\nScored in {first['rows'][0]['precision']}.\nwritten: " in out
    both = make(tmp_path, monkeypatch, "--methods", "mask", "--seeds", "1", "--forget-class", "4")
    assert both["rows"][:3] == first["rows"] and [row["forget"] for row in both["rows"]] == ["class3"] * 3 + ["class4"] * 3


def test_classes_of_a_table_go_by_name_and_a_wrong_one_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder_of_images(tmp_path / "animals", classes=("0", "2", "bee"))

    def named(*words):
        call(reproduce, "prunelora", "--dataset", "folder:animals", "--seeds", 1, "--dry-run", "--forget-class", *words)
        lines = [line.split() for line in capsys.readouterr().out.splitlines() if " retrain.py " in line]
        return {tuple(line[line.index("--forget-class") + 1 : line.index("--epochs")]) for line in lines}

    assert named("Bee") == {("id:2",)} and named("2") == {("1",)} and named("id:2,0") == {("0", "id:2")}
    for table in ("prunelora", "rfau", "audit", "lmeraser", "tune"):
        for word, message in (("77", "the classes are 0 to 9"), ("three", "the classes are 0 to 9")):
            code, line = one_line(reproduce, capsys, table, "--dataset", "digits", "--forget-class", word)
            assert code == 2 and f"--forget-class {word}: {message}" in line, (table, line)
    code, line = one_line(reproduce, capsys, "lmeraser", "--dataset", "folder:animals", "--forget-class", "beee")
    assert code == 2 and "did you mean bee? the classes are 0 to 2: 0, 1 (2), 2 (bee)" in line
    assert {path.name for path in tmp_path.iterdir()} == {"animals"}


def test_the_classes_of_a_known_data_set_need_no_data():
    """Plans, and commands after --dry-run, of data that aren't there; tables of other requests don't ask about classes."""
    for words, numbers in ((("99",), (99,)), (("5,id:3", "5"), (3, 5))):
        request = request_of("prunelora", "--dataset", "cifar100", "--forget-class", *words)
        assert request.forget_classes == numbers
        assert request.forget_flags["class"] == ["--forget-class", *map(str, numbers)]
    with pytest.raises(UserError, match="--forget-class 10: the classes are 0 to 9"):
        request_of("prunelora", "--dataset", "cifar10", "--forget-class", "10")
    assert request_of("random", "--dataset", "cifar10").forget_classes == ()
    assert request_of("rfau", "--only", "images").forget_classes == ()


def test_a_table_of_systems_says_what_they_forget():
    source = Source("digits", Path("data"))
    request = replace(request_of("lmeraser", "--dataset", "digits", "--forget-class", "5"), source=source)
    assert request.in_words(Shared()) == "forgets the private ones of 145 of 1,433 images: all 145 of class 5"
    assert request_of("prunelora").in_words(None) is None  # its scripts say it


def test_somebodys_own_files_stop_a_table_before_it_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "results/prunelora-quick-digits"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("mine", encoding="utf-8")
    arguments = ("prunelora", "--dataset", "digits", "--methods", "mask", "--seeds", "1")
    code, line = one_line(reproduce, capsys, *arguments)
    assert code == 2 and "has files of its own" in line and not (tmp_path / "model_weights").exists()
    (tmp_path / "file").touch()
    code, line = one_line(reproduce, capsys, *arguments, "--results", tmp_path / "file")
    assert code == 2 and "is a file, not a folder" in line


def test_a_dry_run_downloads_nothing(tmp_path, capsys):
    args = reproduce.parser().parse_args(["prunelora", "--dry-run", "--data-dir", str(tmp_path / "nowhere")])
    assert reproduce.run(args, "python reproduce.py") is None
    assert capsys.readouterr().out.count("--subset 10000") == 174 and not (tmp_path / "nowhere").exists()


def test_images_are_named_or_counted_in_the_place_of_a_class(tmp_path, monkeypatch, capsys):
    """Commands, the table's name and what it is about say so; rows that need a class are left out."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my list.txt").write_text("3 4 17", encoding="utf-8")
    common = ("--dataset", "digits", "--model", "resnet8", "--seeds", "1")

    def forgets(table, *flags):
        call(reproduce, table, *common, *flags, "--dry-run")
        lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
        names = {line[line.index("--weights") + 1] for line in lines}
        own = [" ".join(line).partition(" --forget-")[2] for line in lines if line[1] != "pretrain.py"]
        return names, {"--forget-" + re.split(" --(?!of)", words)[0] for words in own}, lines

    file = ("--forget-file", "my list.txt")
    names, flags, lines = forgets("prunelora", *file)
    assert flags == {" ".join(file)} and names == {"model_weights/prunelora-quick-forget-file-my-list-digits"}
    assert not any({"mask", "zero-row"} & {*line} for line in lines) and any("head-only" in line for line in lines)
    some = ("--forget-count", "5", "--of-class", "3", "4")
    assert forgets("random", *some)[:2] == (
        {"model_weights/random-quick-forget-count-5-of-class-3-4-digits"},
        {" ".join(some)},
    )
    assert forgets("rfau", *some, "--methods", "mask")[1] == {"--forget-class 3", " ".join(some)}
    request = request_of("audit", *common, *file, data_of=Shared())
    assert request.forget_tags["images"].startswith("file") and request.forget_tags["class"] == "class3"
    assert request.about("X: a share.") == "X: a share; here the images of my list.txt instead."
    threes = data.load("digits").train.labels.eq(3).nonzero().squeeze(1).tolist()
    (tmp_path / "threes.txt").write_text(" ".join(map(str, threes)), encoding="utf-8")
    request = request_of("random", *common, "--forget-file", "threes.txt", data_of=Shared())
    assert request.forget_tags["images"] == "class3"  # as the table's rows will call it


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("sequence", "--forget-count", 5),
            "sequence has no --forget-count; prunelora, random, audit, rfau, tune have",
        ),
        (("lmeraser", "--forget-file", "x"), "lmeraser has no --forget-file"),
        (("llmeraser", "--forget-file", "x"), "llmeraser has no --forget-file"),
        (("prunelora", "--forget-file", "x", "--forget-class", 3), "give --forget-class or --forget-file"),
        (("prunelora", "--forget-count", 5, "--methods", "mask"), "mask is a row where a class is forgotten"),
        (("rfau", "--forget-count", 5, "--only", "class"), "--only class leaves out what --forget-count names"),
        (("random", "--of-class", 3), "--of-class says of which classes --forget-count draws: give that as well"),
        (("random", "--of-class", 3, "--forget-file", "x"), "--forget-file names its images itself"),
        (("random", "--share", 0.2, "--forget-count", 5), "not allowed with argument --share"),
        (("random", "--forget-file", "nowhere.txt"), "--forget-file nowhere.txt cannot be read"),
        (("prunelora", "--forget-count", 5000), "--forget-count 5000: the training set has 1,433 images"),
    ],
)
def test_images_that_a_table_cannot_forget_are_refused(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = one_line(reproduce, capsys, *flags, "--dataset", "digits")
    assert code == 2 and message in line and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("table", "flags"),
    [
        ("prunelora", ("--share", 0.2)),
        ("rfau", ("--share", 0.2, "--only", "class")),
        ("audit", ("--forget-class", 4, "--only", "images")),
        ("sequence", ("--share", 0.2)),
        ("random", ("--forget-class", 4)),
        ("audit", ("--recovery",)),
        ("lmeraser", ("--every-attack",)),
        ("lmeraser", ("--retain-subset", 500)),
        ("audit", ("--images", 500)),
        ("lmeraser", ("--cache", 0)),
        ("lmeraser-tune", ("--cache", 0)),
        ("lmeraser-tune", ("--forget-class", 4)),
        *(("llmeraser", flag) for flag in (("--share", 0.2), ("--forget-class", 3), ("--img-size", 8), ("--cache", 0))),
        *(("llmeraser", flag) for flag in (("--precision", "bf16"), ("--recovery",), ("--mia", "lora-unlearn"))),
        *(("llmeraser", flag) for flag in (("--retain-subset", 9), ("--images", 9))),
    ],
)
def test_a_flag_that_says_nothing_to_a_table_is_refused(table, flags, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = one_line(reproduce, capsys, table, *flags, "--dry-run")
    assert code == 2 and f"{table} has no {flags[0]}: it says nothing to it" in line and not list(tmp_path.iterdir())


def test_a_side_and_a_folder_that_say_nothing_to_a_table_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    (tmp_path / "resnet8").mkdir()
    side, folder = ("--img-size", 64), ("--model", "net")
    for flags, said in (
        (side, "--img-size is of folder: and csv: images: it says nothing to digits"),
        (folder, "--model net: a table takes a network by its name; --original net starts from that folder's weights"),
    ):
        code, line = one_line(reproduce, capsys, "prunelora", "--dataset", "digits", *flags, "--dry-run")
        assert (code, line) == (2, f"reproduce.py: {said}")
    assert request_of("prunelora", "--model", "resnet8").networks == ("resnet8",)  # a name goes before a folder


def test_a_class_and_images_are_named_where_both_are_forgotten():
    request = request_of("audit", "--dataset", "digits", "--forget-class", "4", "--forget-count", "5", data_of=Shared())
    assert request.forget_classes == (4,) and request.kinds == ("class", "images")


@pytest.mark.parametrize(
    ("flags", "least"),
    [(("random", "--images", 15), 20), (("prunelora", "--images", 9), 10), (("rfau", "--images", 19), 20)],
)
def test_too_few_images_to_score_are_refused_before_anything_is_trained(flags, least, tmp_path, monkeypatch, capsys):
    """One of each class is needed, and of what is forgotten and not."""
    monkeypatch.chdir(tmp_path)
    (table, _, count) = flags
    code, line = one_line(reproduce, capsys, *flags, "--dataset", "digits", "--subset", 400)
    assert code == 2 and f"--images {count}: fewer than " in line and not list(tmp_path.iterdir())
    assert int(re.findall(r"fewer than (\d+)", line)[0]) >= least
    call(reproduce, table, "--images", 40, "--dataset", "digits", "--subset", 400, "--dry-run")


def test_more_images_than_there_are_are_refused(tmp_path, monkeypatch, capsys):
    """As by the scripts; a preset's number is of at most."""
    monkeypatch.chdir(tmp_path)
    code, line = one_line(reproduce, capsys, "prunelora", "--dataset", "digits", "--subset", 5000, "--dry-run")
    assert (code, line) == (2, "reproduce.py: --subset 5000: digits has 1,433 training images")
    call(reproduce, "prunelora", "--dataset", "digits", "--dry-run")


def test_an_original_from_elsewhere_from_which_nothing_starts_is_refused(tmp_path, monkeypatch, capsys):
    """It would be found when all is trained that nobody knows what it holds."""
    monkeypatch.chdir(tmp_path)
    torch.save({"fc.weight": torch.zeros(10, 512)}, tmp_path / "net.pth")
    flags = ("--dataset", "digits", "--original", "net.pth", "--model", "resnet18", "--dry-run")
    said = "--original net.pth: no row of --methods starts from it: name one, as in --methods retrain lora"
    for table, methods in (
        ("prunelora", ("retrain",)),
        ("tune", ("original",)),
        ("sequence", ("retrain",)),
        ("rfau", ("mask", "--only", "images")),
    ):
        code, line = one_line(reproduce, capsys, table, *flags, "--methods", *methods)
        assert (code, line) == (2, f"reproduce.py: {said}"), table
    call(reproduce, "prunelora", *flags, "--methods", "retrain", "mask")


def test_rows_from_an_original_that_has_forgotten_something_are_not_lost(tmp_path, monkeypatch):
    """They are of that and of what is asked for. A Retrain that was trained on it, and a sequence, are refused."""
    monkeypatch.chdir(tmp_path)
    images = ("--dataset", "digits", "--subset", 200, "--test-subset", 50, "--weights", tmp_path, "--quiet")
    call(pretrain, *images, "--model", "resnet8", "--epochs", 1, "--output", "first.pth")
    call(finetune, *images, "--original", "first.pth", "--forget-class", 5, "--epochs", 1, "--output", "net.pth")
    shared = Shared()

    def asked(*flags, table="prunelora"):
        args = reproduce.parser().parse_args([table, "--dataset", "digits", "--original", "net.pth", "--seeds", "1", *flags])
        request = Request.from_flags(args, reproduce.table_of(table))
        source = replace(request.source, subset=200, test_subset=50)
        return resolved(replace(request, source=source), shared)

    made_by = {"table": "t", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}
    request = asked("--methods", "lora")
    command_of = {script: command(script, arguments) for script, arguments in prunelora.TABLE.plan(request).runs}
    row = {"dataset": "digits", "model": "resnet8", "forget": "class3-5", "epochs": 1, "metrics": {}}
    rows = [row | {"method": "lora", "n": 3, "command": command_of["lora"]}]
    rows.append(row | {"method": "finetune", "forget": "class5", "n": 1, "command": "python finetune.py --lr 9"})
    for one, lost in zip(rows, ("2 of its 3 seeds", "it"), strict=True):
        (tmp_path / "result.json").write_text(json.dumps(made_by | {"rows": [one]}), encoding="utf-8")
        with pytest.raises(UserError, match=f"would lose {lost}"):
            check_nothing_is_lost(tmp_path / "result.json", request, prunelora.TABLE.plan(request))
    measure = row | {"method": "original", "forget": "class5", "n": 1, "command": originals.command_of(Path("net.pth"))}
    (tmp_path / "result.json").write_text(json.dumps(made_by | {"rows": [measure, rows[1]]}), encoding="utf-8")
    more = replace(asked("--methods", "lora", "--add"), seeds=3)  # one original for all seeds
    check_nothing_is_lost(tmp_path / "result.json", more, prunelora.TABLE.plan(more))
    with pytest.raises(UserError, match="has forgotten class5, which Retrain would be trained on: forget that as well"):
        asked("--methods", "lora", "retrain")
    assert asked("--methods", "lora", "retrain", "--forget-class", "3", "5").further_tags == ("class5", "class3-5")
    with pytest.raises(UserError, match="has forgotten class5: a sequence starts from what has forgotten nothing"):
        asked("--methods", "lora", table="sequence")


def test_rows_that_another_attack_has_scored_go_where_a_table_is_replaced(tmp_path, capsys):
    """Those of other networks too, whose columns have the same names; rows of this attack stay."""
    made_by = {"table": "t", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}
    row = {"dataset": "x", "forget": "class3", "method": "lora", "epochs": 1, "n": 1, "command": "c", "metrics": {}}
    one, two, three = (row | {"model": model} for model in ("one", "two", "three"))
    earlier = [made_by | {"of": ["two, class3"], "attack": "lora-unlearn"}]
    before, file = made_by | {"attack": "svc", "rows": [one, two], "earlier": earlier}, tmp_path / "result.json"
    file.write_text(json.dumps(before), encoding="utf-8")
    found = results.joined(made_by | {"attack": "lora-unlearn", "rows": [three]}, file, overwrite=True)
    assert found["rows"] == [two, three] and [run["of"] for run in found["earlier"]] == [["two, class3"]]
    assert "the rows of one, class3 go: they were scored by another attack" in capsys.readouterr().err
    assert results.joined(made_by | {"attack": "svc", "rows": [three]}, file)["rows"] == [one, two, three]


def test_a_tunings_retrain_of_more_seeds_than_the_original_has_replaces_one_of_fewer(tmp_path):
    """An original that others have trained has one seed; rows are measured by the Retrains."""
    made_by = {"table": "t", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}
    row = {"dataset": "x", "model": "m", "forget": "class3", "epochs": 1, "command": "c", "metrics": {}}

    def tuning(seeds, tunes):
        own = [("original", 1, {}), ("retrain", seeds, {}), (tunes, seeds, {"tunes": tunes})]
        return made_by | {"rows": [row | {"method": method, "n": n} | more for method, n, more in own]}

    file = tmp_path / "result.json"
    for before, after, kept in ((2, 3, 3), (2, 2, 2), (3, 2, 3)):
        file.write_text(json.dumps(tuning(before, "ssd")), encoding="utf-8")
        new = tuning(after, "lora") | {"command": "new"}
        found = results.joined(new, file)
        assert [(one["method"], one["n"]) for one in found["rows"]] == [
            ("original", 1), ("retrain", kept), ("ssd", before), ("lora", after)
        ]  # fmt: skip
        stays = before >= after
        assert [run["of"] for run in found["earlier"]] == [
            ["m, class3, original", "m, class3, retrain"] * stays + ["m, class3, ssd"]
        ]
