"""Statistics of methods that were scored on the same cases: which is ahead, by how much, and whether by chance.

Comparisons are paired by case. A case in which a score of either is undefined (nan or infinite) has no difference; it
is left out there, and counted. Ranks leave no case out: an undefined score ranks last. A method that was trained with
several seeds has the mean of theirs in each case.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Integer
from scipy import stats

from jaxfuse.errors import UserError

RESAMPLES = 10_000
_LEVEL = 0.95

Scores = Float[np.ndarray, " _"]
# (seeds, cases); methods may differ in the number of their seeds.
Seeds = Float[np.ndarray, "_ _"]


@dataclass(frozen=True)
class Paired:
    """One method beside another in one metric, over the cases that both have a score of.

    Attributes:
        cases: how many.
        undefined: how many cases are left out, for a seed of one of the two has no score.
        difference: mean of the first less the second, over cases and seeds; nan without cases.
        low, high: bounds of its bootstrap interval of 95 %, cases and, where there are several, seeds drawn with
            replacement; nan below two cases.
        p: of the two-sided signed-rank test of Wilcoxon on the means over seeds, zeros ranked along (Pratt); 1 where no
            case differs. It speaks of these trained networks.
        effect: matched-pairs rank-biserial correlation, from -1 (the second is ahead in every case) to 1.
        p_seeds: of `seeds_p`, which speaks of networks of other seeds as well; nan unless both have several.
    """

    cases: int
    undefined: int
    difference: float
    low: float
    high: float
    p: float
    effect: float
    p_seeds: float = math.nan


def compare(first: Scores | Seeds, second: Scores | Seeds, *, seed: int = 0, resamples: int = RESAMPLES) -> Paired:
    """Compares two methods' scores of the same cases, in one order.

    Args:
        first, second: of one training (cases,), or of several with other seeds (seeds, cases).
        seed: of the cases that are drawn for the interval.
        resamples: how often they are drawn.

    Raises:
        UserError: the numbers of cases differ.

    Example:
        >>> compare(np.array([0.75, 0.5, 1.0]), np.array([0.5, 0.5, 0.5])).difference
        0.25
    """
    first, second = (np.atleast_2d(np.asarray(one, np.float64)) for one in (first, second))
    if first.shape[1] != second.shape[1] or first.ndim != 2 or second.ndim != 2:
        raise UserError(
            f"scores of {first.shape[1:]} and {second.shape[1:]} cannot be paired; give one of each case, in the same "
            "order"
        )
    both = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    first, second, left_out = first[:, both], second[:, both], int(both.size - both.sum())
    if not first.size:
        return Paired(0, left_out, *(math.nan,) * 5)
    differences = first.mean(axis=0) - second.mean(axis=0)
    low, high = difference_interval(first, second, seed=seed, resamples=resamples)
    p, effect = signed_rank_p(differences), rank_biserial(differences)
    mean = float(differences.mean())
    return Paired(len(differences), left_out, mean, low, high, p, effect, seeds_p(first, second))


def seeds_p(first: Seeds, second: Seeds) -> float:
    """Returns the two-sided p-value of equal methods, were cases and seeds drawn anew; nan below two of either.

    Cases, which both share, and the seeds of each are crossed random effects. The squared error of the difference is
    the sum of what the means of cases and of seeds tell of it, less what both hold of their interaction, and at least
    the larger of the two; the degrees of freedom are those of Satterthwaite (Biometrics 1946).
    """
    if min(len(first), len(second), first.shape[1]) < 2:
        return math.nan
    cases = first.shape[1]
    difference = first.mean(axis=0) - second.mean(axis=0)
    of_cases = [(difference.var(ddof=1) / cases, cases - 1)]
    of_seeds, of_both = [], []
    for one in (first, second):
        rest = one - one.mean(axis=0) - one.mean(axis=1, keepdims=True) + one.mean()
        freedom = (len(one) - 1) * (cases - 1)
        of_seeds.append((one.mean(axis=1).var(ddof=1) / len(one), len(one) - 1))
        of_both.append(((rest**2).sum() / freedom / one.size, freedom))
    by_cases, by_seeds, shared = (sum(part for part, _ in parts) for parts in (of_cases, of_seeds, of_both))
    error = max(by_cases + by_seeds - shared, by_cases, by_seeds)
    if error == 0:
        return 1.0 if difference.mean() == 0 else 0.0
    freedom = error**2 / sum(part**2 / count for part, count in (*of_cases, *of_seeds, *of_both))
    return float(2 * stats.t.sf(abs(difference.mean()) / math.sqrt(error), max(freedom, 1.0)))


def difference_interval(
    first: Seeds, second: Seeds, *, seed: int = 0, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Returns the bounds of the mean difference's bootstrap interval of 95 %, over cases and over seeds.

    Where both have one seed this is `mean_interval`. Draws of n seeds, and of n cases beside them, are widened by the
    root of n / (n - 1), for they scatter less than seeds and cases do.
    """
    cases = first.shape[1]
    if len(first) == len(second) == 1 or cases < 2:
        return mean_interval((first - second)[0] if cases else np.zeros(0), seed=seed, resamples=resamples)
    rng = np.random.default_rng(seed)
    of_first, of_second, of_cases = (_shares(count, resamples, rng) for count in (len(first), len(second), cases))
    drawn = ((of_first @ first - of_second @ second) * of_cases).sum(axis=1)
    low, high = np.quantile(drawn, ((1 - _LEVEL) / 2, (1 + _LEVEL) / 2))
    return float(low), float(high)


