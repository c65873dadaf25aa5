"""Scores of adapters, worked out by hand and by the whole model."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

import llmeraser
from tests.helpers import call, one_line
from tests.language.conftest import COLOURS, finetune, foreign, losses_of, request, session, where, write_lines
from unlearning.core.errors import UserError
from unlearning.language import forward, generation, influence, scores
from unlearning.language.adapters import read_record
from unlearning.language.rows import Row, digest


def test_damage_undone_is_nothing_at_corrupted_and_all_at_retrain():
    """From a loss of 2 to one of 1.2; further than Retrain is more than all, a larger loss than before less than none."""
    found = [scores.undone(loss, 2.0, 1.2) for loss in (2.0, 1.8, 1.2, 1.0, 2.4)]
    assert found == pytest.approx([0, 25, 100, 125, -50])
    assert scores.undone(1.0, 2.0, 2.0) == {"missing": "damage undone: there was none"}


def test_distances_are_from_retrain_and_cosines_between_steps_from_corrupted():
    logits, none = torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([])
    corrupted = ({}, torch.tensor([1.0, 0.0, 5.0]), logits, none)
    retrained = ({}, torch.tensor([1.0, 4.0, 5.0]), logits, none)
    scored = ({}, torch.tensor([3.0, 4.0, 5.0]), logits, none)
    scores.compare(scored, corrupted, retrained)
    assert scored[0] == pytest.approx({"js": 0, "distance": 2 / 4, "cosine": 4 / 20**0.5})
    scores.compare(corrupted, corrupted, retrained)
    assert corrupted[0]["distance"] == 1 and corrupted[0]["cosine"] == {"missing": "no step", "cell": "–"}
    scores.compare(scored, corrupted, corrupted)  # a Retrain that took no step
    assert "Retrain is where" in scored[0]["distance"]["missing"] and scored[0]["cosine"]["missing"] == "no step"
    other = ({}, retrained[1], -logits, none)
    scores.compare(other, corrupted, retrained)
    assert other[0]["js"] > 0.1 and (other[0]["distance"], other[0]["cosine"]) == pytest.approx((0, 1))


def by_hand(now, row, answer):
    """The log-likelihoods of an answer's tokens, the one that ends it last, by the whole model."""
    (tokens,) = now.tokens([replace(row, response=answer)])
    with torch.no_grad():
        logits = now.peft_model(input_ids=torch.tensor([tokens.prompt + tokens.response])).logits[0]
    at = logits[len(tokens.prompt) - 1 : -1].log_softmax(1)
    return at[range(len(tokens.response)), list(tokens.response)]


def test_an_adapters_scores_are_those_of_its_answers(place, tmp_path):
    """Accuracy by the likelihood of each answer as a whole, mean loss, the AUC of each answer against the others, and how
    often an asked row is known better than a test row, pair by pair: by its mean, and by the least likely of its tokens."""
    folder = place / "adapter"
    with session(folder, tmp_path) as now:
        before, test = now.rows[:7], now.test
        listed = sorted(COLOURS)
        own = torch.tensor([[by_hand(now, row, answer).sum() for answer in listed] for row in test])
        losses = [losses_of(now, rows).detach() for rows in (before, test)]
        least = [torch.stack([by_hand(now, row, row.response).min() for row in rows]) for rows in (before, test)]
        at = influence.flat(now.parameters).detach().clone()
        said = [generation.answers(now, rows) for rows in (test[:6], before[:6])]
    found, vector, logits, *_ = scores.score(folder, read_record(folder), before, where(tmp_path), 6)
    labels = torch.tensor([listed.index(row.response) for row in test])
    assert torch.equal(vector, at)
    torch.testing.assert_close(logits, own, rtol=1e-4, atol=1e-4)
    assert found["accuracy"] == pytest.approx(100 * sum(own.argmax(1) == labels).item() / len(test))
    assert (found["forget_loss"], found["loss"]) == pytest.approx([x.mean().item() for x in losses], rel=1e-4)
    known = 100 * (losses[0][:, None] < losses[1]).double().mean().item()
    assert found["membership"] == pytest.approx(known)
    assert found["min_k"] == pytest.approx(100 * (least[0][:, None] > least[1]).double().mean().item())
    own = own.softmax(1)
    each = [(own[labels == k, k][:, None] > own[labels != k, k]).double().mean().item() for k in labels.unique().tolist()]
    assert found["auc"] == pytest.approx(100 * sum(each) / len(each))
    assert found["hits"] == generation.hit_ratio(said[0], test[:6])
    assert found["rouge"] == generation.rouge_l(said[0], test[:6])
    assert found["valid"] == generation.valid_ratio(said[0], test[:6], listed)
    assert found["forget_rouge"] == generation.rouge_l(said[1], before[:6])


