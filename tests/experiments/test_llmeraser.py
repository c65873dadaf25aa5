"""LLMEraser's protocol: what is spoilt and what is asked for."""

import json
from dataclasses import replace

import pytest

from tests.experiments.tables import request_of
from unlearning.experiments import llmeraser
from unlearning.language.requests import check_edits, edited, edits_of_names
from unlearning.language.rows import Row, read_rows

FILMS = [f"Film {i}" for i in range(30)]


def genre_rows(count=50):
    return [Row(f"f{i}", (("user", f"film {i}"),), ["Action", "Comedy", "Drama"][i % 3]) for i in range(count)]


def history_rows(count=40):
    """Rows as the task `next` writes them."""
    rows = []
    for i in range(count):
        seen = ", ".join(f'"{FILMS[(i + k) % 30]}"' for k in range(4))
        query = f'This user has watched {seen} in the previous. Choose from the following 2 movie titles: "A", "B".'
        rows.append(Row(f"u{i}", (("user", query),), "AB"[i % 2], choices=("A", "B")))
    return rows


@pytest.mark.parametrize(("kind", "rows"), [("remove", genre_rows()), ("modify", history_rows()), ("correct", genre_rows())])
def test_the_request_undoes_what_was_spoilt(kind, rows):
    """As many rows as the share says, of the seed's choice; nothing else is touched."""
    wrong, asked = llmeraser.spoilt(kind, rows, 0)
    names = {edit["id"] for edit in asked}
    assert len(names) == len(rows) * llmeraser.SHARES[kind] // 100
    assert {row.name for row, other in zip(wrong, rows, strict=True) if row != other} == (
        set() if kind == "remove" else names
    )
    assert llmeraser.spoilt(kind, rows, 0) == (wrong, asked)
    assert {edit["id"] for edit in llmeraser.spoilt(kind, rows, 1)[1]} != names
    asked = edits_of_names(edit["id"] for edit in asked) if kind == "remove" else asked
    right = edited(wrong, check_edits(asked, kind, wrong))
    assert right == ([None if row.name in names else row for row in rows] if kind == "remove" else rows)


def test_two_thirds_of_modified_histories_lose_a_film_and_the_others_have_another(tmp_path):
    rows = history_rows()
    wrong, asked = llmeraser.spoilt("modify", rows, 0)
    lost = replaced = 0
    for row, other in zip(wrong, rows, strict=True):
        before, after = (llmeraser.titled_in(one.query) for one in (other, row))
        assert row.query.partition(" in the previous.")[2] == other.query.partition(" in the previous.")[2]
        assert (row.response, row.choices) == (other.response, other.choices)
        lost += len(after) == 3 and set(after) < set(before)
        replaced += len(after) == 4 and len(set(after) - set(before)) == 1 and len(set(after)) == 4
    assert (lost, replaced) == (4, 2) and len(asked) == 6


def test_corrected_rows_have_each_other_answer_at_random():
    wrong, _ = llmeraser.spoilt("correct", genre_rows(300), 0)
    pairs = {(a.response, b.response) for a, b in zip(genre_rows(300), wrong, strict=True)}
    assert len(pairs) == 9


def test_sisas_shards_are_all_rows_but_the_removed_ones(tmp_path, monkeypatch):
    """And the clean ones, of requests that remove none."""
    rows = history_rows()
    for part in ("train", "validation", "test"):
        llmeraser.write_rows(tmp_path / f"{part}.jsonl", rows)
    monkeypatch.setattr("unlearning.language.tasks.task_files", lambda task, *_: {
        part: tmp_path / f"{part}.jsonl" for part in ("train", "validation", "test")
    })  # fmt: skip
    request = request_of("llmeraser")
    request = replace(request, sizes=request.sizes | {"sizes": [40, 9, 7]})
    for task, kind in llmeraser.KINDS.items():
        files = llmeraser.write_files(request, task, 0, tmp_path / task)
        shards = [read_rows(files[f"shard{k}"], "--train", lambda line: None) for k in range(llmeraser.SHARDS)]
        asked = {json.loads(line)["id"] for line in files["request"].read_text(encoding="utf-8").splitlines()}
        kept = [row for row in rows if kind != "remove" or row.name not in asked]
        assert sorted(row.name for shard in shards for row in shard) == sorted(row.name for row in kept)
        assert all(row in kept for shard in shards for row in shard)
        assert [len(read_rows(files[part], "--x", lambda line: None)) for part in ("validation", "test")] == [9, 7]
