"""A table's folder: what lies in it, what redrawing refuses, and the page of all results."""

import json
import os
import subprocess
import sys
import threading

import pytest

import reproduce
from tests.helpers import files, full_disk
from tests.reports.test_tables import metric
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import write_text
from unlearning.core.locks import locked
from unlearning.core.seals import FOREIGN, sealed, split
from unlearning.reports import folders, pages, results

OURS = sealed(b"\x89PNG, and 12 bytes.", "png")


@pytest.fixture
def result():
    """A table of one row."""
    same = {"dataset": "digits", "model": "resnet8", "forget": "class3", "n": 2, "epochs": 5, "command": "python lora.py"}
    return {
        "table": "t",
        "about": "What it shows.",
        "command": "python reproduce.py t",
        "date": "2026-01-02",
        "commit": "0123456789ab",
        "hardware": "a CPU",
        "versions": {"torch": "2.14"},
        "rows": [same | {"method": "lora", "metrics": {"UA": metric(97.5, 1.25)}}],
    }


def test_a_folder_holds_every_form_and_its_pictures(result, tmp_path):
    folders.write(result, tmp_path / "t")
    assert {path.name for path in (tmp_path / "t").iterdir()} == {*folders.FILES.values(), "figures"}
    assert results.read(tmp_path / "t/result.json") == result
    page = split((tmp_path / "t/README.md").read_bytes())[0].decode()
    assert page.startswith("# t\n\nWhat it shows.\n\n![metrics](figures/metrics.png)\n")
    assert "on a CPU, 2026-01-02, commit 0123456789ab; torch 2.14." in page
    names = ("losses-resnet8-class3.png", "mine.png", "drawn elsewhere.png")
    for name, content in zip(names, (OURS, b"mine", OURS), strict=True):
        (tmp_path / "t/figures" / name).write_bytes(content)
    larger = f"{page}\n[losses](figures/losses-resnet8-class3.png) [mine](figures/mine.png)\n"
    (tmp_path / "t/README.md").write_bytes(sealed(larger.encode(), "markdown"))
    folders.write(result, tmp_path / "t")
    assert {path.name for path in (tmp_path / "t/figures").iterdir()} == {"metrics.png", *names[1:]}
    folders.write(result | {"pictures": False}, tmp_path / "u")
    assert not (tmp_path / "u/figures").exists()


def test_a_file_in_the_place_of_the_pictures_is_refused(tmp_path):
    """Before anything is trained: else a table would end in that each time."""
    write_text(tmp_path / "t/figures", "mine")
    with pytest.raises(UserError, match=r"t has files of its own, or changed ones \(figures\): move or delete them"):
        folders.check_ours(tmp_path / "t")


def test_a_result_is_drawn_from_within_its_folder(result, tmp_path, monkeypatch, capsys):
    results.write(tmp_path / "t/result.json", result | {"pictures": False})
    monkeypatch.chdir(tmp_path / "t")
    for place in ("result.json", "."):
        reproduce.run(reproduce.parser().parse_args(["draw", place]), "")
        assert capsys.readouterr().out == f"drawn: {tmp_path / 't'}\n"
        assert set(folders.FILES.values()) == files(tmp_path / "t").keys()


