"""What a deletion is expected to cost is the mean over all images, and a goal is of accuracy, images and time together."""

import pytest
import torch

import lmeraser
from benchmarks import without_loss


def test_a_deletion_costs_the_mean_over_all_images_what_is_left_of_their_parts():
    state = {"part": torch.tensor([0, 0, 0, 2, -1, 2]), "config": {"epochs": 10}}
    assert without_loss.expected(state) == pytest.approx(10 * (3 * 2 + 2 * 1) / 5)


def test_a_goal_is_of_accuracy_images_and_time_against_either_kind_of_one_part():
    def row(parts, head, accuracy, sample_epochs, seconds):
        start = "random" if head == "sgd" else "public"
        scores = {"accuracy": {"mean": accuracy}, "sample_epochs": sample_epochs, "seconds": seconds}
        return {"parts": parts, "start": start, "head": head} | scores

    rows = [row(1, "sgd", 80.0, 1000.0, 100.0), row(1, "ridge", 84.0, 100.0, 10.0), row(200, "ridge", 79.5, 1.0, 1.0)]
    last = without_loss.compared([*rows, row(200, "ridge", 78.5, 1.0, 1.0), row(200, "ridge", 83.5, 1.0, 0.2)])[2:]
    assert [(one["met"], one["own_met"]) for one in last] == [("yes", "no"), ("no", "no"), ("yes", "yes")]
    assert (last[0]["lost"], last[0]["own_lost"]) == (0.5, 4.5)
    assert (last[0]["seconds_ratio"], last[0]["own_sample_epochs_ratio"]) == (100, 100)


def test_each_try_is_a_command_and_has_one_part_to_be_compared_with():
    whole = {(some.start, some.head) for some in without_loss.TRIES if some.parts == 1}
    for some in without_loss.TRIES:
        args = lmeraser.parser().parse_args(["train", "--dataset", "digits", *some.flags])
        assert (args.parts, args.linkage, args.nearest) == (some.parts, some.linkage, some.nearest)
        assert (some.start, some.head) in whole
    assert len(set(without_loss.TRIES)) == len(without_loss.TRIES)
