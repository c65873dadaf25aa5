"""LLMEraser's protocol: what is spoilt and what is asked for."""

import itertools
import json
from dataclasses import replace

import pytest
import torch

from tests.experiments.tables import planned
from unlearning.core.device import Compute
from unlearning.evaluation.unfinished import Unfinished
from unlearning.experiments import llmeraser
from unlearning.language import rows as language_rows
from unlearning.language.rows import Data
from unlearning.language.session import Place, Workspace

ROWS = [(f"film {i}", answer) for i, answer in zip(range(50), itertools.cycle(["Action", "Comedy", "Drama"]), strict=False)]
TEXTS = Data(ROWS, ROWS[:9], ROWS[:9], ["Action", "Comedy", "Drama"], "x")


def asked(folder, kind, share, seed=0):
    """The edits that spoil the data and those that are asked for."""
    files = llmeraser.requests(kind, share, seed, TEXTS, folder)
    return [file and [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] for file in files]


def test_rows_are_chosen_by_the_seed_and_a_larger_share_has_those_of_a_smaller(tmp_path):
    chosen = {share: [edit["id"] for edit in asked(tmp_path, "remove", share)[1]] for share in (10, 20, 40)}
    assert [len(set(ids)) for ids in chosen.values()] == [5, 10, 20]
    assert set(chosen[10]) < set(chosen[20]) < set(chosen[40])
    assert chosen[10] != [0, 1, 2, 3, 4]
    assert chosen[10] != [edit["id"] for edit in asked(tmp_path, "remove", 10, seed=1)[1]]
    for kind in ("modify", "correct"):
        assert [edit["id"] for edit in asked(tmp_path, kind, 20)[0]] == chosen[20]


def test_removal_spoils_nothing(tmp_path):
    wrong, right = asked(tmp_path, "remove", 10)
    assert wrong is None and all(edit == {"id": edit["id"], "remove": True} for edit in right)


def test_modified_rows_have_each_others_queries_and_get_their_own_back(tmp_path):
    wrong, right = asked(tmp_path, "modify", 20)
    assert right == [{"id": edit["id"], "query": ROWS[edit["id"]][0]} for edit in wrong]
    assert sorted(edit["query"] for edit in wrong) == sorted(edit["query"] for edit in right)
    assert all(edit["query"] != ROWS[edit["id"]][0] for edit in wrong)


def test_corrected_rows_have_another_answer_at_random_and_get_their_own_back(tmp_path):
    wrong, right = asked(tmp_path, "correct", 40)
    assert right == [{"id": edit["id"], "response": ROWS[edit["id"]][1]} for edit in wrong]
    pairs = {(ROWS[edit["id"]][1], edit["response"]) for edit in wrong}
    assert pairs == set(itertools.permutations(TEXTS.answers, 2))  # each of both others, and never the right one
    assert asked(tmp_path, "correct", 40, seed=1)[0] != wrong


def test_scores_of_an_adapter_are_kept_as_they_were(tmp_path, monkeypatch):
    """Until the adapter, what was asked, or the place changes."""
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/weights").write_bytes(b"1")
    kept, asked = Unfinished(tmp_path / ".scores.a.b.partial"), []

    def score(folder, record, before, place):
        asked.append(folder)
        return {"loss": len(asked) / 3}, torch.arange(3.0) / len(asked), torch.ones(2, 2) * len(asked)

    monkeypatch.setattr(llmeraser.scores, "score", score)
    place = Place(tmp_path, tmp_path, Compute("cpu", None, tmp_path), Workspace())

    def found(folder=tmp_path / "adapter", before=(("film", "Drama"),), place=place):
        metrics, *tensors = llmeraser._score(folder, {"base": "x"}, [*before], place, kept)
        return metrics["loss"] * 3, [tensor.tolist() for tensor in tensors]

    first = found()
    assert first == found() == (1, [[0, 1, 2], [[1, 1], [1, 1]]])
    other = replace(place, compute=replace(place.compute, precision="bf16"))
    assert [found(None)[0], found(None)[0], found(before=())[0], found(place=other)[0]] == [2, 2, 3, 4]
    (tmp_path / "adapter/weights").write_bytes(b"2")
    assert found()[0] == 5


def test_undone_is_of_the_mean_loss_over_seeds_where_there_was_damage():
    def row(task, method, loss):
        metrics = {"loss": {"mean": loss, "ci95": None, "values": [loss]}}
        return {"model": "m", "dataset": "d", "forget": f"{task}20", "task": task, "method": method, "metrics": metrics}

    losses = {"corrupted": 2.0, "retrain": 1.0, "llmeraser": 1.25}
    rows = [row(task, method, loss) for task in ("remove", "correct") for method, loss in losses.items()]
    llmeraser.add_undone(rows)
    assert [row["metrics"]["undone"]["mean"] for row in rows[3:]] == [0, 100, 75]
    assert not any("undone" in row["metrics"] for row in rows[:3])


@pytest.mark.parametrize(("preset", "flags"), [("quick", []), ("gpu", ["--blocks", "30", "--targets", "q_proj", "v_proj"])])
def test_the_table_asks_for_each_share_of_each_kind(tmp_path, monkeypatch, preset, flags):
    """The adapter is trained on what is spoilt, and of a kind that spoils nothing on the rows as they are."""
    monkeypatch.setattr(language_rows, "load_rows", lambda *_: TEXTS)  # MovieLens isn't there without a network
    monkeypatch.chdir(tmp_path)
    runs = [arguments for _, arguments in planned("llmeraser", "--preset", preset, "--seeds", "1", "--methods", "llmeraser")]
    genre = [arguments for arguments in runs if "genre" in " ".join(arguments)]
    kinds = ("remove", "modify", "correct")
    assert [arguments[0] for arguments in genre] == [
        action for kind in kinds for _ in range(3) for action in ("finetune", kind, kind)
    ]
    requests = [arguments[arguments.index("--request") + 1] for arguments in genre if arguments[0] != "finetune"]
    shares = [f"{kind}{share}_s0_right.jsonl" for kind in kinds for share in (10, 20, 40)]
    assert [file.rpartition("/")[2] for file in requests] == [share for share in shares for _ in range(2)]
    for arguments, share in zip([a for a in genre if a[0] == "finetune"], shares, strict=True):
        spoilt = arguments[arguments.index("--edits") + 1] if "--edits" in arguments else None
        assert (spoilt or "").endswith("" if share.startswith("remove") else share.replace("right", "wrong"))
        assert bool(spoilt) != share.startswith("remove") and " ".join(flags) in " ".join(arguments)
        assert ("--blocks" in arguments) == bool(flags)
