"""Heads in closed form: ridge regression on public images and on a part's own.

With standardised features P of the public images, X of a part's and their targets Q and Y, a head is the minimum of

    ||P W - Q||^2 + ||X W - Y||^2 + penalty ||W||^2

found from the minimum without X, which all parts share, by the Woodbury identity: the products of X alone are computed anew.
In float64, so that rounding is far below the float32 in which a head is kept.
"""

from collections.abc import Mapping
from typing import Any

import torch

PENALTY = 2.0  # for each public image: chosen on images that no system holds, results/benchmarks/without_loss.json
WITHOUT = ("epochs", "batch_size", "lr", "head_lr", "no_flip", "precision")  # settings of a training: a closed form has none
DEAD = 1e-6  # a feature that varies less among the public images is left out


def is_asked_for(config: Mapping[str, Any]) -> bool:
    """True for the settings of a system whose heads are found in closed form, without prompts."""
    return config.get("head") == "ridge"


def public(features: torch.Tensor, labels: torch.Tensor, classes: int, penalty: float = PENALTY) -> dict[str, torch.Tensor]:
    """What the heads of all parts start from, float64: mean (F,) and scale (F,), which standardise features; inverse (F, F)
    of the public images' Gram matrix with its penalty; solution (F, classes), the minimum without images of a part.

    features: float32 (N, F) of the public images. labels: int64 (N,). penalty: over N.
    """
    mean, deviation = features.double().mean(0), features.double().std(0, correction=0)
    scale = torch.where(deviation > DEAD, 1 / deviation, 0.0)
    x = (features.double() - mean) * scale
    gram = x.T @ x + penalty * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    inverse = torch.linalg.inv(gram)
    solution = inverse @ (x.T @ _targets(labels, classes))
    return {"mean": mean, "scale": scale, "inverse": inverse, "solution": solution}


def head(start: dict[str, torch.Tensor], features: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The head of a part: weight float32 (classes, F) and bias float32 (classes,), for features as they are.

    start: of `public`. features: float32 (N, F) of the part's images. labels: int64 (N,).
    """
    inverse, solution = start["inverse"], start["solution"]
    x = (features.double() - start["mean"]) * start["scale"]
    targets = _targets(labels, solution.shape[1])
    for rows in torch.arange(len(x)).split(len(inverse)):  # no more images at once than features: memory is bounded
        spread = x[rows] @ inverse
        system = spread @ x[rows].T + torch.eye(len(rows), dtype=torch.float64)
        solution = solution + spread.T @ torch.linalg.solve(system, targets[rows] - x[rows] @ solution)
        if rows[-1] + 1 < len(x):
            inverse = inverse - spread.T @ torch.linalg.solve(system, spread)
    return _as_head(start, solution)


def base(start: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The head without images of a part, as `head` gives it. start: of `public`."""
    return _as_head(start, start["solution"])


def _as_head(start: dict[str, torch.Tensor], solution: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    unscaled = solution * start["scale"][:, None]
    return unscaled.T.float().contiguous(), (-start["mean"] @ unscaled).float()


def _targets(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Targets float64 (N, classes): one for an image's class and zero for others, with zero mean."""
    return torch.nn.functional.one_hot(labels, classes).double() - 1 / classes
