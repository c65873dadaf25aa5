"""Scores against counted answers, and what is asked of a network beneath its head."""

from dataclasses import replace

import pytest
import torch

import data
import models
from tests.helpers import FP32
from unlearning.core.device import to_float
from unlearning.evaluation import network
from unlearning.metrics import membership, predictions
from unlearning.vision import layers
from unlearning.vision.predict import penultimate, predict, relearn


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
    scores, _ = network.score(logits, dataset, forget, "svc")
    kept_train, kept_test = (int((s.labels != 3).sum()) for s in (dataset.train, dataset.test))
    assert scores["UA"] == scores["UA_test"] == 100
    assert scores["RA"] == pytest.approx(100 * (kept_train - 10) / kept_train)
    assert scores["TA"] == pytest.approx(100 * (kept_test - 10) / kept_test)
    sample, _ = data.forget_indices(dataset.train, share=0.1)
    scores, _ = network.score(logits, dataset, sample, "svc")
    right = (logits[1].argmax(1) == dataset.test.labels).double().mean().item()
    assert "missing" in scores["UA_test"]
    assert scores["TA"] == pytest.approx(100 * right)  # sample forgetting: the whole test set


def test_what_needs_more_images_is_missing_with_its_reason():
    dataset = data.load("digits")
    logits = [torch.nn.functional.one_hot(split.labels, 10).float() for split in (dataset.train, dataset.test)]
    scores, curves = network.score(logits, dataset, torch.tensor([1, 2, 3]), "svc", every_attack=True)
    for name in ("MIA_AUC", "TPR1", "AUC svc loss", "TPR1 logistic confidence"):
        assert "3 and 364 images are too few" in scores[name]["missing"], name
    assert curves["roc"] is None and 0 <= scores["MIA svc loss"] <= 100


def test_a_class_without_test_images_is_compared_with_no_other_class():
    dataset = data.load("digits")
    dataset = replace(dataset, test=dataset.test.take(dataset.test.labels != 3))
    logits = [torch.nn.functional.one_hot(split.labels, 10).float() for split in (dataset.train, dataset.test)]
    forget, _ = data.forget_indices(dataset.train, classes=[3])
    scores, curves = network.score(logits, dataset, forget, "svc", every_attack=True)
    without = ["UA_test", "MIA_AUC", "TPR1", *(key for key in scores if key.startswith(("AUC ", "TPR1 ")))]
    assert all("no test image of the forgotten class" in scores[key]["missing"] for key in without) and len(without) > 10
    assert curves["roc"] is None and scores["UA"] == 0 and scores["RA"] == scores["TA"] == 100


def test_curves_are_shares_and_rates():
    dataset = data.load("digits")
    forget, _ = data.forget_indices(dataset.train, share=0.2)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(len(split), 10, generator=generator) for split in (dataset.train, dataset.test)]
    found, curves = network.score(logits, dataset, forget, "svc")
    assert set(curves["losses"]) == {"D_f", "D_r", "T_r"}  # sample forgetting has no T_f of its own
    assert all(sum(shares) == pytest.approx(1) for shares in curves["losses"].values())
    assert (curves["roc"][1:] >= curves["roc"][:-1]).all()
    assert curves["roc"][-1] == 1
    assert 40 < found["MIA_AUC"] < 60  # random answers: nothing to tell


def test_published_attacks_are_modes():
    """Each gets the feature and the non-members of its own protocol."""
    dataset = data.load("digits")
    forget, _ = data.forget_indices(dataset.train, classes=[3])
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(len(x), 10, generator=generator) for x in (dataset.train, dataset.test)]
    sets = network.four_sets(dataset, forget)
    train, test = (predictions.confidence(x, y.labels) for x, y in zip(logits, (dataset.train, dataset.test), strict=True))
    train_loss, test_loss = -train.log(), -test.log()
    kept = sets.retain_test
    expected = {
        "svc": membership.mia_efficacy(train[sets.retain], test[kept], train[forget]),
        "lora-unlearn": membership.mia_lora_unlearn(train_loss[sets.retain], test_loss[kept], train_loss[forget]),
        "unlearn-sparse": membership.mia_unlearn_sparse(train[sets.retain], test, train[forget]),
    }
    found = {mode: network.score(logits, dataset, forget, mode)[0]["MIA"] for mode in network.ATTACKS}
    assert found == pytest.approx(expected)
    assert len(set(found.values())) == 3


def test_the_four_sets_part_the_images():
    dataset = data.load("digits")
    forget, _ = data.forget_indices(dataset.train, classes=[3, 5])
    sets = network.four_sets(dataset, forget)
    assert set(dataset.train.labels[sets.forget].tolist()) == set(dataset.test.labels[sets.forget_test].tolist()) == {3, 5}
    assert len(sets.forget) + len(sets.retain) == len(dataset.train)
    assert len(sets.forget_test) + len(sets.retain_test) == len(dataset.test)
    assert not {3, 5} & set(dataset.test.labels[sets.retain_test].tolist())


def test_distances_look_at_each_set_by_itself():
    forget = torch.tensor([0, 1])
    ours = torch.tensor([[1000.0, 0.0]] * 2 + [[0.0, 0.0]] * 3)
    retrain = torch.tensor([[0.0, 1000.0]] * 2 + [[0.0, 0.0]] * 3)
    found = network.distances(ours, retrain, forget)
    assert found["activation_f"] == pytest.approx(2**0.5)
    assert found["activation_r"] == found["js_r"] == 0


def test_penultimate_features_are_what_the_head_reads(weights):
    dataset = data.load("digits")
    for name in ("resnet8", "vit_micro"):
        model = models.build(models.load_checkpoint(weights / f"digits_{name}_original_s0.pth"))
        features = penultimate(model, dataset.test, FP32)
        head = model.get_submodule(layers.heads(model)[0])
        logits = predict(model, dataset.test, FP32)
        torch.testing.assert_close(head(features).detach(), logits, atol=1e-4, rtol=1e-4)


def test_relearning_leaves_the_network_alone_and_repeats(weights):
    dataset = data.load("digits")
    forget, _ = data.forget_indices(dataset.train, classes=[3])
    gone = dataset.test.take(dataset.test.labels == 3)
    model = models.build(models.load_checkpoint(weights / "digits_resnet8_class3_finetune2_s0.pth"))
    before = models.state(model)
    curves = [relearn(model, dataset.train.take(forget), gone, FP32, steps=(0, 4, 40)) for _ in range(2)]
    assert models.moved(before, models.state(model)) == 0
    assert curves[0] == curves[1]
    assert curves[0][0] == predictions.accuracy(predict(model, gone, FP32), gone.labels)
    assert curves[0][-1] > 90


def test_a_network_that_has_answered_can_still_be_trained(weights):
    """Layout changes within inference mode would leave weights that autograd refuses."""
    model = models.build(models.load_checkpoint(weights / "digits_resnet8_original_s0.pth"))
    some = data.load("digits").test.take(slice(8))
    predict(model, some, FP32)
    model(to_float(some.images)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
