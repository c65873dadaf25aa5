"""Scores against counted answers, tables, and what evaluate.py refuses."""

import json

import pytest
import torch
from conftest import ROOT, call, one_line

import data
import evaluate
import finetune
import models
import report


def rows_of(weights, *arguments):
    config = evaluate.parser().parse_args(
        [*map(str, arguments), "--weights", str(weights), "--quiet", "--precision", "fp32"]
    )
    return evaluate.evaluate(config.checkpoints, config)


def by_method(rows):
    return {row["method"]: {key: m.get("mean") for key, m in row["metrics"].items()} for row in rows}


def test_scores_are_the_counted_ones():
    """A network that is right on every image but those of class 3, and wrong on the first ten images of class 5."""
    dataset = data.load("digits")
    forget, _ = data.forget_indices(dataset.train, classes=[3])
    logits = []
    for split in (dataset.train, dataset.test):
        answer = split.labels.clone()
        answer[answer == 3] = 8
        answer[(split.labels == 5).nonzero()[:10]] = 6
        logits.append(torch.nn.functional.one_hot(answer, 10).float() * 20)
    scores = evaluate.score(logits, dataset, forget, "svc")
    kept_train, kept_test = (int((s.labels != 3).sum()) for s in (dataset.train, dataset.test))
    assert scores["UA"] == scores["UA_test"] == 100
    assert scores["RA"] == pytest.approx(100 * (kept_train - 10) / kept_train)
    assert scores["TA"] == pytest.approx(100 * (kept_test - 10) / kept_test)
    sample, _ = data.forget_indices(dataset.train, share=0.1)
    scores = evaluate.score(logits, dataset, sample, "svc")
    right = (logits[1].argmax(1) == dataset.test.labels).double().mean().item()
    assert "missing" in scores["UA_test"]
    assert scores["TA"] == pytest.approx(100 * right)  # sample forgetting: the whole test set


def test_every_method_has_a_row_with_all_metrics(weights):
    rows = rows_of(weights, *sorted(weights.glob("*resnet8*.pth")))
    scores = by_method(rows)
    assert list(scores)[:2] == ["original", "retrain"]
    assert set(scores) == {
        *("original", "retrain", "finetune", "pruneft", "lora", "loraprune"),
        *("mask", "zero-row", "head-only"),
    }
    for method, values in scores.items():
        assert all(value is not None for value in values.values()), method
    assert scores["retrain"]["gap"] == 0
    assert scores["retrain"]["UA"] == scores["mask"]["UA"] == scores["mask"]["UA_test"] == 100
    assert scores["mask"]["moved"] == 1
    assert scores["zero-row"]["moved"] == 65
    assert scores["head-only"]["trainable"] == scores["head-only"]["moved"] == 650
    assert scores["loraprune"]["zeros"] >= 49
    assert scores["pruneft"]["zeros"] >= 49
    assert scores["lora"]["zeros"] < 1
    assert scores["lora"]["trainable"] < scores["finetune"]["trainable"] / 2
    expected = sum(abs(scores["lora"][k] - scores["retrain"][k]) for k in ("UA", "RA", "TA", "MIA")) / 4
    assert scores["lora"]["gap"] == pytest.approx(expected)


def test_retrain_is_found_in_the_folder_and_missed_with_a_reason(weights, tmp_path):
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    (row,) = rows_of(weights, path)
    assert row["metrics"]["gap"]["mean"] > 0
    (row,) = rows_of(tmp_path, path)
    assert "no Retrain of seed 0" in row["metrics"]["gap"]["missing"]


def test_seeds_are_put_together(weights, tmp_path):
    common = ("--dataset", "digits", "--forget-class", 3, "--epochs", 1, "--quiet", "--lr", 1e-3)
    original = weights / "digits_resnet8_original_s0.pth"
    paths = [call(finetune, *common, "--original", original, "--weights", tmp_path, "--seed", seed) for seed in (1, 0)]
    (row,) = rows_of(tmp_path, *paths)
    assert (row["n"], row["method"]) == (2, "finetune --lr 0.001")
    values = row["metrics"]["TA"]["values"]
    assert row["metrics"]["TA"]["mean"] == pytest.approx(sum(values) / 2)
    assert row["metrics"]["TA"]["ci95"] == pytest.approx(12.706204736 * abs(values[0] - values[1]) / 2)


def test_published_attack_is_a_mode(weights):
    path = weights / "digits_resnet8_class3_finetune2_s0.pth"
    modes = [rows_of(weights, path, "--mia", mode)[0]["metrics"]["MIA"]["mean"] for mode in ("svc", "lora-unlearn")]
    assert all(0 <= value <= 100 for value in modes)


def test_a_published_file_is_scored_on_the_data_that_the_flags_name(tmp_path):
    from test_data import folder_of_images
    from test_models import resnet_keys, their_resnet

    folder_of_images(tmp_path / "images", classes=[f"c{i}" for i in range(10)])
    path = tmp_path / "resnet10_finetune5.pth"
    torch.save(resnet_keys(their_resnet().state_dict()), path)
    (row,) = rows_of(tmp_path, path, "--dataset", f"folder:{tmp_path / 'images'}", "--forget-class", 3)
    assert row["method"] == "published resnet10_finetune5.pth"
    assert row["metrics"]["UA"]["mean"] in (0, 25, 50, 75, 100)
    assert "missing" in row["metrics"]["seconds"]


def test_refusals(weights, tmp_path, capsys):
    unlearned = weights / "digits_resnet8_class3_lora2_s0.pth"
    original = weights / "digits_resnet8_original_s0.pth"
    assert one_line(evaluate, capsys, unlearned, "--forget-class", 5) == (
        2,
        f"evaluate.py: {unlearned} has forgotten class3, not class5",
    )
    code, line = one_line(evaluate, capsys, original)
    assert code == 2 and "give --forget-class" in line
    code, line = one_line(evaluate, capsys, tmp_path / "none.pth")
    assert code == 2 and "no file" in line
    (tmp_path / "table.md").write_text("mine")
    code, line = one_line(evaluate, capsys, unlearned, "--markdown", tmp_path / "table.md")
    assert code == 2 and (tmp_path / "table.md").read_text() == "mine"
    broken = models.load_checkpoint(unlearned)
    broken["state_dict"].popitem()
    models.write_atomically(tmp_path / "broken.pth", broken)
    code, line = one_line(evaluate, capsys, tmp_path / "broken.pth")
    assert code == 2 and "don't fit" in line


def test_markdown_names_each_rows_command_and_the_plot_is_a_picture(weights, tmp_path):
    rows = rows_of(weights, *sorted(weights.glob("*.pth")))
    config = evaluate.parser().parse_args(["x"])
    table = evaluate.result("test", "python evaluate.py", rows, config)
    text = report.markdown(table)
    assert text.count("`python ") == len(rows) + 1
    assert len({row["model"] for row in rows}) == 2
    pipes = [line for line in text.splitlines() if line.startswith("|")]
    assert len(pipes) == 2 * (len(rows) + 2 * 2)
    report.write_all(table, tmp_path / "t")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    again = json.loads((tmp_path / "t.json").read_text())
    assert report.markdown(again) == (tmp_path / "t.md").read_text() == text


def test_the_readmes_table_is_the_committed_result():
    readme = (ROOT / "README.md").read_text()
    result = json.loads((ROOT / "results" / "prunelora-quick.json").read_text())
    assert report.markdown(result) == (ROOT / "results" / "prunelora-quick.md").read_text()
    assert report.markdown(result) in readme
    assert "results/prunelora-quick.png" in readme
    assert {row["n"] for row in result["rows"]} == {3}
