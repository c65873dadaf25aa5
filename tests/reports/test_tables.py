"""Tables and pictures from result files: every form shows the same rows."""

import argparse
import csv
import json
import re
import shutil
import subprocess

import pytest

from tests.helpers import ROOT
from unlearning.core import seals
from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.reports import figures, folders, orders, results, tables
from unlearning.reports.pages import with_excerpts


@pytest.fixture(scope="module")
def table():
    """The committed table of PruneLoRA's methods, made by a command with signs that LaTeX knows."""
    return results.read(ROOT / "results" / "prunelora-quick" / "result.json") | {"command": "python evaluate.py 50%_$x"}


def metric(mean, ci95=None):
    return {"mean": mean, "ci95": ci95, "values": [mean]}


@pytest.fixture
def small():
    """Two rows with a missing number, a word in a number's place, an interval, a paper's numbers, and an earlier run."""
    common = {"dataset": "digits_8", "model": "resnet8", "forget": "class3", "n": 3}
    left = {"TA": {"missing": "no test images"}, "relearn_steps": {"missing": "never", "cell": "> 64"}}
    retrain = {"method": "retrain", "epochs": None, "command": "python retrain.py"}
    retrain |= {"published": {"UA": 100, "RA": 99.5, "TA": 94.25, "MIA": 100}}
    lora = {"method": "lora --rank 2", "epochs": 5, "command": "python lora.py --rank 2"}
    run = {"command": "python old.py", "date": "2025-01-02", "hardware": "a GPU", "versions": {"torch": "2.11"}}
    return {
        "table": "t",
        **run,
        "earlier": [{"of": ["vit, class3"], **run, "hardware": "a CPU"}],
        "rows": [
            common | retrain | {"metrics": {"RA": metric(99.126, 0.4), **left, "seconds": metric(1234.56)}},
            common | lora | {"metrics": {"RA": metric(98.0, 1.25), "TA": metric(-1.0, 0.0), "seconds": metric(0.25)}},
        ],
    }


def test_the_points_that_a_tuning_chose_stand_below_its_rows(small):
    """One line a method; a table of other rows has none."""
    assert all("hosen" not in form(small) for form in (tables.markdown, tables.terminal))
    rows = [
        small["rows"][0]
        | {"metrics": {"gap": metric(gap, 0.5)}, "tunes": "lora", "point": point, "points": 8, "chosen": gap < 2}
        for gap, point in ((3.25, "--lr 0.01 --rank 8"), (1.125, "--lr 0.01 --rank 16"))
    ]
    terminal = tables.terminal(small | {"rows": rows})
    assert re.split(" {2,}", terminal.rstrip().splitlines()[-1]) == ["lora", "--lr 0.01 --rank 16", "8", "1.12 ± 0.50"]
    below = tables.markdown(small | {"rows": rows}).partition("chosen points")[2].splitlines()
    assert [line for line in below if line.startswith("| lora")] == [below[4]]
    assert [cell.strip() for cell in below[4].strip("|").split("|")] == ["lora", "--lr 0.01 --rank 16", "8", "1.12 ± 0.50"]


def test_tables_say_a_papers_name_and_result_files_the_scripts(small, tmp_path):
    """With the flags that a row's name has; a flag that its name doesn't need is in the row's list of them."""
    called = {
        "scrub": "SCRUB",
        "ssd --alpha 5": "SSD --alpha 5",
        "l1sparse": "l1-sparse",
        "negate": "NoT",
        "delete": "DELETE",
        "neglora --bound 5": "NegLoRA --bound 5",
        "regun": "ReGUn",
        "gradascent": "gradascent",
        "gradascent --retain-weight 0.9": "NegGrad+ --retain-weight 0.9",
        "randomlabel": "randomlabel",
        "randomlabel --lr 0.01": "SalUn --lr 0.01",
        "randomlabel --saliency 0.5": "SalUn --saliency 0.5",
        "randomlabel --saliency 0.5 --random-mask": "randomlabel --saliency 0.5 --random-mask",
        "lora --rank 2": "lora --rank 2",
    }
    rows = [small["rows"][1] | {"method": name, "metrics": {"UA": metric(1.0)}} for name in called]
    rows[[*called].index("randomlabel --lr 0.01")] |= {"flags": ["--lr 0.01", "--saliency 0.5"]}
    small |= {"rows": rows}
    assert results.row_names(rows) == [*called.values()]
    for form in (tables.markdown, tables.terminal):
        lines = [
            line.removeprefix("|").split("|")[1 if form is tables.markdown else 0]
            for line in form(small).splitlines()
            if "1.00" in line
        ]
        assert [re.split(r"\s{2,}", line.strip())[0] for line in lines] == [*called.values()]
    assert "\n SalUn -{}-lr 0.01 " in tables.latex(small) and "l1sparse" not in tables.latex(small)
    assert [row["method"] for row in csv.DictReader(tables.comma_separated(small).splitlines())] == [*called]
    results.write(tmp_path / "result.json", small)
    assert [row["method"] for row in results.read(tmp_path / "result.json")["rows"]] == [*called]
    page = with_excerpts(
        '<!-- table result.json method="negate,randomlabel --saliency 0.5" UA -->\n<!-- end -->', tmp_path, "x"
    )
    assert "| NoT " in page and "| SalUn --saliency 0.5 |" in page


