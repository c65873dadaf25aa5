"""The numbers in README and docs are those of the committed results, and each result says where it comes from."""

import json
import re

import pytest

from tests.helpers import ROOT
from unlearning.core import seals
from unlearning.reports import folders, pages, results, tables

PAGES = pages.pages_of(ROOT)
TABLES = folders.tables_below(ROOT / "results")
EVERY = [*(folder / "result.json" for folder in TABLES), *sorted((ROOT / "results" / "benchmarks").glob("*.json"))]


def without_seal(page):
    return seals.split(page.read_bytes())[0].decode()


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_committed_tables_are_drawn_from_their_results(folder):
    result = results.read(folder / "result.json")
    drawn = [path.name for path in (folder / "figures").glob("*.png")] if result.get("pictures", True) else []
    there = without_seal(folder / "README.md")
    assert there.endswith(tables.markdown(result)) and result["about"] in there
    assert set(re.findall(r"\(figures/(.+?)\)", there)) == set(drawn)
    for form, name in (("csv", "rows.csv"), ("latex", "tables.tex")):
        assert without_seal(folder / name) == tables.FORMS[form](result)
    assert result["table"] == folder.name


def test_every_result_says_where_it_comes_from():
    assert len(EVERY) > 15
    for path in EVERY:
        content = json.loads(path.read_text(encoding="utf-8"))
        for run in (content, *content.get("earlier", [])):
            assert all(run[key] for key in results.PROVENANCE if key != "attack"), path
            assert re.fullmatch(r"unknown|[0-9a-f]{12}( \+ changes)?", run["commit"]), path
        assert content["about"].endswith(".") and content["table"] in (path.stem, path.parent.name)


def test_the_page_of_all_results_is_drawn_from_them():
    lists = {ROOT / "results", *(folder.parent for folder in TABLES)}
    assert all(without_seal(folder / "README.md") == folders.index(folder) for folder in lists)


def test_committed_results_may_be_made_again():
    """Nothing in their folders has been changed by hand."""
    for folder in TABLES:
        folders.check_ours(folder)
    for file in (ROOT / "results" / "benchmarks").iterdir():
        assert seals.is_own(file), file


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_excerpts_in_pages_are_those_of_the_results(page):
    text = page.read_text(encoding="utf-8")
    assert pages.with_excerpts(text, ROOT, page.name) == text
    assert "\n<!-- value" not in text  # GitHub would end the paragraph there
    assert text.count("<!-- end -->") == len(pages.MARKED.findall(text)) == len(re.findall("<!-- (?:table|value) ", text))


def test_links_and_pictures_of_pages_exist():
    links = 0
    others = [ROOT / "results" / "README.md", *(folder / "README.md" for folder in TABLES), ROOT / "CONTRIBUTING.md"]
    for page in [*PAGES, *others]:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            target, _, part = link.partition("#")
            if not target.startswith(("http:", "https:", "mailto:")):
                place = page.parent / target if target else page
                assert place.exists(), f"{page.name}: {link}"
                if part and place.suffix == ".md":
                    titles = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
                    anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
                    assert part in anchors, f"{page.name}: {link}"
                links += 1
    assert links > 50


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
