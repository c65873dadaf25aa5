"""The method in docs/own-method.md runs as it stands there."""

import importlib

from tests.helpers import ROOT, call, rows_of


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
