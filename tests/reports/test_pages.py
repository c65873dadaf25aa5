"""Numbers between markers in Markdown pages."""

import json
import shutil

import pytest

from tests.helpers import files, full_disk
from tests.reports.test_tables import metric
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import write_text
from unlearning.reports import pages, results


@pytest.fixture
def root(tmp_path):
    """A project with a table of three rows and a benchmark of two."""
    rows = [
        {"method": method, "model": model, "epochs": epochs, "n": 3, "metrics": {"UA": metric(ua, 1.5), "RA": metric(90.0)}}
        for method, model, epochs, ua in (
            ("lora --rank 2", "vit", 5, 97.5),
            ("retrain", "vit", None, 100.0),
            ("retrain", "resnet8", None, 99.0),
        )
    ]
    write_text(tmp_path / "results/t/result.json", json.dumps({"command": "python reproduce.py t", "rows": rows}))
    speeds = [{"net": "a", "of_bare": {"median": 99.25, "min": 98.0, "max": 101.0}, "kept": True}]
    speeds += [{"net": "b", "images": 1234.5}]
    write_text(
        tmp_path / "results/benchmarks/speed.json",
        json.dumps({"command": "c", "rows": speeds}),
    )
    return tmp_path


def drawn(marker, root, body="old"):
    return pages.with_excerpts(f"Text.\n<!-- {marker} -->{body}<!-- end -->\nMore.\n", root, "page.md")


def test_a_full_disk_leaves_every_page_the_old_or_the_new(root):
    """At each of the three that would change: two with excerpts, and the list of results."""
    (root / "docs").mkdir()
    for name in ("README.md", "docs/a.md"):
        write_text(root / name, "<!-- value results/t model=vit method=retrain UA -->old<!-- end -->\n")
    old, order = files(root), ["README.md", "docs/a.md", "results/README.md"]
    for place, name in enumerate(order):
        for path, content in old.items():
            (root / path).write_bytes(content)
        with full_disk(place + 1), pytest.raises(RunFailed, match=f"cannot write .*{name}: No space left"):
            pages.refresh(root)
        found = files(root)
        assert found.keys() == old.keys() and [path for path in old if found[path] != old[path]] == order[:place]
    assert pages.refresh(root) == [root / "results/README.md"]  # the other two are there already


def test_a_table_has_the_rows_that_fit(root):
    text = drawn('table results/t model=vit columns="UA RA"', root)
    assert text.startswith('Text.\n<!-- table results/t model=vit columns="UA RA" -->\n| method ')
    assert text.endswith("|\n<!-- end -->\nMore.\n")
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    assert cells == [
        ["method", "epochs", "n", "UA %", "RA %"],
        ["lora --rank 2", "5", "3", "97.50 ± 1.50", "90.00"],
        ["retrain", "–", "3", "100.00 ± 1.50", "90.00"],
    ]
    assert pages.with_excerpts(text, root, "page.md") == text
    both = drawn('table results/t method="retrain" model=vit,resnet8 columns="UA"', root)
    assert both.count("| vit ") == both.count("| resnet8 ") == 1 and "lora" not in both and "epochs" not in both


def test_a_field_that_some_rows_lack_keeps_those_that_have_it(root):
    """As `chosen` of a tuning's rows, which Retrain's has not."""
    result = results.read_json(root / "results/t/result.json")
    result["rows"][0]["chosen"], result["rows"][1]["chosen"] = True, False
    write_text(root / "results/t/result.json", json.dumps(result))
    assert drawn("value results/t chosen=yes UA", root) == drawn("value results/t method='lora --rank 2' UA", root).replace(
        "method='lora --rank 2'", "chosen=yes"
    )


def test_a_value_is_one_rows_metric(root):
    assert drawn('value results/t "method=lora --rank 2" UA', root).count("-->97.50 ± 1.50<!--") == 1
    for marker, reason in (
        ("value results/t method=retrain UA", "2 rows and 1 columns fit"),
        ("value results/t method=lost UA", "no row fits"),
        ("value results/lost.json method=retrain UA", "not a result file"),
        ("table results/t columns=TA", "no row has TA"),
        ("table results/t modle=vit columns=UA", "modle"),
    ):
        with pytest.raises(UserError, match=f"page.md.*{reason}"):
            drawn(marker, root)


def test_a_metric_that_no_column_of_tables_shows_is_a_number_too(root):
    result = results.read_json(root / "results/t/result.json")
    result["rows"][0]["metrics"]["products"] = metric(20.667, 8.4)
    write_text(root / "results/t/result.json", json.dumps(result))
    assert "-->21 ± 8<!--" in drawn("value results/t 'method=lora --rank 2' products:0", root)


