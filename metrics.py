"""Metrics as pure functions of logits, labels and features: no files, no models, no state.

D_f is the forget set and D_r the retain set (both training images); T_f and T_r are the test images of the forgotten and
the kept classes; for sample forgetting T_r is the whole test set. Percentages run from 0 to 100.
"""

import math

import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

ATTACK_LIMIT = 10_000  # an attacker sees at most this many samples, half of them members
GAP_METRICS = ("UA", "RA", "TA", "MIA")


def accuracy(logits, labels):
    """Top-1 accuracy in percent; logits (N, C), labels int64 (N,); None when N is 0."""
    return 100 * (logits.argmax(1) == labels).double().mean().item() if len(labels) else None


def confidence(logits, labels):
    """Softmax probability of the true class: float64 (N,)."""
    return logits.double().softmax(1).gather(1, labels[:, None]).squeeze(1)


def loss(logits, labels):
    """Cross-entropy in nats, float64 (N,); a class masked with a logit of minus infinity is capped at 745, -ln of the
    smallest positive double, so that an attacker can be fitted on it."""
    return torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none").clamp(max=745.0)


def mia_efficacy(members, nonmembers, forgotten, seed=0):
    """Share of D_f, in percent, that an attack on the unlearned model calls non-member.

    members, nonmembers, forgotten: confidences (N,) of D_r, T_r and D_f. The attacker is the SVC of Unlearn-Sparse (Jia
    et al. 2023) and SalUn (Fan et al. 2024), C = 3, gamma = "auto", RBF kernel, fitted on equally many of each, drawn with
    `seed`, at most ATTACK_LIMIT together.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(len(members), len(nonmembers), ATTACK_LIMIT // 2)
    members = _draw(members, count, generator)
    nonmembers = _draw(nonmembers, count, generator)
    return _called_nonmember(SVC(C=3, gamma="auto", kernel="rbf"), members, nonmembers, forgotten)


def mia_lora_unlearn(members, nonmembers, forgotten, seed=0):
    """The published LoRA-Unlearn protocol, in percent, for comparison with old numbers only.

    members, nonmembers, forgotten: losses (N,) of D_r, T_r and D_f. Logistic regression on the loss, 9,000 members
    against 5,000 non-members (nine to five where the sets are smaller), which by itself pulls the answer to "member".
    """
    generator = torch.Generator().manual_seed(seed)
    share = min(1.0, len(members) / 9000, len(nonmembers) / 5000)
    members = _draw(members, int(9000 * share), generator)
    nonmembers = _draw(nonmembers, int(5000 * share), generator)
    return _called_nonmember(LogisticRegression(), members, nonmembers, forgotten)


def average_gap(row, retrain):
    """Mean absolute difference from Retrain in UA, RA, TA and MIA-Efficacy; dictionaries of percentages."""
    return float(np.mean([abs(row[key] - retrain[key]) for key in GAP_METRICS]))


def mean_ci95(values):
    """(mean, half-width of the 95 % confidence interval by Student's t) over seeds; the half-width is None for one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, float(half)


def _draw(values, count, generator):
    return values[torch.randperm(len(values), generator=generator)[:count]]


def _called_nonmember(attacker, members, nonmembers, forgotten):
    features = torch.cat([members, nonmembers]).numpy()[:, None]
    attacker.fit(features, np.repeat([1, 0], [len(members), len(nonmembers)]))
    return 100 * float(np.mean(attacker.predict(forgotten.numpy()[:, None]) == 0))
