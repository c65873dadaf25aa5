"""Audit: many networks of each kind, compared as distributions, image by image.

One network can look forgetful by chance. N networks of a method (seeds 0 to N - 1) are set against N retrained ones with
seeds of their own (N to 2N - 1), by the margin log(p_y / (1 - p_y)) of each image: U-LiRA (Hayes et al. 2024), KLOM
(Georgiev et al. 2024) and the forgetting score of the NeurIPS 2023 challenge; see metrics.py. Retrain is a row like any
other, which shows the floor: what two samples of one distribution score at this N.
reproduce.py audit trains the networks and calls `audit`.
"""

import argparse
import dataclasses
import sys

import numpy as np

import data
import models
from unlearning.core.device import placed
from unlearning.core.errors import UserError
from unlearning.evaluation import collect, network
from unlearning.experiments import plan
from unlearning.metrics import populations, predictions, statistics
from unlearning.vision.predict import predict

LIMIT = 2000  # images of D_r and of the test set that are looked at


def score(paths, config):
    """Rows as report.py describes them, for the checkpoints `paths` of reproduce.py's table; config.seeds is N.

    Raises UserError when a method has fewer than N networks or there are fewer than 2N retrained ones.
    """
    entries = [collect.describe(path, config) for path in paths]
    for entry in entries:
        entry["forgets"] = collect.forget_sets(entry, entries, argparse.Namespace())
        entry["answers"] = _answers(entry, config)
        entry["dataset"] = collect.dataset_of(entry, config).tag
    rows = []
    for model, tag in dict.fromkeys((e["model"], tag) for e in entries for _, tag in e["forgets"]):
        here = [e for e in entries if e["model"] == model and tag in e["answers"]]
        reference = [e["answers"][tag] for e in here if e["method"] == "retrain" and e["seed"] >= config.seeds]
        groups = {}  # in the order in which the methods came
        for entry in here:
            if entry["seed"] < config.seeds:
                groups.setdefault((entry["method"], entry["epochs"]), []).append(entry)
        for group in groups.values():
            answers = [e["answers"][tag] for e in group]
            if not len(answers) == len(reference) == config.seeds:
                raise UserError(f"{group[0]['method']}: {len(answers)} networks against {len(reference)} retrained ones")
            rows.append(
                {
                    **{key: group[0][key] for key in ("dataset", "model", "method", "epochs", "command", "device")},
                    "forget": tag,
                    "n": len(group),
                    "metrics": compare(answers, reference),
                }
            )
    return rows


def compare(answers, reference):
    """The metrics of one row: answers and reference are lists of N dictionaries as `_answers` makes them."""
    found = {key: statistics.over_seeds([a[key] for a in answers]) for key in ("UA", "RA", "TA")}
    pairs = {side: [np.stack([a[side] for a in rows]) for rows in (answers, reference)] for side in ("f", "r", "t")}
    found["ulira"] = statistics.over_seeds(populations.ulira(*pairs["f"]))
    for side, pair in pairs.items():
        found[f"klom_{side}"] = _jackknifed(lambda u, r: populations.klom(u, r).mean(), *pair)
    found["epsilon"] = _jackknifed(lambda u, r: populations.forgetting_epsilon(u, r).mean(), *pairs["f"])

    def forgetting(u, r):
        return populations.forgetting_score(populations.forgetting_epsilon(u, r), len(u))

    found["forgetting"] = _jackknifed(forgetting, *pairs["f"])
    useful = np.prod([found[key]["mean"] / np.mean([a[key] for a in reference]) for key in ("RA", "TA")])
    found["neurips"] = _jackknifed(lambda u, r: useful * forgetting(u, r), *pairs["f"])
    return found


def _answers(entry, config):
    """For each forget set UA, RA and TA of one network, and its margins on D_f, D_r and test images as float64 arrays."""
    dataset, model = collect.dataset_of(entry, config), models.build(models.load_checkpoint(entry["path"]), entry["path"])
    on_device = placed(model, config)
    test = dataset.test.take(data.stratified(dataset.test.labels, min(LIMIT, len(dataset.test))))
    train_logits, test_logits = (predict(model, x, on_device) for x in (dataset.train, test))
    if not config.quiet:
        print(f"scored {entry['path']}", file=sys.stderr, flush=True)
    labels, answers = dataset.train.labels, {}
    train_margins, test_margins = predictions.margin(train_logits, labels), predictions.margin(test_logits, test.labels)
    for forget, tag in entry["forgets"]:
        sets = network.four_sets(dataclasses.replace(dataset, test=test), forget)
        answers[tag] = {
            "UA": 100 - predictions.accuracy(train_logits[forget], labels[forget]),
            "RA": predictions.accuracy(train_logits[sets.retain], labels[sets.retain]),
            "TA": predictions.accuracy(test_logits[sets.retain_test], test.labels[sets.retain_test]),
            "f": train_margins[forget].numpy(),
            "r": train_margins[sets.retain[:LIMIT]].numpy(),
            "t": test_margins[sets.retain_test].numpy(),
        }
    return answers


def _jackknifed(statistic, *pair):
    value, half = statistics.jackknife(statistic, *pair)
    return {"mean": value, "ci95": half, "values": [value]}


AUDIT = (*plan.PLAIN[:2], "mask", *plan.PLAIN[2:])
AUDIT_PRESETS = {
    "quick": {"model": ["resnet8"], "subset": 600, "pretrain": [20], "epochs": [5]},
    "small": {"model": ["resnet20"], "subset": 10_000, "pretrain": [30], "epochs": [5]},
}


def plan_audit(config):
    """Every method with many seeds, for class and for random forgetting, and as many further Retrains to compare with."""
    further = argparse.Namespace(**vars(config) | {"seeds": 2 * config.seeds})
    runs = plan.both_ways(config, plan.chosen(config, AUDIT)) + plan.both_ways(further, ["retrain"])
    return [run for place, run in enumerate(runs) if run not in runs[:place]]
