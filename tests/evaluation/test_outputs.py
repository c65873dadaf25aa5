"""The files that evaluate.py writes: none of anyone's is lost."""

import copy
import json
import os
import sys
from functools import partial

import pytest

import evaluate
import pretrain
import retrain
from baselines import control
from tests.helpers import ROOT, call, dies, files, full_disk, killed, one_line, while_waiting
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.flags import main
from unlearning.core.seals import FOREIGN, sealed
from unlearning.evaluation import collect, network
from unlearning.evaluation.flags import Scoring
from unlearning.reports import figures, results, tables
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.shared import Shared


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A Retrain, hardly trained."""
    flags = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--forget-class", 3, "--quiet")
    return call(retrain, *flags, "--output", tmp_path_factory.mktemp("weights") / "x.pth")


def test_plots_overwrite_no_picture_unasked(path, tmp_path, capsys):
    """Also where none has a name that would be written."""
    for name in ("metrics.png", "mine.png"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"mine")
        before = files(tmp_path)
        code, line = one_line(evaluate, capsys, path, "--plots", folder)  # without --quiet: a scored file would be said
        assert code == 2 and "holds pictures; --overwrite" in line and files(tmp_path) == before


def test_one_new_path_is_not_both_a_file_and_a_folder(path, tmp_path, capsys):
    code, line = one_line(evaluate, capsys, path, "--plots", tmp_path / "x", "--json", tmp_path / "x")
    assert code == 2 and line.endswith("x would be written twice, or over what is read") and not files(tmp_path)


def test_a_full_disk_leaves_the_old_file_of_every_form(path, tmp_path, monkeypatch):
    kept, score = [], collect.score_files

    def scored_once(*arguments, keep, **how):
        kept.extend([] if kept else score(*arguments, beneath=False, keep="answers", **how))
        return [{key: row[key] for key in row if keep or key != "account"} for row in copy.deepcopy(kept)]

    monkeypatch.setattr(collect, "score_files", scored_once)
    for flag in (*tables.FORMS, "html", "plots"):
        old = tmp_path / flag / ("metrics.png" if flag == "plots" else "x.txt")
        old.parent.mkdir()
        old.write_bytes(sealed(b"old", "html"))
        before = files(tmp_path)
        again = (evaluate, path, f"--{flag}", old.parent if flag == "plots" else old, "--overwrite", "--quiet")
        with full_disk(), pytest.raises(RunFailed, match=f"cannot write .*{old.name}: No space left"):
            call(*again)
        assert files(tmp_path) == before
        call(*again)
        assert files(tmp_path)[f"{flag}/{old.name}"] != before[f"{flag}/{old.name}"]


FLAGS = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--quiet")


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A folder with an original, a Retrain, and two controls that share the original's layers, hardly trained."""
    folder = tmp_path_factory.mktemp("four")
    where = (*FLAGS, "--weights", folder)
    call(pretrain, *where)
    call(retrain, *where, "--forget-class", 3)
    for kind in ("mask", "zero-row"):
        call(control, *where, "--forget-class", 3, "--kind", kind)
    return folder


@pytest.fixture
def asked(monkeypatch):
    """A list that grows by one with each file that is scored now."""
    found, score = [], network.score
    monkeypatch.setattr(network, "RELEARN_STEPS", (0, 1))
    monkeypatch.setattr(network, "score", lambda *given: found.append(1) or score(*given))
    return found


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def killed_from(nth, function):
    """The function, which ends the process when it is called for the `nth` time."""
    calls = []
    return lambda *given: killed() if calls.append(1) or len(calls) == nth else function(*given)


def without_date(path):
    return {name: value for name, value in json.loads(path.read_text(encoding="utf-8")).items() if name != "date"}


