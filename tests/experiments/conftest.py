"""What tables that are made end to end do without: pictures, which take as long as training."""

import pytest

from unlearning.reports import figures


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """No picture but in tests that are marked `pictures`; tests/reports draws those of every committed table."""
    if request.node.get_closest_marker("pictures") is None:
        monkeypatch.setattr(figures, "pictures", lambda rows: {})
