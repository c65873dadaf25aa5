"""The spread of the attacker's draws is measured with the table's own attack."""

from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks import attack_draws
from tests.helpers import rows_of
from unlearning.metrics import membership


def test_single_draws_and_means_are_those_of_the_table(weights, monkeypatch):
    monkeypatch.setattr(membership, "DRAWS", 4)  # for speed
    path = weights / "digits_resnet8_class3_pruneft2_s0.pth"
    args = Namespace(data_dir=Path("data"), sizes=[100, 2000], draws=8, means=2)
    found = attack_draws.draws(path, args)
    assert set(found) == {"svc", "logistic"}
    for attacker in found.values():
        single = attacker["single"]
        assert len(single["100"]) == 8 and single["100"] != single["2000"]
        assert attacker["means"] == pytest.approx([sum(single["2000"][:4]) / 4, sum(single["2000"][4:]) / 4])
    row = rows_of(path, "--weights", weights, "--precision", "fp32", beneath=False)[-1]
    assert row["metrics"]["MIA"]["mean"] == pytest.approx(found["svc"]["means"][0])
