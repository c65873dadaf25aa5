"""What tables that are made end to end do without: pictures, and a look beneath heads, which take as long as training."""

import pytest

from unlearning.evaluation import network
from unlearning.reports import figures


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """No picture but in tests that are marked `pictures`, by whose names; tests/reports draws those of committed tables."""
    if (mark := request.node.get_closest_marker("pictures")) is None:
        monkeypatch.setattr(figures, "pictures", lambda rows: {})
    else:
        monkeypatch.setattr(figures, "PICTURES", {name: figures.PICTURES[name] for name in mark.args})


@pytest.fixture
def no_look_beneath(monkeypatch):
    """Scores by answers alone, for tests of many networks that ask for nothing else."""
    monkeypatch.setattr(network, "beneath", lambda *_: ({}, {}))