def test_min_k_is_the_mean_of_the_least_likely_fifth_of_a_rows_tokens(small):
    """Of eleven tokens, the end among them, two; of three one."""
    rows = [
        replace(small.test[0], response=" ".join(f"w{i}" for i in range(10))),
        replace(small.test[1], response="dark blue"),
    ]
    means, least = scores._token_scores(small, rows)
    for row, mean, low in zip(rows, means, least, strict=True):
        each = by_hand(small, row, row.response)
        count = {11: 2, 3: 1}[len(each)]
        assert mean.item() == pytest.approx(each.mean().item(), rel=1e-4)
        assert low.item() == pytest.approx(each.sort().values[:count].mean().item(), rel=1e-4)


def test_a_closed_list_is_of_few_answers_that_are_each_given_again(small):
    def listed(*answers):
        rows = [Row(str(i), (("user", "x"),), answer) for i, answer in enumerate(answers)]
        return scores.closed_list([*rows[::2], None, *rows[1::2]])

    assert listed("b", "a", "a", "b") == ["a", "b"]
    assert listed("b", "a", "c", "b") == [] and listed("a", "a", "a", "a") == []
    assert listed(*[str(i) for i in range(20)] * 2) != [] and listed(*[str(i) for i in range(21)] * 2) == []


def test_rows_with_candidates_of_their_own_choose_among_these(small):
    """In the row's order; rows with unlike numbers of them can't be compared."""
    rows = [replace(small.test[0], choices=("red", "w1 w2"), response="red"), replace(small.test[1], choices=("w3", "w4"))]
    found = scores.likelihoods(small, rows, [])
    expected = [[by_hand(small, row, choice).sum() for choice in row.choices] for row in rows]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="test rows have 2 to 3 choices"):
        scores.likelihoods(small, [*rows, replace(rows[0], choices=("a", "b", "red"))], [])


def test_without_choices_the_first_token_is_compared(small):
    found = scores._first_tokens(small, small.test[:4])
    for row, logits in zip(small.test[:4], found, strict=True):
        (tokens,) = small.tokens([row])
        expected = small.peft_model(input_ids=torch.tensor([tokens.prompt])).logits[0, -1]
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-4)


def test_asked_rows_are_as_they_were_before_the_last_request(place, tmp_path):
    wrong = write_lines(tmp_path / "a.jsonl", [{"id": 3, "response": "w1"}])
    right = write_lines(tmp_path / "b.jsonl", [{"id": 3, "response": "w2"}, {"id": 5, "response": "w3"}])
    first = request(place / "adapter", "correct", tmp_path / "a", "--request", wrong, "--method", "noadapter")
    second = request(first, "correct", tmp_path / "b", "--request", right, "--method", "noadapter")
    third = request(second, "remove", tmp_path / "c", "--ids", 6, 3, "--method", "noadapter")
    here = where(tmp_path)
    rows = here.rows(place / "train.jsonl", "--train")
    asked = [scores.asked_rows(read_record(folder), here) for folder in (place / "adapter", first, second)]
    assert asked == [[], [rows[2]], [replace(rows[2], response="w1"), rows[4]]]
    assert [row.name for row in scores.asked_rows(read_record(third), here)] == ["6"]  # what 3 was isn't kept


def cells(capsys, folders, *flags):
    """{folder's name: {column: cell}} of the table of `evaluate`."""
    capsys.readouterr()
    call(llmeraser, "evaluate", *folders, *flags, "--quiet")
    found, head = {}, []
    for line in capsys.readouterr().out.splitlines():
        parts = [part.strip() for part in line.split("  ") if part.strip()]
        head = parts if parts and parts[0] == "method" else head
        if parts and parts[0] in {folder.name for folder in folders}:
            found.setdefault(parts[0], {}).update(zip(head, parts, strict=True))
    return found