def test_a_changed_result_is_said_once_for_each_page(root, capsys):
    file = root / "results/t/result.json"
    results.write(file, json.loads(file.read_text(encoding="utf-8")))
    marked = "<!-- value results/t model=vit method=retrain UA -->old<!-- end -->\n"
    assert pages.with_excerpts(marked * 2, root, "page.md").count("100") == 2 and capsys.readouterr().err == ""
    file.write_bytes(file.read_bytes().replace(b"100.0", b"33.25"))
    assert pages.with_excerpts(marked * 2, root, "page.md").count("33.25") == 2
    assert capsys.readouterr().err == f"{file}: its seal doesn't fit: it was changed after it was written\n"


def test_a_benchmarks_fields_are_columns(root):
    text = drawn('table results/benchmarks/speed.json columns="net of_bare:1=of_the_loop_% images:0 kept"', root)
    assert "| net   |" in text and "of the loop %" in text
    assert "99.2 (98.0 to 101.0)" in text and "1,234 |" in text and "| yes |" in text.replace("    yes", " yes")


def test_pages_are_written_when_their_numbers_have_changed(root):
    write_text(root / "README.md", "<!-- value results/t model=resnet8 UA -->1<!-- end -->")
    write_text(root / "docs/a.md", "Nothing.")
    assert [path.name for path in pages.refresh(root)] == ["README.md", "README.md"]
    assert "-->99.00 ± 1.50<!--" in (root / "README.md").read_text(encoding="utf-8")
    assert pages.refresh(root) == []
    shutil.copytree(root / "results/t", root / "results/classes/t")  # a list in its own folder, and in the one above
    assert pages.refresh(root) == [root / "results/README.md", root / "results/classes/README.md"]


def test_a_marker_without_an_end_is_an_error_and_swallows_nothing(root):
    good = "<!-- value results/t model=resnet8 UA -->1<!-- end -->"
    for text in (f"<!-- value results/t model=vit UA -->a {good}", f"{good} b <!-- table results/t columns=UA -->"):
        with pytest.raises(UserError, match=r"page\.md: .*: a marker begins with"):
            pages.with_excerpts(text, root, "page.md")


@pytest.mark.parametrize(
    "wrong",
    ["<!--value {}", "<!-- Value {}", "<!-- values {}", "<!--  value {}", "<!-- value\n{}", "<!-- tables {}", "<!-- {}"],
)
def test_what_looks_like_a_marker_is_not_passed_over(root, wrong):
    """Its number would stay an old one for good."""
    text = wrong.format("results/t model=vit method=retrain UA -->1<!-- end -->")
    with pytest.raises(UserError, match=r"page\.md: <!--.*: a marker begins with"):
        pages.with_excerpts(f"Before.\n{text}\n", root, "page.md")
    usual = "<!-- A comment. --> <!-- toc --> <!-- table of contents --> <!-- end of list -->\n<!-- Values are in %. -->\n"
    assert pages.with_excerpts(usual, root, "page.md") == usual


@pytest.mark.parametrize(
    "within", ["<!--end-->", "<!-- END -->", "<!-- end table -->", "<!--value results/t UA -->", "<!-- /end -->", "<!--- x"]
)
def test_what_looks_like_a_marker_ends_a_markers_text(root, within):
    """Else the prose between it and the next end would be taken for a number, and be lost."""
    begin, end = "<!-- value results/t model=resnet8 UA -->", "<!-- end -->"
    with pytest.raises(UserError, match=r"page\.md: <!--.*: a marker begins with"):
        pages.with_excerpts(f"{begin}99{within} Prose that is kept. {begin}99{end}\n{within} Prose. {end}", root, "page.md")


def test_means_of_a_benchmark_come_with_their_intervals(root):
    rows = [
        {"net": "a", "TA": {"mean": 93.7812, "ci95": 0.25, "values": []}},
        {"net": "b", "TA": {"mean": 1.5, "ci95": None}},
    ]
    write_text(root / "results/benchmarks/r.json", json.dumps({"command": "c", "rows": rows}))
    table = drawn('table results/benchmarks/r.json columns="net TA:1"', root)
    assert "| a     | 93.8 ± 0.2 |" in table and "| b     |        1.5 |" in table


def of_seeds(*values):
    mean = sum(values) / len(values)
    return {"mean": mean, "ci95": 1.0, "values": [*values]}


