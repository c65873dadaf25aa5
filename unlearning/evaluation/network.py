"""One network's scores: what its answers give away, and what is left beneath its head.

D_f, D_r, T_f, T_r and every metric are those of unlearning/metrics; here they get the images that they are about. `curves`
is what the pictures need beside the numbers.
"""

from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import data
from unlearning.core.device import Compute
from unlearning.core.words import first_line
from unlearning.images import forgetting
from unlearning.metrics import membership, predictions
from unlearning.vision import layers
from unlearning.vision.feature_cache import FeatureCache
from unlearning.vision.predict import penultimate, recover, relearn


class Attack(NamedTuple):
    """A membership attack in MIA-Efficacy's column.

    feature: of FEATURES. efficacy: the attack, as in membership. whole: True where the whole test set (not T_r alone) are
    its non-members. draws: False where its protocol names the attacker's samples, so that there is nothing to average over.
    """

    feature: Callable[..., torch.Tensor]
    efficacy: Callable[..., float]
    whole: bool = False
    draws: bool = True


ATTACKS = {
    "svc": Attack(predictions.confidence, membership.mia_efficacy),
    "lora-unlearn": Attack(predictions.loss, membership.mia_lora_unlearn),
    "unlearn-sparse": Attack(predictions.confidence, membership.mia_unlearn_sparse, whole=True, draws=False),
}
NO_DRAW = {"missing": "MIA sd over draws: the attack takes the first images and draws none"}
PROBE_LIMIT = 2000  # training images for the probe and the picture of the features
RELEARN_STEPS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # where a relearning curve is read off
RELEARN_LIMIT = 250  # images of T_f at each point of a relearning curve
RECOVERY_SHOTS = (1, 5, 10)  # images of each forgotten class from which it is learned again
# Differences from Retrain, and of what.
GAPS = {"probe_gap": "probe", "ncc_gap": "ncc"} | {f"recovery{k}": f"recovered{k}" for k in RECOVERY_SHOTS}
NO_CLASS = "no class is forgotten as a whole"
NO_TEST = "no test image of the forgotten class"
NO_OTHER = "no test image of a class that stays"
GONE = "images to be forgotten are not in the folder any more"
OF_FORGOTTEN = ("UA", "MIA", "MIA_draw_sd", "MIA_AUC", "TPR1", "activation_f", "js_f")  # metrics that look at D_f
Sets = namedtuple("Sets", "forget retain forget_test retain_test")  # D_f, D_r, T_f, T_r as positions, int64


def four_sets(dataset: data.Dataset, forget: torch.Tensor) -> Sets:
    """D_f, D_r, T_f and T_r as int64 positions. T_f has the test images of the classes, or subclasses, that lie wholly in
    D_f: where there are none, in sample forgetting, T_r is the whole test set."""
    gone = forgetting.of_whole_classes(dataset.train, dataset.test, forget)
    kept = forgetting.retain_indices(len(dataset.train), forget)
    return Sets(forget, kept, gone.nonzero().squeeze(1), (~gone).nonzero().squeeze(1))


def _no_forgotten_test(dataset: data.Dataset, sets: Sets) -> str | None:
    """Why T_f is empty: NO_CLASS, or NO_TEST; None where it isn't."""
    if len(sets.forget_test):
        return None
    return NO_TEST if forgetting.whole_classes(dataset.train.finest, sets.forget) else NO_CLASS


Scores = dict[str, Any]  # a number, or {"missing": reason}, for each metric


