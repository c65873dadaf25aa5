"""The bad teacher: nothing of it is the original's, whatever lies beside layers."""

import pytest
import torch
from torch import nn

import models
from baselines import badteacher
from tests.baselines.toy import Constant, handed_to_fit, images
from unlearning.core.errors import UserError

SHAPE = {"in_chans": 1, "num_classes": 3, "img_size": 32, "mean": (0.5,), "std": (0.5,)}


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "vit_micro"])
def test_what_lies_beside_layers_is_drawn_anew_too(name):
    """A class token, position codes, the scales of a ConvNeXt's blocks."""
    network = models.create(name, **SHAPE)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(7)
    teacher = badteacher.untrained(network, {"name": name, "arguments": SHAPE})
    assert {key: value.shape for key, value in teacher.state_dict().items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }
    assert not [key for key, parameter in teacher.named_parameters() if (parameter == 7).any()]
    assert all((parameter == 7).all() for parameter in network.parameters())


def test_attention_of_torch_itself_is_drawn_anew():
    """It has no public reset_parameters."""
    network = nn.Sequential(nn.MultiheadAttention(4, 2))
    nn.init.constant_(network[0].in_proj_weight, 7)
    assert not (badteacher.untrained(network, {"name": "x", "arguments": {}})[0].in_proj_weight == 7).any()


def test_a_network_of_ones_own_must_be_able_to_be_drawn_anew():
    with pytest.raises(UserError, match=r"logits isn't drawn anew by its module"):
        badteacher.untrained(nn.Sequential(Constant(1.0, 0.0)), {"name": "net.py:make", "arguments": {}})


def test_a_share_of_d_r_is_an_image_at_least(monkeypatch):
    monkeypatch.setattr(badteacher, "untrained", lambda model, network: model)
    split, *_ = handed_to_fit(badteacher, Constant(1.0, 0.0), images(0, 1), images(0), retain_share=1e-6)
    assert len(split) == 2
