"""llmeraser.py from the command line: what requests say, what is refused in one line, and what is taken as finished."""

import json
import math
import random
import shutil
import sys
from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import llmeraser
from tests.helpers import call, files, full_disk, latest, one_line
from tests.language.conftest import (
    VOCABULARY,
    finetune,
    foreign,
    parameters,
    record_of,
    request,
    save_base,
    session,
    where,
    write_lines,
)
from tests.storm import malformed
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import Parser, typed_command
from unlearning.language import command, forward, influence, scores
from unlearning.language import flags as flags_module
from unlearning.language.adapters import RECORD, read_record
from unlearning.language.rows import digest
from unlearning.language.session import Workspace
from unlearning.language.training import relative_gradient, train_adapter

QUICK = ("--method", "noadapter")  # writes another adapter at once


def lines_of(place, kind="train"):
    return [json.loads(line) for line in (place / f"{kind}.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def own(place, tmp_path):
    """A file of rows of one's own, and an adapter that was trained on it a little."""
    write_lines(tmp_path / "mine.jsonl", lines_of(place)[:12])
    finetune(place, tmp_path / "adapter", "--train", tmp_path / "mine.jsonl", "--evaluations", 2)
    return tmp_path


def refused(capsys, *arguments, code=2):
    """The one line of llmeraser.py that fails."""
    found, line = one_line(llmeraser, capsys, *latest([*arguments, "--quiet"]))
    assert found == code
    return line


def test_a_request_says_what_it_is_about_and_what_it_did(place, tmp_path, capsys):
    flags = ("--weights", tmp_path, "--output", tmp_path / "gone", *QUICK, "--ids", 2, 1)
    call(llmeraser, "remove", place / "adapter", *flags)
    said = capsys.readouterr()
    lines = said.err.splitlines()
    rows = lines_of(place)
    start = lines.index("removes 2 of 60 rows")
    for line, number in zip(lines[start + 1 : start + 3], (2, 1), strict=True):
        row = rows[number - 1]
        assert line == f'  row {number}: "{row["query"]}", answered "{row["response"]}"'
    found = record_of(tmp_path / "gone")["ledger"][0]["found"]
    losses = [f"{found[key]:.3f}" for key in ("asked_loss_before", "asked_loss", "unseen_loss_before", "unseen_loss")]
    asked, unseen = (f"{before} -> {after}" for before, after in (losses[:2], losses[2:]))
    assert lines[-1].startswith(f"loss on these rows as they were {asked}, on unseen rows {unseen}")
    assert said.out.splitlines() == [line for line in said.out.splitlines() if line.startswith(f"{tmp_path / 'gone'}  (")]


def test_rows_that_stay_and_say_the_same_as_a_requested_one_are_named(place, tmp_path, capsys):
    """Quiet or not: the adapter still knows by them what it is to forget."""
    lines = lines_of(place)[:6]
    rows = write_lines(tmp_path / "rows.jsonl", [*lines, lines[1], {"id": "third", **lines[1]}])
    start = finetune(place, tmp_path / "start", "--train", rows, "--evaluations", 1)
    right = write_lines(tmp_path / "r.jsonl", [{"id": name, "response": "w1"} for name in (2, 7)])
    said = "warning: rows that stay as they are say the same as some of these, {}: name them too"
    for kind, flags, left in (
        ("remove", ("--ids", 2), "7, third"),
        ("correct", ("--request", right), "third"),
        ("remove", ("--ids", 2, 7, "third"), None),
    ):
        capsys.readouterr()
        request(start, kind, tmp_path / f"{kind}{left}", *flags, *QUICK)
        line = capsys.readouterr().err
        assert said.format(left) in line if left else "say the same" not in line


def test_quiet_says_nothing_but_results(place, tmp_path, capsys):
    folder = finetune(place, tmp_path / "a")
    gone = request(folder, "remove", tmp_path / "b", "--ids", 3, "--curvature", "gauss-newton")
    call(llmeraser, "evaluate", gone, "--weights", tmp_path, "--quiet", "--generate", 2)
    said = capsys.readouterr()
    assert said.err == ""
    assert [line.split("  ")[0] for line in said.out.splitlines()[:2]] == [str(folder), str(gone)]


def test_a_removal_that_does_almost_nothing_says_so(place, tmp_path, capsys):
    """Less than a tenth of the way to unseen rows' loss."""
    ask = ("remove", place / "adapter", "--ids", 1, "--weights", tmp_path, "--output")
    call(llmeraser, *ask, tmp_path / "faint", "--damping", 1000)
    assert "this has almost no effect; a smaller --damping or a larger --length goes further" in capsys.readouterr().err
    call(llmeraser, *ask, tmp_path / "strong", "--damping", 0.03, "--length", 5)
    assert "almost no effect" not in capsys.readouterr().err
    found = record_of(tmp_path / "strong")["ledger"][0]["found"]
    assert found["asked_loss"] - found["asked_loss_before"] > 0.1 * (found["unseen_loss"] - found["asked_loss_before"]) > 0


def test_a_name_by_default_stays_short_enough_to_be_asked_again(place, tmp_path):
    """Each request adds to it; also that of a file of rows with a long name, in letters of several bytes."""
    long = shutil.copy(place / "train.jsonl", tmp_path / f"{'é' * 120}.jsonl")
    where = ("--weights", tmp_path, "--quiet")
    now = call(llmeraser, "finetune", "--train", long, "--base", place / "base", "--evaluations", 1, *where)
    found = [now]
    for name in range(1, 6):
        now = call(llmeraser, "remove", now, "--ids", name, *where, *QUICK)
        found.append(now)
    assert all(len(path.name.encode()) <= 213 and path.is_dir() for path in found) and len(set(found)) == 6
    assert found[1].name.startswith("é" * 80) and found[1].name.endswith("_noadapter") and found[0].name.endswith("_s0")
    assert call(llmeraser, "remove", found[-2], "--ids", 5, *where, *QUICK) == found[-1]  # there already
    short = command._named_after(tmp_path / "a", "_remove-1f0c2a77_influence")
    assert short == tmp_path / "a_remove-1f0c2a77_influence"
    assert command._named_after(tmp_path / ("a" * 300), "_b") != command._named_after(tmp_path / ("a" * 301), "_b")


NEWTON = ("--curvature", "gauss-newton")
BOTH = "no --validation rows, so the largest damping and the formula's length were taken"
SAID = [
    (NEWTON, BOTH),
    ((*NEWTON, "--damping", 3), "no --validation rows, so the formula's length was taken"),
    ((*NEWTON, "--length", 0.5), "no --validation rows, so the largest damping was taken"),
    ((*NEWTON, "--damping", 3, "--length", 0.5), ""),
    ((), ""),  # at rest and with the Hessian: Retrain's objective chooses
    (QUICK, ""),
    (("--method", "retrain"), ""),
]


@pytest.mark.parametrize(("flags", "said"), SAID)
def test_without_unseen_rows_it_is_said_how_far_a_step_goes(place, tmp_path, capsys, flags, said):
    """The largest damping and the formula's length, where they had to be chosen."""
    where = ("--train", place / "train.jsonl", "--base", place / "base", "--weights", tmp_path, "--quiet")
    folder = call(llmeraser, "finetune", *where, "--decay", 0.05, "--output", tmp_path / "a")
    capsys.readouterr()
    call(llmeraser, "remove", folder, "--ids", 1, "--weights", tmp_path, "--output", tmp_path / "b", *flags)
    text = capsys.readouterr().err
    assert said in text and ("--validation" in text) == bool(said)
    found = record_of(tmp_path / "b")["ledger"][0]["found"]
    if said == BOTH:
        assert (found["damping"], found["length"]) == (max(llmeraser.DAMPINGS), 1)


@pytest.mark.parametrize(
    ("flags", "unseen", "said"),
    [
        ((), True, ": unseen rows choose damping and length"),
        (("--damping", 3), True, ": unseen rows choose length"),
        (("--damping", 3, "--length", 1), True, ""),
        ((), False, ""),
    ],
)
def test_of_an_adapter_that_isnt_at_rest_it_is_said_what_unseen_rows_choose(place, tmp_path, capsys, flags, unseen, said):
    data = ("--train", place / "train.jsonl", *(("--validation", place / "validation.jsonl") if unseen else ()))
    folder = foreign(place / "base", tmp_path / "a", target_modules=["down_proj"])
    where = ("--weights", tmp_path, "--output", tmp_path / "b", "--prompt", "plain")
    call(llmeraser, "remove", folder, "--ids", 1, *data, *where, *flags)
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "isn't at rest" in line)
    assert line.endswith("the formula is exact at 0" + said)


UNMET = [
    ("remove", [{"id": 61}], "not among the 60 rows that the adapter was trained on: 61"),
    ("remove", [{"id": 3}, {"id": 3}], "named twice: 3"),
    ("remove", [{"id": i} for i in range(1, 61)], "this removes every row that is left"),
    ("correct", [{"id": 3, "response": " "}], "row 3: its new response is empty"),
    ("modify", [{"id": 3, "response": "red"}], "needs its new query"),
]


@pytest.mark.parametrize(("kind", "lines", "complaint"), UNMET)
def test_a_request_that_cant_be_met_is_one_line_and_writes_nothing(place, tmp_path, capsys, kind, lines, complaint):
    file = write_lines(tmp_path / "request.jsonl", lines)
    there = sorted(place.rglob("*"))
    ask = ("--request", file, "--weights", tmp_path / "w", "--quiet")
    assert complaint in refused(capsys, kind, place / "adapter", *ask)
    assert sorted(place.rglob("*")) == there and list(tmp_path.iterdir()) == [file]


def test_other_lines_that_go_wrong(place, tmp_path, capsys):
    ask = ("remove", place / "adapter", "--weights", tmp_path, "--quiet")
    assert "nothing is asked: give --ids or a --request" in refused(capsys, *ask)
    assert "not among the 60 rows" in refused(capsys, *ask, "--ids", "w1")
    assert "larger --damping, or --curvature gauss-newton" in refused(capsys, *ask, "--ids", 1, "--tolerance", 1e-30, code=1)
    assert "is not a number from 0 to" in refused(capsys, *ask, "--ids", 1, "--damping", -50)
    for flag, value in (("--precision", "fp32"), ("--prompt", "plain"), ("--decay", 0.1)):
        assert f"{flag}: {place / 'adapter'} has a record that says it" in refused(capsys, *ask, "--ids", 1, flag, value)
    assert "no adapter of PEFT" in refused(capsys, "remove", place / "base", "--ids", 1, "--weights", tmp_path)
    assert "of another base than this" in refused(capsys, *ask, "--ids", 1, "--base", place / "other")
    file = place / "train.jsonl"
    both = ("finetune", "--train", file, "--task", "genre", "--weights", tmp_path)
    assert "--task brings rows of its own: give it or --train" in refused(capsys, *both)
    assert {name.partition("/")[0] for name in files(tmp_path)} == {"frozen"}


def test_a_removed_row_may_be_deleted_from_the_file(place, tmp_path, capsys):
    """The request after it is answered; what is still known of it can't be scored any more, and that is said."""
    lines = [{"id": f"n{i}"} | line for i, line in enumerate(lines_of(place)[:12])]
    file = write_lines(tmp_path / "mine.jsonl", lines)
    finetune(place, tmp_path / "adapter", "--train", file, "--evaluations", 2)
    request(tmp_path / "adapter", "remove", tmp_path / "a", "--ids", "n3", *QUICK)
    write_lines(file, [line for line in lines if line["id"] != "n3"])
    request(tmp_path / "a", "remove", tmp_path / "b", "--ids", "n5", *QUICK)
    assert "removed already: n3" in refused(capsys, "remove", tmp_path / "b", "--ids", "n3", "--weights", tmp_path)
    assert "gone: n3" in refused(capsys, "remove", tmp_path / "adapter", "--ids", "n5", "--weights", tmp_path)
    call(llmeraser, "evaluate", tmp_path / "a", "--weights", tmp_path, "--generate", 1)
    said = capsys.readouterr()
    assert f"in {file} no more: n3" in said.err and "loss on the requested rows" not in said.out
    call(llmeraser, "evaluate", tmp_path / "b", "--weights", tmp_path, "--generate", 1)
    assert "loss on the requested rows" in capsys.readouterr().out


def test_rows_that_changed_are_named_and_those_that_came_lock_nobody_out(place, own, capsys):
    file, lines = own / "mine.jsonl", lines_of(place)
    write_lines(file, lines[:14])
    call(llmeraser, "remove", own / "adapter", "--ids", 2, "--weights", own, *QUICK, "--output", own / "a")
    assert "2 rows are new since the adapter was trained: 13, 14" in capsys.readouterr().err
    ask = ("remove", own / "adapter", "--weights", own, "--quiet", "--ids")
    assert "not among the 12 rows" in refused(capsys, *ask, 13)
    there = files(own)
    write_lines(file, [line | ({"response": "blue"} if i in (4, 7) else {}) for i, line in enumerate(lines[:11])])
    for words in ((*ask, 2), ("evaluate", own / "adapter", "--weights", own)):
        assert "not the rows that the adapter was trained on; changed: 5, 8, gone: 12" in refused(capsys, *words)
    assert {name: content for name, content in files(own).items() if name != file.name} == {
        name: content for name, content in there.items() if name != file.name
    }
    moved = write_lines(own / "moved.jsonl", lines[:12])  # the same rows in another file
    request(own / "adapter", "remove", own / "b", "--ids", 2, *QUICK, "--train", moved)


def test_a_record_doesnt_depend_on_the_current_directory(place, tmp_path, monkeypatch):
    """Everything is named from where one is; then from elsewhere."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
    shutil.copytree(place / "base", tmp_path / "here/base")
    write_lines(tmp_path / "here/mine.jsonl", lines_of(place)[:12])
    shutil.copy(place / "validation.jsonl", tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    files_ = ("--train", "mine.jsonl", "--validation", "validation.jsonl", "--base", "base")
    call(llmeraser, "finetune", *files_, "--weights", "w", "--output", "a", "--evaluations", 2, "--quiet")
    monkeypatch.chdir(tmp_path / "there")
    folder = call(llmeraser, "remove", "../here/a", "--ids", 2, "--weights", "w", *QUICK, "--quiet")
    assert folder.resolve().parent == tmp_path / "here"
    record = record_of(folder)
    assert record["base"] == str(tmp_path / "here/base")
    here = {"train": "mine.jsonl", "validation": "validation.jsonl"}
    assert record["files"] == {kind: str(tmp_path / "here" / name) for kind, name in here.items()}
    shutil.move(tmp_path / "here/base", tmp_path / "base")  # a base that lies elsewhere now
    call(llmeraser, "remove", folder, "--ids", 3, "--weights", "w", *QUICK, "--quiet", "--base", "../base")


def test_a_second_request_adds_to_the_ledger(place, own, capsys):
    """Removed rows stay removed; Retrain of both divides by the twelve rows that there were."""
    first = request(own / "adapter", "remove", own / "first", "--ids", 2, 5, *QUICK)
    right = write_lines(own / "right.jsonl", [{"id": 3, "response": "w5"}])
    second = request(first, "correct", own / "second", "--request", right, *QUICK)
    record = record_of(second)
    edits = [{"id": "2", "remove": True}, {"id": "5", "remove": True}, {"id": "3", "response": "w5"}]
    assert record["edits"] == edits and [entry["edits"] for entry in record["ledger"]] == [edits[:2], edits[2:]]
    assert len(record["rows"]) == 12
    with session(second, own) as now:
        assert [row is None for row in now.rows] == [i in (1, 4) for i in range(12)] and now.rows[2].response == "w5"
    assert "removed already: 5" in refused(capsys, "remove", second, "--ids", 5, "--weights", own)
    left = [str(i) for i in range(1, 13) if i not in (2, 5)]
    assert "every row that is left" in refused(capsys, "remove", second, "--ids", *left, "--weights", own)
    again = request(second, "remove", own / "third", "--ids", 7, "--method", "retrain")
    training = {"optimizer": "lbfgs", "evaluations": 2}
    with session(again, own, None, training=training) as now:
        assert sum(row is not None for row in now.rows) == 9 and len(now.rows) == 12
        train_adapter(now)
        assert torch.equal(influence.flat(now.parameters), parameters(again, own))


def test_a_record_holds_no_text_of_a_removed_row(place, own):
    """Neither of its file nor what it had become by an earlier request; nor does the card."""
    right = write_lines(own / "right.jsonl", [{"id": 3, "response": "w10 w11"}, {"id": 4, "response": "w11 w10"}])
    first = request(own / "adapter", "correct", own / "first", "--request", right, *QUICK)
    second = request(first, "remove", own / "second", "--ids", 3, 6, *QUICK)
    assert "w10 w11" in (first / RECORD).read_text(encoding="utf-8")
    text = "".join((second / name).read_text(encoding="utf-8") for name in (RECORD, "README.md"))
    assert "w11 w10" in text and "w10 w11" not in text
    assert not any(line["query"] in text for line in lines_of(place)[:12])
    with session(second, own) as now:
        assert now.rows[2] is None and now.rows[3].response == "w11 w10"
    third = request(second, "remove", own / "third", "--ids", 4, *QUICK)
    assert "w11 w10" not in (third / RECORD).read_text(encoding="utf-8")
    assert call(llmeraser, "evaluate", third, second, "--weights", own, "--quiet", "--generate", 1) is None


def test_an_adapter_from_elsewhere_is_asked_with_its_file_once(place, tmp_path, capsys):
    """Its record comes with the first answer: the second request needs no file; nothing is changed of what it was."""
    folder = foreign(place / "base", tmp_path / "a", place / "train.jsonl", layers_to_transform=[2], r=1)
    there = files(folder)
    ask = ("--ids", 1, 2, "--weights", tmp_path, "--quiet")
    assert f"{folder} is an adapter from elsewhere: --train says on which file" in refused(capsys, "remove", folder, *ask)
    assert "is an adapter from elsewhere" in refused(capsys, "evaluate", folder, "--weights", tmp_path)
    data = ("--train", place / "train.jsonl", "--validation", place / "validation.jsonl")
    first = request(folder, "remove", tmp_path / "b", "--ids", 1, 2, *data, "--damping", 1)
    assert capsys.readouterr().err == ""  # it is better on its rows than the base
    record = record_of(first)
    assert record["elsewhere"] and record["decay"] == 0 and "lora" not in record
    found = record["ledger"][0]["found"]
    assert found["asked_loss"] > found["asked_loss_before"] and found["curvature"] == "gauss-newton"
    second = request(first, "remove", tmp_path / "c", "--ids", 3, "--damping", 1)
    assert [entry["edits"][0]["id"] for entry in record_of(second)["ledger"]] == ["1", "3"] and files(folder) == there
    assert "it isn't replaced" in refused(capsys, "remove", first, "--ids", 4, "--output", folder, "--weights", tmp_path)


def test_an_adapter_that_is_worse_than_its_base_on_the_rows_is_warned_of(place, tmp_path, capsys):
    """Here its LoRA is subtracted, as if it had been trained on the contrary."""
    folder = foreign(place / "base", tmp_path / "a", place / "train.jsonl")
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(
        {name: value if "lora_A" in name else -value for name, value in weights.items()},
        folder / "adapter_model.safetensors",
    )
    data = ("--train", place / "train.jsonl", "--ids", 1, *QUICK)
    first = request(folder, "remove", tmp_path / "b", *data)
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if line.startswith("on these rows the adapter has a loss of")]
    assert "--prompt plain" in line
    with session(first, tmp_path, folder, edits=[], ledger=[], tokens_sha256="") as now:
        own = now.losses_of(now.rows).mean().item()
        with now.peft_model.disable_adapter():
            base = now.losses_of(now.rows).mean().item()
    assert f"a loss of {own:.3f} and the base without it {base:.3f}" in line and own > base
    request(first, "remove", tmp_path / "c", "--ids", 2, *QUICK)
    assert capsys.readouterr().err == ""  # said once


def test_requests_of_other_settings_have_folders_of_their_own(place, tmp_path, capsys):
    adapter = shutil.copytree(place / "adapter", tmp_path / "adapter")
    ask = (adapter, "--ids", 1, 2, "--weights", tmp_path, "--quiet", "--damping", 3)
    usual = call(llmeraser, "remove", *ask)
    other = call(llmeraser, "remove", *ask, "--curvature", "gauss-newton")
    assert usual != other and record_of(other)["ledger"][-1]["found"]["curvature"] == "gauss-newton"
    capsys.readouterr()
    assert call(llmeraser, "remove", *ask) == usual and "there already" in capsys.readouterr().err
    assert "other settings" in refused(capsys, "remove", *ask, "--damping", 0.5, "--output", usual)
    tune = ("--train", place / "train.jsonl", "--base", place / "base", "--weights", tmp_path, "--quiet", "--evaluations", 2)
    folders = [call(llmeraser, "finetune", *tune, "--rank", rank) for rank in (2, 4)]
    assert [read_record(folder)["lora"]["rank"] for folder in folders] == [2, 4]


def test_overwrite_replaces_adapters_of_this_project_alone(place, tmp_path, capsys):
    """No other folder, none with more in it, and never the adapter that is answered from."""
    shutil.copytree(place / "adapter", tmp_path / "adapter")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/thesis.txt").write_text("mine", encoding="utf-8")
    shutil.copytree(tmp_path / "adapter", tmp_path / "noted")
    (tmp_path / "noted/notes.txt").write_text("mine", encoding="utf-8")
    shutil.copytree(tmp_path / "adapter", tmp_path / "carded")
    with (tmp_path / "carded/README.md").open("a", encoding="utf-8") as card:
        card.write("mine")
    foreign(place / "base", tmp_path / "alien")
    before = files(tmp_path)
    ask = ("remove", tmp_path / "adapter", "--ids", 1, *QUICK, "--weights", tmp_path, "--quiet", "--overwrite", "--output")
    known = {
        "docs": "no adapter of PEFT",
        "noted": "holds notes.txt",
        "carded": "isn't as this project wrote it",
        "adapter": "is, or lies in, the adapter that is answered from",
    }
    for name, what in (known | {"alien": "from elsewhere: it isn't replaced"}).items():
        assert what in refused(capsys, *ask, tmp_path / name)
    assert files(tmp_path) == before


def flags_of(add):
    """The flags that a function adds to a parser."""
    parser = Parser()
    add(parser)
    return {action.option_strings[-1] for action in parser._actions if action.option_strings} - {"--help"}


def test_each_flag_of_a_training_makes_another_adapter(place, tmp_path, capsys):
    """One at a time: what is there is refused, and stays. Files of rows to choose and to score by don't train."""
    few = write_lines(tmp_path / "few.jsonl", lines_of(place)[:12])
    common = ("--weights", tmp_path, "--quiet", "--output", tmp_path / "adapter")
    tune = ("finetune", "--train", few, "--base", place / "base", "--evaluations", 2, *common)
    call(llmeraser, *tune)
    before = files(tmp_path)
    trained = {"--rank": 4, "--alpha": 4, "--blocks": 2, "--decay": 0.1, "--seed": 1, "--evaluations": 3, "--loss": "choice"}
    trained |= {"--base": place / "other", "--targets": "up_proj", "--train": place / "train.jsonl", "--prompt": "alpaca"}
    trained |= {"--precision": "bf16"}
    steps = {"--epochs": 4, "--lr": 0.1, "--batch-size": 3}
    rest = {"--validation", "--test", "--task"}
    assert trained.keys() | steps.keys() | rest | {"--optimizer"} == flags_of(flags_module.add_training_flags)
    for flag, value in trained.items():
        assert "other settings" in refused(capsys, *tune, flag, value) and files(tmp_path) == before, flag
    adamw = (*tune, "--evaluations", 100, "--optimizer", "adamw")
    assert "other settings" in refused(capsys, *adamw)
    adamw += ("--output", tmp_path / "steps")
    call(llmeraser, *adamw)
    for flag, value in steps.items():
        assert "other settings" in refused(capsys, *adamw, flag, value), flag
    alpaca = (*tune, "--prompt", "alpaca", "--output", tmp_path / "alpaca")
    call(llmeraser, *alpaca)
    assert "other settings" in refused(capsys, *alpaca, "--prompt", "auto")
    call(llmeraser, *tune, "--validation", place / "validation.jsonl", "--test", place / "test.jsonl")
    assert {name: one for name, one in files(tmp_path).items() if name.startswith("adapter/")} == {
        name: one for name, one in before.items() if name.startswith("adapter/")
    }


@pytest.mark.parametrize(
    ("optimizer", "flag", "way"),
    [("lbfgs", "--epochs", "adamw"), ("lbfgs", "--lr", "adamw"), ("lbfgs", "--batch-size", "adamw"),
     ("adamw", "--evaluations", "lbfgs")],
)  # fmt: skip
def test_a_flag_that_says_nothing_to_the_optimizer_is_refused(tmp_path, capsys, optimizer, flag, way):
    """Before any file of rows is read."""
    flags = ("--train", tmp_path / "none.jsonl", "--optimizer", optimizer, flag, 7, "--weights", tmp_path)
    line = refused(capsys, "finetune", *flags)
    assert f"{flag} has no effect on --optimizer {optimizer}: leave it out, or give --optimizer {way}" in line
    assert not list(tmp_path.iterdir())


def test_tokens_that_the_base_doesnt_know_are_one_line(tmp_path, capsys):
    """Of a tokenizer to which one was added, and not to the base's embeddings."""
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    few = transformers.LlamaConfig(eos_token_id=1, vocab_size=len(VOCABULARY) - 1, **small)
    base = save_base(tmp_path / "base", config=few)
    lines = [{"query": "film w1", "response": "red"}, {"query": "film w2", "response": "dark blue"}]
    flags = ("--base", base, "--train", write_lines(tmp_path / "rows.jsonl", lines), "--weights", tmp_path / "w")
    line = refused(capsys, "finetune", *flags, "--output", tmp_path / "adapter")
    assert "1 of 2 rows have tokens that the base, which knows 18, has no embeddings of" in line and line.endswith("(2)")
    assert not (tmp_path / "adapter").exists()


def test_checkpointing_is_a_circumstance(place, tmp_path, monkeypatch):
    """Adapters of another name, other bits or other settings there are none, in training as in requests."""
    few = write_lines(tmp_path / "few.jsonl", lines_of(place)[:12])
    tune = ("finetune", "--train", few, "--base", place / "base", "--evaluations", 3, "--blocks", 3, "--quiet")
    adapters, used = [], []
    checkpoint = forward.checkpoint
    monkeypatch.setattr(forward, "checkpoint", lambda *some, **how: used.append(name) or checkpoint(*some, **how))
    for name, flags in (("plain", ()), ("again", ("--checkpointing",))):
        adapters.append(call(llmeraser, *tune, "--weights", tmp_path / name, *flags))
        for way in (("--curvature", "hessian", "--damping", 3), ("--method", "retrain")):
            where = ("--output", tmp_path / name / way[1], "--weights", tmp_path, "--quiet")
            call(llmeraser, "remove", adapters[-1], "--ids", 3, *way, *where, *flags)
    plain, again = (
        {path: content for path, content in files(tmp_path / name).items() if path.endswith(".safetensors")}
        for name in ("plain", "again")
    )
    assert plain == again and len(plain) == 3 and set(used) == {"again"}
    call(llmeraser, *tune, "--output", adapters[0], "--weights", tmp_path, "--checkpointing")  # is there already


def test_each_flag_of_a_request_and_each_adapter_that_is_asked_makes_another_answer(place, own, capsys):
    ask = ("remove", own / "adapter", "--weights", own, "--quiet", "--output", own / "gone", "--ids", 1)
    call(llmeraser, *ask)
    before = files(own)
    asked = {"--method": "retrain", "--solver": "adam", "--curvature": "gauss-newton", "--damping": 0.5, "--tolerance": 0.1}
    asked |= {"--length": 2, "--products": 5, "--ids": 2, "--validation": place / "test.jsonl"}
    elsewhere = {"--base", "--precision", "--prompt", "--decay", "--epochs", "--lr", "--batch-size"}
    declared = flags_of(lambda parser: flags_module.add_request_flags(parser, "remove"))
    assert asked.keys() | elsewhere | {"--request"} == declared | {"--validation"}
    for flag, value in asked.items():
        assert "other settings" in refused(capsys, *ask, flag, value) and files(own) == before, flag
    # Another adapter, whatever its record says that this one's doesn't; and one with other answers before.
    twice = [request(own / "adapter", "remove", own / name, "--ids", 3, "--method", name) for name in ("npo", "gradascent")]
    both = ("--ids", 1, *QUICK, "--weights", own, "--quiet", "--output", own / "both")
    call(llmeraser, "remove", twice[0], *both)
    assert "other settings" in refused(capsys, "remove", twice[1], *both)
    file = own / "gone" / RECORD
    record = json.loads(file.read_text(encoding="utf-8"))
    others = {
        "base_sha256": "x",
        "seed": 9,
        "decay": 0.5,
        "loss": "choice",
        "precision": "bf16",
        "lora": record["lora"] | {"rank": 3},
    }
    others |= {"training": {"optimizer": "lbfgs", "evaluations": 9}, "rows": record["rows"][:-1]}
    for name, other in others.items():
        file.write_text(json.dumps(record | {name: other}), encoding="utf-8")
        assert "other settings" in refused(capsys, *ask), name


@pytest.mark.parametrize(("name", "some"), [("record.json", 16), ("adapter_config.json", 8)])
def test_an_adapter_that_is_damaged_is_refused_or_answered(own, tmp_path, name, some):
    """One field in turn, in one of many ways: never a traceback, and nothing is written where it is refused."""
    sound, shared = request(own / "adapter", "remove", tmp_path / "sound", "--ids", 3, *QUICK), Workspace()
    every, refusals = list(malformed.cases("adapter", sound, name)), 0
    for case in random.Random(1).sample(every, some):
        folder = shutil.copytree(sound, tmp_path / "damaged", dirs_exist_ok=True)
        case.write(folder)
        before = files(tmp_path)
        try:
            request(folder, "remove", tmp_path / "next", "--ids", 5, *QUICK, shared=shared)
        except (UserError, RunFailed):
            refusals += 1
            assert files(tmp_path) == before, case
        shutil.rmtree(tmp_path / "next", ignore_errors=True)
    assert refusals > some // 4


def test_a_record_that_contradicts_itself_says_so(place, tmp_path, capsys):
    folder = request(place / "adapter", "remove", tmp_path / "a", "--ids", 3, *QUICK)
    sound = record_of(folder)
    (entry,) = sound["ledger"]
    for edits, message in (
        ([{"id": "61", "remove": True}], "its edits.0.id is '61', which is no row's name"),
        ([{"id": "1", "remove": True}, {"id": "1", "query": "x"}], "its edits.1.id is '1', which was removed before"),
        ([{"id": "1"}], "doesn't say one thing that becomes of its row"),
        ([{"id": "1", "query": "x", "response": "y"}], "doesn't say one thing that becomes of its row"),
    ):
        changed = sound | {"edits": edits, "ledger": [entry | {"edits": edits}]}
        (folder / RECORD).write_text(json.dumps(changed), encoding="utf-8")
        assert message in refused(capsys, "remove", folder, "--ids", 5, "--weights", tmp_path, "--quiet")
    for part in ({"edits": []}, {"ledger": []}, {"ledger": [entry, entry]}):
        (folder / RECORD).write_text(json.dumps(sound | part), encoding="utf-8")
        assert "aren't those of its ledger" in refused(capsys, "evaluate", folder, "--weights", tmp_path, "--quiet")


def test_a_full_disk_below_the_frozen_part_is_one_line(place, tmp_path, capsys):
    data = ("--train", place / "train.jsonl", "--base", place / "base", "--weights", tmp_path, "--quiet")
    with full_disk():
        line = refused(capsys, "finetune", *data, code=1)
    assert "cannot write" in line and "No space left" in line and not files(tmp_path)


def test_a_chat_model_is_trained_by_its_template(place, tmp_path):
    base = shutil.copytree(place / "base", tmp_path / "base")
    known = transformers.AutoTokenizer.from_pretrained(base)
    known.chat_template = "{% for m in messages %}w9 {{ m.content }} <end> {% endfor %}"
    known.chat_template += "{% if add_generation_prompt %}w9{% endif %}"
    known.save_pretrained(base)
    folder = finetune(place, tmp_path / "a", "--base", base, "--evaluations", 1)
    assert record_of(folder)["prompt"] == "chat"
    with session(folder, tmp_path) as now:
        (tokens,) = now.tokens(now.rows[:1])
        words = [known.decode([token]) for token in tokens.prompt + tokens.response]
        assert words == ["w9", *now.rows[0].query.split(), "<end>", "w9", now.rows[0].response, "<end>"]


def test_how_an_adapter_from_elsewhere_was_trained_is_not_invented(place, tmp_path, capsys):
    """Retrain needs to be told, by all three flags; a record says what it was told, and nothing else."""
    folder = foreign(place / "base", tmp_path / "a", place / "train.jsonl")
    ask = ("--train", place / "train.jsonl", "--ids", 1, "--weights", tmp_path)
    first = request(folder, "remove", tmp_path / "b", *ask, "--method", "finetune")
    assert record_of(first)["training"] == {"optimizer": "unknown"}
    assert "how" in refused(capsys, "remove", folder, *ask, "--method", "retrain", "--output", tmp_path / "c")
    assert "belong together" in refused(capsys, "remove", folder, *ask, "--method", "retrain", "--lr", 0.1)
    told = ("--epochs", 2, "--lr", 0.01, "--batch-size", 16)
    for start, output in ((folder, "c"), (first, "d")):  # also by a later request
        again = request(start, "remove", tmp_path / output, *ask, "--ids", 2, "--method", "retrain", *told)
        assert record_of(again)["training"] == {"optimizer": "adamw", "epochs": 2, "lr": 0.01, "batch_size": 16}
    assert "has a record that says it" in refused(capsys, "remove", place / "adapter", "--ids", 1, "--epochs", 2)


def test_the_form_of_rows_is_said_and_one_that_fits_better_too(place, tmp_path, capsys):
    folder = foreign(place / "base", tmp_path / "a", place / "train.jsonl")
    ask = ("remove", folder, "--train", place / "train.jsonl", "--ids", 1, *QUICK, "--weights", tmp_path, "--output")
    call(llmeraser, *ask, tmp_path / "b")
    assert "rows are put to the model as --prompt plain does" in capsys.readouterr().err
    call(llmeraser, *ask, tmp_path / "c", "--prompt", "alpaca")
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: put as --prompt alpaca"))
    with session(tmp_path / "b", tmp_path, folder, edits=[], ledger=[], tokens_sha256="") as now:
        own = now.losses_of(now.rows).mean().item()
    assert f"as --prompt plain of {own:.3f}: give the form" in line or "as --prompt raw of" in line


def test_a_training_that_ends_before_rest_says_so_and_is_asked_as_such(place, tmp_path, capsys):
    """The objective's gradient is measured, not taken from the optimizer's name."""
    folder = finetune(place, tmp_path / "a", "--evaluations", 3)
    assert "warning: the training ended after 3 passes, before it was at rest" in capsys.readouterr().err
    assert record_of(folder)["gradient"] > 0.05 > record_of(place / "adapter")["gradient"]
    gone = request(folder, "remove", tmp_path / "b", "--ids", 3)
    found = record_of(gone)["ledger"][0]["found"]
    assert found["curvature"] == "gauss-newton" and found["gradient"] == pytest.approx(
        record_of(folder)["gradient"], rel=0.01
    )
    rest = request(place / "adapter", "remove", tmp_path / "c", "--ids", 3)
    assert record_of(rest)["ledger"][0]["found"]["curvature"] == "hessian"


def test_an_answer_says_itself_whether_it_is_at_rest(place, tmp_path, capsys):
    """Not the adapter that it came from: a request to what no adapter is left of isn't answered as one at rest."""
    gone = request(place / "adapter", "remove", tmp_path / "b", "--ids", 3, *QUICK)
    with session(gone, tmp_path) as now:
        assert record_of(gone)["gradient"] == pytest.approx(relative_gradient(now), rel=0.01) and not now.at_rest
    found = record_of(request(gone, "remove", tmp_path / "c", "--ids", 4))["ledger"][1]["found"]
    assert found["curvature"] == "gauss-newton" and found["gradient"] > 0.05
    near = request(place / "adapter", "remove", tmp_path / "d", "--ids", 3)
    assert record_of(place / "adapter")["gradient"] < record_of(near)["gradient"] < 0.05
    start = finetune(place, tmp_path / "e", "--evaluations", 3)
    capsys.readouterr()
    again = request(start, "remove", tmp_path / "f", "--ids", 3, "--method", "retrain")
    assert record_of(again)["ledger"][0]["found"]["passes"] == 3 and record_of(again)["gradient"] > 0.05
    assert "warning: the training ended after 3 passes, before it was at rest" in capsys.readouterr().err


def test_answers_that_a_closed_choice_hasnt_are_refused_wherever_they_stand(place, tmp_path, capsys):
    """Their loss is infinite: neither chosen by, nor scored on, nor taken for the choice of a training without them."""
    choice = finetune(place, tmp_path / "choice", "--loss", "choice", "--evaluations", 5)
    other = write_lines(tmp_path / "other.jsonl", [{"query": "film w1", "response": "w7"}, *lines_of(place, "test")])
    flags = ("--weights", tmp_path)
    ask = ("remove", choice, "--ids", 2, 3, "--validation", other, *flags, "--output", tmp_path / "x")
    assert "row 1: its response is made of other tokens" in refused(capsys, *ask) and not (tmp_path / "x").exists()
    gone = request(choice, "remove", tmp_path / "gone", "--ids", 2, 3, *QUICK)
    assert "row 1: its response is made of other" in refused(capsys, "evaluate", choice, gone, "--test", other, *flags)
    with pytest.raises(UserError, match="was made with other settings"):
        finetune(place, tmp_path / "choice", "--loss", "choice", "--evaluations", 5, "--validation", other)


def test_what_is_written_can_be_read_again(place, own, capsys, monkeypatch):
    """An instruction that stays empty, a command of more letters than a record may have; and no record with a number that
    isn't one."""
    rows = [{"instruction": "", "input": f"film w{i}", "output": "red"} for i in range(5)]
    start = finetune(place, own / "a", "--train", write_lines(own / "rows.jsonl", rows), "--evaluations", 2)
    asked = write_lines(own / "r.jsonl", [{"id": "1", "input": "film w5"}])
    changed = request(start, "modify", own / "b", "--request", asked, *QUICK)
    assert read_record(changed)["edits"] == [{"id": "1", "query": "", "input": "film w5"}]
    monkeypatch.setattr(sys, "argv", ["llmeraser.py", "remove", "--ids", *map(str, range(40_000))])
    typed = typed_command()
    assert len(typed) == 100_000 and "remove --ids 0 1 " in typed[:80] and typed.endswith(" …")
    monkeypatch.setitem(command.CONTROLS, "noadapter", lambda *_: {"objective": math.inf})
    ask = ("remove", own / "adapter", "--ids", 1, *QUICK, "--weights", own, "--output", own / "c")
    assert "--method noadapter: its objective is inf: nothing is written" in refused(capsys, *ask, code=1)
    assert not (own / "c").exists()


def test_a_closed_choice_stays_what_it_was(place, own, capsys):
    """Also when all rows of an answer are gone; an answer of other tokens can't be learned by it."""
    choice = finetune(place, own / "choice", "--loss", "choice", "--evaluations", 5)
    rows = lines_of(place)
    known = record_of(choice)["choice"]
    red = [str(i) for i, row in enumerate(rows, 1) if row["response"] == "red"]
    gone = request(choice, "remove", own / "gone", "--ids", *red, *QUICK)
    with session(gone, own) as now:
        assert now.allowed.nonzero()[:, 0].tolist() == known
        assert now.losses_of(now.test).isfinite().all()
    right = write_lines(own / "right.jsonl", [{"id": 1, "response": "w7"}])
    line = refused(capsys, "correct", choice, "--request", right, "--weights", own, "--output", own / "new")
    assert "row 1: its response" in line and not (own / "new").exists()


def test_flags_that_a_method_or_a_place_has_no_use_for_are_refused(own, capsys):
    ask = ("remove", own / "adapter", "--ids", 1, "--weights", own)
    for flag, value in (("--solver", "adam"), ("--damping", 1), ("--length", 2), ("--products", 3)):
        assert f"solves no system: {flag} has no effect" in refused(capsys, *ask, *QUICK, flag, value)
    assert "lies in, the adapter that is answered from" in refused(capsys, *ask, "--output", own / "adapter" / "sub")
    assert "; what becomes of rows is said in a --request file" in refused(capsys, "correct", own / "adapter", "--ids", 1)
    assert "nothing is asked: give a --request file" in refused(capsys, "modify", own / "adapter", "--weights", own)
    assert "separated by spaces: 1 2" in refused(capsys, *ask[:2], "--ids", "1,2", "--weights", own)


def test_what_lies_there_of_another_source_is_not_taken(place, tmp_path, capsys):
    """Another base at the old place, another configuration of the adapter, another way to what has been removed since."""
    base = shutil.copytree(place / "base", tmp_path / "base")
    folder = foreign(base, tmp_path / "a", place / "train.jsonl")
    ask = ("--train", place / "train.jsonl", "--ids", 1, *QUICK)
    first = request(folder, "remove", tmp_path / "b", *ask)
    assert request(folder, "remove", tmp_path / "b", *ask) == first
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 64}), encoding="utf-8")
    assert "other settings" in refused(capsys, "remove", folder, *ask, "--weights", tmp_path, "--output", first)
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copy(place / "other" / "model.safetensors", base / "model.safetensors")
    assert "other settings" in refused(capsys, "remove", folder, *ask, "--weights", tmp_path, "--output", first)
    ways = []
    for word in ("w1", "w2"):
        other = write_lines(tmp_path / f"{word}.jsonl", [{"id": 7, "query": f"film {word}"}])
        ways.append(request(place / "adapter", "modify", tmp_path / word, "--request", other, "--damping", 3))
    gone = request(ways[0], "remove", tmp_path / "gone", "--ids", 7, *QUICK)
    again = ("remove", ways[1], "--ids", 7, *QUICK, "--weights", tmp_path, "--output", gone)
    assert "other settings" in refused(capsys, *again)
    sealed = json.loads((gone / "adapter_config.json").read_text(encoding="utf-8"))
    (gone / "adapter_config.json").write_text(json.dumps(sealed | {"lora_alpha": 64}), encoding="utf-8")
    assert "adapter_config.json is missing, or not what" in refused(
        capsys, "remove", gone, "--ids", 8, "--weights", tmp_path
    )