def score(
    logits: list[torch.Tensor],
    dataset: data.Dataset,
    forget: torch.Tensor,
    attack: str,
    every_attack: bool = False,
    seed: int = 0,
) -> tuple[Scores, dict[str, Any]]:
    """(metrics, curves) of one network by its answers alone.

    logits: float32 (N, C) of the training and of the test images. forget: int64 positions in the training images.
    attack: a key of ATTACKS. every_attack: also each of predictions.FEATURES with each of membership.ATTACKERS. seed: of the
    network's training, which has draws of the attacker's samples of its own. curves: the ROC of D_f against T_f at
    membership.FPR_GRID, and the share of each set's losses in each of predictions.LOSS_BINS.
    """
    (train, test), train_y, test_y = logits, dataset.train.labels, dataset.test.labels
    sets = four_sets(dataset, forget)
    reason, asked, never = _no_forgotten_test(dataset, sets), asked_about(dataset, forget), unseen(dataset, sets)
    found = {
        "UA": 100 - predictions.accuracy(train[sets.forget], train_y[sets.forget]),
        "UA_test": 100 - predictions.accuracy(test[sets.forget_test], test_y[sets.forget_test])
        if not reason
        else {"missing": f"UA-test: {reason}"},
        "RA": predictions.accuracy(train[sets.retain], train_y[sets.retain]),
        "TA": predictions.accuracy(test[sets.retain_test], test_y[sets.retain_test])
        if len(sets.retain_test)
        else {"missing": f"TA: {NO_OTHER}"},
    }
    chosen = ATTACKS[attack]
    attacked = chosen.feature(train, train_y), chosen.feature(test, test_y)
    found["MIA"], found["MIA_draw_sd"] = _efficacy(chosen, *attacked, sets, seed)
    train_loss, test_loss = predictions.loss(train, train_y), predictions.loss(test, test_y)
    found["MIA_AUC"], found["TPR1"], roc = _told_apart(train_loss[asked], test_loss[never], "logistic", "MIA-AUC")
    if every_attack:
        found |= _every_attack(logits, dataset, sets, (asked, never), seed)
    losses = {
        "D_f": train_loss[sets.forget],
        "D_r": train_loss[sets.retain],
        "T_f": test_loss[sets.forget_test],
        "T_r": test_loss[sets.retain_test],
    }
    return found, {"roc": roc, "losses": {name: _histogram(values) for name, values in losses.items() if len(values)}}


class Sample(NamedTuple):
    """Training images of all classes, the forgotten ones included, drawn alike for every network: int64 positions (N,), and
    their penultimate features float32 (N, F)."""

    rows: torch.Tensor
    features: torch.Tensor


def sampled(model: nn.Module, dataset: data.Dataset, compute: Compute, cached: FeatureCache | None = None) -> Sample | None:
    """What `beneath` reads of a network's training images, for any number of forget sets; None where images are missing."""
    if len(dataset.missing):
        return None
    rows = data.stratified(dataset.train.labels, min(PROBE_LIMIT, len(dataset.train)))
    return Sample(rows, penultimate(model, dataset.train.take(rows), compute, cached))


def beneath(
    model: nn.Module,
    dataset: data.Dataset,
    forget: torch.Tensor,
    compute: Compute,
    sample: Sample | None,
    cached: FeatureCache | None = None,
) -> tuple[Scores, dict[str, Any]]:
    """(metrics, curves) of what a network still holds beneath its head: probe, nearest centres, relearning curve, features
    in the plane; and of the head's biases.

    sample: of `sampled`. cached: outputs of frozen layers, as for `predict`. Both curves are None where they have no
    meaning.
    """
    found = _head_bias(model, dataset, forget)
    if sample is None:
        return found | _no_features(GONE), {"features": None, "relearn": None}
    sets, train, features = four_sets(dataset, forget), dataset.train, sample.features
    plane = _in_the_plane(features, train.labels[sample.rows], torch.isin(sample.rows, forget))
    if reason := _no_forgotten_test(dataset, sets):
        return found | _no_features(reason), {"features": plane, "relearn": None}
    gone = dataset.test.take(sets.forget_test)
    known = features, train.labels[sample.rows], penultimate(model, gone, compute, cached), gone.labels
    found["probe"] = predictions.linear_probe(*known)
    found["ncc"] = _or_missing("NCC", lambda: predictions.nearest_centre(*known))
    asked = gone.take(data.first_of_each(gone.finest, RELEARN_LIMIT))
    curve = relearn(model, train.take(forget), asked, compute, RELEARN_STEPS)
    return found, {"features": plane, "relearn": curve}


def _no_features(reason: str) -> Scores:
    """Why what is read off features of T_f and of training images is missing."""
    return {"probe": {"missing": f"probe: {reason}"}, "ncc": {"missing": f"NCC: {reason}"}}