def test_names_that_are_no_text_are_drawn_as_escapes(result, tmp_path):
    """As those of classes may be, which are folders' names."""
    result["about"] = result["rows"][0]["forgotten"] = "Forgets class 1 (caf\udce9)"
    result["rows"][0] |= {"dataset": "folder:caf\udce9", "model": "caf\udce9.py:net", "method": "lora --original caf\udce9"}
    folders.write(result, tmp_path / "t")
    drawn = {path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.*")}
    assert all(b"caf\\udce9" in drawn[name] for name in ("README.md", "result.json")), drawn
    folders.redraw(tmp_path / "t", overwrite=False)
    assert pages.write_index(tmp_path) and {path.name: path.read_bytes() for path in (tmp_path / "t").glob("*.*")} == drawn


def test_a_file_is_drawn_into_a_folder_of_its_name_and_replaces_no_other_result(result, tmp_path):
    write_text(tmp_path / "t-0.25.json", results.dump(result))
    assert folders.redraw(tmp_path / "t-0.25.json", overwrite=False) == tmp_path / "t-0.25"
    assert folders.redraw(tmp_path / "t-0.25", overwrite=False) == tmp_path / "t-0.25"
    other = tmp_path / "t-0.25.json"
    write_text(other, results.dump(result | {"date": "2026-01-03"}))
    with pytest.raises(UserError, match="is another result; --overwrite"):
        folders.redraw(other, overwrite=False)
    assert results.read(tmp_path / "t-0.25/result.json")["date"] == "2026-01-02"
    folders.redraw(other, overwrite=True)
    assert results.read(tmp_path / "t-0.25/result.json")["date"] == "2026-01-03"


def test_the_page_of_all_results_lists_tables_and_benchmarks_and_replaces_nobodys_own(result, tmp_path, capsys):
    folders.write(result, tmp_path / "t")
    write_text(tmp_path / "benchmarks/speed.json", json.dumps({"table": "speed", "command": "python b.py"}))
    page = pages.write_index(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "[t](t/)" in text and "What it shows." in text and "[speed](benchmarks/speed.json)" in text
    assert pages.write_index(tmp_path) is None
    for name in ("u", "classes/t"):  # a folder of a scenario's own
        folders.write(result, tmp_path / name)
        assert pages.write_index(tmp_path) == page and f"[{name}]({name}/)" in page.read_text(encoding="utf-8")
    folders.write(result, tmp_path / "v")
    assert capsys.readouterr().err == ""
    for notes in ("# My own notes\n", f"{text}\nMy note.\n"):
        write_text(page, notes)
        assert pages.write_index(tmp_path) is None and page.read_text(encoding="utf-8") == notes
    assert capsys.readouterr().err.count("README.md stays as it is") == 1


def test_the_page_of_all_results_misses_no_table_that_another_process_has_just_listed(result, tmp_path):
    """It is made again from the files once the other one has written it."""
    folders.write(result, tmp_path / "t")
    with locked(tmp_path / "README.md"):
        thread = threading.Thread(target=pages.write_index, args=(tmp_path,))
        thread.start()
        thread.join(0.2)
        folders.write(result, tmp_path / "u")
        assert thread.is_alive() and not (tmp_path / "README.md").exists()
    thread.join()
    assert "[u](u/)" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_somebodys_own_files_are_not_replaced(result, tmp_path):
    (tmp_path / "t").mkdir()
    write_text(tmp_path / "t/README.md", "# My project\n")
    write_text(tmp_path / "t/result.json", results.dump(result))
    for path, overwrite in ((tmp_path / "t", False), (tmp_path / "t/result.json", False), (tmp_path / "t", True)):
        with pytest.raises(UserError, match="has files of its own"):
            folders.redraw(path, overwrite)
    with pytest.raises(UserError, match="has files of its own"):
        folders.check_ours(tmp_path / "t")
    assert (tmp_path / "t/README.md").read_text(encoding="utf-8") == "# My project\n"
    folders.check_ours(tmp_path / "new")
    (tmp_path / "t/README.md").unlink()
    folders.redraw(tmp_path / "t", overwrite=False)
    folders.check_ours(tmp_path / "t")
    for name in ("README.md", "rows.csv", "tables.tex", "figures/metrics.png"):
        ours = (tmp_path / "t" / name).read_bytes()
        for changed in (b"mine,and,not,yours\n", ours + b"My note.\n", b"% My note.\n" + ours):
            (tmp_path / "t" / name).write_bytes(changed)
            before = files(tmp_path)
            for action in (
                lambda: folders.redraw(tmp_path / "t", overwrite=True),
                lambda: folders.check_ours(tmp_path / "t"),
            ):
                with pytest.raises(UserError, match=rf"has files of its own, or changed ones \({name}\)"):
                    action()
            assert files(tmp_path) == before
        (tmp_path / "t" / name).write_bytes(ours)
    write_text(tmp_path / "t/result.json", '{"my": "settings"}')
    with pytest.raises(UserError, match="not a result file"):
        folders.check_ours(tmp_path / "t")
    with pytest.raises(UserError, match=r"ends in .json"):
        folders.redraw(tmp_path / "t/README.md", overwrite=True)
    with pytest.raises(UserError, match=r"there is no folder .*/u$"):
        folders.redraw(tmp_path / "u", overwrite=True)


def test_texts_of_earlier_versions_are_known_by_what_they_say(result, tmp_path):
    """They have no seal."""
    folders.write(result, tmp_path / "t")
    everything = files(tmp_path / "t")
    for name in ("README.md", "rows.csv", "tables.tex", "result.json"):
        (tmp_path / "t" / name).write_bytes(split(everything[name])[0])
    folders.check_ours(tmp_path / "t")
    folders.write(result, tmp_path / "t")
    assert files(tmp_path / "t") == everything
    (tmp_path / "t/tables.tex").write_bytes(b"% mine\n" + split(everything["tables.tex"])[0])
    with pytest.raises(UserError, match=r"changed ones \(tables.tex\)"):
        folders.check_ours(tmp_path / "t")


def test_notes_in_a_result_are_drawn_around_and_never_lost(result, tmp_path):
    """Drawing reads it, and leaves it as it is; a table's run, which would write it anew, is refused."""
    folders.write(result, tmp_path / "t")
    file = tmp_path / "t/result.json"
    noted = file.read_bytes().replace(b'"about": "What it shows."', b'"notes": "mine", "about": "What we saw."')
    file.write_bytes(noted)
    folders.redraw(tmp_path / "t", overwrite=False)
    assert file.read_bytes() == noted and "What we saw." in (tmp_path / "t/README.md").read_text(encoding="utf-8")
    with pytest.raises(UserError, match=r"changed ones \(result.json\)"):
        folders.check_ours(tmp_path / "t")
    write_text(tmp_path / "t.json", results.dump(result))
    with pytest.raises(UserError, match=r"changed ones \(result.json\)"):
        folders.redraw(tmp_path / "t.json", overwrite=True)


def test_a_result_that_was_changed_is_drawn_and_said(result, tmp_path, capsys):
    folders.write(result, tmp_path / "t")
    file = tmp_path / "t/result.json"
    folders.redraw(tmp_path / "t", overwrite=False)
    assert capsys.readouterr().err == ""
    file.write_bytes(file.read_bytes().replace(b"97.5", b"99.5"))
    folders.redraw(tmp_path / "t", overwrite=False)
    assert capsys.readouterr().err == f"{file}: its seal doesn't fit: it was changed after it was written\n"
    assert "99.5" in (tmp_path / "t/README.md").read_text(encoding="utf-8")


def test_a_picture_of_somebody_elses_stays(result, tmp_path):
    (tmp_path / "u/figures").mkdir(parents=True)
    (tmp_path / "u/figures/metrics.png").write_bytes(b"mine")
    with pytest.raises(UserError, match=rf"metrics.png {FOREIGN}"):
        folders.write(result, tmp_path / "u")
    assert (tmp_path / "u/figures/metrics.png").read_bytes() == b"mine"


def test_a_killed_run_leaves_no_part_in_the_folder_of_the_next(result, tmp_path):
    folders.write(result, tmp_path / "t")
    before = files(tmp_path)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True).stdout
    live = os.getppid()
    for name in ("t/.result.json", "t/figures/.metrics.png"):
        (tmp_path / f"{name}.{int(dead)}.unlearning-tmp").write_bytes(b"half")
    for name in (f"t/.big.pth.partial.{int(dead)}.unlearning-tmp", f"t/figures/.metrics.png.{live}.unlearning-tmp"):
        (tmp_path / name).write_bytes(b"another's")
        before[name] = b"another's"
    folders.redraw(tmp_path / "t", overwrite=False)
    assert files(tmp_path) == before


def test_a_broken_neighbour_is_left_out_of_the_list(result, tmp_path, capsys):
    folders.write(result, tmp_path / "t")
    for place, text in enumerate(("{", "{}", "[1]", '{"command": "x", "rows": 5}')):
        write_text(tmp_path / f"b{place}/result.json", text)
    (tmp_path / "b9/result.json").mkdir(parents=True)
    text = folders.index(tmp_path)
    assert "[t](t/)" in text and "[b" not in text
    assert capsys.readouterr().err.count("left out of the list of results: ") == 5
    (tmp_path / "README.md").write_bytes("# Notizen über alles\n".encode("latin-1"))
    assert pages.write_index(tmp_path) is None


def test_a_full_disk_leaves_every_file_the_old_or_the_new(result, tmp_path):
    """At whichever file it is full. The result comes first, so that the others can be drawn from it, and pictures that are
    shown no more go once the others are there."""
    for name, table in (("old", result), ("new", result | {"date": "2026-01-03", "rows": [result["rows"][0] | {"n": 3}]})):
        folders.write(table, tmp_path / name)
    page, gone = tmp_path / "old/README.md", "figures/losses-resnet8-class3.png"
    page.write_bytes(sealed(split(page.read_bytes())[0] + f"\n[losses]({gone})\n".encode(), "markdown"))
    (tmp_path / "old" / gone).write_bytes(OURS)
    old, new = files(tmp_path / "old"), files(tmp_path / "new")
    order = ["result.json", "figures/metrics.png", "README.md", "rows.csv", "tables.tex"]
    assert set(order) == new.keys() and all(old[name] != new[name] for name in order if name != "figures/metrics.png")
    for place, name in enumerate(order):
        with full_disk(place + 1), pytest.raises(RunFailed, match=f"cannot write .*{name}: No space left"):
            folders.write(table, tmp_path / "old")
        expected = old | {name: new[name] for name in order[:place]}
        if place > 1:
            del expected[gone]
        assert files(tmp_path / "old") == expected
    folders.write(table, tmp_path / "old")
    assert files(tmp_path / "old") == new


def test_the_result_is_written_before_its_pictures(result, tmp_path):
    (tmp_path / "t").mkdir()
    (tmp_path / "t/figures").touch()  # no folder can be made there
    with pytest.raises(RunFailed, match="cannot write"):
        folders.write(result, tmp_path / "t")
    assert results.read(tmp_path / "t/result.json") == result


def curves(**some):
    return {"losses": {}, "roc": None, "relearn": None, "features": None} | some


@pytest.mark.parametrize(
    "damage",
    [
        {"table": None},
        {"hardware": 5},
        {"versions": None},
        {"rows": []},
        {"rows": [5]},
        {"rows": [{"method": "a"}]},
        {"rows": [{"metrics": {"UA": {"mean": float("nan"), "ci95": None}}}]},
        {"rows": [{"metrics": {"UA": {"mean": "5", "ci95": None}}}]},
        {"rows": [{"metrics": {"UA": {}}}]},
        {"rows": [{"n": "3"}]},
        {"rows": [{"precision": ["bf16"]}]},
        {"rows": [{"curves": {}}]},
        {"rows": [{"curves": curves(features={"D_f": [[0]], "D_r": [[0, 1]]})}]},
        {"rows": [{"curves": curves(features={"D_r": [[0, 1]]})}]},
        {"rows": [{"curves": curves(relearn=[[]], relearn_steps=[])}]},
        {"rows": [{"curves": curves(relearn=[[]])}]},
        {"earlier": [{}]},
    ],
)
def test_what_is_no_result_is_one_line(result, tmp_path, damage):
    if isinstance(damage.get("rows"), list) and damage["rows"] and isinstance(damage["rows"][0], dict):
        damage = {"rows": [result["rows"][0] | damage["rows"][0]]} if "method" not in damage["rows"][0] else damage
    write_text(tmp_path / "t.json", json.dumps(result | damage))
    with pytest.raises(UserError, match=r"is not a result file(: its .*: it is damaged| \(it holds NaN)"):
        folders.redraw(tmp_path / "t.json", overwrite=False)


def test_strings_are_dumped_as_they_are(result):
    odd = result | {"command": "python evaluate.py '[ 1 ].pth' '[ 2, 3 ]'"}
    assert json.loads(results.dump(odd)) == odd
    assert '"values": [97.5]' in results.dump(odd)
