"""What the paper presets of image tables would take on a GPU, by rule: hours and memory of each kind of run.

An estimate, not a measurement. A network's FLOPs for an image, forwards and backwards, and what it keeps in between are
counted by PyTorch on its meta device, where nothing is computed. A run passes over all training images once an epoch; those
of OF_FORGET over the images to forget, with as many others beside; controls over all images once. A deletion of m random
images trains K (1 - (1 - 1/K)^m) of K equal parts again, that of a class all parts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import models
from unlearning.experiments.estimate import ADAM, in_lines, passes
from unlearning.experiments.request import Plan, Request
from unlearning.images.named import NAMED_SETS

PRESET = "paper"  # the one that is for GPUs and whose networks' lengths are known
SPEED = 7.5e13  # FLOP/s of an H200 in bf16: the Original and Retrain of results/prunelora-gpu-cifar10, trained side by side
BATCH = 128  # images of the largest batch
OF_FORGET = ("rfau", "baselines.gradascent", "baselines.delete", "baselines.neglora")
CONTROL = "baselines.control"
RULE = (
    f"FLOPs as PyTorch counts them, at {SPEED:.1e} FLOP/s; memory of weights and of what a batch of {BATCH} keeps for its"
    " backward pass; scoring left out (unlearning/experiments/image_estimate.py)"
)


class Count(NamedTuple):
    """A network's FLOPs for an image, forwards and backwards; fp32 bytes that it keeps in between; bytes of its weights."""

    flops: float
    kept: float
    weights: int


def count(network: nn.Module, shape: tuple[int, int, int]) -> Count:
    """The Count of a network for images (C, H, W); where all of its weights are frozen it goes back to the images."""
    network = network.to("meta")
    own = {tensor.untyped_storage()._cdata for tensor in network.state_dict(keep_vars=True).values()}
    sizes: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
        return tensor

    frozen = not any(parameter.requires_grad for parameter in network.parameters())
    images = torch.empty(2, *shape, device="meta", requires_grad=frozen)  # a batch norm needs two
    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(images).sum().backward()
    return Count(counter.get_total_flops() / 2, sum(sizes.values()) / 2, sum(p.nbytes for p in network.parameters()))


def cost(counted: Count, images: float, frozen: bool, precision: str) -> tuple[float, float]:
    """(hours, GiB) of a run that passes so many images forwards and backwards. precision: fp32 or bf16, of activations."""
    kept = counted.kept * BATCH / (2 if precision == "bf16" else 1)
    return counted.flops * images / SPEED / 3600, (counted.weights * (1 if frozen else ADAM) + kept) / 2**30


def known(request: Request) -> bool:
    """True for a paper preset, its networks, not those of folders, and a named data set: what is needed to estimate."""
    if any(original.is_dir() for original in request.originals.values()):
        return False
    there = request.source.dataset in NAMED_SETS and {*request.networks} <= {*request.preset_networks}
    return request.preset == PRESET and there


def made(request: Request, network: str, input_size: int | None = None) -> Count:
    """The Count of a request's network. input_size: to which a frozen one resizes images; None for one that is trained."""
    dataset = NAMED_SETS[request.source.dataset]
    channels, side = dataset.shape
    middle = (0.5,) * channels
    given: dict[str, Any] = {"mean": middle, "std": middle, "input_size": input_size}
    found = models.create(network, in_chans=channels, num_classes=dataset.classes, img_size=side, **given)
    if input_size:
        found.eval().requires_grad_(False)
    return count(found, (channels, side, side))


def images_of(request: Request, script: str, arguments: list[str], there: int) -> float:
    """How many images a run passes, all of its epochs together. there: training images."""
    if script == CONTROL:
        return there
    classes = NAMED_SETS[request.source.dataset].classes
    share = request.share if "--forget-random" in arguments else len(request.forget_classes) / classes
    return passes(arguments) * there * (2 * share if script in OF_FORGET else 1)


def estimated(request: Request, plan: Plan) -> list[str]:
    """What the runs of a table of networks would take, as lines; none where not all is `known`, or there are none."""
    if not known(request) or request.images or not plan.runs:
        return []
    counts = {network: made(request, network) for network in request.networks}
    there, precision = request.source.subset or NAMED_SETS[request.source.dataset].sizes[0], request.precision or "bf16"
    found: dict[str, list[tuple[float, float]]] = {}
    for script, arguments in plan.runs:
        network = arguments[arguments.index("--model") + 1]
        images = images_of(request, script, arguments, there)
        kind = f"{network} {script.removeprefix('baselines.')}"
        found.setdefault(kind, []).append(cost(counts[network], images, False, precision))
    return in_lines(found, RULE)


class System(NamedTuple):
    """A system of parts. voting: True where all of them answer, False for the one that an image is routed to; epochs: of its
    training; private: images."""

    parts: int
    voting: bool
    epochs: int
    private: int


def works(system: System, requests: Mapping[int, int], test: int) -> dict[str, list[float]]:
    """How many images each run of a system passes, by kind of run. requests: numbers of random images to delete, each with
    how many draws; a class comes after them. test: images."""
    whole, parts = system.epochs * system.private, system.parts
    draws = [m for m, count in requests.items() for _ in range(count if parts > 1 else 1)]
    deletions = [whole * (1 - (1 - 1 / parts) ** m) for m in draws]
    answers = test * (parts if system.voting else 2) / 2  # a forward pass is half of both; routing takes one
    return {"": [whole], ", a deletion": [*deletions, whole], ", accuracy": [answers] * (len(requests) + 1)}