def test_a_killed_command_goes_on_where_it_was_and_gives_the_same_bits(four, tmp_path, monkeypatch, asked):
    """Killed while it scores the third file, and between two of its outputs."""
    paths = sorted(four.glob("*.pth"))

    def scored(folder):
        out = ("--json", folder / "a.json", "--csv", folder / "b.csv", "--html", folder / "c.html")
        call(evaluate, *paths, "--weights", four, "--quiet", *out, "--pictures")

    scored(tmp_path / "at once")
    assert len(asked) == 4 and hidden(four) == []
    folder = tmp_path / "in parts"
    with monkeypatch.context() as patch:
        patch.setattr(network, "score", killed_from(3, network.score))
        assert dies(lambda: scored(folder))
    assert not (folder / "a.json").exists()
    with monkeypatch.context() as patch:
        patch.setitem(tables.FORMS, "csv", killed)
        patch.setattr(network, "score", killed_from(3, network.score))  # two are left: it isn't called so often
        assert dies(lambda: scored(folder))
        assert (folder / "a.json").exists() and not (folder / "b.csv").exists()
    asked.clear()
    scored(folder)
    assert asked == [] and hidden(four) == []
    assert without_date(folder / "a.json") == without_date(tmp_path / "at once/a.json")
    one, two = (files(tmp_path / name) for name in ("at once", "in parts"))
    assert {name: one[name] for name in one if name != "a.json"} == {name: two[name] for name in two if name != "a.json"}
    with pytest.raises(UserError, match=r"a.json exists; --overwrite"):
        scored(folder)


def test_layers_are_cached_as_if_nothing_had_been_interrupted(four, monkeypatch, asked):
    """What the files after a kill are computed from is then the same to the last bit, for it depends on what is cached."""
    offered, share, flags = [], FeatureCache.share_between, ("--weights", four, "--quiet")
    paths = sorted(four.glob("*.pth"))

    def noted(cache, model, own, *rest):
        offered.append(own)
        share(cache, model, own, *rest)

    monkeypatch.setattr(FeatureCache, "share_between", noted)
    call(evaluate, *paths, *flags)
    at_once = offered[:]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(network, "distances", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt) if len(asked) == 7 else {})
        call(evaluate, *paths, *flags)
    assert any(four.glob(".scores.*/*.pt"))
    offered.clear()
    call(evaluate, *paths, *flags)
    assert len(at_once) == 4 and offered == at_once and len(asked) == 4 + 3 + 2


def test_half_written_outputs_are_replaced_by_their_own_command_alone(path, tmp_path, monkeypatch, asked):
    """Not by one with other flags, and not where somebody has changed them; a damaged score is computed again."""
    out = ("--json", tmp_path / "a.json", "--csv", tmp_path / "b.csv", "--weights", tmp_path, "--quiet")
    with monkeypatch.context() as patch:
        patch.setitem(tables.FORMS, "csv", killed)
        assert dies(lambda: call(evaluate, path, *out))
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"a.json exists; --overwrite"):
        call(evaluate, path, *out, "--mia", "lora-unlearn")
    (tmp_path / "a.json").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"a.json exists; --overwrite"):
        call(evaluate, path, *out)
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    (kept,) = tmp_path.glob(".scores.*/*.pt")
    kept.write_bytes(kept.read_bytes()[:-9])
    call(evaluate, path, *out, "--wide")
    assert len(asked) == 1 and hidden(tmp_path) == []


def test_scores_that_other_flags_have_made_are_computed_anew(path, tmp_path, monkeypatch, asked):
    """And those by the same flags aren't, nor those of a Retrain that lies elsewhere now."""

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(tables.FORMS, "json", interrupted)
    copy = tmp_path / "moved.pth"
    copy.write_bytes(path.read_bytes())
    out = ("--json", tmp_path / "a.json", "--weights", tmp_path, "--quiet", "--precision")
    for file, flags, count in (
        (path, ("fp32",), 1),
        (path, ("fp32", "--wide"), 0),
        (copy, ("fp32",), 0),
        (path, ("fp32", "--mia", "lora-unlearn"), 1),
        (path, ("bf16",), 1),
    ):
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            call(evaluate, file, *out, *flags)
        assert len(asked) == count, flags


