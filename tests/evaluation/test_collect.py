"""From checkpoints to tables: seeds, companions, forms, and what evaluate.py refuses."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

import data
import evaluate
import finetune
import models
import pretrain
import retrain
from tests import helpers
from tests.helpers import FP32, built_once, call, one_line
from unlearning.core.errors import UserError
from unlearning.core.files import sha256, write_torch
from unlearning.evaluation import collect, network
from unlearning.metrics import membership, predictions
from unlearning.vision import shared
from unlearning.vision.predict import predict
from unlearning.vision.shared import Files


def rows_of(weights, *arguments):
    return helpers.rows_of(*arguments, "--weights", weights, "--precision", "fp32")


def by_method(rows):
    return {row["method"]: {key: m.get("mean") for key, m in row["metrics"].items()} for row in rows}


@pytest.fixture(scope="module")
def rows(weights, tmp_path_factory):
    def build(folder):
        paths = sorted(weights.glob("*resnet8*.pth"))
        (folder / "rows.json").write_text(json.dumps(rows_of(weights, *paths)), encoding="utf-8")

    return json.loads((built_once(tmp_path_factory, "rows", build) / "rows.json").read_text(encoding="utf-8"))


def test_every_method_has_a_row_with_all_metrics(rows):
    scores = by_method(rows)
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
    scores = by_method(rows)
    for control in ("mask", "zero-row", "head-only"):
        assert scores[control]["UA"] == scores["retrain"]["UA"] == 100
        assert scores[control]["probe"] == pytest.approx(scores["original"]["probe"], abs=1e-9)
    assert scores["original"]["relearn_steps"] == scores["mask"]["relearn_steps"] == 0
    assert scores["finetune"]["relearn_steps"] != 0  # None: more than four


def test_original_and_retrain_come_along_or_are_missed_with_a_reason(weights, tmp_path):
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    rows = helpers.rows_of(path, "--weights", weights, "--precision", "fp32", beneath=False)
    assert [row["method"] for row in rows] == ["original", "retrain", "lora"]
    assert rows[2]["metrics"]["gap"]["mean"] > 0
    (row,) = rows_of(tmp_path, path)
    for key in ("gap", "ToW", "js_f", "dUA"):
        assert "no Retrain of seed 0" in row["metrics"][key]["missing"]
    assert "no Original of seed 0" in row["metrics"]["relearn_steps"]["missing"]


def test_the_originals_of_other_seeds_come_along_where_one_is_named(tmp_path):
    """Not a second file of the same run."""
    originals = [tmp_path / f"x_original_s{seed}.pth" for seed in (0, 1)]
    tuned = [tmp_path / f"finetune{seed}.pth" for seed in (0, 1)]
    for seed, (original, path) in enumerate(zip(originals, tuned, strict=True)):
        call(pretrain, *SMALL, "--seed", seed, "--output", original)
        call(finetune, *SMALL, "--seed", seed, "--original", original, "--forget-class", 3, "--output", path)
    for named in ([], originals[:1], originals):
        rows = helpers.rows_of(*named, *tuned, "--weights", tmp_path, beneath=False)
        assert [(row["method"], row["n"]) for row in rows] == [("original", 2), ("finetune", 2)], named
    again = tmp_path / "again.pth"
    write_torch(again, torch.load(originals[0], weights_only=True) | {"device": "another"})
    rows = helpers.rows_of(again, *tuned, "--weights", tmp_path, beneath=False)
    assert [(row["method"], row["n"]) for row in rows] == [("original", 2), ("finetune", 2)]


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
    elsewhere = torch.load(paths[0], weights_only=True)
    here, elsewhere["device"] = elsewhere["device"], "a Z80, 1 threads"
    write_torch(paths[0], elsewhere)
    (row,) = rows_of(tmp_path, *paths)
    assert (row["n"], row["method"]) == (2, "finetune")
    assert row["device"] == f"{here}; a Z80, 1 threads"
    assert collect.result("t", "c", [row, {"device": here}], "svm")["hardware"] == row["device"]
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
    rows = helpers.rows_of(*paths, "--weights", tmp_path, beneath=False)
    assert [row["method"] for row in rows] == ["finetune --lr 0.001", "finetune --lr 0.003"]


def test_every_attack_is_a_flag(weights, tmp_path):
    path = weights / "digits_resnet8_class3_finetune2_s0.pth"
    (row,) = rows_of(tmp_path, path, "--every-attack")
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

    monkeypatch.setattr(network, "RELEARN_STEPS", (0,))  # a ResNet-50 learns slowly here
    folder_of_images(tmp_path / "images", classes=[f"c{i}" for i in range(10)])
    path, base = tmp_path / "resnet10_finetune5.pth", tmp_path / "resnet10.pth"
    torch.save(resnet_keys(their_resnet().state_dict()), path)
    torch.save({"net": {f"module.{key}": value for key, value in torch.load(path).items()}, "acc": 95.56}, base)
    flags = ("--dataset", f"folder:{tmp_path / 'images'}", "--subset", 20, "--test-subset", 20, "--forget-class", 3)
    original, row = rows_of(tmp_path, path, base, *flags)
    assert (original["method"], row["method"]) == ("original", "published resnet10_finetune5.pth")
    assert row["metrics"]["UA"]["mean"] in (0, 50, 100)
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


SMALL = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--precision", "fp32", "--epochs", 1, "--quiet")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A folder with networks of 120 digits, hardly trained: an original, one fine-tuned without class 3, Retrains of three
    seeds without it, and two with half of it."""
    folder = tmp_path_factory.mktemp("small")
    call(pretrain, *SMALL, "--output", folder / "original.pth")
    call(finetune, *SMALL, "--original", folder / "original.pth", "--forget-class", 3, "--output", folder / "finetune.pth")
    for seed in (0, 1, 2):
        call(retrain, *SMALL, "--forget-class", 3, "--seed", seed, "--output", folder / f"retrain{seed}.pth")
    dataset = data.load("digits", subset=120)
    gone = dataset.whole.positions[dataset.train.labels == 3]
    for place, half in enumerate((gone[::2], gone[1::2])):
        np.save(folder / f"{place}.npy", half.numpy())
        flags = ("--forget-file", folder / f"{place}.npy", "--seed", 3 + place, "--output", folder / f"half{place}.pth")
        call(retrain, *SMALL, *flags)
    return folder


