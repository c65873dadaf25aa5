"""What a recipe reached is what its checkpoint says, and a goal is met by accuracy and time together."""

from argparse import Namespace

import pytest
import torch

import data
import models
from benchmarks import recipes
from tests.helpers import ROOT
from unlearning.core.device import to_float
from unlearning.reports import results

GOAL = recipes.Goal("resnet8", "digits", 5, 10, ("--subset", "300", "--epochs", "2", "--batch-size", "64"))


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    place = tmp_path_factory.mktemp("recipes")
    return Namespace(
        weights=place, data_dir=ROOT / "data", device="cpu", seeds=2, quiet=True, goals=None, output=place / "recipes.json"
    )


def test_rows_hold_what_the_networks_answer(args):
    row = recipes.measure(GOAL, args)
    assert (row["n"], row["epochs"], row["batch_size"], row["recipe"]) == (2, 2, 64, "fast")
    test = data.load("digits").test
    for seed, reached in enumerate(row["seeds"]):
        path = args.weights / f"digits-300_resnet8_original-epochs-2-batch-size-64_s{seed}.pth"
        checkpoint = models.load_checkpoint(path)
        model = models.build(checkpoint, path).eval()
        with torch.no_grad():
            plain, mirrored = (model(to_float(images)) for images in (test.images, test.images.flip(-1)))
        right = (plain.argmax(1) == test.labels).double().mean().item() * 100
        assert reached["TA"] == pytest.approx(right, abs=1)  # bf16 there
        right = ((plain + mirrored).argmax(1) == test.labels).double().mean().item() * 100
        assert reached["TA_mirrored"] == pytest.approx(right, abs=1)
        assert reached["minutes"] == checkpoint["cost"]["seconds"] / 60 > 0
    assert row["TA"]["values"] == [reached["TA"] for reached in row["seeds"]]


def test_a_goal_is_of_accuracy_and_time_and_other_rows_stay(args, monkeypatch):
    row = recipes.measure(GOAL, args)
    plain, mirrored = (row[way]["mean"] for way in ("TA", "TA_mirrored"))
    assert plain != mirrored
    for goal, verdicts in (
        ({}, ("yes", "yes")),
        ({"goal_TA": 101}, ("no", "no")),
        ({"goal_minutes": 0}, ("no", "no")),
        ({"goal_TA": (plain + mirrored) / 2}, ("yes", "no") if plain > mirrored else ("no", "yes")),
    ):
        assert tuple(recipes.met(row | goal).values()) == verdicts
    monkeypatch.setattr(recipes, "GOALS", [GOAL])
    recipes.measure_all(args, "python -m benchmarks.recipes")
    (first,) = results.read_json(args.output)["rows"]
    assert first == row | {"met": "yes", "met_mirrored": "yes"}
    monkeypatch.setattr(recipes, "measure", lambda goal, args: row | {"model": "other", "goal_minutes": 0})
    recipes.measure_all(args, "python -m benchmarks.recipes")
    other = row | {"model": "other", "goal_minutes": 0, "met": "no", "met_mirrored": "no"}
    assert results.read_json(args.output)["rows"] == [first, other]
