"""NoT: which weights change their sign, and on what the network is trained then."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import models
from baselines import negate
from tests.baselines.toy import handed_to_fit, images
from unlearning.core.errors import UserError

SHAPE = {"in_chans": 1, "num_classes": 10, "img_size": 8, "mean": [0.3], "std": [0.3]}


@pytest.mark.parametrize(
    ("network", "first"), [("resnet8", "net.conv1.weight"), ("vit_micro", "net.patch_embed.proj.weight")]
)
def test_the_first_layers_weights_change_their_sign_and_nothing_else(network, first):
    torch.manual_seed(0)
    model, retain = models.create(network, **SHAPE), images(0, 1)
    expected = models.state(model)
    assert expected[first].abs().min() > 0
    expected[first] = -expected[first]
    split, optimizer, policy = handed_to_fit(negate, model, retain, images(0))
    assert split is retain and "objective" not in policy
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
    assert all(torch.equal(value, expected[key]) for key, value in models.state(model).items())


def test_weights_that_are_computed_are_refused():
    model = nn.Sequential(weight_norm(nn.Conv2d(1, 2, 1)), nn.Flatten(), nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(UserError, match="0 computes its weights from others"):
        negate.first_layer(model)
