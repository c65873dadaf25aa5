"""Requests one after the other: each is carried out on what the one before has left, and Retrain answers all of them.

After each request the table has a row for each method: the scores on all that is to be forgotten so far, and how much of
what was forgotten earlier has come back.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

import data
import models
from unlearning.core import names
from unlearning.core.errors import UserError
from unlearning.evaluation.collect import score_files
from unlearning.evaluation.entries import Entry
from unlearning.evaluation.unfinished import circumstances
from unlearning.experiments.methods import METHODS
from unlearning.experiments.plan import (
    SHORT,
    cache_of,
    chosen,
    from_scratch,
    handed_on,
    lengths_of,
    made_again,
    part_of_retained,
    planned,
    started_from,
    tuned_points,
)
from unlearning.experiments.request import Plan, Request, Row, Run, Table
from unlearning.images.classes import class_name, in_order
from unlearning.metrics import predictions
from unlearning.vision.identity import digest
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

SIZES: dict[str, dict[str, Any]] = {
    "first": {"dataset": "digits", "subset": None, "pretrain": {"resnet8": 15}, "epochs": [3], "seeds": 1},
    "quick": {"subset": 10_000, "pretrain": {"resnet8": 10, "vit_micro": 12}, "epochs": [5]},
    "small": {"subset": None, "pretrain": {"resnet20": 12, "vit_micro": 12}, "epochs": [3]},
    "gpu": {"subset": None, "pretrain": {"resnet50": 15, "vit_small": 20}, "epochs": [5], "scratch": SHORT},
}
# The requests, a class each, unless --forget-class names others.
PRESETS = {name: sizes | {"forget": ("0", "1", "2", "3", "4")} for name, sizes in SIZES.items()}
FIRST = {"missing": "earlier UA: nothing was forgotten before the first request"}
NONE = {"missing": "earlier UA: the Original has answered no request"}


def requests(request: Request) -> Sequence[int]:
    """The class of each request, in the order in which they are written. Raises UserError where two are of one class."""
    known = request.class_names or tuple(map(str, range(max(request.forget_classes) + 1)))
    found = in_order(request.class_words, known, request.forget_classes, "--forget-class")
    if twice := [number for number in found if found.count(number) > 1]:
        raise UserError(f"--forget-class names {class_name(known, twice[0])} twice: each request forgets another class")
    return found


def plan_sequence(request: Request) -> Plan:
    """Original; Retrain of the first request, of the first two ...; each method on the original, then on what it left."""
    runs: list[Run] = []
    classes = [request.word(label) for label in requests(request)]
    rows = [name for name in chosen(request) if name not in ("original", "retrain")]
    retrained = planned(request, ["retrain"])
    again = {network: made_again(request, network) for network in request.networks if retrained}
    for seed in range(request.seeds):
        for network in request.networks:
            given = [*handed_on(request, seed), *cache_of(request)]
            common = ["--model", network, *given]
            if not request.originals:
                runs.append((METHODS["original"].script, common + from_scratch(request, network)))
            for count in range(1, len(classes) + 1) if retrained else ():
                model, *further = again[network]
                words = ["--model", model, *given, "--forget-class", *classes[:count], *further]
                runs.append((METHODS["retrain"].script, words))
            for name in rows:
                runs += _one_after_the_other(name, network, seed, classes, common, request)
    return Plan(runs)


def _one_after_the_other(
    name: str, network: str, seed: int, classes: list[str], common: list[str], request: Request
) -> list[Run]:
    """The runs of a row: the first from the original that is found by name, the others from the file before."""
    method, runs, common = METHODS[name], [], common + part_of_retained(request)
    before = started_from(request, network)
    point = tuned_points(request, "class", network, name)[0]
    called = " ".join([name, *point])  # of another point other files, which a tuning that is made again may choose
    for count, label in enumerate(classes, 1):
        length = lengths_of(request, name)[0]
        text = f"{network}_{called}_class{'-'.join(classes[:count])}".replace(" --", "-").replace(" ", "-")
        stem = f"{names.part(text, 'flags')}_s{seed}.pth"
        output = request.weights / stem
        own = ["--epochs", str(length)] if length else []
        own += ["--output", str(output), *point, *method.flags]
        runs.append((method.script, [*common, *before, "--forget-class", label, *own]))
        before = ["--original", str(output)]
    return runs


def score(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """The rows of each request, with what of earlier ones has come back."""
    dataset = shared.load(request.source)
    order = list(requests(request))

    def more(entry: Entry) -> dict[str, Any]:
        if entry.method == "original":
            return {"UA_earlier": NONE}
        made_from = {"earlier": entry.sha256, "order": order, "data": dataset.fingerprint, "network": repr(request.told)}
        made_from |= {} if entry.drawn is None else {"drawn": digest(entry.drawn)}
        where = {"where": circumstances(request.scoring.compute)}
        asked = partial(earlier, entry.path, dataset, order, request, entry.drawn)
        return {"UA_earlier": request.kept.once(made_from | where, asked)}

    rows = score_files([*paths, *request.originals.values()], request.scoring, shared, beneath=False, more=more)
    for row in rows:
        row["request"] = len(row["forget"].removeprefix("class").split("-"))
    return sorted(rows, key=lambda row: (row["dataset"], row["model"], row["request"]))


def earlier(
    path: Path, dataset: data.Dataset, order: list[int], request: Request, drawn: torch.Tensor | None = None
) -> float | dict[str, str]:
    """100 % minus the accuracy on the training images of all requests but the last one; why it is missing for the first.
    drawn: as of `Entry`."""
    checkpoint, labels = models.load_checkpoint(path), dataset.train.labels
    before = [label for label in order if label in labels[checkpoint["forget"]].unique().tolist()][:-1]
    if not before:
        return FIRST
    old = torch.isin(labels, torch.tensor(before)).nonzero().squeeze(1)
    old = old if drawn is None else old[torch.isin(old, drawn)]
    model = models.build(checkpoint, path, request.told.own)
    compute = request.scoring.compute.placed(model)
    return 100 - predictions.accuracy(predict(model, dataset.train.take(old), compute), labels[old])


TABLE = Table(
    "Five classes are forgotten one after the other, each from what the request before has left.",
    plan_sequence,
    PRESETS,
    3,
    score,
    pictures=False,
)
