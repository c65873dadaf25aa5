"""Where a network computes."""

import pytest
import torch

from unlearning.core.device import resolve_device
from unlearning.core.errors import UserError


@pytest.fixture(autouse=True)
def attention_as_before():
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize("there", [False, True])
def test_cudnn_never_computes_attention(there, monkeypatch):
    """Its bf16 gradients were NaN in the fifth epoch of vit_small on an H200."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert resolve_device("auto") == ("cuda" if there else "cpu")
    assert not torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("name", ["hpu", "privateuseone", "meta", "cuda:99"])
def test_a_device_that_isnt_there_is_one_line(name):
    with pytest.raises(UserError, match=f"--device {name}: "):
        resolve_device(name)
