"""LLMEraser's protocol: what is spoilt and what is asked for."""

import json
from dataclasses import replace

import pytest
import torch

import reproduce
from tests.experiments.tables import planned, request_of
from tests.helpers import call, files, one_line
from tests.language.conftest import save_base
from unlearning.experiments import llmeraser
from unlearning.language.requests import check_edits, edited, edits_of_names, read_request
from unlearning.language.rows import Row, read_rows

FILMS = [f"Film {i}" for i in range(30)]


LIKES = "Given the user's preference and unpreference, identify whether the user will like the target {} by answering "
LIKES += '"Yes." or "No.".'


def preferences(count, what, written):
    """Rows in the form of TALLRec's published files, of invented works: no names, Alpaca's fields; a history may be empty, a
    book's title stands in quotes within quotes."""
    rows = []
    for i in range(count):
        liked, disliked = ([written.format(f"Work {i + k}", f"Maker {k}") for k in range(n)] for n in (i % 4, (i + 1) % 3))
        asked = written.format(f"Work {i + 9}", "Maker 9")
        told = f"User Preference: {', '.join(liked)}\nUser Unpreference: {', '.join(disliked)}\n"
        target = f'"{asked}"' if what == "book" else asked
        told += f"Whether the user will like the target {what} {target}?"
        rows.append({"instruction": LIKES.format(what), "input": told, "output": ("Yes.", "No.")[i * i % 3 % 2]})
    return rows


def listeners(count):
    """Rows in the form of the task `next`, of LLaRA's words for artists."""
    rows = []
    for i in range(count):
        seen = ", ".join(f'"Artist {(i + k) % 20}"' for k in range(4))
        query = (
            f"This user has listened to {seen} in the previous. Please predict the next music artist this user will listen "
        )
        query += 'to. The artist name candidates are "A", "B". Choose only one artist from the candidates. The answer is'
        rows.append({"instruction": query, "input": "", "output": "AB"[i % 2], "choices": ["A", "B"]})
    return rows


BOOK, FILM = '"{}" written by {}', '"{} (1990)"'
FILES = {
    "bookcrossing": lambda count: preferences(count, "book", BOOK),
    "movielens": lambda count: preferences(count, "movie", FILM),
    "lastfm": listeners,
}


def put(folder, task, counts=(40, 12, 12), change=lambda rows: rows):
    """Write a published task's three files as JSON arrays, as TALLRec's are."""
    for part, count in zip(("train", "validation", "test"), counts, strict=True):
        file = folder / f"llmeraser/{task}-{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(change(FILES[task](count)), indent=4), encoding="utf-8")


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


@pytest.mark.parametrize("told_in", ["input", "instruction"])
def test_histories_of_alpacas_rows_are_spoilt_and_come_back_too(tmp_path, told_in):
    """Wherever the history stands, and with quotes in a name."""
    rows = []
    for i in range(40):
        names = ['"Weird Al" Yankovic', "11'09\"01", *FILMS[i % 20 : i % 20 + 3]]
        quoted = ", ".join(f'"{name}"' for name in names)
        history = f"This user has listened to {quoted} in the previous. What next?"
        instruction, given = ("Recommend.", history) if told_in == "input" else (history, "Answer briefly.")
        rows.append(Row(f"u{i}", (("user", instruction),), "A", input=given))
        assert llmeraser.titled_in(llmeraser._telling(rows[-1])) == names
    wrong, asked = llmeraser.spoilt("modify", rows, 0)
    changed = [(a, b) for a, b in zip(rows, wrong, strict=True) if a != b]
    assert len(changed) == len(asked) == 40 * llmeraser.SHARES["modify"] // 100
    for right, spoilt in changed:
        known, lost = (llmeraser.titled_in(llmeraser._telling(row)) for row in (right, spoilt))
        assert len(set(lost) - set(known)) == len(lost) - 4 in (0, 1) and spoilt.query.count(" in the previous.") == 1
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(edit) + "\n" for edit in asked), encoding="utf-8")
    requested = read_request(tmp_path / "r.jsonl", "modify")
    assert edited(wrong, check_edits(requested, "modify", wrong)) == rows


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


