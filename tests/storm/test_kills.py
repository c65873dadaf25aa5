"""Some of the storm's kills, of commands that write in different ways; `make storm` has all."""

import pytest

from tests.storm import kills

SOME = ("pretrain", "lora --overwrite", "lmeraser delete")


@pytest.mark.skipif(not hasattr(kills.os, "fork"), reason="a process can't be doubled here")
@pytest.mark.parametrize("name", SOME)
def test_a_kill_is_survived(tmp_path, name):
    (command,) = [one for one in kills.commands() if one.name == name]
    kills.prepare()
    outcomes = list(kills.storm(command, tmp_path, 6))
    assert len(outcomes) == 6 and [one for one in outcomes if one.wrong] == []


def test_what_a_kill_has_left_is_seen(tmp_path):
    """A file that is half, one that is old, and one too many."""
    base, whole, work = (tmp_path / name for name in ("base", "whole", "work"))
    for folder, text in ((base, "old"), (whole, "new"), (work, "new")):
        folder.mkdir()
        (folder / "a.txt").write_text(text, encoding="utf-8")
    assert kills._half(work, base, whole) is None and kills.difference(work, whole) is None
    (work / "a.txt").write_text("ne", encoding="utf-8")
    assert kills._half(work, base, whole) == "a.txt is half written" and kills.difference(work, whole) == "a.txt differs"
    (work / "a.txt").write_text("old", encoding="utf-8")
    assert kills._half(work, base, whole) is None and kills.difference(work, whole) == "a.txt differs"
    (work / "b.txt").write_text("?", encoding="utf-8")
    assert kills._half(work, base, whole) == "b.txt belongs to no run" and kills.difference(work, whole) == "b.txt is left"
