"""Names out of result files: in every form they are shown as they are, and none is obeyed."""

import itertools
import re
import time
import warnings

import matplotlib
import numpy as np
import pytest

from tests.reports.test_figures import deletions, requests, row
from tests.reports.test_tables import metric
from unlearning.core import names
from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.evaluation import listing
from unlearning.reports import answer_figures, figures, folders, panel_figures, results, style, tables

ODD = {
    "mathtext": "$x^{",
    "mathtext twice": r"$\frac{1$ and $",
    "latex": r"\input{/etc/passwd}^^M%{",
    "tag": "<script>alert(1)</script>",
    "markdown": "a|b `c` **d** [e](javascript:f) ![g](h)",
    "control": "a\nb\r\x1b[31mc\x07\x0cd\x85e\u2028f\u202eg",
    "path": "../../etc/passwd",
    "not text": "a\udcffb",
    "long": "x" * 1000,
}


def result(name):
    rows = [row(method, model=name, forget=name, dataset=name, command=name) for method in ("original", "retrain", name)]
    rows += [row("rfau", model=name, forget=name, dataset=name, epochs=epochs) for epochs in (1, 2)]
    return {"table": name, "command": name, "date": "2026-01-01", "hardware": name, "versions": {name: name}, "rows": rows}


@pytest.mark.parametrize("kind", ODD)
def test_no_form_of_a_table_obeys_a_name(kind):
    found = result(ODD[kind])
    page, latex, plain = folders.page(found, []) + tables.markdown(found), tables.latex(found), tables.terminal(found)
    for text in (page, latex, plain):
        assert not [sign for sign in text.replace("\n", "") if not sign.isprintable()]
    shown = re.sub(r"(`+).*?\1", "", page.replace(r"\`", ""))  # but for what is code
    assert "<script" not in shown and "](javascript" not in shown and "](h)" not in shown
    for line in page.splitlines():  # a name ends no row, no heading and no code
        assert not line.startswith("|") or line.endswith("|")
    body = [line for line in latex.splitlines() if not line.startswith("%")]
    assert "input{" not in "".join(body).replace(r"input\{", "") and "<script" not in "".join(body)
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}")


def test_a_name_is_no_formula_and_every_picture_is_drawn():
    name = ODD["mathtext"] + ODD["control"] + ODD["not text"] + ODD["latex"]
    rows = result(name)["rows"]
    for one in rows:
        one["curves"] |= {"roc": None, "relearn": None, "features": None}
    rows[2]["metrics"]["gap"] = {"missing": name, "cell": name[:100]}
    others = [deletions(2), requests(3), [row(name, metrics={"ratio": metric(2.0, 0.1)}, dataset=name)]]
    for one in [one for some in others for one in some if one["method"] not in ("corrupted", "retrain")]:
        one |= {"method": name}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        assert figures.pictures(rows).keys() == {"metrics.png", "plane.png", "losses.png", "steps.png"}
        for some in others:
            for one in some:
                del one["curves"]
            assert figures.pictures(some)


def test_the_texts_of_a_picture_are_the_names():
    """Where a formula would be its source stands, and of a long name as much as there is room for."""
    figure = panel_figures.losses(result("$x^2$ \x1b")["rows"][2:3])
    (title,) = [axis.get_title() for axis in figure.axes]
    assert title == r"\$x^2\$ \x1b" and not matplotlib.cbook.is_math_text(title)
    figure = panel_figures.losses(result(ODD["long"])["rows"][2:3])
    (title,) = [axis.get_title() for axis in figure.axes]
    assert title.replace("\n", "") == "x" * (style.LETTERS - 1) + "…"


def test_confusion_matrices_show_any_class_name(tmp_path):
    counts, classes = np.eye(3, dtype=int), [ODD["mathtext"], ODD["control"], ODD["not text"]]
    figure = answer_figures.confusion(counts, counts, classes, ODD["mathtext twice"], [1])
    answers = [(name, 0.5) for name in classes]
    images = np.zeros((3, 4, 4, 1), dtype=np.uint8)
    for drawn in (figure, answer_figures.before_and_after(images, classes, answers, answers, ODD["latex"])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert bytes(style.png(drawn)).startswith(b"\x89PNG")


def test_what_a_picture_would_take_a_minute_for_is_refused_when_it_is_read(tmp_path):
    for odd in ({"method": "x" * 100_000}, {"metrics": {"UA": metric(1e308)}}, {"metrics": {"UA": metric(1.0, 1e308)}}):
        found = result("a")
        found["rows"][2] |= odd
        write_text(tmp_path / "t.json", results.dump(found))
        started = time.perf_counter()
        with pytest.raises(UserError, match=r"t\.json is not a result file: its rows\.2\.me.*: it is damaged"):
            folders.redraw(tmp_path / "t.json", overwrite=False)
        assert time.perf_counter() - started < 1 and [path.name for path in tmp_path.iterdir()] == ["t.json"]


def test_names_of_files_hold_no_sign_that_names_cant():
    for text, kind in itertools.product(ODD.values(), names.LONGEST):
        part = names.part(text, kind)
        part.encode()
        assert "/" not in part and len(part) <= names.LONGEST[kind] and not [sign for sign in part if ord(sign) < 32]
    assert len({names.part(text, "data") for text in ODD.values()}) == len(ODD)
    assert names.part("digits-200", "data") == "digits-200"


def test_the_list_of_a_folder_shows_no_sign_that_a_terminal_obeys(tmp_path):
    import torch

    content = {"method": "a\x1b[31m", "data": {"tag": "b\nc"}, "forget_tag": "\r", "seed": "x" * 100_000, "command": "\x07"}
    torch.save(content, tmp_path / "x.pth")
    text = listing.listing(tmp_path)
    assert len(text.splitlines()) == 2 and text.replace("\n", "").isprintable() and len(text) < 5000
    assert r"a\x1b[31m" in text