def test_recovery_and_rmia_are_asked_for(small):
    names = ("original", "retrain0", "finetune")
    paths, flags = (
        [small / f"{name}.pth" for name in names],
        ("--precision", "fp32", "--weights", small / "none", "--cache", 0),
    )
    plain = by_method(helpers.rows_of(*paths, *flags, beneath=False))
    assert not {"rmia", "recovered1", "recovery1", "rmia_tpr1"} & plain["finetune"].keys()
    references = [small / f"retrain{seed}.pth" for seed in (0, 1, 2)]
    rows = helpers.rows_of(*paths, *flags, "--recovery", "--references", *references, beneath=False)
    scores = by_method(rows)
    for k in (1, 5, 10):
        values = {method: found[f"recovered{k}"] for method, found in scores.items()}
        assert scores["finetune"][f"recovery{k}"] == pytest.approx(values["finetune"] - values["retrain"])
        assert scores["retrain"][f"recovery{k}"] == 0 and all(0 <= value <= 100 for value in values.values())
    dataset = data.load("digits", subset=120)
    gone, never = dataset.train.labels == 3, dataset.test.labels == 3
    said = {}
    for path in (*paths, *references):
        model = models.build(models.load_checkpoint(path))
        splits = dataset.train.take(gone), dataset.test.take(never)
        said[path.stem] = [predictions.confidence(predict(model, split, FP32), split.labels) for split in splits]
    for name, method in zip(names, ("original", "retrain", "finetune"), strict=True):
        others = [said[path.stem] for path in references if path.stem != name]  # a network isn't its own reference
        stacked = tuple(torch.stack(side) for side in zip(*others, strict=True))
        area, _ = membership.rmia(tuple(said[name]), stacked, torch.ones(len(others), int(gone.sum()), dtype=torch.bool))
        assert scores[method]["rmia"] == pytest.approx(area, abs=1e-6), name
    assert len({scores[method]["rmia"] for method in scores}) > 1