def with_table(root, **rows):
    """A table of one network and forget set: each method's UA and probe gap over three seeds."""
    table = {"dataset": "d", "model": "m", "forget": "class3", "epochs": None, "n": 3, "command": "c"}
    found = [
        table | {"method": name, "metrics": {"UA": of_seeds(*ua), "probe_gap": of_seeds(*gap), "gap": of_seeds(*ua)}}
        for name, (ua, gap) in rows.items()
    ]
    write_text(root / "results/p/result.json", json.dumps({"command": "c", "rows": found}))


def test_a_difference_of_two_rows_is_paired_by_seed(root):
    """By hand: 1, 2 and 3 have the mean 2 and the half-width 4.3027 / sqrt 3; the rows themselves scatter by hundreds."""
    with_table(
        root,
        lora=((101.0, 202.0, 303.0), (0.0, 0.0, 0.0)),
        mask=((100.0, 200.0, 300.0), (0.0, 0.0, 0.0)),
        few=((1.0,), (0.0,)),
    )
    file = root / "results/p/result.json"
    table = results.read_json(file)
    for seeds, said in (([0, 1, 2], "2.00 ± 2.48"), ([2, 1, 0], "2.00 ± 499.31")):  # those without a name count from 0
        table["rows"][1]["seeds"] = seeds
        write_text(file, json.dumps(table))
        assert f"-->{said}" in drawn("value results/p method=lora minus=mask UA", root)
    table["rows"][1]["seeds"] = [0, 1, 4]
    write_text(file, json.dumps(table))
    with pytest.raises(UserError, match="UA is of seeds 0, 1, 2 and of 0, 1, 4 in these rows, of 3: minus pairs them"):
        drawn("value results/p method=lora minus=mask UA", root)
    del table["rows"][1]["seeds"]
    write_text(file, json.dumps(table))
    assert "-->2.00 ± 2.48<!--" in drawn("value results/p method=lora minus=mask UA", root)
    assert "-->-2.00 ± 2.48<!--" in drawn("value results/p method=mask minus=lora UA", root)
    for marker, message in (
        ("value results/p method=lora minus=lost UA", "no row fits"),
        ("value results/p method=lora minus=lora,mask UA", "2 rows fit after minus"),
        ("value results/p method=lora minus=few UA", "UA is of seeds 0, 1, 2 and of 0 in these rows, of 3"),
        ("value results/p method=few minus=few UA", "UA is of seeds 0 and of 0 in these rows, of 3"),  # a jackknife's
    ):
        with pytest.raises(UserError, match=message):
            drawn(marker, root)


def test_a_difference_from_retrain_may_name_the_epochs_of_the_other_row(root):
    """For those of Retrain are of its training."""
    with_table(root, lora=((101.0, 202.0, 303.0), (0.0, 0.0, 0.0)), retrain=((100.0, 200.0, 300.0), (0.0, 0.0, 0.0)))
    path = root / "results/p/result.json"
    table = results.read_json(path)
    table["rows"][0]["epochs"] = 5
    write_text(path, json.dumps(table))
    assert "-->2.00 ± 2.48<!--" in drawn("value results/p method=lora epochs=5 minus=retrain UA", root)


def test_measures_are_compared_over_the_rows_that_fit(root):
    """Five methods whose probe gaps fall as their average gaps rise, but for one neighbouring pair: 9 of 10 pairs are the
    other way round, so tau is -0.8. Their average gaps differ by 10 on each seed: all pairs are told apart."""
    ways = {
        f"m{i}": ((10.0 * i, 10.0 * i + 1, 10.0 * i + 3), (gap, gap + 2, gap + 1)) for i, gap in enumerate((9.0, 7, 5, 1, 3))
    }
    with_table(root, **ways)
    assert "-->-0.80<!--" in drawn("value results/p tau=gap,probe_gap", root)
    assert "-->100<!--" in drawn("value results/p apart=gap", root)
    with pytest.raises(UserError, match="lost: 5 of these rows have only gap, probe_gap"):
        drawn("value results/p tau=gap,lost", root)
    for wrong in ("tau=gap", "tau=gap,probe_gap apart=gap", "apart=gap,probe_gap", "tau=gap,probe_gap UA"):
        with pytest.raises(UserError, match="tau has two measures"):
            drawn(f"value results/p {wrong}", root)
    path = root / "results/p/result.json"
    table = results.read_json(path)
    table["rows"][0]["model"] = "another"
    write_text(path, json.dumps(table))
    with pytest.raises(UserError, match="not those of one network"):
        drawn("value results/p tau=gap,probe_gap", root)