def test_published_files_are_the_papers_tasks_and_any_presets_by_dataset(tmp_path, monkeypatch):
    """Every row is taken over, named by its place; --dataset makes a table of its own."""
    monkeypatch.chdir(tmp_path)
    for task in FILES:
        put(tmp_path / "data", task)
    paper = planned("llmeraser", "--preset", "paper", "--seeds", 1)
    cells = len(llmeraser.ROWS) + llmeraser.SHARDS - 1
    kinds = [arguments[0] for _, arguments in paper if arguments[0] != "finetune"][:: cells - 5]
    assert len(paper) == 3 * cells and kinds == ["remove", "remove", "modify"]
    assert all("--checkpointing" in arguments for _, arguments in paper)
    for task, kind in (("bookcrossing", "remove"), ("lastfm", "modify")):
        request = request_of("llmeraser", "--dataset", task, "--seeds", 1)
        assert request.name == f"llmeraser-quick-{task}" and not any("--checkpointing" in run[1] for run in planned(
            "llmeraser", "--dataset", task, "--seeds", 1))  # fmt: skip
        folder = request.weights / "smollm2-135m-instruct"
        (train,) = folder.glob(f"{task}*_train.jsonl")
        rows = read_rows(train, "--train", lambda line: None)
        source = FILES[task](40)
        assert [row.name for row in rows] == [str(i) for i in range(1, 41)]
        spoilt = [i for i, row in enumerate(rows) if row.messages[-1][1] != source[i]["instruction"]]
        assert len(spoilt) == (0 if kind == "remove" else 6)
        assert [(row.input, row.response) for row in rows] == [(row["input"], row["output"]) for row in source]
        (asked,) = folder.glob(f"{task}*_request.jsonl")
        assert len(asked.read_text(encoding="utf-8").splitlines()) == (4 if kind == "remove" else 6)


REFUSED = [
    (("--dataset", "fashion-mnist"), "--dataset fashion-mnist: llmeraser has preference, next, genre"),
    (("--dataset", "cifar10"), "--dataset cifar10: llmeraser has preference, next, genre, bookcrossing, movielens, lastfm"),
    (("--preset", "paper"), "lastfm-train.json (or .jsonl, .csv) isn't there: LLaRA publishes the data"),
    (("--dataset", "movielens"), "10 % of its 9 rows are to be spoilt, which is none: it needs more"),
]


@pytest.mark.parametrize(("flags", "complaint"), REFUSED)
def test_what_no_table_can_be_made_of_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, flags, complaint):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "data", "bookcrossing")
    put(tmp_path / "data", "movielens", (9, 5, 5))
    before = files(tmp_path)
    code, line = one_line(reproduce, capsys, "llmeraser", *flags, "--dry-run", "--quiet")
    assert code == 2 and complaint in line and files(tmp_path) == before


UNLIKE = [
    lambda rows: [row | {"instruction": row["instruction"].replace(" in the previous", "")} for row in rows],
    lambda rows: [row | {"instruction": row["instruction"].replace('"', "'")} for row in rows],
    lambda rows: [rows[0] | {"input": str(i)} for i in range(len(rows))],  # no other artist that could stand there
]


@pytest.mark.parametrize("change", UNLIKE)
def test_histories_in_another_form_are_one_line(tmp_path, monkeypatch, capsys, change):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "data", "lastfm", change=change)
    code, line = one_line(reproduce, capsys, "llmeraser", "--dataset", "lastfm", "--dry-run", "--quiet")
    assert code == 2 and 'each in "", before "in the previous."' in line and "rows 1, 2, 3, 4, 5 and 35 more" in line


def test_bases_of_one_last_name_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = one_line(reproduce, capsys, "llmeraser", "--dataset", "genre", "--model", "a/tiny", "b/tiny", "--dry-run")
    assert code == 2 and "two bases are called tiny" in line and not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.pictures("requests")
def test_a_table_on_published_files_is_made_from_end_to_end(tmp_path, monkeypatch):
    """By a tiny random base: a row for each method, of the task's own name."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "data", "bookcrossing")
    base = save_base(tmp_path / "tiny")
    config = json.loads((base / "config.json").read_text(encoding="utf-8")) | {"max_position_embeddings": 512}
    (base / "config.json").write_text(json.dumps(config), encoding="utf-8")
    flags = ("llmeraser", "--dataset", "bookcrossing", "--model", base, "--seeds", 1, "--quiet")
    path = call(reproduce, *flags)
    result = json.loads(path.read_text(encoding="utf-8"))
    assert {row["method"] for row in result["rows"]} == set(llmeraser.ROWS)
    assert {(row["dataset"], row["task"], row["share"]) for row in result["rows"]} == {("bookcrossing", "remove", 10)}
    assert all({"auc", "accuracy", "js"} <= row["metrics"].keys() for row in result["rows"])
    assert [row["method"] for row in result["rows"] if "forget_loss" not in row["metrics"]] == [llmeraser.SISA]
    took = {
        row["method"]: row["metrics"]["factors_seconds"] for row in result["rows"] if "factors_seconds" in row["metrics"]
    }
    assert took.keys() == {"llmeraser --solver ekfac"} and took.popitem()[1]["mean"] > 0  # what they cost once is said apart
    assert (path.parent / "figures" / "requests.png").exists()
    (retrained,) = tmp_path.rglob("*_retrain/record.json")
    record = json.loads(retrained.read_text(encoding="utf-8"))
    gone = {name for name, _ in record["rows"]} & {edit["id"] for edit in record["edits"]}
    digests = {of for name, of in record["rows"] if name in gone}
    kept = [name for file in tmp_path.rglob("frozen/*.pth") for name in torch.load(file)]
    assert digests and kept and not [name for name in kept if name.partition("-")[2] in digests]  # scoring had read them
    assert call(reproduce, *flags) == path  # all is there already, and is written again
    assert json.loads(path.read_text(encoding="utf-8"))["rows"] == result["rows"]
