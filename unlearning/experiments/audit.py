"""Audit: many networks of each kind, compared as distributions, image by image.

One network can look forgetful by chance. N networks of a method (seeds 0 to N - 1) are set against N retrained ones with
seeds of their own (N to 2N - 1), by the margin log(p_y / (1 - p_y)) of each image: U-LiRA (Hayes et al. 2024), KLOM
(Georgiev et al. 2024), KL(method || Retrain), and the forgetting score of the NeurIPS 2023 challenge; see
metrics/populations.py. Retrain is a row like any other, which shows the floor: what two samples of one distribution score
at this N.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import data
from unlearning.core.errors import UserError
from unlearning.core.flags import as_words
from unlearning.evaluation import network
from unlearning.evaluation.collect import report_scored
from unlearning.evaluation.entries import Entry, dataset_of, describe, network_of, refuse_nan
from unlearning.evaluation.forget_sets import forget_sets, tagged
from unlearning.evaluation.row_names import labels
from unlearning.evaluation.unfinished import circumstances
from unlearning.experiments import prunelora
from unlearning.experiments.plan import both_ways, chosen
from unlearning.experiments.request import Plan, Request, Row, Table
from unlearning.metrics import populations, predictions, statistics
from unlearning.vision.identity import digest
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

LIMIT = 2000  # images of D_r and of the test set that are looked at, all classes alike
FEWEST = 3  # networks of a kind: without one of them there are two, which have a standard deviation
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"subset": 600, "pretrain": {"resnet8": 20}, "epochs": [5]},
    "small": {"subset": 20_000, "pretrain": {"resnet8": 4}, "epochs": [3], "retain-subset": 2000, "seeds": 32},
}
Answers = dict[str, Any]  # of one network: UA, RA, TA in percent, and margins float64 on D_f, D_r and test images: f, r, t


def plan_audit(request: Request) -> Plan:
    """Every method with many seeds, for class and for random forgetting, and as many further Retrains to compare with."""
    further = replace(request, seeds=2 * request.seeds)
    runs = both_ways(request, chosen(request)) + both_ways(further, ["retrain"])
    return Plan([run for place, run in enumerate(runs) if run not in runs[:place]])


def score(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """The rows; request.seeds is N.

    Raises UserError when a method has fewer than N networks or there are fewer than 2N retrained ones.
    """
    described = [tagged(describe(path, request.scoring, shared), request.scoring, shared) for path in paths]
    entries = [replace(entry, forgets=forget_sets(entry, described, request.scoring, shared)) for entry in described]
    names = labels(entries)
    asked = [(entry, _answers(entry, request, shared)) for entry in entries]
    rows = []
    for model, tag in dict.fromkeys((entry.model, tag) for entry in entries for _, tag in entry.forgets):
        here = [(entry, found[tag]) for entry, found in asked if entry.model == model and tag in found]
        reference = [found for entry, found in here if entry.method == "retrain" and entry.seed >= request.seeds]
        groups: dict[str, list[tuple[Entry, Answers]]] = {}  # in the order in which the methods came
        for entry, found in here:
            if entry.seed < request.seeds:
                groups.setdefault(entry.key, []).append((entry, found))
        for group in groups.values():
            first = group[0][0]
            dataset = dataset_of(first, request.scoring, shared)
            positions = next(forget for forget, of in first.forgets if of == tag)
            title = {
                "dataset": dataset.tag,
                "forget": tag,
                "forgotten": dataset.in_words(positions, tag, first.listed_in),
                "method": names[first.key, tag],
            }
            rows.append(_row(title, group, reference, request.seeds))
    return rows


def _row(title: Row, group: list[tuple[Entry, Answers]], reference: list[Answers], count: int) -> Row:
    """One method's networks set against `reference`, `count` of each."""
    first, answers = group[0][0], [found for _, found in group]
    if not len(answers) == len(reference) == count:
        raise UserError(f"{title['method']}: {len(answers)} networks against {len(reference)} retrained ones")
    same = {key: getattr(first, key) for key in ("model", "epochs", "command", "device")} | {"flags": as_words(first.flags)}
    return title | same | {"n": count, "metrics": compare(answers, reference)}


