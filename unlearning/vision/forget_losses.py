"""Losses on D_f: functions of the student's logits or features, and of what the original has said of the same images.

bounded    GS-LoRA (Zhao et al., CVPR 2024, arXiv 2403.11530): the cross-entropy is raised as far as a bound, no further
delete     DELETE (Zhou et al., CVPR 2025): the original's answer without the true class
reference  ReGUn (Mirlach et al. 2026, arXiv 2603.11210): the original's mean answer to held-out images of the same classes
residual   RFAU (Qin et al., arXiv 2411.08443): features are moved to those of images of D_r
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from data import Split
from unlearning.core import distributed
from unlearning.core.device import Compute, autocast, memory_format, to_float
from unlearning.core.errors import UserError

REFERENCE = 256  # images of D_r that give a layer's mean and variance; also features computed at once


def bounded(logits: torch.Tensor, labels: torch.Tensor, bound: float) -> torch.Tensor:
    """ReLU(BND - CE), a scalar: 0, and without a gradient, once the mean cross-entropy has reached `bound` nats. The mean is
    over the parts of a batch that all processes have, as of `divergence` and `mse`.

    logits: float32 (B, classes). labels: int64 (B,). GS-LoRA's equation for its selective forgetting loss.
    """
    return (bound - cross_entropy(logits, labels)).relu()


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy over a batch, as `divergence`. logits: float32 (B, classes). labels: int64 (B,)."""
    return distributed.mean(nn.functional.cross_entropy(logits, labels, reduction="sum"), len(labels))


def without_true_class(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """DELETE's targets: softmax of the original's logits, float32 (B, classes), with those of `labels`, int64 (B,), at minus
    infinity. Probabilities float32 (B, classes). Raises UserError where there is no second class."""
    if logits.shape[1] < 2:
        raise UserError("DELETE needs a second class: there is no other answer in data of one")
    return logits.scatter(1, labels[:, None], float("-inf")).softmax(1)


def class_means(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """ReGUn's reference: the mean of answers, probabilities float32 (N, classes), over the images of each class: float32
    (classes, classes). A class without an image has the mean over all: a whole class that is forgotten has none held out."""
    counts = labels.bincount(minlength=answers.shape[1])[:, None]
    sums = torch.zeros(answers.shape[1], answers.shape[1], dtype=answers.dtype).index_add(0, labels, answers)
    return torch.where(counts > 0, sums / counts.clamp(min=1), answers.mean(0))


def divergence(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """KL(targets || softmax(logits)) in nats, the mean over a batch: a scalar. Both float32 (B, classes)."""
    return distributed.mean(nn.functional.kl_div(logits.log_softmax(1), targets, reduction="sum"), len(logits))


def mse(features: list[torch.Tensor], targets: list[torch.Tensor], variances: list[torch.Tensor]) -> torch.Tensor:
    """Mean squared distance of each layer's features to its target over its variance: float32 (layers,)."""
    layers = zip(features, targets, variances, strict=True)
    return torch.stack([distributed.mean((h - t).square().sum(), h.numel()) / v for h, t, v in layers])


def variance(features: torch.Tensor) -> torch.Tensor:
    """v of a layer: the variance of its features float32 (B, ...) over images, the mean over all of them, a scalar. Raises
    UserError where there is none."""
    found = features.var(0).mean() if len(features) > 1 else torch.zeros(())
    if found == 0:
        what = "RFAU and --forget-loss residual divide by the variance of features over images that stay"
        raise UserError(f"{what}, and here they are all alike, or of one image")
    return found


@contextlib.contextmanager
def recorded(model: nn.Module, layers: list[str]) -> Iterator[list[torch.Tensor]]:
    """A list that gets the outputs, float32 (B, ...), of the modules named in `layers` while `model` runs once. Raises
    UserError where one gives several tensors, or isn't called."""
    found: list[torch.Tensor] = []
    what = "RFAU and --forget-loss residual move the tensor that each stage gives"
    what += f"; stages as {layers[0].removeprefix('net.')} don't give one"
    refusal = UserError(f"{what}: finetune.py, pruneft.py, lora.py and loraprune.py without it don't look at stages")

    def keep(module, inputs, output):
        if not isinstance(output, torch.Tensor):
            raise refusal
        found.append(output.float())

    hooks = [model.get_submodule(name).register_forward_hook(keep) for name in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    if len(found) != len(layers):
        raise refusal


def outputs(model: nn.Module, layers: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    """What `recorded` finds for images x float32 (B, C, H, W)."""
    with recorded(model, layers) as found:
        model(x)
    return found


def features(model: nn.Module, layers: list[str], split: Split, rows: torch.Tensor, compute: Compute) -> list[torch.Tensor]:
    """Outputs of the modules named in `layers` for the images of `split` at the positions `rows`, without gradients: a list
    of float32 (len(rows), ...). The model runs in the mode that it is in."""
    device = torch.device(compute.device)
    with torch.no_grad(), autocast(compute.device, compute.precision):
        parts = [
            outputs(model, layers, to_float(split.images[some].to(device), memory_format(model)))
            for some in rows.split(REFERENCE)
        ]
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]
