"""Distances between many unlearned and many retrained networks, image by image.

Margins of NaN raise ValueError: no comparison with NaN is true, so each measure would make a number of them.
"""

import math

import numpy as np


def ulira(unlearned: np.ndarray, retrained: np.ndarray) -> list[float]:
    """U-LiRA (Hayes et al. 2024): accuracy in percent of one attacker for each image, a value for each of N model pairs.

    unlearned, retrained: margins float64 (N, E) of the images of D_f. For each pair and image the attacker fits a Gaussian
    to the other N - 1 unlearned networks' margins and one to the retrained ones', and names the likelier; 50 is a coin.
    The pair under attack is in neither fit, so that equal distributions score 50 whatever N is.
    """
    from scipy import stats

    _refuse_nan(unlearned, retrained)
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


def klom(unlearned: np.ndarray, retrained: np.ndarray, bins: int = 20, smoothing: float = 1e-5) -> np.ndarray:
    """KL divergence of margins (Georgiev et al. 2024), KL(unlearned || Retrain) in nats: float64 (E,), one for each image.

    unlearned, retrained: margins float64 (N, E). Both histograms share `bins` bins of equal width over the joint range;
    `smoothing` is added to the share of every bin of both, and both are divided by their new sum, 1 + bins * smoothing.
    The authors' code has the same direction, bins and constant. It leaves the unlearned shares as they are, raises
    Retrain's to at least the constant where the unlearned share isn't 0, and divides those by their sum: a difference
    of less than 0.01 nats. Besides, its last bin leaves out the largest margin of all, which counts here.

    The value of two samples of one distribution isn't 0 but depends on N: read it beside Retrain against Retrain.
    """
    from scipy.special import rel_entr

    _refuse_nan(unlearned, retrained)
    low = np.minimum(unlearned.min(0), retrained.min(0))
    width = np.maximum(unlearned.max(0), retrained.max(0)) - low
    shares = []
    for values in (unlearned, retrained):
        place = np.minimum((bins * (values - low) / np.where(width > 0, width, 1)).astype(int), bins - 1)
        counts = (place[..., None] == np.arange(bins)).sum(0)
        shares.append((counts / len(values) + smoothing) / (1 + bins * smoothing))
    return rel_entr(*shares).sum(1)


def forgetting_epsilon(unlearned: np.ndarray, retrained: np.ndarray, delta: float = 1e-5, cap: float = 50.0) -> np.ndarray:
    """The epsilon at which an attacker tells N unlearned from N retrained networks: float64 (E,), one for each image.

    unlearned, retrained: margins float64 (N, E). From the NeurIPS 2023 unlearning challenge (Triantafillou et al. 2024):
    over all single thresholds (above it lies the set with the larger median) and all intervals (within it lies the set
    with the smaller range) the largest of log((1 - delta - FPR) / FNR) and log((1 - delta - FNR) / FPR). A rule without
    any error scores `cap`; one where only one of FPR and FNR is 0 is left out, as too few samples to say. Thresholds are
    all midpoints between values here, a grid there. A range below 1 % of the other's scores `cap`, as there.
    """
    _refuse_nan(unlearned, retrained)
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


def forgetting_score(epsilons: np.ndarray, count: int) -> float:
    """The challenge's forgetting quality, 0 to 1: the mean over images of 2 ** -(epsilon's bin of width 0.5).

    epsilons float64 (E,) from `count` networks; from the largest epsilon on that so many can show, ceil(log(count - 1)), an
    image scores 0.
    """
    points = np.where(epsilons < math.ceil(math.log(count - 1)), 0.5 ** np.floor(epsilons / 0.5), 0.0)
    return float(points.mean())


def _refuse_nan(*margins: np.ndarray) -> None:
    if any(np.isnan(some).any() for some in margins):
        raise ValueError("a margin is NaN")
