"""Prompted networks: a frozen backbone, and learners of a frame of pixels and a linear head each.

The learners of LMEraser (Xu, Wu, Wang, Jia, arXiv 2404.11056): the frame is added to the border of the normalised image, the
head reads the backbone's features of the result.
"""

from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from unlearning.core.errors import UserError
from unlearning.core.words import first_line
from unlearning.vision import layers

PROMPTED = "prompted"  # several learners on one backbone: what reading.assemble makes
FRAME = 30 / 224  # width of the frame over the side of the image, as in the paper


class Backbone(nn.Module):
    """A frozen network without its head: images float32 (B, C, H, W) in [0, 1] to features float32 (B, F).

    network: normalize, perhaps resize, and net, as models.create makes them; its weights are frozen, its head removed.
    side: of the images, in pixels. Raises UserError for a network that gives no features without its head.
    """

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        layers.remove_head(network)
        self.network = network.requires_grad_(False)
        self.features = _width(network.eval(), side)

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode, whatever a learner does: dropout and statistics of batches are of no frozen network."""
        return super().train(False)

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images at the network's own size: what a frame is added to."""
        return nn.Sequential(*(part for name, part in self.network.named_children() if name != "net"))(x)

    def forward(self, x: torch.Tensor, frame: torch.Tensor | float = 0.0) -> torch.Tensor:
        """Features of images, with a frame added to each."""
        return self.network.net(self.prepare(x) + frame)


def _width(network: Any, side: int) -> int:
    """How many features a network without its head gives: its head may have been several layers, or several heads of
    different widths. Raises UserError where it fails, or gives no row of numbers for an image."""
    why = ""
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(2, network.normalize.mean.shape[1], side, side)).shape)
    except Exception as error:  # each network fails in a way of its own
        shape, why = (), f" ({first_line(error)})"
    if len(shape) != 2 or shape[0] != 2:
        what = f"{type(network.net).__name__} gives no row of features for each image once its head is taken off{why}"
        raise UserError(f"{what}: give another network as --backbone")
    return shape[1]


class Frame(nn.Module):
    """Prompts float32 (B, numbers) to images float32 (B, C, H, W) that are zero but for a border `width` pixels wide."""

    border: torch.Tensor

    def __init__(self, shape: Any, width: int | None = None) -> None:
        super().__init__()
        width = width or max(1, round(FRAME * shape[-1]))
        border = torch.ones(shape, dtype=torch.bool)
        border[:, width:-width, width:-width] = False
        self.register_buffer("border", border, persistent=False)
        self.numbers = int(border.sum())

    def forward(self, prompts: torch.Tensor) -> torch.Tensor:
        """Frames of prompts."""
        return prompts.new_zeros(len(prompts), *self.border.shape).masked_scatter(self.border, prompts)


@torch.no_grad()
def frame_of(backbone: Backbone, shape: Any) -> Frame:
    """The frame around images (C, H, W) of the data as the backbone resizes them."""
    image = torch.zeros(1, *shape, device=next(backbone.parameters()).device)
    return Frame(backbone.prepare(image).shape[1:])


class Learner(nn.Module):
    """One prompt and one head on a frozen backbone, to be trained on a part of the data."""

    def __init__(self, backbone: Backbone, shape: Any, classes: int) -> None:
        """shape: (C, H, W) of images in the data. The start depends on torch's seed alone."""
        super().__init__()
        self.backbone = backbone
        self.frame = frame_of(backbone, shape)
        self.prompt = nn.Parameter(torch.randn(self.frame.numbers))
        self.head = nn.Linear(backbone.features, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits float32 (B, classes)."""
        return self.head(self.backbone(x, self.frame(self.prompt[None])))


class Heads(nn.Module):
    """A linear head for each learner: features float32 (B, F) and learners int64 (B,) to logits float32 (B, classes)."""

    def __init__(self, learners: int, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(learners, classes, features))
        self.bias = nn.Parameter(torch.zeros(learners, classes))

    def forward(self, features: torch.Tensor, learner: torch.Tensor) -> torch.Tensor:
        """Logits float32 (B, classes)."""
        return torch.einsum("bcf,bf->bc", self.weight[learner], features) + self.bias[learner]


class Prompted(nn.Module):
    """Several trained learners on one backbone.

    Routed: an image goes to the learner whose centre is nearest to the features of the image without a prompt. Of heads
    without prompts the nearest ones can answer together: the logits of the head that all of them start from, and what each
    differs from it. Else all vote, as SISA's shards do: the logit of a class is its number of votes, ties broken by the mean
    probability.
    """

    centres: torch.Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        shape: Any,
        classes: int,
        learners: int,
        routed: bool,
        nearest: int = 1,
        prompted: bool = True,
    ) -> None:
        """prompted: False for heads without prompts. nearest: how many of these answer an image where it is routed."""
        super().__init__()
        self.backbone = backbone
        self.frame = frame_of(backbone, shape)
        self.nearest, self.prompted = nearest, prompted
        self.prompts = nn.Parameter(torch.zeros(learners, self.frame.numbers if prompted else 0))
        self.heads = Heads(learners, backbone.features, classes)
        self.base = nn.Linear(backbone.features, classes) if nearest > 1 else None
        self.register_buffer("centres", torch.zeros(learners, backbone.features) if routed else None)

    def get_classifier(self) -> nn.Module:
        """The module whose first input are the penultimate features, as in timm's networks."""
        return self.heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits float32 (B, classes), or votes."""
        plain = None if self.prompted else self.backbone(x).float()  # without prompts the same for all learners
        if self.centres is not None:
            distances = torch.cdist(self.backbone(x).float() if plain is None else plain, self.centres)
            if self.base is None:
                return self.answer(x, distances.argmin(1), plain)
            near = distances.topk(self.nearest, largest=False).indices
            together = torch.stack([self.answer(x, near[:, m], plain) for m in range(self.nearest)]).sum(0)
            return together - (self.nearest - 1) * self.base(plain)
        every = [torch.full((len(x),), k, device=x.device) for k in range(len(self.prompts))]
        each = [self.answer(x, learner, plain).softmax(1) for learner in every]
        probabilities = torch.stack(each)  # (learners, B, classes)
        votes = nn.functional.one_hot(probabilities.argmax(2), probabilities.shape[2]).sum(0)
        return votes + 0.5 * probabilities.mean(0)

    def answer(self, x: torch.Tensor, learner: torch.Tensor, plain: torch.Tensor | None = None) -> torch.Tensor:
        """Logits float32 (B, classes) of the learners int64 (B,). plain: the images' features, for heads without prompts."""
        features = self.backbone(x, self.frame(self.prompts[learner])) if plain is None else plain
        return self.heads(features, learner)


def build(checkpoint: dict[str, Any], path: str | Path = "the system") -> nn.Module:
    """The network of an assembled system (`reading.assemble`) with its weights, on the CPU, in evaluation mode."""
    arguments = dict(checkpoint["network"]["arguments"])
    backbone = arguments.pop("backbone")
    network: Any = models.create(backbone["name"], **backbone["arguments"])
    network.layer_names = models.told_layers(backbone)
    return models.load_weights(Prompted(Backbone(network, backbone["arguments"]["img_size"]), **arguments), checkpoint, path)


def label(network: dict[str, Any]) -> str:
    """What a table calls a network: its name, or for learners on a backbone the backbone's."""
    return f"{network['arguments']['backbone']['name']}, prompted" if network["name"] == PROMPTED else network["name"]