def test_markdown_to_the_letter(small):
    text = tables.markdown(small)
    assert text.startswith(
        """**digits_8, resnet8, class3: forgetting and accuracy**

|   # | method        |   epochs |   n |         RA % |   TA % |   paper: RA % |   paper: TA % |
|----:|:--------------|---------:|----:|-------------:|-------:|--------------:|--------------:|
|   1 | retrain       |        – |   3 | 99.13 ± 0.40 |    n/a |          99.5 |         94.25 |
|   2 | lora --rank 2 |        5 |   3 | 98.00 ± 1.25 |  -1.00 |               |               |

**digits_8, resnet8, class3: what an attacker, a probe and relearning still find**

|   # | method        |   epochs |   n |   relearn steps |
|----:|:--------------|---------:|----:|----------------:|
|   1 | retrain       |        – |   3 |            > 64 |
|   2 | lora --rank 2 |        5 |   3 |             n/a |

<details><summary>Cost</summary>

|   # | method        |   epochs |   n |   seconds |
|----:|:--------------|---------:|----:|----------:|
|   1 | retrain       |        – |   3 |   1,234.6 |
|   2 | lora --rank 2 |        5 |   3 |       0.2 |

</details>
"""
    )
    assert "1. `python retrain.py`\n2. `python lora.py --rank 2`\n" in text
    assert "\nn/a: no test images.\n" in text
    assert text.splitlines()[-2:] == [
        "vit, class3: `python old.py` on a CPU, 2025-01-02; torch 2.11.",
        "`python old.py` on a GPU, 2025-01-02; torch 2.11.",
    ]


def test_latex_csv_and_text_to_the_letter(small):
    latex = tables.latex(small)
    assert r"\caption{Forgetting and accuracy: digits\_8, resnet8, class3, mean $\pm$ 95 \% confidence" in latex
    assert r"\label{tab:t-resnet8-class3-ra}" in latex
    assert latex.count(r"\label") == len(set(re.findall(r"\\label{.+}", latex))) == 3
    lines = {" ".join(line.split()) for line in latex.splitlines()}
    assert r"method & epochs & n & RA \% & TA \% & paper: RA \% & paper: TA \% \\" in lines
    assert r"retrain & -- & 3 & 99.13 $\pm$ 0.40 & n/a & 99.5 & 94.25 \\" in lines
    assert r"lora -{}-rank 2 & 5 & 3 & 98.00 $\pm$ 1.25 & $-$1.00 & & \\" in lines
    assert tables.comma_separated(small) == (
        "dataset,model,forget,method,epochs,n,command,RA,RA_ci95,TA,TA_ci95,relearn_steps,relearn_steps_ci95,seconds,"
        "seconds_ci95,RA_paper,TA_paper\n"
        "digits_8,resnet8,class3,retrain,,3,python retrain.py,99.126,0.4,,,,,1234.56,,99.5,94.25\n"
        "digits_8,resnet8,class3,lora --rank 2,5,3,python lora.py --rank 2,98.0,1.25,-1.0,0.0,,,0.25,,,\n"
    )
    assert tables.terminal(small).startswith(
        """digits_8, resnet8, class3: forgetting and accuracy
method           epochs    n          RA %    TA %    paper: RA %    paper: TA %
retrain               –    3  99.13 ± 0.40     n/a           99.5          94.25
lora --rank 2         5    3  98.00 ± 1.25   -1.00
"""
    )


