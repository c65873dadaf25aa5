"""From checkpoints to tables: seeds, companions, forms, and what evaluate.py refuses."""

import json

import numpy as np
import pytest
import torch

import data
import evaluate
import finetune
import models
from tests import helpers
from tests.helpers import FP32, built_once, call, one_line
from unlearning.core.files import write_torch
from unlearning.evaluation import network
from unlearning.metrics import membership, predictions
from unlearning.vision.predict import predict


def rows_of(weights, *arguments):
    return helpers.rows_of(*arguments, "--weights", weights, "--precision", "fp32")


def by_method(rows):
    return {row["method"]: {key: m.get("mean") for key, m in row["metrics"].items()} for row in rows}


@pytest.fixture(scope="module")
def rows(weights, tmp_path_factory):
    def build(folder):
        (folder / "rows.json").write_text(json.dumps(rows_of(weights, *sorted(weights.glob("*.pth")))), encoding="utf-8")

    return json.loads((built_once(tmp_path_factory, "rows", build) / "rows.json").read_text(encoding="utf-8"))


def test_every_method_has_a_row_with_all_metrics(rows):
    scores = by_method(row for row in rows if row["model"] == "resnet8")
    assert list(scores)[:2] == ["original", "retrain"]
    assert set(scores) == {
        *("original", "retrain", "finetune", "pruneft", "lora", "loraprune"),
        *("mask", "zero-row", "head-only"),
    }
    for method, values in scores.items():
        missing = [key for key, value in values.items() if value is None]
        assert set(missing) <= {"relearn_steps", "TPR1"}, method  # Retrain may need more steps, digits are few
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
    assert scores["lora"]["dTA"] == pytest.approx(scores["lora"]["TA"] - scores["retrain"]["TA"])
    assert scores["retrain"]["ToW"] == 1
    for key in ("activation_f", "activation_r", "js_f", "js_r", "dUA", "dRA", "dTA", "dMIA"):
        assert scores["retrain"][key] == 0, key
        assert key[0] == "d" or scores["lora"][key] > 0, key


def test_what_lies_beneath_the_head_exposes_the_controls(rows):
    """They tie with Retrain on UA; the probe finds all that the original knew, and relearning a mask takes no step."""
    scores = by_method(row for row in rows if row["model"] == "resnet8")
    for control in ("mask", "zero-row", "head-only"):
        assert scores[control]["UA"] == scores["retrain"]["UA"] == 100
        assert scores[control]["probe"] == pytest.approx(scores["original"]["probe"], abs=1e-9)
    assert scores["original"]["relearn_steps"] == scores["mask"]["relearn_steps"] == 0
    assert scores["finetune"]["relearn_steps"] > 0


def test_original_and_retrain_come_along_or_are_missed_with_a_reason(weights, tmp_path):
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    rows = rows_of(weights, path)
    assert [row["method"] for row in rows] == ["original", "retrain", "lora"]
    assert rows[2]["metrics"]["gap"]["mean"] > 0
    (row,) = rows_of(tmp_path, path)
    for key in ("gap", "ToW", "js_f", "dUA"):
        assert "no Retrain of seed 0" in row["metrics"][key]["missing"]
    assert "no Original of seed 0" in row["metrics"]["relearn_steps"]["missing"]


def efficacies(path, training_seed):
    """MIA-Efficacy of a network of digits without class 3 in each of the twenty draws of its training seed."""
    dataset, model = data.load("digits"), models.build(models.load_checkpoint(path))
    train, test = (
        predictions.confidence(predict(model, split, FP32), split.labels) for split in (dataset.train, dataset.test)
    )
    gone, never = dataset.train.labels == 3, test[dataset.test.labels != 3]
    seeds = range(20 * training_seed, 20 * training_seed + 20)
    return [membership.mia_efficacy(train[~gone], never, train[gone], seed=seed) for seed in seeds]


