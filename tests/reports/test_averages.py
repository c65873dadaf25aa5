"""Means over classes that were forgotten in turn, and where they stand in tables and pages."""

import json

import pytest

from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.reports import averages, tables
from unlearning.reports.pages import with_excerpts

RUN = {"table": "t", "command": "c", "date": "d", "hardware": "h", "versions": {"torch": "2"}}


def row(method, forget, gap, model="resnet8", **other):
    """A row of three seeds with this average gap."""
    known = {"mean": gap, "ci95": 0.1, "values": [gap] * 3}
    metrics = {"gap": known if gap is not None else {"missing": "no Retrain"}, "UA": {"mean": 1.0, "ci95": 0.0}}
    common = {"dataset": "digits", "model": model, "forget": forget, "method": method, "epochs": 5, "n": 3, "command": "c"}
    return common | {"metrics": metrics} | other


@pytest.fixture
def rows():
    """Three classes in turn, of two methods; beside them what is none of these."""
    in_turn = [row(*of) for of in [("lora", "class3", 1.0), ("lora", "class4", 2.0), ("lora", "class5", 6.0)]]
    in_turn += [row("scrub", "class3", 4.0), row("scrub", "class4", None), row("scrub", "class5", 4.0)]
    in_turn += [row("mask", "class3", 9.0), row("mask", "class4", 9.0)]  # which lacks a class
    in_turn += [row("ssd", "class3", gap) for gap in (1.0, 2.0, 3.0)]  # as many rows as classes, of one
    in_turn[0] |= {"published": {"gap": 50.0}, "curves": {}, "precision": "bf16"}  # of class 3 alone
    others = [row("lora", forget, 100.0) for forget in ("class3-4", "random0.1")]
    others += [row("lora", "class0", 100.0, "vit_micro"), row("lora", "class0", 100.0, fingerprint="f")]
    return in_turn + others + [row("lora", "class1", 100.0, request=1)]


def test_a_mean_is_over_the_classes_that_were_forgotten_alone(rows):
    lora, scrub = averages.over_classes(rows)
    assert (lora["method"], lora["n"], lora["over"], scrub["method"]) == ("lora", 3, "classes", "scrub")
    assert lora["metrics"]["gap"]["values"] == [1.0, 2.0, 6.0]
    assert lora["metrics"]["gap"]["mean"] == 3.0
    assert lora["metrics"]["gap"]["ci95"] == pytest.approx(4.302653 * 7**0.5 / 3**0.5)
    assert scrub["metrics"]["gap"] == {"missing": "no Retrain"} and scrub["metrics"]["UA"]["mean"] == 1.0
    assert not {"published", "curves", "precision", "command"} & lora.keys()
    assert averages.over_classes([one for one in rows if one["forget"] != "class5"]) == []  # two are too few


def test_tables_show_it_after_the_classes_own(rows):
    markdown, terminal, latex = (form(RUN | {"rows": rows}) for form in (tables.markdown, tables.terminal, tables.latex))
    heading = "digits, resnet8, one class alone, of 3 in turn"
    (after,) = markdown.split(f"**{heading}: forgetting and accuracy**")[1:]
    assert "| classes |" in after.replace("   classes", " classes") and "3.00 ± 6.57" in after and averages.NOTE in after
    assert "mask" not in after and "<summary>" not in after and "n/a: no Retrain." in after
    assert "3.00 ± 6.57" in terminal.split(heading)[1]
    assert r"confidence interval over 3 classes" in latex
    without = tables.markdown(RUN | {"rows": rows[:2]})
    assert averages.NOTE not in without and "in turn" not in without


def test_pages_ask_for_it(rows, tmp_path):
    write_text(tmp_path / "t.json", json.dumps(RUN | {"rows": rows}))
    begin, end = "<!-- value t.json over=classes method=lora gap -->", "<!-- end -->"
    assert with_excerpts(f"{begin}0{end}", tmp_path, "page.md") == f"{begin}3.00 ± 6.57{end}"
    begin = '<!-- table t.json over=classes columns="gap" -->'
    assert " 3.00 ± 6.57 |" in with_excerpts(f"{begin}\n{end}", tmp_path, "page.md")
    with pytest.raises(UserError, match="over=seeds: there is a mean over classes alone"):
        with_excerpts(f"<!-- value t.json over=seeds gap -->0{end}", tmp_path, "page.md")
