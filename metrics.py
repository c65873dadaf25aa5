"""Metrics as pure functions of logits, labels and features: no files, no models, no state.

D_f is the forget set and D_r the retain set (both training images); T_f and T_r are the test images of the forgotten and
the kept classes; for sample forgetting T_r is the whole test set. Percentages run from 0 to 100.
"""

import math

import numpy as np
import torch
from scipy import stats
from scipy.special import rel_entr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

GAP_METRICS = ("UA", "RA", "TA", "MIA")
ATTACK_LIMIT = 10_000  # most samples that an attacker is fitted on; on 4,000 the SVC's answers still depend on the draw
FPR_GRID = np.logspace(-3, 0, 31)  # false-positive rates at which a ROC curve is read off; the eleventh is 1 %
LOSS_BINS = np.logspace(-4, 3, 29)  # edges of a histogram of losses, in nats
LARGEST_LOSS = 745.0  # -ln of the smallest positive double: what the loss of a class masked with minus infinity is capped at


# --- accuracy and attack features -------------------------------------------------------------------------------------


def accuracy(logits, labels):
    """Top-1 accuracy in percent; logits (N, C), labels int64 (N,); None when N is 0."""
    return 100 * (logits.argmax(1) == labels).double().mean().item() if len(labels) else None


def probabilities(logits, labels=None):
    """Softmax: float64 (N, C)."""
    return logits.double().softmax(1)


def confidence(logits, labels):
    """Softmax probability of the true class: float64 (N,)."""
    return probabilities(logits).gather(1, labels[:, None]).squeeze(1)


def loss(logits, labels):
    """Cross-entropy in nats, float64 (N,), at most LARGEST_LOSS, so that an attacker can be fitted on it."""
    return torch.nn.functional.cross_entropy(logits.double(), labels, reduction="none").clamp(max=LARGEST_LOSS)


def entropy(logits, labels=None):
    """Shannon entropy of the softmax in nats: float64 (N,)."""
    return torch.special.entr(probabilities(logits)).sum(1)


def modified_entropy(logits, labels):
    """-(1 - p_y) log p_y - sum over i != y of p_i log(1 - p_i), float64 (N,) (Song and Mittal 2021, equation 6).

    Unlike the entropy it knows the true class: a confident error scores high, a confident hit low.
    """
    p = probabilities(logits)
    true = torch.nn.functional.one_hot(labels, p.shape[1]).bool()
    on_true = (1 - p) * p.log().clamp(min=-LARGEST_LOSS)
    on_others = p * torch.log1p(-p).clamp(min=-LARGEST_LOSS)
    return -torch.where(true, on_true, on_others).sum(1)


def correctness(logits, labels):
    """1.0 where the answer is right, else 0.0: float64 (N,)."""
    return (logits.argmax(1) == labels).double()


def margin(logits, labels):
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
PUBLISHED_SVC = {"C": 3, "gamma": "auto", "kernel": "rbf"}  # of Unlearn-Sparse (Jia et al. 2023) and SalUn (Fan et al. 2024)
ATTACKERS = {  # the weights balance two sets of unequal size, as where few forgotten images meet a whole test set
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)),
    "svc": lambda: SVC(**PUBLISHED_SVC, class_weight="balanced"),
}


# --- membership attacks -----------------------------------------------------------------------------------------------


