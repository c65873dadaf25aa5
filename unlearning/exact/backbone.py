"""TODO unlearning.exact.backbone."""

from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

import data
import models
from unlearning.core.device import to_float
from unlearning.core.errors import UserError
from unlearning.core.files import write_torch
from unlearning.exact import learners

AT_ONCE = 500  # images of a batch where features are computed


def backbone_file(dataset, config):
    """The backbone's checkpoint. ImageNet weights under a network's name are written as one first."""
    path = Path(config.backbone)
    if path.suffix == ".pth":
        if not path.exists():
            raise UserError(f"no backbone {path}")
        return path
    path = config.weights / f"{dataset.tag}_{config.backbone.replace('/', '-')}-{config.input_size}_imagenet.pth"
    if not path.exists():
        model, arguments = models.create_for(config.backbone, dataset, config.data_dir, config.input_size)
        write_backbone(path, model, {"name": config.backbone, "arguments": arguments})
    return path


def write_backbone(path, model, network):
    """A checkpoint of a network that has seen none of the data; network: its name and the arguments of models.create."""
    nothing = {"config": {}, "forget": torch.empty(0, dtype=torch.int64), "forget_tag": None, "seed": 0, "cost": {}}
    content = {"format": models.FORMAT, "method": "imagenet", "network": network, "state_dict": model.state_dict()}
    write_torch(path, content | nothing | {"data": {"fingerprint": None}, "key": "imagenet"})


def load_backbone(content, source, device):
    return learners.Backbone(models.build(content, source)).to(device).eval()


def features_of(backbone, images, config):
    """Features float32 (N, F) of images without a prompt, on the CPU."""
    with torch.no_grad():
        some = data.batches(images, torch.arange(len(images)).split(AT_ONCE))
        return torch.cat([backbone(to_float(x.to(config.device))).cpu() for x in some])


def learner_flops(backbone, state):
    """FLOPs of one image forward and backward through backbone, prompt and head, as PyTorch counts them."""
    learner = learners.Learner(backbone, state["shape"], state["classes"])
    device = next(backbone.parameters()).device
    with FlopCounterMode(display=False) as counter:
        learner.to(device)(torch.zeros(1, *state["shape"], device=device)).sum().backward()
    return counter.get_total_flops()