def compare(answers: Sequence[Answers], reference: Sequence[Answers]) -> dict[str, Any]:
    """The metrics of one row, of N networks set against N retrained ones."""
    found = {key: statistics.over_seeds([a[key] for a in answers]) for key in ("UA", "RA", "TA")}
    pairs = {side: [np.stack([a[side] for a in rows]) for rows in (answers, reference)] for side in ("f", "r", "t")}
    found["ulira"] = statistics.over_seeds(populations.ulira(*pairs["f"]))
    for side, pair in pairs.items():
        found[f"klom_{side}"] = _jackknifed(lambda u, r: populations.klom(u, r).mean(), *pair)
    found["epsilon"] = _jackknifed(lambda u, r: populations.forgetting_epsilon(u, r).mean(), *pairs["f"])

    def forgetting(u: np.ndarray, r: np.ndarray) -> float:
        return populations.forgetting_score(populations.forgetting_epsilon(u, r), len(u))

    found["forgetting"] = _jackknifed(forgetting, *pairs["f"])
    useful = np.prod([found[key]["mean"] / np.mean([a[key] for a in reference]) for key in ("RA", "TA")])
    found["neurips"] = _jackknifed(lambda u, r: useful * forgetting(u, r), *pairs["f"])
    return found


def _answers(entry: Entry, request: Request, shared: Shared) -> dict[str, Answers]:
    """What one network answers, for each of its forget sets by tag. Raises UserError where it answers NaN."""
    dataset = dataset_of(entry, request.scoring, shared)
    dataset.check_missing(entry.forget[:0], "an audit looks at all of them")
    key = {
        "file": entry.sha256,
        "network": [entry.key, repr(request.told)],
        "data": dataset.fingerprint,
        "forget": [(digest(positions), tag) for positions, tag in entry.forgets],
        "where": circumstances(request.scoring.compute),
    }
    found = request.kept.once(key, lambda: _asked(entry, dataset, request, shared))
    report_scored(entry.path, request.scoring.compute)
    return found


def _asked(entry: Entry, dataset: data.Dataset, request: Request, shared: Shared) -> dict[str, Answers]:
    """`_answers`, asked of the network now."""
    _check_tested(entry, dataset)
    model = network_of(entry, shared, request.told.own)
    compute = request.scoring.compute.placed(model)
    test = dataset.test.take(data.stratified(dataset.test.labels, min(LIMIT, len(dataset.test))))
    train_logits, test_logits = (predict(model, split, compute) for split in (dataset.train, test))
    refuse_nan(entry.path, [train_logits, test_logits])
    truth, answers = dataset.train.labels, {}
    train_margins, test_margins = predictions.margin(train_logits, truth), predictions.margin(test_logits, test.labels)
    for forget, tag in entry.forgets:
        sets = network.four_sets(replace(dataset, test=test), forget)
        looked_at = sets.retain[data.stratified(truth[sets.retain], min(LIMIT, len(sets.retain)))]
        answers[tag] = {
            "UA": 100 - predictions.accuracy(train_logits[forget], truth[forget]),
            "RA": predictions.accuracy(train_logits[sets.retain], truth[sets.retain]),
            "TA": predictions.accuracy(test_logits[sets.retain_test], test.labels[sets.retain_test]),
            "f": train_margins[forget].numpy(),
            "r": train_margins[looked_at].numpy(),
            "t": test_margins[sets.retain_test].numpy(),
        }
    return answers


def _check_tested(entry: Entry, dataset: data.Dataset) -> None:
    """Raise UserError where all test images are of classes that are forgotten."""
    for forget, tag in entry.forgets:
        if not len(network.four_sets(dataset, forget).retain_test):
            raise UserError(f"{entry.path}, {tag}: {network.NO_OTHER}, of which an audit asks")


def _jackknifed(statistic: Callable[..., float], *pair: np.ndarray) -> dict[str, Any]:
    value, half = statistics.jackknife(statistic, *pair)
    return {"mean": value, "ci95": half, "values": [value]}


ABOUT = "Many networks of each kind against as many retrained ones, image by image."
NONE_OF = ("mia", "every_attack", "recovery", "images")
TABLE = Table(ABOUT, plan_audit, PRESETS, 16, score, published=prunelora.add_published, none_of=NONE_OF, fewest=FEWEST)
