"""Tunings."""

import itertools

import pytest

from tests.experiments.tables import planned


@pytest.mark.parametrize(
    ("table", "method", "rates", "epochs"),
    [
        ("tune", "finetune", ("0.0003", "0.001", "0.003", "0.01"), "5"),
        ("rfau-tune", "rfau", ("0.0001", "0.0003", "0.001", "0.003", "0.01"), "5"),
        ("rfau-tune", "gradascent", ("0.0001", "0.0003", "0.001", "0.003", "0.01"), "1"),
    ],
)
def test_tuning_tries_each_rate_once_on_a_tenth_of_the_training_images(table, method, rates, epochs):
    runs = planned(table, "--methods", method)
    assert all(arguments[arguments.index("--validation") + 1] == "0.1" for _, arguments in runs)
    mine = [dict(itertools.pairwise(a)) for s, a in runs if s.endswith(method) and "vit_micro" in a and "3" in a]
    assert [given["--lr"] for given in mine if "--forget-class" in given] == list(rates)
    assert {given["--epochs"] for given in mine} == {epochs}
    assert not any("--lr" in arguments for script, arguments in runs if script == "retrain" and "vit_micro" in arguments)
