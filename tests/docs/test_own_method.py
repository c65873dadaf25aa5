"""The method in docs/own-method.md runs as it stands there."""

import importlib
import shutil
import sys

import pytest

import models
import pretrain
from tests.helpers import ROOT, call, one_line, rows_of, stopped
from unlearning.core.errors import UserError

COMMON = ("--dataset", "digits", "--model", "resnet8", "--forget-class", 3, "--subset", 200, "--quiet")
SCRIPT = """
from functools import partial

from torch import nn

from unlearning.core.flags import main
from unlearning.vision.flags import method_parser
from unlearning.vision.run import execute


def unlearn(model, retain, forget, run):
    {body}


def parser():
    return method_parser(__doc__, epochs=1, lr=0.01)


run = partial(execute, "mine", unlearn, parser)
"""


def method(tmp_path, monkeypatch, body, name="own_method"):
    """A script of one's own whose method is `body`, imported until the test ends."""
    (tmp_path / f"{name}.py").write_text(SCRIPT.format(body=body), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, name, None)
    del sys.modules[name]
    importlib.invalidate_caches()
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    return importlib.import_module(name)


@pytest.fixture
def start(tmp_path):
    """Flags that name an original of a few digits, and where to write."""
    original = call(pretrain, *COMMON[:4], *COMMON[6:], "--epochs", 1, "--output", tmp_path / "original.pth")
    return (*COMMON, "--original", original, "--weights", tmp_path / "weights")


def test_a_method_that_was_changed_neither_goes_on_nor_is_silently_there(start, tmp_path, monkeypatch, capsys):
    """A comment is no change."""
    fit = "{note}return run.fit(model, retain, torch.optim.SGD(model.parameters(), lr={rate}))"
    fit = "import torch\n    " + fit
    flags = (*start, "--epochs", 3)
    stopped(monkeypatch, 1, mine := method(tmp_path, monkeypatch, fit.format(note="", rate=0.01)), *flags)
    other = method(tmp_path, monkeypatch, fit.format(note="", rate=0.02))
    code, line = one_line(other, capsys, *flags)
    assert code == 2 and ".partial was begun before the method's script was changed; delete it or give --overwrite" in line
    again = method(tmp_path, monkeypatch, fit.format(note="# The same.\n    ", rate=0.01))
    path = call(again, *flags)
    assert mine is not again and models.load_checkpoint(path)["cost"]["steps"] > 0
    for rate, said in ((0.01, False), (0.02, True)):
        capsys.readouterr()
        assert call(method(tmp_path, monkeypatch, fit.format(note="", rate=rate)), *flags) == path
        line = capsys.readouterr().err
        assert "there already: " in line and ("the method's script has been changed since" in line) is said


def test_a_method_that_trains_nothing_needs_no_word_about_its_cost(start, tmp_path, monkeypatch):
    path = call(method(tmp_path, monkeypatch, "return model.requires_grad_(True)"), *start)
    cost = models.load_checkpoint(path)["cost"]
    assert cost["seconds"] >= 0 and cost["memory_mib"] > 0 and (cost["steps"], cost["moved"]) == (0, 0)
    assert rows_of(path, "--weights", tmp_path, beneath=False)[-1]["method"] == "mine"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("model.net.fc = nn.Linear(64, 9); return model", r"mine answers two images by \(2, 9\), not by \(2, 10\)"),
        ("return nn.Sequential(model)", "mine: its method returns a network of other weights than it was given"),
    ],
)
def test_a_method_that_returns_another_network_writes_none(start, tmp_path, monkeypatch, body, said):
    with pytest.raises(UserError, match=said):
        call(method(tmp_path, monkeypatch, body), *start)
    assert not list((tmp_path / "weights").glob("*.pth"))


def test_the_pages_method_runs_and_its_flag_makes_rows(weights, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "own-method.md").read_text(encoding="utf-8")
    (tmp_path / "shrink.py").write_text(page.split("```python\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    shrink = importlib.import_module("shrink")
    common = ("--dataset", "digits", "--model", "resnet8", "--forget-class", 3, "--epochs", 1, "--quiet")
    common += ("--original", weights / "digits_resnet8_original_s0.pth", "--weights", tmp_path)
    paths = [call(shrink, *common, "--strength", strength) for strength in (0.1, 0.9)]
    rows = rows_of(*paths, "--weights", tmp_path, beneath=False)
    assert [row["method"] for row in rows] == ["shrink --strength 0.1", "shrink --strength 0.9"]