def test_the_deviation_over_draws_stands_beside_mia_in_all_forms_but_the_narrowest(small):
    """Rows of older files lack it; a table of such rows alone has no such column."""
    old, new = small["rows"]
    rest = {key: metric(1.0) for key in ("UA", "TA", "gap", "probe")}
    old = old | {"metrics": old["metrics"] | rest | {"MIA": metric(100.0)}}
    new = new | {"metrics": new["metrics"] | rest | {"MIA": metric(57.5, 3.0), "MIA_draw_sd": metric(43.456, 1.0)}}
    both = small | {"rows": [old, new]}
    cells = {"markdown": "|", "latex": "&", "terminal": "  "}
    for form, sign in cells.items():
        lines = getattr(tables, form)(both).splitlines()
        header = next(line for line in lines if "MIA-Efficacy" in line and sign in line).split(sign)
        header = [cell.strip() for cell in header if cell.strip()]
        place = next(i for i, cell in enumerate(header) if cell.startswith("MIA-Efficacy"))
        assert header[place + 1] == "MIA sd over draws", form
        text = " ".join(" ".join(lines).replace(r"$\pm$", "±").split())
        for row in (f"100.00 {sign} n/a".split(), f"57.50 ± 3.00 {sign} 43.46 ± 1.00".split()):
            assert " ".join(row) in text, (form, row)
    assert "UA,UA_ci95" not in tables.comma_separated(small)
    header, *lines = csv.reader(tables.comma_separated(both).splitlines())
    place = header.index("MIA")
    assert header[place : place + 4] == ["MIA", "MIA_ci95", "MIA_draw_sd", "MIA_draw_sd_ci95"]
    assert [line[place : place + 4] for line in lines] == [["100.0", "", "", ""], ["57.5", "3.0", "43.456", "1.0"]]
    assert "draws" not in tables.terminal(both, brief=True) and "MIA-Efficacy" in tables.terminal(both, brief=True)
    assert "standard deviation over the draws" in tables.markdown(both)
    older = small | {"rows": [old, old | {"method": "other"}]}
    for form in (*cells, "comma_separated"):
        assert "draw" not in getattr(tables, form)(older), form


def test_a_dumped_result_is_read_back(small, tmp_path):
    write_text(tmp_path / "t.json", results.dump(small))
    assert results.read(tmp_path / "t.json") == small
    assert '"values": [99.126]' in results.dump(small)
    write_text(tmp_path / "t.json", '{"rows": []}')
    with pytest.raises(UserError, match="not a result file"):
        results.read(tmp_path / "t.json")


def test_a_benchmark_replaces_its_own_results_alone(table, tmp_path):
    """Also those of earlier versions, which have no seal; and says so before it measures."""
    path, output = tmp_path / "speed.json", results.Output(table["table"])
    assert output(str(path)) == path
    results.write(path, table)
    sealed = path.read_bytes()
    for ours in (sealed, seals.split(sealed)[0]):
        path.write_bytes(ours)
        assert output(str(path)) == path
        with pytest.raises(argparse.ArgumentTypeError, match=f"holds another result, of '{table['table']}'"):
            results.Output("growth")(str(path))
    for theirs in (b"mine", b'{"my": "settings"}', b"", sealed.replace(b'"table"', b'"notes": "mine", "table"')):
        path.write_bytes(theirs)
        with pytest.raises(argparse.ArgumentTypeError, match=seals.FOREIGN):
            output(str(path))