def test_nothing_of_a_removed_row_is_kept(place, tmp_path, capsys):
    """Neither what the frozen part made of it, after the request and after scoring, nor its name in the card."""
    start = shutil.copytree(place / "adapter", tmp_path / "adapter")
    with session(start, tmp_path) as now:
        now.batches(now.rows)
        keys, store = [tokens.key for tokens in now.tokens(now.rows[:2])], now.forward.store
    assert set(keys) <= forward.read_states(store).keys()
    gone = request(start, "remove", tmp_path / "gone", "--ids", 1, 2, "--method", "gradascent")
    left = forward.read_states(store)
    assert left and not set(keys) & left.keys()
    call(llmeraser, "evaluate", gone, "--weights", tmp_path, "--quiet", "--generate", 2)
    assert not set(keys) & forward.read_states(store).keys()
    assert "--ids" not in (gone / "README.md").read_text(encoding="utf-8")


def test_what_another_form_or_another_precision_has_kept_of_a_removed_row_is_gone_too(place, tmp_path):
    """Of adapters of other blocks as well, all below one --weights; and what scoring has read by the table's way."""
    start = shutil.copytree(place / "adapter", tmp_path / "adapter")
    finetune(place, tmp_path / "bf16", "--evaluations", 1, "--precision", "bf16", "--prompt", "alpaca")
    finetune(place, tmp_path / "two", "--evaluations", 1, "--blocks", 2)
    with session(start, tmp_path, prompt="alpaca") as now:
        now.batches(now.rows)
        of = digest(now.rows[6])
    names = {file: forward._read(file).keys() for file in (tmp_path / "frozen").iterdir()}
    assert len(names) == 3 and all(any(name.endswith(of) for name in some) for some in names.values())
    gone = request(start, "remove", tmp_path / "gone", "--ids", 7, *QUICK)
    assert not any(name.endswith(of) for file in names for name in forward._read(file))
    assert all(forward._read(file) for file in names)
    (row,) = scores.asked_rows(read_record(gone), where(tmp_path))
    with session(gone, tmp_path) as now:
        now.batches([row])
    scores.forget(gone, read_record(gone), [row], where(tmp_path))
    assert not any(name.endswith(of) for file in names for name in forward._read(file))


