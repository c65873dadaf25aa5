"""What a run scores after each epoch disturbs nothing, and one process does it."""

import pytest
import torch
from torch import nn

import data
from tests.helpers import FP32
from unlearning.vision.confidences import Confidence
from unlearning.vision.curves import Curve
from unlearning.vision.snapshots import Snapshot


class Drawing(nn.Module):
    """A network that draws in its forward pass, with a batch norm that is kept as it is in training."""

    def __init__(self):
        super().__init__()
        self.norm, self.dropout, self.fc = nn.BatchNorm2d(1), nn.Dropout(), nn.Linear(1, 10)
        self.norm.eval()

    def forward(self, x):
        return self.fc(self.dropout(self.norm(x)).mean((2, 3))) + torch.rand(1)


@pytest.fixture(params=["curve", "confidence"])
def scores(request):
    dataset = data.load("digits", subset=50)
    return Curve(dataset, FP32, forget=torch.arange(5)) if request.param == "curve" else Confidence(dataset, FP32)


def test_scoring_leaves_modes_statistics_and_random_states_alone(scores):
    network = Drawing()
    assert network.training and not network.norm.training
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    scores.add(network, 1)
    assert scores.scored == 1 and torch.equal(torch.rand(3), expected)
    assert network.training and network.dropout.training and not network.norm.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_scores(rank, scores, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", str(rank))
    Snapshot(tmp_path / "x.partial", "key", scores=[scores]).after_epoch(Drawing(), None, None, 1, 1, 0.0)
    assert scores.scored == (rank == 0)