def _shares(count: int, resamples: int, rng: np.random.Generator) -> Float64[np.ndarray, "resamples count"]:
    """How much each of so many counts in draws with replacement, widened."""
    even = np.full(count, 1 / count)
    widening = math.sqrt(count / (count - 1)) if count > 1 else 1.0
    return even + widening * (rng.multinomial(count, even, resamples) / count - even)


def signed_rank_p(differences: Scores) -> float:
    """Returns the two-sided p-value of Wilcoxon's signed-rank test, zeros ranked along (Pratt 1959); 1 if all are 0."""
    if not differences.any():
        return 1.0
    result: Any = stats.wilcoxon(differences, zero_method="pratt")
    return float(result.pvalue)


def mean_interval(values: Scores, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """Returns the bounds of the mean's bootstrap interval of 95 % by percentiles; nan below two values."""
    if len(values) < 2:
        return math.nan, math.nan
    interval = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=_LEVEL, method="percentile", rng=seed, batch=1000
    ).confidence_interval
    return float(interval.low), float(interval.high)


def rank_biserial(differences: Scores) -> float:
    """Returns the share of ranks of positive differences less that of negative ones, zeros left out (Kerby 2014)."""
    moved = differences[differences != 0]
    if not moved.size:
        return 0.0
    ranks = stats.rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values for tests that are made together (Holm 1979), in their order; nan stays, and counts for none."""
    p = np.asarray(p_values, np.float64)
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted = p.copy()
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1.0)
    return [float(value) for value in adjusted]


@dataclass(frozen=True)
class Ranking:
    """Methods ranked as BraTS ranks them.

    Attributes:
        of_cases: mean rank over the measures of a case (methods cases); 1 is best.
        score: its mean over cases (methods,).
        place: order of the methods by score, from 1 (methods,); equal scores share the better place.
        p: row ahead of column by chance (methods methods), by permutation; nan on the diagonal.
    """

    of_cases: Float64[np.ndarray, "methods cases"]
    score: Float64[np.ndarray, " methods"]
    place: Integer[np.ndarray, " methods"]
    p: Float64[np.ndarray, "methods methods"]


def rank(
    scores: Float[np.ndarray, "methods cases measures"],
    larger_is_better: Sequence[bool],
    *,
    seed: int = 0,
    permutations: int = RESAMPLES,
) -> Ranking:
    """Ranks methods in every measure of every case, and averages (Bakas et al., arXiv:1811.02629, section 2.3).

    A measure is a metric of a region. Ties share their mean rank; undefined scores rank last. Whether one method's
    ranks are lower than another's by chance is told by exchanging both in cases at random, one-sided.

    Args:
        larger_is_better: of each measure.
        permutations: how often they are exchanged; fewer where there are fewer ways.
    """
    directed = np.where(np.asarray(larger_is_better), -np.asarray(scores, np.float64), scores)
    ranks = stats.rankdata(np.where(np.isfinite(directed), directed, np.inf), axis=0)
    of_cases = ranks.mean(axis=2)
    score = of_cases.mean(axis=1)
    p = np.full((len(score),) * 2, np.nan)
    for one in range(len(score)):
        for other in range(len(score)):
            if one != other:
                p[one, other] = _by_chance(of_cases[other] - of_cases[one], seed, permutations)
    return Ranking(of_cases, score, stats.rankdata(np.round(score, 12), method="min").astype(int), p)


def _by_chance(gains: Float64[np.ndarray, " cases"], seed: int, permutations: int) -> float:
    """How often random signs of the gains give at least their mean: all ways where they are few, else some."""
    if 2 ** min(len(gains), 60) <= permutations:
        signs = 1 - 2 * ((np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains))) & 1)
        return float(np.mean(signs @ gains >= gains.sum() - 1e-9))
    signs = np.random.default_rng(seed).choice((-1, 1), (permutations, len(gains)))
    return float((1 + np.count_nonzero(signs @ gains >= gains.sum() - 1e-9)) / (1 + permutations))
