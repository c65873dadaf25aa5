"""The frozen network that all learners share."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import data
import models
from unlearning.core import names
from unlearning.core.device import to_float
from unlearning.core.errors import UserError
from unlearning.core.files import write_torch
from unlearning.core.locks import to_make
from unlearning.exact import learners
from unlearning.vision.originals import checkpoint_in

WAY = "give a timm name, for its ImageNet weights, or a checkpoint of retrain.py of any network but your own"
AT_ONCE = 500  # images of a batch where features are computed


def read_backbone(name: str) -> dict[str, Any] | None:
    """The checkpoint that --backbone names; None for a network that may have ImageNet weights. Raises UserError for what is
    neither, and for a network of the user's own, which no file makes anyone import."""
    path = Path(name)
    if path.suffix != ".pth" and not path.is_file() and not (path / "config.json").exists():
        if name in models.NAMES or models.is_elsewhere(name):
            raise UserError(f"--backbone {name}: there are no ImageNet weights for it: {WAY}")
        return None
    if not path.exists():
        raise UserError(f"no backbone {path}")
    content = checkpoint_in(path) if path.suffix == ".pth" else None
    if content is None:
        raise UserError(f"{path} is no checkpoint of this project, so it isn't known which images it has seen: {WAY}")
    network = models.checked(content, path)["network"]["name"]
    if ".py:" in network:
        raise UserError(f"{path} holds a network of your own ({network}), which no backbone can be: {WAY}")
    return content


def backbone_file(
    name: str, dataset: data.Dataset, weights: Path, data_dir: Path, input_size: int, quiet: bool = False
) -> Path:
    """The backbone's checkpoint: `name` itself, which is there, or a network's ImageNet weights, written as one first."""
    path = Path(name)
    if path.suffix == ".pth":
        return path
    path = weights / f"{names.part(dataset.tag, 'data')}_{names.part(name, 'network')}-{input_size}_imagenet.pth"
    with to_make(path, path.exists) as missing:  # by one of several systems that begin at once: its head is drawn anew
        if missing:
            model, arguments = models.create_for(name, dataset, data_dir, input_size, quiet)
            write_backbone(path, model, {"name": name, "arguments": arguments})
    return path


def write_backbone(path: Path, model: nn.Module, network: dict[str, Any]) -> None:
    """A checkpoint of a network that has seen none of the data; network: its name and the arguments of models.create."""
    nothing = {"config": {}, "forget": torch.empty(0, dtype=torch.int64), "forget_tag": None, "seed": 0, "cost": {}}
    content = {"format": models.FORMAT, "method": "imagenet", "network": network, "state_dict": model.state_dict()}
    write_torch(path, content | nothing | {"data": {"fingerprint": None}, "key": "imagenet"})


def check_images(content: dict[str, Any], source: str | Path, dataset: data.Dataset) -> None:
    """Raise UserError where a backbone, the checkpoint `content` read from `source`, is for images of another shape."""
    arguments, shape = content["network"]["arguments"], tuple(dataset.train.images.shape[1:])
    wanted = (arguments["in_chans"], arguments["img_size"], arguments["img_size"])
    if shape != wanted:
        of, here = (" x ".join(map(str, one)) for one in (wanted, shape))
        raise UserError(f"{source} is for images of {of} (channels and pixels), and {dataset.tag} has {here}")


def load_backbone(content: dict[str, Any], source: str | Path, device: str) -> learners.Backbone:
    """The network of the checkpoint `content`, read from `source`, without its head."""
    network = models.build(content, source)
    return learners.Backbone(network, content["network"]["arguments"]["img_size"]).to(device)


def features_of(backbone: learners.Backbone, images: Any, device: str) -> torch.Tensor:
    """Features float32 (N, F) of images without a prompt, on the CPU."""
    with torch.no_grad():
        some = data.batches(images, torch.arange(len(images)).split(AT_ONCE))
        return torch.cat([backbone(to_float(x.to(device))).cpu() for x in some])


def learner_flops(backbone: learners.Backbone, shape: list[int], classes: int, ridge: bool = False) -> int:
    """FLOPs of one image forward and backward through backbone, prompt and head, as PyTorch counts them; of a head in closed
    form forward through the backbone, and of its product with a matrix of features by features, the largest there is."""
    device = next(backbone.parameters()).device
    image = torch.zeros(1, *shape, device=device)
    with FlopCounterMode(display=False) as counter:
        if ridge:
            backbone(image)
        else:
            learners.Learner(backbone, shape, classes).to(device)(image).sum().backward()
    return counter.get_total_flops() + (2 * backbone.features**2 if ridge else 0)
