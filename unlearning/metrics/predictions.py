"""Accuracy, attack features and distances from Retrain: pure functions of logits, labels and features.

D_f is the forget set and D_r the retain set (both training images); T_f and T_r are the test images of the forgotten and
the kept classes; for sample forgetting T_r is the whole test set. Percentages run from 0 to 100.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

GAP_METRICS = ("UA", "RA", "TA", "MIA")
LOSS_BINS = np.logspace(-4, 3, 29)  # edges of a histogram of losses, in nats
LARGEST_EXPONENT = 709.0  # of the largest double
LARGEST_LOSS = 745.0  # -ln of the smallest positive double: what the loss of a class masked with minus infinity is capped at


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Top-1 accuracy in percent; logits (N, C), labels int64 (N,). Raises ValueError when N is 0."""
    if not len(labels):
        raise ValueError("the accuracy on no image is no number")
    return 100 * correctness(logits, labels).mean().item()


def probabilities(logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Softmax: float64 (N, C)."""
    return logits.double().softmax(1)


def confidence(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Softmax probability of the true class: float64 (N,)."""
    return probabilities(logits).gather(1, labels[:, None]).squeeze(1)


def loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy in nats, float64 (N,), at most LARGEST_LOSS, so that an attacker can be fitted on it."""
    return torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none").clamp(max=LARGEST_LOSS)


def entropy(logits: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
    """Shannon entropy of the softmax in nats: float64 (N,)."""
    return torch.special.entr(probabilities(logits)).sum(1)


def modified_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """-(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i), float64 (N,) (Song and Mittal 2021, equation 6).

    Unlike the entropy it knows the true class: a confident error scores high, a confident hit low.
    """
    p = probabilities(logits)
    true = torch.nn.functional.one_hot(labels, p.shape[1]).bool()
    on_true = (1 - p) * p.log().clamp(min=-LARGEST_LOSS)
    on_others = p * torch.log1p(-p).clamp(min=-LARGEST_LOSS)
    return -torch.where(true, on_true, on_others).sum(1)


def correctness(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """1.0 where the answer is right, else 0.0: float64 (N,). NaN is no answer, and so not right."""
    return ((logits.argmax(1) == labels) & ~logits.isnan().any(1)).double()


def margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logit of the true class minus log-sum-exp of the others, which is log(p_y / (1 - p_y)): float64 (N,) in ±100."""
    logits = logits.double()
    true = torch.nn.functional.one_hot(labels, logits.shape[1]).bool()
    others = logits.masked_fill(true, -math.inf).logsumexp(1)
    return (logits.gather(1, labels[:, None]).squeeze(1) - others).clamp(-100, 100)


FEATURES = {
    "confidence": confidence,
    "loss": loss,
    "entropy": entropy,
    "modified-entropy": modified_entropy,
    "correctness": correctness,
    "probabilities": probabilities,
}


def average_gap(row: dict[str, float], retrain: dict[str, float]) -> float:
    """Mean absolute difference from Retrain in UA, RA, TA and MIA-Efficacy; dictionaries of percentages."""
    return float(np.mean([abs(row[key] - retrain[key]) for key in GAP_METRICS]))


def tug_of_war(row: dict[str, float], retrain: dict[str, float]) -> float:
    """ToW (Zhao et al. 2024): (1 - |dUA|) (1 - |dRA|) (1 - |dTA|), differences from Retrain as fractions; 1 is Retrain."""
    return math.prod(1 - abs(row[key] - retrain[key]) / 100 for key in ("UA", "RA", "TA"))


def activation_distance(logits: torch.Tensor, retrain: torch.Tensor) -> float:
    """Mean L2 distance between the softmax outputs of two networks, 0 to sqrt 2; logits (N, C) of the same images."""
    return (probabilities(logits) - probabilities(retrain)).norm(dim=1).mean().item()


def js_divergence(logits: torch.Tensor, retrain: torch.Tensor) -> float:
    """Mean Jensen-Shannon divergence of the softmax outputs of two networks in nats, 0 to ln 2; logits (N, C)."""
    from scipy.special import rel_entr

    # Not scipy's jensenshannon: it takes a root, which is NaN where rounding takes a row of nearly equal answers below 0.
    p, q = probabilities(logits).numpy(), probabilities(retrain).numpy()
    middle = (p + q) / 2
    return float((rel_entr(p, middle) + rel_entr(q, middle)).sum(1).mean() / 2)


def linear_probe(
    features: torch.Tensor, labels: torch.Tensor, test_features: torch.Tensor, test_labels: torch.Tensor
) -> float:
    """Accuracy in percent on T_f of a logistic regression fitted on penultimate features of D_r and D_f.

    features (N, F), labels int64 (N,): training images of all classes, the forgotten ones included; test_*: T_f.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(features.numpy(), labels.numpy())
    return 100 * probe.score(test_features.numpy(), test_labels.numpy())


def nearest_centre(
    features: torch.Tensor, labels: torch.Tensor, test_features: torch.Tensor, test_labels: torch.Tensor
) -> float:
    """NCC: percentage of T_f whose penultimate features lie nearest to the centre of their own class (Papyan et al. 2020).

    features (N, F), labels int64 (N,): training images of all classes, the forgotten ones included; the mean over those of a
    class is its centre. test_*: T_f. Distances are Euclidean, features as they are. An image that is as near to another
    centre, or has a NaN, isn't counted as right. Raises ValueError for a NaN in `features`, or without test images.
    """
    if features.isnan().any():
        raise ValueError("a feature of a training image is NaN")
    if not len(test_labels):
        raise ValueError("the accuracy on no image is no number")
    classes, own = labels.unique(return_inverse=True)
    sums = torch.zeros(len(classes), features.shape[1], dtype=torch.float64).index_add_(0, own, features.double())
    centres = sums / own.bincount()[:, None]
    exact = "donot_use_mm_for_euclid_dist"  # the faster way cancels digits, by which ties break
    distances = torch.cdist(test_features.double(), centres, compute_mode=exact)
    true = test_labels[:, None] == classes
    nearer = distances.masked_fill(~true, math.inf).amin(1) < distances.masked_fill(true, math.inf).amin(1)
    return 100 * nearer.double().mean().item()


def head_bias(biases: torch.Tensor, forgotten: Sequence[int]) -> dict[str, float]:
    """How far the head's biases alone push the forgotten classes down: {"bsc", "mbg", "mbs"}, each from 0 to 1.

    biases: float (C,), one for each class. V are the biases of the classes `forgotten`, R those of the others:
    BSC = 1 / (1 + |mean V - mean R|), MBG = sigmoid(median V - min R), MBS = sigmoid(min V - min R). The median of an even
    number is the mean of the middle two. A bias of minus infinity, as of a masked class, makes each 0. Raises ValueError for
    a NaN, and where V or R is empty.
    """
    gone = np.isin(np.arange(len(biases)), list(forgotten))
    values = biases.double().numpy()
    v, r = values[gone], values[~gone]
    if np.isnan(values).any() or not len(v) or not len(r):
        raise ValueError("a bias is NaN" if len(v) and len(r) else "no class is forgotten, or none is kept")
    distance = {"mbg": np.median(v) - r.min(), "mbs": v.min() - r.min()}
    found = {name: 1 / (1 + math.exp(min(-value, LARGEST_EXPONENT))) for name, value in distance.items()}
    return {"bsc": 1 / (1 + abs(float(v.mean() - r.mean())))} | found


def relearn_steps(steps: Sequence[int], accuracies: Sequence[float], target: float) -> int | None:
    """The first of `steps` (ascending) at which Acc(T_f) reaches `target` percent; None if it never does."""
    return next((step for step, reached in zip(steps, accuracies, strict=True) if reached >= target), None)