def test_the_table_scores_each_adapter_on_its_own_request_and_from_retrain(place, tmp_path, capsys):
    """Whatever stands beside it; one of which nothing was asked on the only request that there is."""
    flags = ("--weights", tmp_path, "--generate", 3)
    first = request(place / "adapter", "remove", tmp_path / "first", "--ids", 1, 2, "--damping", 0.3)
    second = request(place / "adapter", "remove", tmp_path / "second", "--ids", 30, 31, 32, "--method", "noadapter")
    again = request(place / "adapter", "remove", tmp_path / "again", "--ids", 1, 2, "--method", "retrain")
    alone = cells(capsys, [first], *flags) | cells(capsys, [second], *flags)
    both = cells(capsys, [first, second], *flags)
    assert all(both[name][column] == cell for name, row in alone.items() for column, cell in row.items())
    assert alone["first"] != alone["second"]
    asked = where(tmp_path).rows(place / "train.jsonl", "--train")[:2]
    (found, *_) = scores.score(first, read_record(first), asked, where(tmp_path))
    assert float(alone["first"]["loss on the requested rows"]) == pytest.approx(found["forget_loss"], abs=6e-4)
    compared = cells(capsys, [first, place / "adapter"], "--retrain", again, *flags)
    assert float(compared["first"]["JS"]) > 0 and "JS" not in alone["first"]
    assert "loss on the requested rows" in compared["adapter"]
    itself = cells(capsys, [again], "--retrain", again, *flags)
    assert float(itself["again"]["JS"]) == 0
    whole = cells(capsys, [first, place / "adapter", again], "--retrain", again, *flags)  # Retrain has a row of its own
    assert float(whole["again"]["distance"]) == 0 and float(whole["adapter"]["distance"]) == 1
    assert float(whole["again"]["seconds, times less"]) == 1 and "damage undone %" not in whole["first"]


def test_adapters_that_cant_be_compared_are_refused(place, tmp_path, capsys):
    few = write_lines(tmp_path / "few.jsonl", [{"query": f"film w{i}", "response": "red"} for i in range(5)])
    where_ = ("--base", place / "base", "--weights", tmp_path, "--evaluations", 1, "--quiet")
    other = call(llmeraser, "finetune", "--train", few, *where_, "--output", tmp_path / "other")
    ask = ("--weights", tmp_path, "--quiet")
    code, line = one_line(llmeraser, capsys, "evaluate", place / "adapter", other, *ask)
    assert code == 2 and f"{other} has another rows and test rows (--test) than {place / 'adapter'}" in line
    code, line = one_line(llmeraser, capsys, "evaluate", other, *ask)
    assert code == 2 and "no test rows are known: give --test" in line
    call(llmeraser, "evaluate", other, *ask, "--test", place / "test.jsonl", "--generate", 1)


def test_a_base_that_has_moved_is_named_and_known_by_its_weights(place, tmp_path, capsys):
    """Adapters that name it by two paths are compared; another base's weights are refused."""
    here = shutil.copytree(place / "base", tmp_path / "here")
    first = finetune(place, tmp_path / "first", "--evaluations", 2, "--base", here)
    moved = here.rename(tmp_path / "there")
    second = request(first, "remove", tmp_path / "second", "--ids", 1, "--method", "noadapter", "--base", moved)
    ask = ("--weights", tmp_path, "--quiet", "--generate", 1)
    code, line = one_line(llmeraser, capsys, "evaluate", first, second, *ask)
    assert code == 2 and f"--base {here}: there is no such folder" in line
    assert {"first", "second"} == cells(capsys, [first, second], *ask, "--base", moved).keys()
    shutil.copytree(moved, here)
    assert {"first", "second"} == cells(capsys, [first, second], *ask).keys()
    code, line = one_line(llmeraser, capsys, "evaluate", first, second, *ask, "--base", place / "other")
    assert code == 2 and "another base than this" in line
    other = finetune(place, tmp_path / "other", "--evaluations", 2, "--base", place / "other")
    code, line = one_line(llmeraser, capsys, "evaluate", first, other, *ask)
    assert code == 2 and f"{other} has another base's weights than {first}" in line


def test_how_much_of_a_corrections_damage_is_undone_stands_in_the_table(place, tmp_path, capsys):
    right = write_lines(tmp_path / "r.jsonl", [{"id": i, "response": "w1"} for i in range(1, 20)])
    flags = ("--weights", tmp_path, "--generate", 1)
    ask = ("--request", right, "--method")
    some, again = (request(place / "adapter", "correct", tmp_path / m, *ask, m) for m in ("noadapter", "retrain"))
    found = cells(capsys, [some, place / "adapter", again], "--retrain", again, *flags)
    loss = {name: float(found[name]["loss"]) for name in ("noadapter", "adapter", "retrain")}
    expected = 100 * (loss["adapter"] - loss["noadapter"]) / (loss["adapter"] - loss["retrain"])
    assert float(found["noadapter"]["damage undone %"].replace(",", "")) == pytest.approx(expected, rel=0.05, abs=2)
    assert found["retrain"]["damage undone %"] == "100" and "damage undone %" in found["retrain"]


