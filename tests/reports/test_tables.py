"""Tables and pictures from result files: every form shows the same rows."""

import csv
import json
import shutil
import subprocess

import pytest

from tests.helpers import ROOT
from unlearning.core.files import write_text
from unlearning.reports import figures, results, tables


@pytest.fixture(scope="module")
def table():
    """The committed table of PruneLoRA's methods, made by a command with signs that LaTeX knows."""
    return results.read(ROOT / "results" / "prunelora-quick.json") | {"command": "python evaluate.py 50%_$x"}


def test_all_forms_show_the_same_rows(table, tmp_path):
    rows = table["rows"]
    assert len({row["model"] for row in rows}) == 2
    text = tables.markdown(table)
    assert text.count("`python ") == len(rows) + 1
    pipes = [line for line in text.splitlines() if line.startswith("|")]
    assert len(pipes) == 4 * (len(rows) + 2 * 2)
    assert tables.latex(table).count(r" \\") == 4 * (len(rows) + 2)
    tables.write_all(table, tmp_path / "t")
    lines = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [line["method"] for line in lines] == [row["method"] for row in rows]
    assert [float(line["TA"]) for line in lines] == [row["metrics"]["TA"]["mean"] for row in rows]
    again = json.loads((tmp_path / "t.json").read_text())
    assert tables.markdown(again) == (tmp_path / "t.md").read_text() == text
    assert tables.latex(again) == (tmp_path / "t.tex").read_text() == tables.latex(table)
    others = {"steps", "cost", "shares", "speed"}  # several numbers of epochs, deletions, a language model, seconds
    for name in set(figures.PICTURES) - others:
        assert figures.path(tmp_path / "t", name).read_bytes().startswith(b"\x89PNG"), name


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_the_latex_compiles(table, tmp_path):
    lines = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}", r"\input{t}", r"\end{document}"]
    (tmp_path / "main.tex").write_text("\n".join(lines))
    write_text(tmp_path / "t.tex", tables.latex(table))
    done = subprocess.run(["pdflatex", "-halt-on-error", "main.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_latex_is_balanced_and_escaped(table):
    text = tables.latex(table)
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert not [line for line in body for sign in "%#&" if sign in line.replace("\\" + sign, "").replace(" & ", "")]
    columns = None
    for line in body:
        if line.startswith(r"\begin{tabular}"):
            columns = len(line.removeprefix(r"\begin{tabular}{").removesuffix("}"))
        elif line.endswith(r"\\"):
            assert line.count(" & ") == columns - 1


def test_data_sets_networks_and_forget_sets_have_tables_of_their_own(table):
    keys = [(row["dataset"], row["model"], row["forget"]) for row in table["rows"]]
    groups = results.by_forget_set(table["rows"])
    assert [heading for heading, _ in groups] == [", ".join(key) for key in dict.fromkeys(keys)]
    assert [row for _, rows in groups for row in rows] == table["rows"]


def test_drawing_leaves_matplotlib_as_it_was(table, tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    figures.draw(table["rows"][:3], tmp_path / "t")
    assert dict(matplotlib.rcParams) == before


def test_a_missing_metric_is_never_a_number():
    row = {"metrics": {"UA": {"missing": "no class"}, "relearn_steps": {"missing": "x", "cell": "> 64"}}}
    assert [tables.cell(row, key) for key in ("UA", "relearn_steps", "RA")] == ["n/a", "> 64", "n/a"]