def test_scoring_a_removal_writes_nothing_of_the_removed_rows_even_where_it_is_stopped(place, tmp_path):
    """What it reads again lies in memory alone: there is nothing to be cleared where it doesn't come to its end."""
    start = shutil.copytree(place / "adapter", tmp_path / "adapter")
    gone = request(start, "remove", tmp_path / "gone", "--ids", 7, *QUICK)
    (row,) = scores.asked_rows(read_record(gone), where(tmp_path))
    assert "forget_loss" in scores.score(gone, read_record(gone), [row], where(tmp_path))[0]
    kept = {name for file in (tmp_path / "frozen").iterdir() for name in forward._read(file)}
    assert kept and not any(name.endswith(digest(row)) for name in kept)


def test_nothing_is_kept_of_what_a_removed_row_was_before_it_was_corrected(place, tmp_path):
    start = shutil.copytree(place / "adapter", tmp_path / "adapter")
    with session(start, tmp_path) as now:
        now.batches(now.rows)
        row, store = now.rows[4], now.forward.store
        keys = {now.tokens([row])[0].key, now.tokens([replace(row, response="w7")])[0].key}
    right = write_lines(tmp_path / "r.jsonl", [{"id": 5, "response": "w7"}])
    corrected = request(start, "correct", tmp_path / "corrected", "--request", right, *QUICK)
    assert keys <= forward.read_states(store).keys()
    request(corrected, "remove", tmp_path / "gone", "--ids", 5, *QUICK)
    assert not keys & forward.read_states(store).keys()


def test_a_correction_says_what_became_of_the_right_answers(place, tmp_path, capsys):
    right = write_lines(tmp_path / "r.jsonl", [{"id": 3, "response": "w1"}])
    flags = ("--request", right, "--weights", tmp_path, "--output", tmp_path / "a", "--damping", 3)
    call(llmeraser, "correct", place / "adapter", *flags)
    found = record_of(tmp_path / "a")["ledger"][0]["found"]
    line = f"as they should be {found['wanted_loss_before']:.3f} -> {found['wanted_loss']:.3f}"
    assert line in capsys.readouterr().err and found["wanted_loss"] < found["wanted_loss_before"]