def _or_missing(name: str, measure: Callable[[], Any]) -> Any:
    """What a measure gives; where it raises ValueError why it is missing."""
    try:
        return measure()
    except ValueError as error:
        return {"missing": f"{name}: {first_line(error)}"}


def _head_bias(model: nn.Module, dataset: data.Dataset, forget: torch.Tensor) -> Scores:
    """BSC, MBG and MBS of the head's biases, of several heads that are averaged their mean; or why they are missing."""
    classes, count = forgetting.whole_classes(dataset.train.labels, forget), len(dataset.classes)
    heads = [model.get_submodule(name) for name in layers.heads(model)]
    biases = [getattr(head, "bias", None) for head in heads]
    found = [bias.detach().cpu() for bias in biases if isinstance(bias, torch.Tensor) and bias.shape == (count,)]
    try:
        if not classes:
            raise ValueError(NO_CLASS)
        if not found or len(found) < len(heads):
            raise ValueError("the head has no bias for each class")
        return predictions.head_bias(torch.stack(found).mean(0), classes)
    except ValueError as error:
        return {key: {"missing": f"head bias: {first_line(error)}"} for key in ("bsc", "mbg", "mbs")}


def recovery(model: nn.Module, dataset: data.Dataset, forget: torch.Tensor, compute: Compute) -> Scores:
    """Accuracy on T_f after few-shot training (`predict.recover`), as `recovered<k>`, or why it is missing.

    The k images of each forgotten class, or subclass, are the first ones of its images in D_f, in an order drawn with
    seed 0: fewer are among more.
    """
    sets, train = four_sets(dataset, forget), dataset.train
    reason = GONE if len(dataset.missing) else _no_forgotten_test(dataset, sets)
    if reason:
        return {f"recovered{k}": {"missing": f"few-shot recovery: {reason}"} for k in RECOVERY_SHOTS}
    order = forget[torch.randperm(len(forget), generator=torch.Generator().manual_seed(0))]
    kinds = train.finest[order]
    own = [order[kinds == c] for c in forgetting.whole_classes(train.finest, forget)]
    least, found = min(map(len, own)), {}
    for k in RECOVERY_SHOTS:
        shots = torch.cat([rows[:k] for rows in own])
        splits = train.take(shots), train.take(sets.retain), dataset.test.take(sets.forget_test)
        few = {"missing": f"few-shot recovery: a forgotten class has {least} images"}
        found[f"recovered{k}"] = recover(model, *splits, compute) if k <= least else few
    return found


def unseen(dataset: data.Dataset, sets: Sets) -> torch.Tensor:
    """int64 positions of the test images that D_f is told from: T_f, where no class is forgotten all; none where there are
    no images of a forgotten class, for those of others tell of the class alone."""
    return sets.retain_test if _no_forgotten_test(dataset, sets) == NO_CLASS else sets.forget_test


def asked_about(dataset: data.Dataset, forget: torch.Tensor) -> torch.Tensor:
    """int64 positions of the images of D_f that are told from `unseen` ones: all of them, but where whole classes, or
    subclasses, are forgotten beside other images, theirs alone, for T_f has no other."""
    whole = torch.tensor(forgetting.whole_classes(dataset.train.finest, forget), dtype=torch.int64)
    return forget[torch.isin(dataset.train.finest[forget], whole)] if len(whole) else forget


class References(NamedTuple):
    """Of M reference networks the probability of the true class of each image of D_f, float64 (M, N), and of each `unseen`
    one, (M, U); and which of D_f's images each hasn't trained on: bool (M, N)."""

    seen: torch.Tensor
    unseen: torch.Tensor
    out: torch.Tensor


