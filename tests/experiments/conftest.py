"""Relearning curves of three points, for tables that are made end to end."""

import pytest

from unlearning.evaluation import network


@pytest.fixture(autouse=True)
def short_curves(monkeypatch):
    monkeypatch.setattr(network, "RELEARN_STEPS", (0, 1, 4))
