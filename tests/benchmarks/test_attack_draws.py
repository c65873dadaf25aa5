"""The spread of the attacker's draws is measured with the table's own attack."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import attack_draws
from tests.helpers import rows_of


def test_single_draws_and_means_are_those_of_the_table(weights):
    path = weights / "digits_resnet8_class3_lora2_s0.pth"
    args = Namespace(data_dir=Path("data"), sizes=[200, 2000], draws=20, means=2)
    found = attack_draws.draws(path, args)
    assert set(found) == {"svc", "logistic"}
    for attacker in found.values():
        assert [len(values) for values in attacker["single"].values()] == [20, 20] and len(attacker["means"]) == 2
        assert attacker["means"][0] == pytest.approx(sum(attacker["single"]["2000"]) / 20)  # training seed 0: seeds 0 to 19
        assert attacker["single"]["200"] != attacker["single"]["2000"] and attacker["means"][0] != attacker["means"][1]
    row = rows_of(path, "--weights", weights, "--precision", "fp32", beneath=False)[-1]
    assert row["metrics"]["MIA"]["mean"] == pytest.approx(found["svc"]["means"][0])