def test_a_reference_counts_for_the_images_that_it_forgot(small):
    """Two Retrains, each without another half of the class: each image has one reference. One alone leaves half of them."""
    flags = (small / "finetune.pth", "--precision", "fp32", "--weights", small / "none", "--cache", 0, "--references")
    (both,) = helpers.rows_of(*flags, small / "half0.pth", small / "half1.pth", beneath=False)
    (one,) = helpers.rows_of(*flags, small / "half0.pth", beneath=False)
    assert "mean" in both["metrics"]["rmia"] and "37 images" in both["metrics"]["rmia_tpr1"]["missing"]
    assert "every reference has trained on 6 of the 12 images" in one["metrics"]["rmia"]["missing"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["finetune"], "finetune.pth is finetune: a reference is a network that says"),
        (["original"], "original.pth has trained on all images"),
        (["retrain1", "copy"], "are the same run with the same seed"),
        (["nowhere"], "nowhere.pth"),
    ],
)
def test_references_that_are_none(small, tmp_path, capsys, names, message):
    content = models.load_checkpoint(small / "retrain1.pth")
    write_torch(tmp_path / "copy.pth", content | {"command": "again"})
    paths = [tmp_path / "copy.pth" if name == "copy" else small / f"{name}.pth" for name in names]
    scored = (small / "finetune.pth", "--weights", tmp_path / "none")
    code, line = one_line(evaluate, capsys, *scored, "--references", *paths)
    assert code == 2 and message in line


def test_a_network_is_asked_about_each_image_once_and_beyond_that_for_probe_and_relearning_alone(
    small, whole_curves, monkeypatch
):
    """Whatever number of forget sets it is scored on: the probe's training images are the same for all of them. Relearning
    takes its own images, so many for data of any size: at most half a pass over 12,000."""
    assert 250 * len(network.RELEARN_STEPS) + 32 * network.RELEARN_STEPS[-1] <= 12_000 / 2 and network.RELEARN_LIMIT == 250
    monkeypatch.setattr(network, "RELEARN_STEPS", (0, 2))
    monkeypatch.setattr(network, "PROBE_LIMIT", 100)
    call(finetune, *SMALL, "--original", small / "original.pth", "--forget-class", 5, "--output", small / "other.pth")
    asked = []

    def count(module, inputs):
        if hasattr(module, "net"):
            asked.append(len(inputs[0]))

    hook = register_module_forward_pre_hook(count)
    try:
        helpers.rows_of(
            *(small / f"{name}.pth" for name in ("original", "finetune", "other")), "--weights", small / "none", "--cache", 0
        )
    finally:
        hook.remove()
    tested = [int((data.load("digits").test.labels == c).sum()) for c in (3, 5)]
    one = 120 + 364 + 100  # the images, and the probe's training images
    for_each = [gone + 2 * gone + 2 * 32 for gone in tested]  # the probe's T_f; relearning's two points and two steps
    assert sum(asked) == 3 * one + 2 * sum(for_each)


def test_scored_on_a_part_of_the_images(small):
    """--images: the same images of every file, all classes alike, and no other is asked about; the request stays whole."""
    paths = [small / f"{name}.pth" for name in ("original", "retrain0", "finetune")]
    flags = ("--precision", "fp32", "--weights", small / "none", "--cache", 0)
    rows = helpers.rows_of(*paths, *flags, "--images", 60, beneath=False)
    assert {row["dataset"] for row in rows} == {"digits-120, scored on 60 training and 60 test images"}
    assert {row["forgotten"] for row in rows} == {"class 3"}
    dataset = data.load("digits", subset=120)
    train, test = (split.take(data.stratified(split.labels, 60)) for split in (dataset.train, dataset.test))  # by class
    found = by_method(rows)
    for path, method in zip(paths, ("original", "retrain", "finetune"), strict=True):
        model = models.build(models.load_checkpoint(path))
        known = [predict(model, split, FP32).argmax(1) == split.labels for split in (train, test)]
        gone, never = train.labels == 3, test.labels == 3
        expected = (~known[0][gone], known[0][~gone], known[1][~never])
        assert 0 < gone.sum() < 12
        for key, right in zip(("UA", "RA", "TA"), expected, strict=True):
            assert found[method][key] == pytest.approx(100 * right.double().mean().item()), (method, key)
    whole = helpers.rows_of(*paths, *flags, "--images", 2000, beneath=False)  # no fewer than there are
    assert by_method(whole) == by_method(helpers.rows_of(*paths, *flags, beneath=False))
    assert {row["dataset"] for row in whole} == {"digits-120"}


