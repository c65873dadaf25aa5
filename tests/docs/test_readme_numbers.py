"""The README's numbers are those of the committed results."""

import json

import pytest

from benchmarks import growth
from tests.helpers import ROOT
from unlearning.reports import tables
from unlearning.reports.tables import cell


def test_the_committed_tables_are_drawn_from_their_results():
    drawn = [path for path in sorted((ROOT / "results").iterdir()) if path.suffix in (".md", ".tex", ".csv")]
    forms = {ending: tables.FORMS[name] for name, ending in tables.ENDINGS.items()}
    for path in drawn:
        assert path.read_text(encoding="utf-8") == forms[path.suffix](
            json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        ), path.name
    assert len(drawn) > 30


@pytest.mark.parametrize(("name", "seeds"), [("prunelora-quick", 3), ("random-quick", 3), ("audit-quick", 16)])
def test_the_readmes_tables_are_the_committed_results(name, seeds):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    result = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    assert tables.markdown(result) in readme
    assert f"results/{name}.png" in readme
    assert {row["n"] for row in result["rows"]} == {seeds}


def test_the_readmes_table_of_rfau_is_the_committed_result():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "results" / "rfau-quick.json").read_text(encoding="utf-8"))["rows"]
    shown = 0
    for row in rows:
        forget = "class 3" if row["forget"] == "class3" else "a tenth"
        keys = ("UA", "RA", "TA", "MIA", "gap", "MIA_AUC", "seconds")
        cells = [forget, row["method"], str(row["epochs"] or "–"), *(cell(row, key) for key in keys)]
        shown += f"| {' | '.join(cells)} |\n" in readme
    assert shown == len([row for row in rows if row["method"] not in ("rfau --shift mean", "rfau --shift head")]) == 93
    assert {row["model"] for row in rows} == {"resnet20", "vit_micro", "tf_efficientnet_lite0"}


@pytest.mark.parametrize(("name", "systems"), [("lmeraser-quick", 10), ("lmeraser-small", 5)])
def test_the_readmes_tables_of_deletions_are_the_committed_results(name, systems):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    methods = {row["method"]: {r["forget"]: r for r in rows if r["method"] == row["method"]} for row in rows}
    for method, found in methods.items():
        requests = [found[f"delete{n}"] for n in (1, 10, 100)] + [found["class3"]]
        ratios = [cell(row, key) for key in ("sample_epochs_ratio", "seconds_ratio") for row in requests]
        assert f"| {' | '.join([method, cell(requests[0], 'accuracy'), *ratios])} |\n" in readme
    assert {row["n"] for row in rows} == {3} and len(methods) == systems


def test_the_readmes_tables_of_llmeraser_are_the_committed_result():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "results" / "llmeraser-quick.json").read_text(encoding="utf-8"))["rows"]
    keys = ("accuracy", "auc", "loss", "undone", "forget_loss", "membership", "js", "seconds", "seconds_ratio")
    shown = [row for row in rows if row["share"] == 20]
    for row in shown:
        assert f"| {' | '.join([row['task'], row['method'], *(cell(row, key) for key in keys)])} |\n" in readme
    assert {row["n"] for row in rows} == {3} and len(shown) == 2 * 3 * 8


@pytest.mark.parametrize("name", ["speed", "compact"])
def test_the_readmes_speeds_are_the_committed_ones(name):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))["rows"]
    keys = {
        "speed": (
            *("ratio", "published_seconds", "here_seconds", "of_bare_loop"),
            *("published_mib", "here_mib", "published_TA", "here_TA"),
        ),
        "compact": ("bytes", "parameters", "macs", "latency_ms", "onnx_ms", "TA"),
    }[name]
    for row in rows:
        cells = [row["model"], row["method"], *(cell(row, key) for key in keys)]
        assert f"| {' | '.join(cells)} |\n" in readme, cells


def test_the_readmes_throughputs_are_the_committed_ones():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for row in json.loads((ROOT / "results" / "throughput.json").read_text(encoding="utf-8"))["rows"]:
        loop, precision = row["of_bare_loop"], row["precision"] + " (default)" * row["default"]
        cells = [row["model"], precision, f"{row['images_per_s']:,.0f}"]
        cells += [f"{loop['median']:.1f} % ({loop['min']:.1f} to {loop['max']:.1f})"]
        assert f"| {' | '.join(cells)} |\n" in readme, cells


def test_the_readmes_exponents_are_the_committed_ones():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = json.loads((ROOT / "results" / "growth.json").read_text(encoding="utf-8"))["rows"]
    for what in {row["what"] for row in rows}:
        found = {
            row["varied"]: f"{row['exponent_seconds']:.2f} ({row['exponent_mib']:.2f})"
            for row in rows
            if row["what"] == what
        }
        assert f"| {what} | {' | '.join(found.get(name, '') for name in growth.VARIED)} |\n" in readme
    assert all(row["exponent_seconds"] < 1.1 for row in rows if row["varied"] == "images")