def test_unlike_test_rows_and_answers_to_other_requests_are_refused(place, tmp_path, capsys):
    """Also a Retrain of an adapter that was trained otherwise; shapes that happen to fit are no comparison."""
    flags = ("--weights", tmp_path, "--quiet", "--generate", 1)
    first = request(place / "adapter", "remove", tmp_path / "first", "--ids", 1, "--method", "noadapter")
    other = request(place / "adapter", "remove", tmp_path / "other", "--ids", 2, "--method", "retrain")
    tested = request(place / "adapter", "remove", tmp_path / "t", "--ids", 1, "--method", "retrain", "--test",
                     place / "validation.jsonl")  # fmt: skip
    start = finetune(place, tmp_path / "start", "--evaluations", 3)
    again = request(start, "remove", tmp_path / "again", "--ids", 1, "--method", "retrain")
    for retrain, why in (
        (other, "is the answer to another request than"),
        (tested, f"{tested} has another test rows (--test) than {first}"),
        (again, "comes from another adapter than"),
    ):
        code, line = one_line(llmeraser, capsys, "evaluate", first, "--retrain", retrain, *flags)
        assert code == 2 and why in line
    call(llmeraser, "evaluate", first, "--retrain", tested, *flags, "--test", place / "test.jsonl")


def test_a_retrain_is_of_the_same_adapter_from_elsewhere_and_asked_in_any_order(place, tmp_path, capsys):
    data = ("--train", place / "train.jsonl", "--test", place / "test.jsonl", "--weights", tmp_path)
    told = ("--method", "retrain", "--epochs", 1, "--lr", 0.01, "--batch-size", 16)
    one, two = (foreign(place / "base", tmp_path / name, r=r) for name, r in (("one", 2), ("two", 4)))
    first = request(one, "remove", tmp_path / "first", "--ids", 1, 2, *data, "--method", "noadapter")
    same = request(one, "remove", tmp_path / "same", "--ids", 2, 1, *data, *told)
    other = request(two, "remove", tmp_path / "other", "--ids", 1, 2, *data, *told)
    ask = ("evaluate", one, first, "--weights", tmp_path, "--quiet", "--generate", 1, "--retrain")
    code, line = one_line(llmeraser, capsys, *ask, other)
    assert code == 2 and f"{other} comes from another adapter than {one}" in line
    call(llmeraser, *ask, same)


def test_adapters_are_compared_by_one_list_of_answers(place, tmp_path, capsys):
    """Though a removal takes the last rows of an answer: the list is that of all adapters in the table."""
    lines = [{"query": f"film w{i}", "response": ("red", "green")[i % 2]} for i in range(8)]
    lines += [{"query": f"film w{i}", "response": "blue"} for i in (9, 10)]
    files = {"train": lines, "validation": lines[:4], "test": lines[:6]}
    data = [w for kind, some in files.items() for w in (f"--{kind}", write_lines(tmp_path / f"{kind}.jsonl", some))]
    start = finetune(place, tmp_path / "start", *data, "--evaluations", 5)
    gone, again = (request(start, "remove", tmp_path / m, "--ids", 9, 10, "--method", m) for m in ("noadapter", "retrain"))
    here = where(tmp_path)
    assert scores.answers_of_all([read_record(gone)], here) == ["green", "red"]
    assert scores.answers_of_all([read_record(gone), read_record(start)], here) == ["blue", "green", "red"]
    found = cells(capsys, [start, gone], "--retrain", again, "--weights", tmp_path, "--generate", 1)
    assert {"start", "noadapter"} == found.keys() and all("JS" in row for row in found.values())


def test_one_from_elsewhere_is_scored_beside_what_a_request_made_of_it(place, tmp_path, capsys):
    folder = foreign(place / "base", tmp_path / "a", place / "train.jsonl")
    data = ("--train", place / "train.jsonl", "--test", place / "test.jsonl")
    first = request(folder, "remove", tmp_path / "b", "--ids", 1, 2, *data, "--method", "gradascent")
    flags = ("--weights", tmp_path, "--generate", 2)
    code, line = one_line(llmeraser, capsys, "evaluate", folder, *flags)
    assert code == 2 and "score it beside one that a request to it made" in line
    found = cells(capsys, [folder, first], *flags)
    told = ("--epochs", 1, "--lr", 0.01, "--batch-size", 16)
    again = request(folder, "remove", tmp_path / "c", "--ids", 1, 2, *data, "--method", "retrain", *told)
    compared = cells(capsys, [folder, first], "--retrain", again, *flags)  # how it was trained is said to Retrain alone
    assert float(compared["a"]["distance"]) == 1 and float(compared["b"]["JS"]) > 0
    record = read_record(first) | {"edits": [], "ledger": []}
    asked = where(tmp_path).rows(place / "train.jsonl", "--train")[:2]
    (expected, *_) = scores.score(folder, record, asked, where(tmp_path), 2)
    assert float(found["a"]["loss on the requested rows"]) == pytest.approx(expected["forget_loss"], abs=6e-4)