def test_all_forms_show_the_same_rows(table, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PICTURES", {"metrics": figures.PICTURES["metrics"]})
    rows = table["rows"]
    assert len({row["model"] for row in rows}) == 2
    text = tables.markdown(table)
    assert text.count("`python ") == len(rows) + 1
    pipes = [line for line in text.splitlines() if line.startswith("|")]
    orders_of = [orders.table(group) for _, group in results.by_forget_set(rows)]
    assert len(pipes) == 4 * (len(rows) + 2 * 2) + sum(len(body) + 2 for _, body in orders_of)
    assert tables.latex(table).count(r" \\") == 4 * (len(rows) + 2)
    folders.write(table, tmp_path / "t")
    lines = list(csv.DictReader((tmp_path / "t/rows.csv").open(encoding="utf-8")))
    assert [line["method"] for line in lines] == [row["method"] for row in rows]
    assert [float(line["TA"]) for line in lines] == [row["metrics"]["TA"]["mean"] for row in rows]
    again = json.loads((tmp_path / "t/result.json").read_text(encoding="utf-8"))
    page, tex = (seals.split((tmp_path / "t" / name).read_bytes())[0].decode() for name in ("README.md", "tables.tex"))
    assert page.endswith(text) and tables.markdown(again) == text
    assert tables.latex(again) == tex == tables.latex(table)
    assert (tmp_path / "t/figures/metrics.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="no LaTeX here")
def test_the_latex_compiles(table, tmp_path):
    lines = [
        r"\documentclass{article}",
        r"\usepackage{booktabs,graphicx}",
        r"\begin{document}",
        r"\input{t}",
        r"\end{document}",
    ]
    (tmp_path / "main.tex").write_text("\n".join(lines), encoding="utf-8")
    write_text(tmp_path / "t.tex", tables.latex(table))
    done = subprocess.run(["pdflatex", "-halt-on-error", "main.tex"], cwd=tmp_path, capture_output=True, encoding="utf-8")
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
    words = {"class3": "class 3 (Dress)"}
    assert [heading for heading, _ in groups] == [", ".join([*key[:2], words[key[2]]]) for key in dict.fromkeys(keys)]
    assert [row for _, rows in groups for row in rows] == table["rows"]


def test_a_terminal_shows_seven_columns_of_rows_that_have_them(table, small):
    text = tables.terminal(table, brief=True)
    header = next(line for line in text.splitlines() if line.startswith("method"))
    titles = ("UA %", "RA %", "TA %", "MIA-Efficacy %", "average gap", "probe %", "seconds")
    assert [place for place in map(header.find, titles)] == sorted(map(header.find, titles)) and "AUC" not in text
    assert tables.terminal(small, brief=True) == tables.terminal(small)


def test_a_heading_has_the_forget_set_in_words(small):
    rows = [row | {"forgotten": "class 3 (Dress)"} for row in small["rows"]]
    assert all(heading.endswith(", class 3 (Dress)") for heading, _ in results.by_forget_set(rows))


def test_data_of_one_name_and_two_fingerprints_never_share_a_table(small):
    first, second = small["rows"]
    apart = [first | {"fingerprint": "a"}, second | {"fingerprint": "b"}, second | {"fingerprint": "a"}]
    assert [rows for _, rows in results.by_forget_set(apart)] == [[apart[0], apart[2]], [apart[1]]]
    assert tables.terminal(small | {"rows": apart}).count("forgetting and accuracy") == 2


def test_a_missing_metric_is_never_a_number():
    row = {"metrics": {"UA": {"missing": "no class"}, "relearn_steps": {"missing": "x", "cell": "> 64"}}}
    assert [tables.cell(row, key) for key in ("UA", "relearn_steps", "RA")] == ["n/a", "> 64", "n/a"]


def test_a_cell_ends_no_row_and_is_no_tag(small):
    rows = [row | {"method": "a|b <script>\nc"} for row in small["rows"]]
    lines = [line for line in tables.markdown(small | {"rows": rows}).splitlines() if "script" in line]
    assert lines and all(r"a\|b &lt;script> c" in line for line in lines)
    latex = tables.latex(small | {"command": "python evaluate.py 'a\nb'"})
    assert all(line.startswith("%") for line in latex.splitlines()[: latex.splitlines().index("%")])


def test_the_precision_of_scoring_stands_below_in_all_texts(small):
    """By network where they differ in it; nothing of rows that don't say it, as those of earlier versions."""
    assert not any("Scored in" in form(small) for form in (tables.markdown, tables.latex, tables.terminal))
    for row in small["rows"]:
        row["precision"] = "bf16"
    for form in (tables.markdown, tables.latex, tables.terminal):
        assert form(small).count("Scored in bf16.") == 1
    small["rows"][1] |= {"model": "vit_micro", "precision": "fp32"}
    assert tables.terminal(small, brief=True).endswith("\nScored in bf16 (resnet8), fp32 (vit_micro).\n")
    del small["rows"][0]["precision"]
    assert tables.precisions(small["rows"]) == "Scored in fp32 (vit_micro)."