def rmia(logits: list[torch.Tensor], dataset: data.Dataset, forget: torch.Tensor, references: References | None) -> Scores:
    """AUC and TPR at 1 % FPR of membership.rmia, or why they are missing. logits: as of `score`. forget: of `asked_about`.
    references: None where there are none of the network's kind."""
    sets = four_sets(dataset, forget)
    never = unseen(dataset, sets)
    if len(dataset.missing) or not len(never) or references is None:
        reason = GONE if len(dataset.missing) else "no reference of this network and data" if len(never) else NO_TEST
        return {key: {"missing": f"RMIA: {reason}"} for key in ("rmia", "rmia_tpr1")}
    splits = (logits[0], dataset.train, forget), (logits[1], dataset.test, never)
    target = [predictions.confidence(answers[rows], split.labels[rows]) for answers, split, rows in splits]
    measured = _or_missing("RMIA", lambda: membership.rmia((target[0], target[1]), references[:2], references.out))
    if isinstance(measured, dict):
        return {"rmia": measured, "rmia_tpr1": measured}
    few = {"missing": f"RMIA's TPR@1%FPR: {len(never)} images that were never seen are too few"}
    return {"rmia": measured[0], "rmia_tpr1": few if measured[1] is None else measured[1]}


def without_forgotten(found: Scores, curves: dict[str, Any]) -> tuple[Scores, dict[str, Any]]:
    """(metrics, curves) without what was read off D_f, of whose images some are missing."""
    gone = {
        name: {"missing": f"UA, MIA and what else looks at D_f: {GONE}"}
        for name in found
        if name in OF_FORGOTTEN or " " in name
    }
    losses = {name: values for name, values in curves["losses"].items() if name != "D_f"}
    return found | gone, curves | {"roc": None, "losses": losses}


def distances(logits: torch.Tensor, retrain: torch.Tensor, forget: torch.Tensor) -> Scores:
    """How far the answers on training images are from Retrain's: logits float32 (N, C) of both, forget as in `score`."""
    kept = forgetting.retain_indices(len(logits), forget)
    pairs = {"f": (logits[forget], retrain[forget]), "r": (logits[kept], retrain[kept])}
    measures = {"activation": predictions.activation_distance, "js": predictions.js_divergence}
    return {f"{name}_{side}": measure(*pair) for name, measure in measures.items() for side, pair in pairs.items()}


def _why_none(row: dict[str, Any]) -> str:
    """Why there is no Retrain to measure a row from, in words."""
    what, entry = row.get("forgotten", row["forget"]), row.get("entry")
    if entry and entry.is_exact:
        return f"{entry.method} deletes exactly, so that the system is what Retrain would be"
    way = f", which {entry.method}'s deletion of these images would be" if entry and entry.private is not None else ""
    return f"no Retrain of seed {row['seed']} for {what} on {row['model']}{way}"


def compare(row: dict[str, Any], original: dict[str, Any] | None, retrain: dict[str, Any] | None) -> None:
    """Add what is measured from the Original and the Retrain of the same seed, rows as collect.py makes them, or None."""
    found = row["metrics"]
    if retrain:
        pairs = {key: (found[key], retrain["metrics"][key]) for key in predictions.GAP_METRICS}
        lost = {key: next((one for one in pair if isinstance(one, dict)), None) for key, pair in pairs.items()}
        found |= {f"d{key}": lost[key] or pair[0] - pair[1] for key, pair in pairs.items()}
        unknown = next(filter(None, lost.values()), None)
        found["gap"] = unknown or predictions.average_gap(found, retrain["metrics"])
        found["ToW"] = unknown or predictions.tug_of_war(found, retrain["metrics"])
    else:
        missing = {"missing": f"distances: {_why_none(row)}"}
        found |= dict.fromkeys((*(f"d{key}" for key in predictions.GAP_METRICS), "gap", "ToW"), missing)
        found |= dict.fromkeys(("activation_f", "activation_r", "js_f", "js_r"), missing)
    found |= _gaps(found, retrain["metrics"]) if retrain else {key: missing for key, of in GAPS.items() if of in found}
    if "relearn" not in row["curves"]:  # nobody has looked beneath the head
        return
    curve = row["curves"]["relearn"]
    if curve is None:
        reason = found["probe"]["missing"].removeprefix("probe: ")
        found["relearn_steps"] = {"missing": f"relearn steps: {reason}"}
    elif original is None:
        found["relearn_steps"] = {"missing": f"relearn steps: no Original of seed {row['seed']} on {row['model']}"}
    else:
        half = original["curves"]["relearn"][0] / 2
        steps = predictions.relearn_steps(RELEARN_STEPS, curve, half)
        most = RELEARN_STEPS[-1]
        found["relearn_steps"] = {"missing": f"not in {most} steps", "cell": f"> {most}"} if steps is None else steps