def test_scores_that_were_kept_of_other_images_are_not_taken(small, tmp_path, monkeypatch):
    """Which images --images draws depends on all forget sets of a command."""
    flags = (
        "--precision",
        "fp32",
        "--weights",
        tmp_path,
        "--cache",
        0,
        "--images",
        60,
        "--json",
        tmp_path / "t.json",
        "--overwrite",
    )
    two = [small / f"{name}.pth" for name in ("retrain0", "finetune")]

    def rows():
        evaluate.run(evaluate.parser().parse_args([*map(str, [*two, *flags]), "--quiet"]), "")
        return by_method(json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["rows"])

    fresh, score, calls = rows(), network.score, []

    def ending(*given):
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return score(*given)

    flags_of_random = ("--original", small / "original.pth", "--forget-random", 0.3, "--output", tmp_path / "random.pth")
    two.append(call(finetune, *SMALL, *flags_of_random))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(network, "score", ending)
        rows()
    two.pop()
    assert list(tmp_path.glob(".scores*")) and rows() == fresh


def test_scores_that_were_kept_of_fewer_test_images_are_not_taken(small, tmp_path, monkeypatch):
    """With --images between the counts of training and of test images the latter are drawn, the former all there."""
    flags = ("--precision", "fp32", "--weights", tmp_path, "--cache", 0, "--json", tmp_path / "t.json", "--overwrite")
    two, score, calls = [small / f"{name}.pth" for name in ("retrain0", "finetune")], network.score, []

    def rows(*more):
        evaluate.run(evaluate.parser().parse_args([*map(str, [*two, *flags, *more]), "--quiet"]), "")
        return by_method(json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))["rows"])

    def ending(*given):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(*given)

    fresh = rows()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(network, "score", ending)
        rows("--images", 150)
    assert list(tmp_path.glob(".scores*")) and rows() == fresh


def test_files_that_nobody_has_named_do_not_end_an_evaluation(small, tmp_path, capsys):
    """Those in --weights that are called as an Original or a Retrain is: damaged ones, and networks that others trained."""
    (tmp_path / "digits_resnet8_original_s0.pth").write_bytes(b"cut off")
    torch.save(models.load_checkpoint(small / "original.pth")["state_dict"], tmp_path / "my_original.pth")
    shutil.copy(small / "original.pth", tmp_path / "an_original.pth")
    rows = helpers.rows_of(small / "finetune.pth", "--weights", tmp_path, beneath=False)
    assert [row["method"] for row in rows] == ["original", "finetune"]
    said = capsys.readouterr().err
    assert "note: left out: " in said and "digits_resnet8_original_s0.pth" in said and "my_original" not in said


def test_references_and_accounts_of_a_part_of_the_images(small, tmp_path):
    """Which images a reference forgot is said of those that are scored; a page is about the whole request."""
    flags = (small / "finetune.pth", "--precision", "fp32", "--weights", small / "none", "--cache", 0, "--images", 60)
    (both,) = helpers.rows_of(*flags, "--references", small / "half0.pth", small / "half1.pth", beneath=False)
    (one,) = helpers.rows_of(*flags, "--references", small / "half0.pth", beneath=False)
    train = data.load("digits", subset=120).train
    scored = int((train.labels[data.stratified(train.labels, 60)] == 3).sum())
    assert "mean" in both["metrics"]["rmia"]
    assert f"of the {scored} images" in one["metrics"]["rmia"]["missing"]
    call(evaluate, *flags, "--html", tmp_path / "page.html", "--quiet")
    assert "12 of 120 training images" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_part_has_its_share_of_a_draw_and_no_class_that_only_it_forgets_whole(small, tmp_path):
    """Images to forget are drawn at random, as the part is: by another draw. A class of which others stay is kept."""
    flags = (*SMALL, "--original", small / "original.pth", "--forget-random", 0.3, "--output", tmp_path / "x.pth")
    path = call(finetune, *flags)
    where = ("--precision", "fp32", "--weights", small / "none", "--cache", 0)
    (row,) = helpers.rows_of(path, *where, "--images", 40, beneath=False)
    train = data.load("digits", subset=120).train
    forget = models.load_checkpoint(path)["forget"]
    inside = torch.zeros(120, dtype=torch.int64)
    inside[forget] = 1
    rows = data.stratified(torch.stack([train.labels, inside], 1).unique(dim=0, return_inverse=True)[1], 40)
    part = train.take(rows)
    right = predict(models.build(models.load_checkpoint(path)), part, FP32).argmax(1) == part.labels
    gone = inside[rows] == 1
    assert 10 <= gone.sum() <= 14
    metrics = row["metrics"]
    assert metrics["UA"]["mean"] == pytest.approx(100 * (~right[gone]).double().mean().item())
    assert metrics["RA"]["mean"] == pytest.approx(100 * right[~gone].double().mean().item())
    assert "no class is forgotten as a whole" in metrics["UA_test"]["missing"]


