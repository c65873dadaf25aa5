"""Membership attacks on the answers of one network.

D_f is the forget set, D_r the retain set; T_f and T_r are the test images of the forgotten and the kept classes.
"""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

DRAWS = 20  # draws of the attacker's samples over which an attack that draws is a mean: one draw can say 0, the next 100
DRAW_LIMIT = 2000  # most samples that the attacker of MIA-Efficacy is fitted on in one draw
ATTACK_LIMIT = 10_000  # most samples that any other attacker is fitted on
RMIA_A = 0.3  # in RMIA's offline form: what a network trained on an image is taken to say of it is a p_out + 1 - a
FPR_GRID = np.logspace(-3, 0, 31)  # false-positive rates at which a ROC curve is read off; the eleventh is 1 %
PUBLISHED_SVC = {"C": 3, "gamma": "auto", "kernel": "rbf"}  # of Unlearn-Sparse (Jia et al. 2023) and SalUn (Fan et al. 2024)


def logistic() -> Any:
    """Logistic regression on standardised features; the weights balance two sets of unequal size, as where few forgotten
    images meet a whole test set."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))


def svc(class_weight: str | None = "balanced") -> Any:
    """The published support vector machine, balanced as `logistic` is unless told otherwise."""
    from sklearn.svm import SVC

    return SVC(**PUBLISHED_SVC, class_weight=class_weight)


ATTACKERS = {"logistic": logistic, "svc": svc}


def over_draws(
    attack: Callable[..., float], members: torch.Tensor, nonmembers: torch.Tensor, forgotten: torch.Tensor, seed: int
) -> tuple[float, float]:
    """(mean, standard deviation with DRAWS - 1 in its denominator) of an attack's percentage over its DRAWS draws.

    attack: `mia_efficacy` or another attack that draws, called with the three sets and each of `draw_seeds(seed)`. seed: of
    the network's training, so that the draws of two training seeds are as independent as their networks.
    """
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # libsvm lets go of Python's lock
        values = [*threads.map(lambda own: attack(members, nonmembers, forgotten, seed=own), draw_seeds(seed))]
    return float(np.mean(values)), float(np.std(values, ddof=1))


def draw_seeds(seed: int) -> range:
    """The attacker's DRAWS seeds that belong to the training seed `seed` (0 or more), and to no other training seed."""
    return range(DRAWS * seed, DRAWS * (seed + 1))