def _gaps(found: Scores, retrain: Scores) -> Scores:
    """GAPS, of what both have been asked for; where one is missing why that is so."""
    gaps = {}
    for key, of in GAPS.items():
        if of in found and of in retrain:
            pair = found[of], retrain[of]
            gaps[key] = next((one for one in pair if isinstance(one, dict)), None) or pair[0] - pair[1]
    return gaps


def _efficacy(attack: Attack, train: Any, test: Any, sets: Sets, seed: int) -> tuple[Any, Any]:
    """(MIA-Efficacy in percent, its standard deviation over draws), or why there is none, of an attack on its feature of the
    training and of the test images. seed: as in `score`."""
    if not (attack.whole or len(sets.retain_test)):
        missing = {"missing": f"MIA: {NO_OTHER}"}
        return missing, missing
    groups = train[sets.retain], test if attack.whole else test[sets.retain_test], train[sets.forget]
    if not attack.draws:
        return attack.efficacy(*groups), NO_DRAW
    return membership.over_draws(attack.efficacy, *groups, seed)


def _every_attack(
    logits: list[torch.Tensor], dataset: data.Dataset, sets: Sets, told: tuple[torch.Tensor, torch.Tensor], seed: int
) -> Scores:
    """MIA-Efficacy, MIA-AUC and TPR@1%FPR of each attacker on each feature, as in `score`. told: int64 positions of the
    training images that are told from test images, and of these."""
    found: Scores = {}
    asked, never = told
    for name, feature in predictions.FEATURES.items():
        train, test = feature(logits[0], dataset.train.labels), feature(logits[1], dataset.test.labels)
        for attacker in membership.ATTACKERS:
            title = f"{attacker} {name}"
            attack = Attack(feature, partial(membership.mia_efficacy, attacker=attacker))
            found[f"MIA {title}"], _ = _efficacy(attack, train, test, sets, seed)
            area, rate, _ = _told_apart(train[asked], test[never], attacker, f"AUC {title}")
            found |= {f"AUC {title}": area, f"TPR1 {title}": rate}
    return found


def _told_apart(seen: torch.Tensor, unseen: torch.Tensor, attacker: str, name: str) -> tuple[Any, Any, np.ndarray | None]:
    """(AUC, TPR at 1 % FPR, ROC) of an attacker on features of D_f and of unseen images; with too few images why they are
    missing, and None."""
    try:
        if not len(unseen):
            raise ValueError(NO_TEST)
        area, curve = membership.tell_apart(seen, unseen, attacker)
    except ValueError as error:
        missing = {"missing": f"{name}: {first_line(error)}"}
        return missing, missing, None
    return area, _tpr_at_1_percent(curve, len(unseen)), curve


def _tpr_at_1_percent(roc, unseen):
    """The true-positive rate in percent at a false-positive rate of 1 %, which takes 100 unseen images in each of five
    folds: with fewer the rate at 0 % would stand in for it."""
    if unseen < 500:
        return {"missing": f"TPR@1%FPR: {unseen} images that were never seen are too few"}
    return 100 * float(np.interp(0.01, membership.FPR_GRID, roc))


def _histogram(values):
    counts, _ = np.histogram(values.clamp(predictions.LOSS_BINS[0], predictions.LOSS_BINS[-1]), predictions.LOSS_BINS)
    return counts / len(values)


def _in_the_plane(features, labels, forgotten, most=120):
    """The first two principal components, in standard deviations of the first: up to `most` images of each set, of all its
    classes. None where features of all images are alike, or there are no two of them."""
    from sklearn.decomposition import PCA

    if min(features.shape) < 2 or not (features != features[0]).any():
        return None
    plane = PCA(2, random_state=0).fit_transform(features.double().numpy())
    plane = (plane / plane[:, 0].std()).round(2)
    sets = {"D_f": forgotten, "D_r": ~forgotten}
    return {name: plane[own][data.first_of_each(labels[own], most)].tolist() for name, own in sets.items()}