def mia_efficacy(members, nonmembers, forgotten, attacker="svc", seed=0, limit=ATTACK_LIMIT):
    """Share of D_f, in percent, that an attack on the unlearned model calls non-member.

    members, nonmembers, forgotten: one of FEATURES, (N,) or (N, C), of D_r, T_r and D_f. attacker: a key of ATTACKERS,
    fitted on equally many of each, drawn with `seed`, at most `limit` together.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(len(members), len(nonmembers), limit // 2)
    members = _draw(members, count, generator)
    nonmembers = _draw(nonmembers, count, generator)
    return _called_nonmember(ATTACKERS[attacker](), members, nonmembers, forgotten)


def mia_unlearn_sparse(members, nonmembers, forgotten, seed=0):
    """The published Unlearn-Sparse and SalUn protocol, in percent, for comparison with their numbers.

    members, nonmembers, forgotten: confidences (N,) of D_r in its order, of the *whole* test set and of D_f. As many of the
    first images of D_r as there are test images are the members, nothing is shuffled; forgotten classes stay among the
    non-members. Above ATTACK_LIMIT samples both are thinned alike, with `seed`.
    """
    members = members[: len(nonmembers)]
    generator = torch.Generator().manual_seed(seed)
    share = min(1.0, ATTACK_LIMIT / (len(members) + len(nonmembers)))
    members, nonmembers = (_draw(x, math.ceil(share * len(x)), generator) for x in (members, nonmembers))
    return _called_nonmember(SVC(**PUBLISHED_SVC), members, nonmembers, forgotten)


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


def tell_apart(seen, unseen, attacker="logistic", seed=0, folds=5):
    """How well an attacker tells D_f (`seen`) from T_f (`unseen`): (AUC in percent, ROC).

    seen, unseen: one of FEATURES, (N,) or (N, C); at most ATTACK_LIMIT / 2 of each, drawn with `seed`. ROC:
    true-positive rate, float64, at each false-positive rate of FPR_GRID. Both are means over the folds of a stratified
    cross-validation, each scored by the attacker that the other folds fitted: pooling the folds' scores instead would pull
    the AUC of features without signal below 50. Raises ValueError for fewer than `folds` samples on a side.
    """
    generator = torch.Generator().manual_seed(seed)
    seen, unseen = (_draw(x, ATTACK_LIMIT // 2, generator) for x in (seen, unseen))
    values, truth = _table(seen, unseen), np.repeat([1, 0], [len(seen), len(unseen)])
    if min(len(seen), len(unseen)) < folds:
        raise ValueError(f"{len(seen)} and {len(unseen)} images are too few for {folds} folds")
    areas, curves = [], []
    for fit, held_out in StratifiedKFold(folds, shuffle=True, random_state=seed).split(values, truth):
        model = ATTACKERS[attacker]().fit(values[fit], truth[fit])
        answer = model.decision_function(values[held_out])
        areas.append(roc_auc_score(truth[held_out], answer))
        curves.append(np.interp(FPR_GRID, *roc_curve(truth[held_out], answer)[:2]))
    return 100 * float(np.mean(areas)), np.mean(curves, axis=0)


def _draw(values, count, generator):
    return values[torch.randperm(len(values), generator=generator)[:count]]


def _table(*parts):
    values = torch.cat(parts).numpy()
    return values.reshape(len(values), -1)


def _called_nonmember(attacker, members, nonmembers, forgotten):
    attacker.fit(_table(members, nonmembers), np.repeat([1, 0], [len(members), len(nonmembers)]))
    return 100 * float(np.mean(attacker.predict(_table(forgotten)) == 0))


# --- distances from Retrain -------------------------------------------------------------------------------------------


def average_gap(row, retrain):
    """Mean absolute difference from Retrain in UA, RA, TA and MIA-Efficacy; dictionaries of percentages."""
    return float(np.mean([abs(row[key] - retrain[key]) for key in GAP_METRICS]))


def tug_of_war(row, retrain):
    """ToW (Zhao et al. 2024): (1 - |dUA|) (1 - |dRA|) (1 - |dTA|), differences from Retrain as fractions; 1 is Retrain."""
    return math.prod(1 - abs(row[key] - retrain[key]) / 100 for key in ("UA", "RA", "TA"))


def activation_distance(logits, retrain):
    """Mean L2 distance between the softmax outputs of two networks, 0 to sqrt 2; logits (N, C) of the same images."""
    return (probabilities(logits) - probabilities(retrain)).norm(dim=1).mean().item()


def js_divergence(logits, retrain):
    """Mean Jensen-Shannon divergence of the softmax outputs of two networks in nats, 0 to ln 2; logits (N, C)."""
    p, q = probabilities(logits).numpy(), probabilities(retrain).numpy()
    middle = (p + q) / 2
    return float((rel_entr(p, middle) + rel_entr(q, middle)).sum(1).mean() / 2)


# --- beneath the head -------------------------------------------------------------------------------------------------


def linear_probe(features, labels, test_features, test_labels):
    """Accuracy in percent on T_f of a logistic regression fitted on penultimate features of D_r and D_f.

    features (N, F), labels int64 (N,): training images of all classes, the forgotten ones included; test_*: T_f.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(features.numpy(), labels.numpy())
    return 100 * probe.score(test_features.numpy(), test_labels.numpy())


def relearn_steps(steps, accuracies, target):
    """The first of `steps` (ascending) at which Acc(T_f) reaches `target` percent; None if it never does."""
    return next((step for step, reached in zip(steps, accuracies, strict=True) if reached >= target), None)


# --- many models ------------------------------------------------------------------------------------------------------


def ulira(unlearned, retrained):
    """U-LiRA (Hayes et al. 2024): accuracy in percent of one attacker for each image, a value for each of N model pairs.

    unlearned, retrained: margins float64 (N, E) of the images of D_f. For each pair and image the attacker fits a Gaussian
    to the other N - 1 unlearned networks' margins and one to the retrained ones', and names the likelier; 50 is a coin.
    The pair under attack is in neither fit, so that equal distributions score 50 whatever N is.
    """
    accuracies = []
    for i in range(len(unlearned)):
        fits = [
            (rest.mean(0), np.maximum(rest.std(0, ddof=1), 1e-3))
            for rest in (np.delete(x, i, 0) for x in (unlearned, retrained))
        ]
        ratio = [stats.norm.logpdf(x[i], *fits[0]) - stats.norm.logpdf(x[i], *fits[1]) for x in (unlearned, retrained)]
        right = [ratio[0] > 0, ratio[1] < 0]
        tied = [ratio[0] == 0, ratio[1] == 0]
        accuracies.append(100 * float(np.mean(right) + np.mean(tied) / 2))
    return accuracies