def test_a_removed_row_that_is_redacted_in_place_isnt_scored(place, tmp_path, capsys):
    """Its line stays, so that the names of others do; what was corrected has to stay as it is."""
    rows = tmp_path / "own.jsonl"
    lines = (place / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows.write_text("\n".join(lines), encoding="utf-8")
    start = finetune(place, tmp_path / "start", "--train", rows, "--evaluations", 2)
    gone = request(start, "remove", tmp_path / "gone", "--ids", 2, "--method", "noadapter")
    right = write_lines(tmp_path / "r.jsonl", [{"id": 2, "response": "w1"}])
    corrected = request(start, "correct", tmp_path / "right", "--request", right, "--method", "noadapter")
    redacted = json.dumps({"query": "film [removed]", "response": "[removed]"})
    rows.write_text("\n".join([lines[0], redacted, *lines[2:]]), encoding="utf-8")
    flags = ("--weights", tmp_path, "--quiet", "--generate", 1)
    capsys.readouterr()
    call(llmeraser, "evaluate", gone, *flags)
    said = capsys.readouterr()
    assert f"in {rows} another by now: 2; what is still known" in said.err and "requested rows" not in said.out
    code, line = one_line(llmeraser, capsys, "evaluate", corrected, *flags)
    assert code == 2 and "not the rows that the adapter was trained on; changed: 2" in line


def test_a_row_that_was_changed_and_then_removed_is_not_scored_as_it_first_was(place, tmp_path, capsys):
    other = write_lines(tmp_path / "r.jsonl", [{"id": 3, "query": "film w1"}])
    first = request(place / "adapter", "modify", tmp_path / "a", "--request", other, "--method", "noadapter")
    second = request(first, "remove", tmp_path / "b", "--ids", 3, 4, "--method", "noadapter")
    assert [row.name for row in scores.asked_rows(read_record(second), where(tmp_path))] == ["4"]
    assert "changed by an earlier request, to what isn't kept: 3" in capsys.readouterr().err


def test_scoring_leaves_nothing_of_rows_that_any_of_the_adapters_stands_without(place, tmp_path):
    """Others beside it still have them, and read them: those of another removal, of an earlier request, and what one was
    after it was corrected. Of so few rows each session reads all."""
    lines = (place / "train.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    start = finetune(place, tmp_path / "start", "--train", tmp_path / "rows.jsonl", "--evaluations", 1)
    right = write_lines(tmp_path / "r.jsonl", [{"id": 1, "response": "w1"}])
    now = ("--method", "noadapter")
    corrected = request(start, "correct", tmp_path / "corrected", "--request", right, *now)
    first = request(corrected, "remove", tmp_path / "first", "--ids", 1, *now)
    second = request(first, "remove", tmp_path / "second", "--ids", 2, *now)
    other = request(start, "remove", tmp_path / "other", "--ids", 3, *now)
    rows = where(tmp_path).rows(tmp_path / "rows.jsonl", "--train")
    versions = {digest(row): row.name for row in (*rows, replace(rows[0], response="w1"))}

    def kept():
        names = {name.partition("-")[2] for file in (tmp_path / "frozen").iterdir() for name in forward._read(file)}
        return sorted(versions[name] for name in names & versions.keys())

    for adapters, left in (((start, second), "34"), ((corrected, second), "34"), ((first, other), "24")):
        call(llmeraser, "evaluate", *adapters, "--weights", tmp_path, "--quiet", "--generate", 1)
        assert "".join(kept()) == left, adapters


def test_where_test_rows_have_one_answer_there_is_no_auc():
    found = scores.of_choices(torch.tensor([[0.0, 1.0], [2.0, 0.0]]), torch.tensor([1, 1]), True)
    assert found["auc"] == {"missing": "AUC: test rows have one answer alone"} and found["accuracy"] == 50