def test_another_command_waits_for_the_outputs_and_then_replaces_nothing(path, tmp_path, monkeypatch, capsys):
    """Also where they weren't there when it began."""
    monkeypatch.setattr(collect, "score_files", lambda *_, **__: pytest.fail("scored"))
    file = tmp_path / "new/a.json"

    def second():
        with pytest.raises(UserError, match=r"a.json exists; --overwrite"):
            call(evaluate, path, "--json", file, "--weights", tmp_path, "--quiet")

    while_waiting(file, second, partial(file.write_text, "of the first"), capsys)
    assert files(tmp_path) == {"new/a.json": b"of the first"}


@pytest.mark.parametrize("named", ["x.pth", "list.txt", "net.py", "photo.png", "old.pt", "fifo"])
def test_overwrite_replaces_neither_what_is_read_nor_what_is_no_text(path, tmp_path, capsys, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    for name, content in (("x.pth", path.read_bytes()), ("list.txt", b"1 2"), ("net.py", b"import torch\n")):
        (tmp_path / name).write_bytes(content)
    for name, content in (("photo.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), ("old.pt", path.read_bytes())):
        (tmp_path / name).write_bytes(content)
    if named == "fifo":
        if sys.platform == "win32":
            pytest.skip("Windows has no such files")
        os.mkfifo(tmp_path / "fifo")
    before = files(tmp_path)
    flags = ("--forget-file", "list.txt", "--json", named, "--overwrite", "--weights", tmp_path)
    code, line = one_line(evaluate, capsys, "x.pth", *flags)
    assert code == 2 and ("over what is read" in line or FOREIGN in line or "is no file: a pipe" in line)
    assert files(tmp_path) == before


def test_pictures_replace_those_that_were_drawn_here_alone(path, tmp_path, monkeypatch, asked):
    """With --overwrite, and where this command was killed between two of them; what has been scored stays."""
    own = sealed(b"\x89PNG, and 12 bytes.", "png")
    monkeypatch.setattr(figures, "pictures", lambda rows: {"losses.png": own, "metrics.png": own})
    plots = tmp_path / "plots"
    plots.mkdir()
    (plots / "metrics.png").write_bytes(b"mine")
    flags = ("--weights", tmp_path, "--plots", plots, "--json", tmp_path / "a.json", "--quiet")
    with pytest.raises(UserError, match=rf"metrics.png {FOREIGN}"):
        call(evaluate, path, *flags, "--overwrite")
    assert files(plots) == {"metrics.png": b"mine"} and asked == [] and hidden(tmp_path) == []
    (plots / "metrics.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(figures, "write_bytes", killed_from(2, figures.write_bytes))
        assert dies(lambda: call(evaluate, path, *flags))
    assert files(plots) == {"losses.png": own}
    other = ".big.pth.partial.999999999.unlearning-tmp"  # which may be written on another machine
    for name in (".metrics.png.999999999.unlearning-tmp", other):
        (plots / name).write_bytes(b"half")
    call(evaluate, path, *flags)
    assert files(plots) == {"losses.png": own, "metrics.png": own, other: b"half"} and asked == []
    with pytest.raises(UserError, match="holds pictures; --overwrite"):
        call(evaluate, path, *flags)


def test_overwrite_replaces_what_is_as_it_was_written_and_no_notes(path, tmp_path, monkeypatch, asked):
    """Of every form, pictures of answers included; what has been changed is refused before anything is scored."""
    plots, notes = tmp_path / "plots", {"markdown": "My note.\n", "latex": "% My note.\n", "csv": "mine,1\n", "html": "<p>"}
    texts = {form: tmp_path / f"a.{form}" for form in (*tables.FORMS, "html")}
    flags = [word for form, file in texts.items() for word in (f"--{form}", file)]
    flags += ["--plots", plots, "--weights", tmp_path, "--quiet"]
    call(evaluate, path, *flags)
    call(evaluate, path, *flags, "--overwrite")
    everything = files(tmp_path)
    drawn = [name for name in everything if name.startswith("plots/")]
    assert drawn
    for name in [*(file.name for file in texts.values()), *drawn]:
        for changed in (notes.get(name[2:], "\n").encode() + everything[name], everything[name] + b"x", b"mine"):
            asked.clear()
            (tmp_path / name).write_bytes(changed)
            with pytest.raises(UserError, match=rf"{name} {FOREIGN}"):
                call(evaluate, path, *flags, "--overwrite")
            assert asked == [] and files(tmp_path) == everything | {name: changed}
        (tmp_path / name).write_bytes(everything[name])


@pytest.mark.parametrize("broken", ["disk", "output"])
def test_what_was_asked_for_is_written_before_anything_can_break(path, tmp_path, monkeypatch, capsys, broken):
    """A disk that is full once pictures are drawn, and an output that nobody reads any more."""
    rows = collect.score_files(
        [path], Scoring.from_flags(evaluate.parser().parse_args([str(path), "--quiet"])), Shared(), False
    )
    monkeypatch.setattr(collect, "score_files", lambda *_, **__: copy.deepcopy(rows))
    result, plots = tmp_path / "a.json", tmp_path / "plots"
    arguments = (path, "--quiet", "--json", result)
    if broken == "disk":
        with full_disk(nth=2):
            code, line = one_line(evaluate, capsys, *arguments, "--plots", plots)
        assert code == 1 and "cannot write" in line and not list(plots.iterdir())
    else:
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "w", encoding="ascii", buffering=1) as nobody:
            monkeypatch.setattr(sys, "stdout", nobody)
            monkeypatch.setattr(sys, "argv", ["evaluate.py", *map(str, arguments)])
            main(evaluate.run, evaluate.parser())
    assert results.read_json(result)["rows"][0]["method"] == "retrain"


def test_a_pattern_over_a_link_that_leads_nowhere_is_one_line(path, tmp_path, capsys):
    for name, to in (("round.pth", "round.pth"), ("nowhere.pth", "gone.pth")):
        (tmp_path / name).symlink_to(to)
        code, line = one_line(evaluate, capsys, tmp_path / "*.pth")
        assert code == 2 and line.startswith(f"evaluate.py: {tmp_path / name} can't be read: ")
        (tmp_path / name).unlink()


def test_a_network_that_no_file_holds_is_refused(tmp_path, capsys):
    """--model had no effect on checkpoints of this project, whatever it named."""
    shipped = ("fashion-mnist_resnet8", "cifar10_resnet20")
    one, other = (ROOT / "model_weights" / f"{name}_original_s0.pth" for name in shipped)
    code, line = one_line(evaluate, capsys, one, other, "--model", "resnet50", "--json", tmp_path / "x.json")
    assert (code, line) == (2, f"evaluate.py: {one} holds a resnet8, not a resnet50") and not files(tmp_path)
    adapter = tmp_path / "x_adapter"  # which a pattern meets, and which is left out
    adapter.mkdir()
    (adapter / "adapter_config.json").touch()
    for files_of, name in (((one, other), "resnet20"), ((one, adapter), "resnet8")):  # of several files it may say one's
        args = evaluate.parser().parse_args([*map(str, files_of), "--model", name])
        evaluate._check_told(args, Shared())


def test_flags_of_networks_from_elsewhere_are_refused_where_there_are_none(path, tmp_path, capsys):
    """They would say nothing, but for what the file says as well."""
    for flags in (("--validation", 0.2), ("--test-subset", 50), ("--subset", 110), ("--head", "fc"), ("--img-size", 64)):
        code, line = one_line(evaluate, capsys, path, *flags, "--json", tmp_path / "x.json")
        assert code == 2 and line == f"evaluate.py: {flags[0]} is for networks from elsewhere; {path} says its own"
        assert not files(tmp_path)
    args = evaluate.parser().parse_args([str(path), "--subset", "120", "--dataset", "digits"])
    evaluate._check_told(args, Shared())