def klom(unlearned, retrained, bins=20, smoothing=1e-5):
    """KL divergence of margins (Georgiev et al. 2024), KL(Retrain || unlearned) in nats: float64 (E,), one for each image.

    unlearned, retrained: margins float64 (N, E). Both histograms share `bins` bins over the joint range; `smoothing` is
    added to each bin's share, as the authors do. The value of two samples of one distribution isn't 0 but depends on
    N: read it beside Retrain against Retrain.
    """
    low = np.minimum(unlearned.min(0), retrained.min(0))
    width = np.maximum(unlearned.max(0), retrained.max(0)) - low
    shares = []
    for values in (retrained, unlearned):
        place = np.minimum((bins * (values - low) / np.where(width > 0, width, 1)).astype(int), bins - 1)
        counts = (place[..., None] == np.arange(bins)).sum(0)
        shares.append((counts / len(values) + smoothing) / (1 + bins * smoothing))
    return rel_entr(*shares).sum(1)


def forgetting_epsilon(unlearned, retrained, delta=1e-5, cap=50.0):
    """The epsilon at which an attacker tells N unlearned from N retrained networks: float64 (E,), one for each image.

    unlearned, retrained: margins float64 (N, E). From the NeurIPS 2023 unlearning challenge (Triantafillou et al. 2024):
    over all single thresholds (above it lies the set with the larger median) and all intervals (within it lies the set
    with the smaller range) the largest of log((1 - delta - FPR) / FNR) and log((1 - delta - FNR) / FPR). A rule without
    any error scores `cap`; one where only one of FPR and FNR is 0 is left out, as too few samples to say. Thresholds are
    all midpoints between values here, a grid there. A range below 1 % of the other's scores `cap`, as there.
    """
    count, images = retrained.shape
    pooled = np.concatenate([unlearned, retrained])
    order = pooled.argsort(0, kind="stable")
    ranked = np.take_along_axis(pooled, order, 0)
    start = np.zeros((1, images))
    below_u = np.concatenate([start, np.cumsum(order < count, 0)])  # unlearned networks below each cut
    below_r = np.concatenate([start, np.cumsum(order >= count, 0)])
    edge = np.ones((1, images), bool)
    real_cut = np.concatenate([edge, ranked[1:] > ranked[:-1], edge])  # a cut between equal values is none

    lower, upper = np.triu_indices(2 * count + 1, 1)
    inside_u, inside_r = (x[upper] - x[lower] for x in (below_u, below_r))
    possible = real_cut[lower] & real_cut[upper]
    single = (upper == 2 * count)[:, None]
    larger_u = np.median(unlearned, 0) > np.median(retrained, 0)
    peaked_u = np.ptp(unlearned, 0) < np.ptp(retrained, 0)
    best = np.zeros(images)
    for positive_u, family in ((larger_u, possible & single), (peaked_u, possible)):
        fpr = np.where(positive_u, inside_r, inside_u) / count
        fnr = 1 - np.where(positive_u, inside_u, inside_r) / count
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.log(np.fmax(np.fmax((1 - delta - fpr) / fnr, (1 - delta - fnr) / fpr), 1.0))
        found = np.where(fpr + fnr == 0, cap, np.where(fpr * fnr == 0, 0.0, found))
        best = np.maximum(best, np.where(family, found, 0.0).max(0))
    ranges = np.sort([np.ptp(unlearned, 0), np.ptp(retrained, 0)], 0)
    return np.clip(np.where(ranges[0] < 0.01 * ranges[1], cap, best), 0, cap)


def forgetting_score(epsilons, count):
    """The challenge's forgetting quality, 0 to 1: the mean over images of 2 ** -(epsilon's bin of width 0.5).

    epsilons float64 (E,) from `count` networks; from the largest epsilon on that so many can show, ceil(log(count - 1)), an
    image scores 0.
    """
    points = np.where(epsilons < math.ceil(math.log(count - 1)), 0.5 ** np.floor(epsilons / 0.5), 0.0)
    return float(points.mean())


# --- over seeds -------------------------------------------------------------------------------------------------------


def mean_ci95(values):
    """(mean, half-width of the 95 % confidence interval by Student's t) over seeds; the half-width is None for one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return mean, float(half)


def jackknife(statistic, *samples):
    """(value, half-width of its 95 % confidence interval) of a statistic of N networks together, by Tukey's jackknife.

    samples: arrays (N, ...), left out one row at a time, the same of each.
    """
    count, value = len(samples[0]), statistic(*samples)
    without = np.array([statistic(*(np.delete(x, i, 0) for x in samples)) for i in range(count)])
    return float(value), mean_ci95(count * value - (count - 1) * without)[1]