def mia_efficacy(
    members: torch.Tensor,
    nonmembers: torch.Tensor,
    forgotten: torch.Tensor,
    attacker: str = "svc",
    seed: int = 0,
    limit: int = DRAW_LIMIT,
) -> float:
    """Share of D_f, in percent, that an attack on the unlearned model calls non-member: one draw of `over_draws`.

    members, nonmembers, forgotten: one of FEATURES, (N,) or (N, C), of D_r, T_r and D_f. attacker: a key of ATTACKERS,
    fitted on equally many of each, drawn with `seed`, at most `limit` together.
    """
    generator = torch.Generator().manual_seed(seed)
    count = min(len(members), len(nonmembers), limit // 2)
    members = _draw(members, count, generator)
    nonmembers = _draw(nonmembers, count, generator)
    return _called_nonmember(ATTACKERS[attacker](), members, nonmembers, forgotten)


def mia_unlearn_sparse(members: torch.Tensor, nonmembers: torch.Tensor, forgotten: torch.Tensor, seed: int = 0) -> float:
    """The published Unlearn-Sparse and SalUn protocol, in percent, for comparison with their numbers.

    members, nonmembers, forgotten: confidences (N,) of D_r in its order, of the *whole* test set and of D_f. As many of the
    first images of D_r as there are test images are the members, nothing is shuffled; forgotten classes stay among the
    non-members. Above ATTACK_LIMIT samples both are thinned alike, with `seed`.
    """
    members = members[: len(nonmembers)]
    generator = torch.Generator().manual_seed(seed)
    share = min(1.0, ATTACK_LIMIT / (len(members) + len(nonmembers)))
    members, nonmembers = (_draw(x, math.ceil(share * len(x)), generator) for x in (members, nonmembers))
    return _called_nonmember(svc(class_weight=None), members, nonmembers, forgotten)


def mia_lora_unlearn(members: torch.Tensor, nonmembers: torch.Tensor, forgotten: torch.Tensor, seed: int = 0) -> float:
    """The published LoRA-Unlearn protocol, in percent, for comparison with old numbers only: one draw of `over_draws`.

    members, nonmembers, forgotten: losses (N,) of D_r, T_r and D_f. Logistic regression on the loss, 9,000 members
    against 5,000 non-members (nine to five where the sets are smaller, but one of each), which by itself pulls the answer to
    "member".
    """
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(seed)
    share = min(1.0, len(members) / 9000, len(nonmembers) / 5000)
    members = _draw(members, max(1, int(9000 * share)), generator)
    nonmembers = _draw(nonmembers, max(1, int(5000 * share)), generator)
    return _called_nonmember(LogisticRegression(), members, nonmembers, forgotten)


def tell_apart(
    seen: torch.Tensor, unseen: torch.Tensor, attacker: str = "logistic", seed: int = 0, folds: int = 5
) -> tuple[float, np.ndarray]:
    """How well an attacker tells D_f (`seen`) from T_f (`unseen`): (AUC in percent, ROC).

    seen, unseen: one of FEATURES, (N,) or (N, C); at most ATTACK_LIMIT / 2 of each, drawn with `seed`. ROC:
    true-positive rate, float64, at each false-positive rate of FPR_GRID. Both are means over the folds of a stratified
    cross-validation, each scored by the attacker that the other folds fitted: pooling the folds' scores instead would pull
    the AUC of features without signal below 50. Raises ValueError for fewer than `folds` samples on a side.
    """
    from sklearn.metrics import roc_auc_score, roc_curve
    from sklearn.model_selection import StratifiedKFold

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


def rmia_scores(
    target: torch.Tensor, references: torch.Tensor, z_target: torch.Tensor, z_references: torch.Tensor, a: float = RMIA_A
) -> torch.Tensor:
    """RMIA's score of each image x, float64 (N,) from 0 to 1; higher where x is likelier a member (Zarifzadeh et al. 2024).

    target (N,), references (M, N): probability of the true class of each x, Pr(x | theta), by the network under attack and
    by M reference networks; NaN where a reference has trained on x, so that only those that haven't count for it. z_target
    (Z,), z_references (M, Z): the same of the population z, images that nothing was trained on. The paper's equations 1 to 3
    and its offline form:

        ratio(x) = Pr(x | theta) / Pr(x),   Pr(x) = ((1 + a) mean over references of Pr(x | theta') + 1 - a) / 2
        score(x) = share of the z with ratio(x) / ratio(z) > gamma

    gamma is 1, as in the authors' code. a stands for what a reference trained on x would say, a Pr_out(x) + 1 - a; 0.3 is
    theirs for CIFAR-10. A ratio of 0 isn't above another, so that a masked class scores 0 throughout. Raises ValueError
    where an image has no reference, without a population, and for any other NaN.
    """
    if not len(z_target) or (~references.isnan()).sum(0).eq(0).any() or z_references.isnan().all(0).any():
        raise ValueError("an image has no reference that was not trained on it, or there is no population")
    if target.isnan().any() or z_target.isnan().any():
        raise ValueError("a probability is NaN")
    ratio, of_z = (
        own.double() / (((1 + a) * refs.double().nanmean(0) + 1 - a) / 2)
        for own, refs in ((target, references), (z_target, z_references))
    )
    return torch.searchsorted(of_z.sort().values, ratio).double() / len(of_z)


def rmia(
    target: tuple[torch.Tensor, torch.Tensor],
    references: tuple[torch.Tensor, torch.Tensor],
    out: torch.Tensor,
    seed: int = 0,
) -> tuple[float, float | None]:
    """(AUC, TPR at 1 % FPR) in percent of RMIA that tells D_f from images never seen; the second None below 100 of these.

    target: probability of the true class, (N,) of D_f and (U,) of the unseen images, by the network under attack.
    references: the same of M reference networks, (M, N) and (M, U). out: bool (M, N), True where a reference has not trained
    on an image of D_f; unseen images have by definition been trained on by none.

    Half of the unseen images, drawn with `seed`, are the population z, and D_f is told from the other half: of a forgotten
    class z has to be of that class, for beside other classes, which a network still knows, all images of it score 0 alike.
    Each unseen image counts the references that an image of D_f drawn with `seed` has, for a mean over more of them is
    steadier, which alone would tell the sides apart. Raises ValueError where an image of D_f has no reference left, or fewer
    than 2 unseen ones.
    """
    from sklearn.metrics import roc_auc_score, roc_curve

    (seen, unseen), (of_seen, of_unseen) = target, references
    if len(unseen) < 2:
        raise ValueError(f"{len(unseen)} images that were never seen are too few")
    if lost := int((~out).all(0).sum()):
        raise ValueError(f"every reference has trained on {lost:,} of the {len(seen):,} images of D_f")
    generator = torch.Generator().manual_seed(seed)
    like = torch.randint(len(seen), (len(unseen),), generator=generator)
    of_seen, of_unseen = of_seen.masked_fill(~out, math.nan), of_unseen.masked_fill(~out[:, like], math.nan)
    order = torch.randperm(len(unseen), generator=generator)
    z, rest = order[: len(order) // 2], order[len(order) // 2 :]
    population = unseen[z], of_unseen[:, z]
    scores = rmia_scores(seen, of_seen, *population), rmia_scores(unseen[rest], of_unseen[:, rest], *population)
    truth, values = np.repeat([1, 0], [len(seen), len(rest)]), torch.cat(scores).numpy()
    rates = roc_curve(truth, values)[:2]
    rate = 100 * float(np.interp(0.01, *rates)) if len(rest) >= 100 else None  # 1 % is an image at least
    return 100 * float(roc_auc_score(truth, values)), rate


def _draw(values, count, generator):
    return values[torch.randperm(len(values), generator=generator)[:count]]


def _table(*parts):
    values = torch.cat(parts).numpy()
    return values.reshape(len(values), -1)


def _called_nonmember(attacker, members, nonmembers, forgotten):
    attacker.fit(_table(members, nonmembers), np.repeat([1, 0], [len(members), len(nonmembers)]))
    return 100 * float(np.mean(attacker.predict(_table(forgotten)) == 0))