def test_seeds_are_put_together(weights, tmp_path, every_draw):
    common = ("--dataset", "digits", "--forget-class", 3, "--epochs", 1, "--quiet", "--lr", 1e-3)
    original = weights / "digits_resnet8_original_s0.pth"
    paths = [call(finetune, *common, "--original", original, "--weights", tmp_path, "--seed", seed) for seed in (1, 0)]
    (row,) = rows_of(tmp_path, *paths)
    assert (row["n"], row["method"]) == (2, "finetune")
    assert len(row["curves"]["relearn"]) == 2
    values = row["metrics"]["TA"]["values"]
    assert row["metrics"]["TA"]["mean"] == pytest.approx(sum(values) / 2)
    assert row["metrics"]["TA"]["ci95"] == pytest.approx(12.706204736 * abs(values[0] - values[1]) / 2)
    drawn = [efficacies(path, seed) for path, seed in ((paths[1], 0), (paths[0], 1))]  # rows are in the order of their seeds
    assert row["metrics"]["MIA"]["values"] == pytest.approx(np.mean(drawn, 1).tolist())
    assert row["metrics"]["MIA"]["mean"] == pytest.approx(np.mean(drawn))
    assert row["metrics"]["MIA_draw_sd"]["values"] == pytest.approx(np.std(drawn, 1, ddof=1).tolist())
    assert row["metrics"]["MIA_draw_sd"]["mean"] == pytest.approx(np.std(drawn, 1, ddof=1).mean())


def test_rates_are_named_where_a_method_comes_with_several(weights, tmp_path):
    common = ("--dataset", "digits", "--forget-class", 3, "--epochs", 1, "--quiet", "--weights", tmp_path)
    original = weights / "digits_resnet8_original_s0.pth"
    paths = [call(finetune, *common, "--original", original, "--lr", rate) for rate in (1e-3, 3e-3)]
    assert [row["method"] for row in rows_of(tmp_path, *paths)] == ["finetune --lr 0.001", "finetune --lr 0.003"]


def test_every_attack_is_a_flag(weights):
    path = weights / "digits_resnet8_class3_finetune2_s0.pth"
    row = rows_of(weights, path, "--every-attack")[-1]
    for attacker in membership.ATTACKERS:
        for feature in predictions.FEATURES:
            for figure in ("MIA", "AUC"):
                assert 0 <= row["metrics"][f"{figure} {attacker} {feature}"]["mean"] <= 100
            assert "37 images" in row["metrics"][f"TPR1 {attacker} {feature}"]["missing"]  # digits are few
    # The headline figures are two of them.
    assert row["metrics"]["MIA"] == row["metrics"]["MIA svc confidence"]
    assert row["metrics"]["MIA_AUC"] == row["metrics"]["AUC logistic loss"]


def test_a_published_file_is_scored_on_the_data_that_the_flags_name(tmp_path, monkeypatch):
    from tests.test_data import folder_of_images
    from tests.test_models import resnet_keys, their_resnet

    monkeypatch.setattr(network, "RELEARN_STEPS", (0, 1))  # a ResNet-50 learns slowly here
    folder_of_images(tmp_path / "images", classes=[f"c{i}" for i in range(10)])
    path, base = tmp_path / "resnet10_finetune5.pth", tmp_path / "resnet10.pth"
    torch.save(resnet_keys(their_resnet().state_dict()), path)
    torch.save({"net": {f"module.{key}": value for key, value in torch.load(path).items()}, "acc": 95.56}, base)
    flags = ("--dataset", f"folder:{tmp_path / 'images'}", "--forget-class", 3)
    original, row = rows_of(tmp_path, path, base, *flags)
    assert (original["method"], row["method"]) == ("original", "published resnet10_finetune5.pth")
    assert row["metrics"]["UA"]["mean"] in (0, 25, 50, 75, 100)
    assert "missing" in row["metrics"]["seconds"] and "no Retrain" in row["metrics"]["gap"]["missing"]
    assert "mean" in row["metrics"]["probe"] and "no Original" not in str(row["metrics"]["relearn_steps"])


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
    (tmp_path / "table.md").write_text("mine", encoding="utf-8")
    code, line = one_line(evaluate, capsys, unlearned, "--markdown", tmp_path / "table.md")
    assert code == 2 and (tmp_path / "table.md").read_text(encoding="utf-8") == "mine"
    broken = models.load_checkpoint(unlearned)
    broken["state_dict"].popitem()
    write_torch(tmp_path / "broken.pth", broken)
    code, line = one_line(evaluate, capsys, tmp_path / "broken.pth")
    assert code == 2 and "don't fit" in line


def test_a_network_that_answers_nan_is_not_scored(weights, tmp_path, capsys):
    content = models.load_checkpoint(weights / "digits_resnet8_class3_lora2_s0.pth")
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    write_torch(tmp_path / "broken.pth", content)
    code, line = one_line(evaluate, capsys, tmp_path / "broken.pth", "--weights", tmp_path, "--quiet")
    assert code == 2 and "broken.pth answers 1797 images with NaN" in line