def test_a_file_that_is_replaced_meanwhile_is_not_scored_as_the_old_one(small, tmp_path, monkeypatch):
    path = shutil.copy(small / "finetune.pth", tmp_path / "x.pth")
    other = shutil.copy(small / "half0.pth", tmp_path / "y.pth")
    begin = collect._Scorer.score

    def replaced(self, entry):
        if Path(other).exists():
            Path(other).replace(path)
        return begin(self, entry)

    monkeypatch.setattr(collect._Scorer, "score", replaced)
    with pytest.raises(UserError, match=r"x\.pth has been replaced since this command looked at it"):
        helpers.rows_of(path, "--precision", "fp32", "--weights", small / "none", "--cache", 0, beneath=False)


@pytest.mark.parametrize(("count", "message"), [(9, "--images 9: fewer than 11"), (10, "--images 10: fewer than 11")])
def test_a_part_that_is_too_small(small, tmp_path, capsys, count, message):
    train = data.load("digits", subset=120)
    lost = next(i for i in range(120) if i not in data.stratified(train.train.labels, 10))
    np.save(tmp_path / "one.npy", train.whole.positions[[lost]].numpy())
    path = call(
        finetune,
        *SMALL,
        "--original",
        small / "original.pth",
        "--forget-file",
        tmp_path / "one.npy",
        "--output",
        tmp_path / "x.pth",
    )
    code, line = one_line(evaluate, capsys, path, "--weights", small / "none", "--images", count)
    assert code == 2 and message in line


def test_each_checkpoint_is_opened_once(small, tmp_path):
    """However often it is looked at: to describe it, to know it again, to score it, and as a companion of others."""
    for name in ("original", "retrain0"):  # which come along, by their names
        shutil.copy(small / f"{name}.pth", tmp_path / f"x_{name}.pth")
    opened = Counter()

    def watch(event, arguments):
        if watching and event == "open" and str(arguments[0]).endswith(".pth"):
            opened[Path(arguments[0]).name] += 1

    watching = True
    sys.addaudithook(watch)  # for good: it ends with `watching`
    paths = [small / f"{name}.pth" for name in ("finetune", "original")]
    helpers.rows_of(*paths, "--weights", tmp_path, "--precision", "fp32", "--cache", 0, beneath=False)
    watching = False
    assert opened == dict.fromkeys(("finetune.pth", "original.pth", "x_original.pth", "x_retrain0.pth"), 1)


def test_a_file_that_is_replaced_is_read_again(tmp_path):
    write_torch(tmp_path / "a.pth", {"x": 1})
    files = Files()
    assert files.read(tmp_path / "a.pth") == ({"x": 1}, sha256(tmp_path / "a.pth"))
    write_torch(tmp_path / "a.pth", {"x": 2})
    assert files.read(tmp_path / "a.pth") == ({"x": 2}, sha256(tmp_path / "a.pth"))


def test_what_has_no_room_is_read_again(tmp_path, monkeypatch):
    for name in "abc":
        write_torch(tmp_path / name, {"x": torch.zeros(1000)})
    monkeypatch.setattr(shared, "KEPT", 2 * (tmp_path / "a").stat().st_size)
    files = Files()
    for name in "abc":
        files.read(tmp_path / name)
    assert [path.name for path in files._kept] == ["b", "c"]
    monkeypatch.setattr(shared, "KEPT", 10)
    assert files.read(tmp_path / "a")[1] and [path.name for path in files._kept] == ["b", "c"]
