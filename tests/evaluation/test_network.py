"""Scores against counted answers, and what is asked of a network beneath its head."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import data
import models
from tests.helpers import FP32
from unlearning.core.device import to_float
from unlearning.evaluation import network
from unlearning.images import forgetting
from unlearning.metrics import membership, predictions
from unlearning.vision import layers
from unlearning.vision.predict import penultimate, predict, relearn


def test_scores_are_the_counted_ones():
    """A network that is right on every image but those of class 3, and wrong on the first ten images of class 5."""
    dataset = data.load("digits")
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3])
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
    sample, _ = forgetting.forget_indices(dataset.train, share=0.1)
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
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3])
    scores, curves = network.score(logits, dataset, forget, "svc", every_attack=True)
    without = ["UA_test", "MIA_AUC", "TPR1", *(key for key in scores if key.startswith(("AUC ", "TPR1 ")))]
    assert all("no test image of the forgotten class" in scores[key]["missing"] for key in without) and len(without) > 10
    assert curves["roc"] is None and scores["UA"] == 0 and scores["RA"] == scores["TA"] == 100


def test_where_all_test_images_are_of_the_forgotten_class_what_looks_at_others_is_missing():
    dataset = data.load("digits")
    dataset = replace(dataset, test=dataset.test.take(dataset.test.labels == 3))
    logits = [torch.nn.functional.one_hot(split.labels, 10).float() for split in (dataset.train, dataset.test)]
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3])
    scores, curves = network.score(logits, dataset, forget, "svc", every_attack=True)
    without = ["TA", "MIA", "MIA_draw_sd", *(key for key in scores if key.startswith("MIA ") and "svc" in key)]
    assert all("no test image of a class that stays" in scores[key]["missing"] for key in without) and len(without) > 5
    assert scores["UA"] == scores["UA_test"] == 0 and scores["RA"] == 100
    assert curves["losses"].keys() == {"D_f", "D_r", "T_f"}
    assert 0 <= network.score(logits, dataset, forget, "unlearn-sparse")[0]["MIA"] <= 100  # of all test images
    row = {"metrics": scores, "curves": {}, "seed": 0}
    network.compare(row, None, row)
    assert row["metrics"]["dUA"] == 0
    without = [row["metrics"][key] for key in ("dTA", "dMIA", "gap", "ToW")]
    assert all("no test image of a class that stays" in metric["missing"] for metric in without)


def test_a_class_beside_other_images_is_told_from_its_own_test_images_alone():
    """Answers that depend on the class alone remember nothing, so that no attacker may tell D_f by them."""
    dataset = data.load("digits")
    generator = torch.Generator().manual_seed(0)
    logits = []
    for split in (dataset.train, dataset.test):
        right = torch.nn.functional.one_hot(split.labels, 10).float() * torch.where(split.labels == 3, 0.0, 9.0)[:, None]
        logits.append(right + torch.rand(len(split), 10, generator=generator))
    three, five = ((dataset.train.labels == c).nonzero().squeeze(1) for c in (3, 5))
    assert network.asked_about(dataset, five[:100]).equal(five[:100])
    both = torch.cat([three, five[:100]]).sort().values
    assert network.asked_about(dataset, both).equal(three)
    found = [network.score(logits, dataset, forget, "svc", every_attack=True)[0] for forget in (three, both)]
    for key in ("MIA_AUC", "TPR1", "AUC svc loss"):
        assert found[0][key] == found[1][key], key


def test_curves_are_shares_and_rates():
    dataset = data.load("digits")
    forget, _ = forgetting.forget_indices(dataset.train, share=0.2)
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(len(split), 10, generator=generator) for split in (dataset.train, dataset.test)]
    found, curves = network.score(logits, dataset, forget, "svc")
    assert set(curves["losses"]) == {"D_f", "D_r", "T_r"}  # sample forgetting has no T_f of its own
    assert all(sum(shares) == pytest.approx(1) for shares in curves["losses"].values())
    assert (curves["roc"][1:] >= curves["roc"][:-1]).all()
    assert curves["roc"][-1] == 1
    assert 40 < found["MIA_AUC"] < 60  # random answers: nothing to tell


def test_published_attacks_are_modes(every_draw):
    """Each gets the feature and the non-members of its own protocol."""
    dataset = data.load("digits")
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3, 4, 5])
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(len(x), 10, generator=generator) for x in (dataset.train, dataset.test)]
    logits[0] += 2 * torch.nn.functional.one_hot(dataset.train.labels, 10)  # members are surer, so that draws differ
    sets = network.four_sets(dataset, forget)
    train, test = (predictions.confidence(x, y.labels) for x, y in zip(logits, (dataset.train, dataset.test), strict=True))
    train_loss, test_loss = -train.log(), -test.log()
    kept = sets.retain_test
    svc = [membership.mia_efficacy(train[sets.retain], test[kept], train[forget], seed=s) for s in range(40, 60)]
    groups = train_loss[sets.retain], test_loss[kept], train_loss[forget]
    lora = [membership.mia_lora_unlearn(*groups, seed=s) for s in range(40, 60)]
    sparse = membership.mia_unlearn_sparse(train[sets.retain], test, train[forget])
    found = {mode: network.score(logits, dataset, forget, mode, seed=2)[0] for mode in network.ATTACKS}
    means = {mode: scores["MIA"] for mode, scores in found.items()}
    assert means == pytest.approx({"svc": np.mean(svc), "lora-unlearn": np.mean(lora), "unlearn-sparse": sparse})
    assert len(set(means.values())) == 3
    for mode, values in (("svc", svc), ("lora-unlearn", lora)):
        assert found[mode]["MIA_draw_sd"] == pytest.approx(np.std(values, ddof=1)) and len(set(values)) > 1
    assert "draws none" in found["unlearn-sparse"]["MIA_draw_sd"]["missing"]  # its protocol names the images


def test_every_attack_takes_the_draws_of_the_networks_seed():
    dataset = data.load("digits", subset=500, test_subset=200)
    forget, _ = forgetting.forget_indices(dataset.train, share=0.2)
    generator = torch.Generator().manual_seed(1)
    logits = [torch.randn(len(x), 10, generator=generator) for x in (dataset.train, dataset.test)]
    sets = network.four_sets(dataset, forget)
    found, _ = network.score(logits, dataset, forget, "svc", every_attack=True, seed=7)
    assert found["MIA svc confidence"] == found["MIA"]
    for attacker in membership.ATTACKERS:
        train, test = (predictions.loss(x, y.labels) for x, y in zip(logits, (dataset.train, dataset.test), strict=True))
        groups = train[sets.retain], test[sets.retain_test], train[forget]
        draws = [membership.mia_efficacy(*groups, attacker, seed) for seed in membership.draw_seeds(7)]
        assert found[f"MIA {attacker} loss"] == pytest.approx(np.mean(draws)) and len(set(draws)) > 1


def test_losses_stand_in_their_bins():
    """Four bins a decade from 1e-4 to 1e3 nats. Of four images of D_f one is sure of its class, two have a loss of 1.5 nats
    (bin 16: 10^0 to 10^0.25), one 300 (bin 25: 10^2.25 to 10^2.5). D_r: 0.002 nats (bin 5: 10^-2.75 to 10^-2.5). T_f: 745
    nats at most (bin 27). T_r: 0.5 (bin 14), 0.9 (bin 15)."""
    whole = data.load("digits", subset=20)
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    train = data.Split(whole.train.images[:6], labels)
    test = data.Split(whole.test.images[:4], torch.tensor([0, 0, 1, 1]))
    dataset = replace(whole, train=train, test=test)

    def logits(losses, labels):
        """Of ten classes, the others alike: log p_y = -loss, to rounding."""
        losses = torch.tensor(losses, dtype=torch.float64)
        others = torch.log(-torch.expm1(-losses) / 9)
        return torch.where(torch.nn.functional.one_hot(labels, 10).bool(), -losses[:, None], others[:, None])

    given = [
        logits([0.0, 1.5, 1.5, 300.0, 0.002, 0.002], labels),
        logits([1000.0, 1000.0, 0.5, 0.9], test.labels),
    ]
    _, curves = network.score(given, dataset, torch.arange(4), "lora-unlearn")
    expected = {"D_f": {0: 1 / 4, 16: 1 / 2, 25: 1 / 4}, "D_r": {5: 1.0}, "T_f": {27: 1.0}, "T_r": {14: 1 / 2, 15: 1 / 2}}
    assert {name: {i: x for i, x in enumerate(shares) if x} for name, shares in curves["losses"].items()} == expected
    assert all(len(shares) == 28 for shares in curves["losses"].values())


def test_the_true_positive_rate_is_read_at_1_percent_in_percent():
    """On a ROC of TPR = sqrt(FPR): 10 %, not 0.1 and not the 31.6 at 10 %."""
    roc = membership.FPR_GRID**0.5
    assert network._tpr_at_1_percent(roc, 500) == pytest.approx(10)
    assert "499 images" in network._tpr_at_1_percent(roc, 499)["missing"]


def test_the_four_sets_part_the_images():
    dataset = data.load("digits")
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3, 5])
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
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3])
    gone = dataset.test.take(dataset.test.labels == 3)
    model = models.build(models.load_checkpoint(weights / "digits_resnet8_class3_finetune2_s0.pth"))
    before = models.state(model)
    curves = [relearn(model, dataset.train.take(forget), gone, FP32, steps=(0, 4, 40)) for _ in range(2)]
    assert models.moved(before, models.state(model)) == 0
    assert curves[0] == curves[1]
    assert curves[0][0] == predictions.accuracy(predict(model, gone, FP32), gone.labels)
    assert curves[0][-1] > 90


def test_of_images_that_come_class_by_class_all_forgotten_classes_are_relearned(weights, monkeypatch):
    monkeypatch.setattr(network, "RELEARN_LIMIT", 20)
    dataset, asked = data.load("digits"), []
    dataset = replace(dataset, test=dataset.test.take(dataset.test.labels.argsort(stable=True)))
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3, 5])
    monkeypatch.setattr(network, "relearn", lambda model, forgotten, gone, *_: asked.append(gone.labels) or [0.0])
    model = models.build(models.load_checkpoint(weights / "digits_resnet8_original_s0.pth"))
    network.beneath(model, dataset, forget, FP32, network.sampled(model, dataset, FP32))
    assert asked[0].bincount().tolist() == [0, 0, 0, 10, 0, 10]


def test_of_images_that_come_class_by_class_all_classes_are_in_the_plane():
    """Of four classes, each at a corner of its own, the first is forgotten."""
    labels = torch.arange(4).repeat_interleave(50)
    corners = torch.tensor([[0.0, 0.0], [9.0, 1.0], [4.0, 7.0], [20.0, 3.0]])[labels]
    plane = network._in_the_plane(corners, labels, labels == 0, most=30)
    assert [len(plane[name]) for name in ("D_f", "D_r")] == [30, 30]
    assert [len(set(map(tuple, plane[name]))) for name in ("D_f", "D_r")] == [1, 3]


@pytest.mark.parametrize("features", [torch.full((6, 4), 2.0), torch.arange(6.0)[:, None], torch.tensor([[1.0, 2.0]])])
def test_features_that_span_no_plane_have_no_picture(features):
    """All alike, a single one, or of one image: no NaN, which no result file may hold."""
    labels = torch.arange(len(features)) % 2
    assert network._in_the_plane(features, labels, labels == 0) is None


def test_a_network_that_has_answered_can_still_be_trained(weights):
    """Layout changes within inference mode would leave weights that autograd refuses."""
    model = models.build(models.load_checkpoint(weights / "digits_resnet8_original_s0.pth"))
    some = data.load("digits").test.take(slice(8))
    predict(model, some, FP32)
    model(to_float(some.images)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_nearest_centres_are_those_of_training_images(weights, monkeypatch):
    """Of all classes, the forgotten one included, in the features that the probe reads; counted on T_f."""
    dataset = data.load("digits")
    forget, _ = forgetting.forget_indices(dataset.train, classes=[3])
    model = models.build(models.load_checkpoint(weights / "digits_resnet8_class3_retrain8_s0.pth"))
    monkeypatch.setattr(network, "RELEARN_STEPS", (0, 1))
    sample = network.sampled(model, dataset, FP32)
    found, _ = network.beneath(model, dataset, forget, FP32, sample)
    features = penultimate(model, dataset.train, FP32).double()  # digits are so few that all of them are in the sample
    centres = torch.stack([features[dataset.train.labels == c].mean(0) for c in range(10)])
    gone = penultimate(model, dataset.test.take(dataset.test.labels == 3), FP32).double()
    nearest = ((gone[:, None] - centres) ** 2).sum(2).argmin(1)
    assert 0 < found["ncc"] < 100 and found["ncc"] == pytest.approx(100 * (nearest == 3).double().mean().item())


class TwoHeads(nn.Module):
    """A network whose two heads, the last layers below `net`, are averaged."""

    def __init__(self, *heads):
        super().__init__()
        self.net = nn.ModuleDict({f"head{place}": head for place, head in enumerate(heads)})
        self.layer_names = models.LayerNames(head=tuple(f"net.head{place}" for place in range(len(heads))))


def linear(biases):
    layer = nn.Linear(4, 10, bias=biases is not None)
    if biases is not None:
        layer.bias.data = torch.tensor(biases)
    return layer


def test_head_bias_is_of_the_mean_of_all_heads_or_missing_with_its_reason():
    dataset = data.load("digits")
    both, part = (forgetting.forget_indices(dataset.train, **how)[0] for how in ({"classes": [0, 9]}, {"share": 0.1}))
    first, second = [4.0, *range(8), 6.0], [-2.0, *range(0, 16, 2), 0.0]  # their mean: 1, 0 to 10.5, 3
    found = network._head_bias(TwoHeads(linear(first), linear(second)), dataset, both)
    kept = [1.5 * i for i in range(8)]
    assert found["bsc"] == pytest.approx(1 / (1 + abs(2 - np.mean(kept))))
    assert found["mbg"] == pytest.approx(1 / (1 + np.exp(-2))) and found["mbs"] == pytest.approx(1 / (1 + np.exp(-1)))
    for heads, forget, reason in (
        ((linear(first), linear(None)), both, "no bias for each class"),
        ((linear(None),), both, "no bias for each class"),
        ((nn.Linear(4, 3),), both, "no bias for each class"),
        ((linear([float("nan")] * 10),), both, "NaN"),
        ((linear(first),), part, network.NO_CLASS),
    ):
        found = network._head_bias(TwoHeads(*heads), dataset, forget)
        assert found.keys() == {"bsc", "mbg", "mbs"}
        assert all(value["missing"].startswith("head bias: ") and reason in value["missing"] for value in found.values())


def test_recovery_takes_so_many_images_of_each_forgotten_class(monkeypatch):
    """Out of D_f, fewer among more; beside all of D_r, and scored on T_f. Classes 2 and 8 are forgotten, and some of 5."""
    dataset, asked = data.load("digits"), []
    parts = [(dataset.train.labels == c).nonzero().squeeze(1) for c in (2, 8, 5)]
    forget = torch.cat([*parts[:2], parts[2][:40]]).sort().values

    def recover(model, shots, kept, test, compute):
        asked.append((shots, kept, test))
        return float(len(shots))

    monkeypatch.setattr(network, "recover", recover)
    assert network.recovery(nn.Identity(), dataset, forget, FP32) == {"recovered1": 2, "recovered5": 10, "recovered10": 20}
    rows = [set(shots.source[1].tolist()) for shots, _, _ in asked]
    assert rows[0] < rows[1] < rows[2] < set(forget.tolist())
    for k, (shots, kept, test) in zip((1, 5, 10), asked, strict=True):
        assert shots.labels.sort().values.tolist() == [2] * k + [8] * k
        assert not set(kept.source[1].tolist()) & set(forget.tolist()) and len(kept) == len(dataset.train) - len(forget)
        assert set(test.labels.tolist()) == {2, 8} and len(test) == int(torch.isin(dataset.test.labels, test.labels).sum())
    fewer = dataset.train.take(torch.cat([parts[0], parts[1][:7], parts[2]]))
    found = network.recovery(nn.Identity(), replace(dataset, train=fewer), torch.arange(len(parts[0]) + 7), FP32)
    assert found["recovered5"] == 10 and "a forgotten class has 7 images" in found["recovered10"]["missing"]
    sample = network.recovery(nn.Identity(), dataset, parts[2][:40], FP32)
    assert all(network.NO_CLASS in value["missing"] for value in sample.values()) and len(sample) == 3


def test_rmia_sets_d_f_against_images_that_were_never_seen():
    """T_f, or where no class is forgotten the whole test set, by the probability of the true class."""
    dataset = data.load("digits")
    generator = torch.Generator().manual_seed(0)
    logits, others = (
        [torch.randn(len(x), 10, generator=generator) for x in (dataset.train, dataset.test)] for _ in range(2)
    )
    known, said = (
        [predictions.confidence(x, y.labels) for x, y in zip(pair, (dataset.train, dataset.test), strict=True)]
        for pair in (logits, others)
    )
    for how, never in (({"classes": [3]}, dataset.test.labels == 3), ({"share": 0.3}, dataset.test.labels >= 0)):
        forget, _ = forgetting.forget_indices(dataset.train, **how)
        out = torch.ones(1, len(forget), dtype=torch.bool)
        references = network.References(said[0][forget][None], said[1][never][None], out)
        found = network.rmia(logits, dataset, forget, references)
        expected = membership.rmia((known[0][forget], known[1][never]), references[:2], out)
        assert found["rmia"] == expected[0] and 0 < expected[0] < 100
        few = {"missing": "RMIA's TPR@1%FPR: 37 images that were never seen are too few"}
        assert found["rmia_tpr1"] == (few if "classes" in how else expected[1])
        lost = network.rmia(logits, dataset, forget, references._replace(out=~out))
        assert all("every reference has trained on" in value["missing"] for value in lost.values()) and len(lost) == 2
        nobody = network.rmia(logits, dataset, forget, None)
        assert all("no reference of this network" in value["missing"] for value in nobody.values())


def row_of(**metrics):
    entry = SimpleNamespace(method="lora", is_exact=False, private=None)
    gap = dict.fromkeys(predictions.GAP_METRICS, 50.0)
    return {"metrics": gap | metrics, "curves": {}, "entry": entry, "seed": 0, "model": "resnet8", "forget": "class3"}


def test_gaps_are_signed_differences_from_retrain():
    none = {"missing": "probe: no"}
    row, retrain = row_of(probe=80.0, ncc=10.0, recovered5=7.0, recovered1=none), row_of(probe=90.0, ncc=4.0, recovered1=1.0)
    alone = row_of(probe=80.0, recovered10=5.0)
    network.compare(row, None, retrain)
    network.compare(alone, None, None)
    assert row["metrics"]["probe_gap"] == -10 and row["metrics"]["ncc_gap"] == 6 and row["metrics"]["recovery1"] == none
    assert "recovery5" not in row["metrics"]  # Retrain wasn't asked
    assert "no Retrain of seed 0" in alone["metrics"]["probe_gap"]["missing"]
    assert "missing" in alone["metrics"]["recovery10"] and "ncc_gap" not in alone["metrics"]
