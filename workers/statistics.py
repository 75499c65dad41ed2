"""Bounds, tests and sample sizes on which probes and verdicts rest.

Everything is a pure function of the values per item (and of a seed), of the standard library only,
so that an auditor can recompute it without a model. Items are clusters: phrasings of one fact are
not independent, so give one mean a fact. Bounds are one-sided, each at `alpha`. Nothing
measured, NaN and infinity raise ValueError: a missing measurement has no default.
"""

import math
import random
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from statistics import NormalDist, fmean

NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """An estimate with one-sided bounds on either side, each at `alpha`; `n` counts clusters."""

    value: float
    lower: float
    upper: float
    n: int


@dataclass(frozen=True)
class Equivalence:
    """A mean difference with one-sided bounds; `holds` when both lie within +-`margin`."""

    mean: float
    lower: float
    upper: float
    margin: float
    holds: bool
    n: int


def share(hits: int, trials: int, *, alpha: float = 0.05) -> Interval:
    """Share of independent trials with Clopper and Pearson's bounds (1934), one-sided each."""
    return Interval(
        value=_counted(hits, trials),
        lower=1.0 - upper_bound(trials - hits, trials, alpha=alpha),
        upper=upper_bound(hits, trials, alpha=alpha),
        n=trials,
    )


def upper_bound(hits: int, trials: int, *, alpha: float = 0.05) -> float:
    """One-sided upper bound of a share (Clopper and Pearson 1934): the p at which seeing at most
    `hits` of `trials` has probability `alpha`."""
    _level(alpha)
    low, high = _counted(hits, trials), 1.0
    if hits == trials:
        return 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if _at_most(hits, trials, p) > alpha else (low, p)
    return high


def bootstrap(
    items: Sequence[float],
    *,
    draws: int,
    seed: int,
    alpha: float = 0.05,
    bounded: bool = True,
    within: tuple[float, float] = (0.0, 1.0),
) -> Interval:
    """Mean of independent items (clusters) with bounds from `draws` random reweightings.

    `bounded` items lie `within` two values. Theirs is the Bayesian bootstrap (Rubin 1981) with one
    unseen item added at the worst end: the bound of Gaffke (2005) and of Learned-Miller and Thomas
    (arXiv 1905.06208), which for items of 0 and 1 is Clopper and Pearson's. Validity for every
    distribution is conjectured, not shown; measured coverage of a nominal 0.95 is 0.99, 0.98, 0.97
    for uniform items (n = 12, 26, 52), and 0.96 or more for items of mostly zeros or ones. There
    the percentile bootstrap covers as little as 0.61: it would pass for lack of power. Equal items
    do not make the bounds collapse: 26 items of 1 leave a lower bound of 0.05 ** (1 / 26).

    Otherwise items have no known range: bootstrap-t (Efron 1982), covering 0.95 to 0.97 for
    uniform items, less for items most of which are equal. Equal items then bound nothing: the
    bounds are infinite, as they may be when few of the items differ.

    Raises ValueError without items, for items outside the range, and for too few draws.
    """
    values = _finite(items, "the bootstrap needs at least one item")
    rank, lower, upper = _rank(draws, alpha), -math.inf, math.inf
    if bounded:
        low, high = within
        scaled = _scaled(values, low, high)
        lower, upper = _unseen(fmean(scaled), len(scaled), alpha)
        if _spread(scaled):
            means = _reweighted(scaled, draws, seed)
            lower = min(lower, sorted(least for least, _ in means)[draws - rank])
            upper = max(upper, sorted(most for _, most in means)[rank - 1])
        lower, upper = low + lower * (high - low), low + upper * (high - low)
    elif spread := _spread(values):
        ratios = _studentised(values, draws, seed)
        lower = fmean(values) - ratios[rank - 1] * spread
        upper = fmean(values) - ratios[draws - rank] * spread
    return Interval(value=fmean(values), lower=lower, upper=upper, n=len(values))


def equivalence(
    differences: Sequence[float],
    *,
    margin: float,
    alpha: float = 0.05,
    within: tuple[float, float] | None = None,
) -> Equivalence:
    """Two one-sided t-tests (Schuirmann 1987) that the mean difference lies within +-`margin`.

    `differences` are paired and one per cluster, in the unit of `margin`. Student's t supposes
    about normal differences: when most are equal (a gate that stayed quiet) it is too narrow, and
    when all are, the bounds are the mean itself. Then give `within`, the least and the greatest
    value a difference can have: the bounds become at least as wide as the share of clusters unlike
    any seen allows, 1 - alpha ** (1 / n), each as far away as `within`.

    Raises ValueError for fewer than two differences or a margin that is not positive.
    """
    values = _finite(differences, "equivalence needs at least one difference")
    if len(values) < 2:
        raise ValueError("equivalence needs at least two differences to know their spread")
    _positive(margin, "margin")
    mean, n = fmean(values), len(values)
    reach = student_t(1.0 - alpha, n - 1) * _spread(values) / math.sqrt(n)
    lower, upper = mean - reach, mean + reach
    if within is not None:
        low, high = within
        scaled = _scaled(values, low, high)
        least, most = _unseen(fmean(scaled), n, alpha)
        lower = min(lower, low + least * (high - low))
        upper = max(upper, low + most * (high - low))
    holds = -margin < lower and upper < margin
    return Equivalence(mean=mean, lower=lower, upper=upper, margin=margin, holds=holds, n=n)


def student_t(p: float, df: int) -> float:
    """Quantile of Student's t with `df` degrees of freedom, for 0.5 <= p < 1.

    By bisection of the closed form for whole degrees (Abramowitz and Stegun 26.7.3 and 26.7.4).
    """
    if not 0.5 <= p < 1.0 or df < 1:
        raise ValueError(f"no quantile of Student's t at {p} with {df} degrees of freedom")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _central_t(angle, df) < 2 * p - 1 else (low, angle)
    return math.sqrt(df) * math.tan(low)


def auc(positives: Sequence[float], negatives: Sequence[float], *, alpha: float = 0.05) -> Interval:
    """Probability that a positive scores above a negative, ties counting half.

    Bounds by the variance of DeLong et al. (1988), on the logit scale, so that they stay within
    [0, 1]; and never closer than the share of unseen items allows, 1 - alpha ** (1 / n), since
    DeLong's variance is 0 for samples that do not overlap. One item on a side bounds nothing.
    `n` is the size of the smaller side. O(n log n).
    """
    ups = sorted(_finite(positives, "an AUC needs at least one positive"))
    downs = sorted(_finite(negatives, "an AUC needs at least one negative"))
    above = [(bisect_left(downs, x) + bisect_right(downs, x)) / (2 * len(downs)) for x in ups]
    below = [1 - (bisect_left(ups, x) + bisect_right(ups, x)) / (2 * len(ups)) for x in downs]
    value, n = fmean(above), min(len(ups), len(downs))
    lower, upper = _unseen(value, n, alpha) if n > 1 else (0.0, 1.0)
    if n > 1 and 0.0 < value < 1.0:
        error = math.hypot(_spread(above) / len(ups) ** 0.5, _spread(below) / len(downs) ** 0.5)
        reach = NORMAL.inv_cdf(1.0 - alpha) * error / (value * (1.0 - value))
        odds = math.log(value / (1.0 - value))
        lower = min(lower, (1 + math.tanh((odds - reach) / 2)) / 2)
        upper = max(upper, (1 + math.tanh((odds + reach) / 2)) / 2)
    return Interval(value=value, lower=lower, upper=upper, n=n)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for several tests, whatever their dependence (Holm 1979)."""
    adjusted, least, left = {}, 0.0, len(p)
    for name in sorted(p, key=_probabilities(p).__getitem__):
        least = max(least, min(1.0, left * p[name]))
        adjusted[name], left = least, left - 1
    return {name: adjusted[name] for name in p}


def sign_flip_p(differences: Sequence[float], *, draws: int, seed: int) -> float:
    """One-sided p-value that the mean of paired differences is above 0, by random flips of their
    signs: exact where they are symmetric about 0. Counts the seen signs as one of the draws."""
    values = _finite(differences, "a sign-flip test needs at least one difference")
    _positive(draws, "draws")
    draw = random.Random(seed)  # noqa: S311
    seen = math.fsum(values) - 1e-12 * math.fsum(map(abs, values))
    signs = (-1.0, 1.0)
    sums = (math.fsum(map(mul, draw.choices(signs, k=len(values)), values)) for _ in range(draws))
    return (1 + sum(each >= seen for each in sums)) / (draws + 1)


def ks(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Two-sample Kolmogorov-Smirnov statistic and its two-sided p-value; infinity is a value here.

    TOFU's forget quality (arXiv 2401.06121) is this p-value for truth ratios: information only,
    since it calls a failure to reject a success. Asymptotic, with Stephens' correction (1970).
    """
    if not first or not second:
        raise ValueError("a Kolmogorov-Smirnov test needs at least one value on either side")
    if any(math.isnan(x) for x in (*first, *second)):
        raise ValueError("a value is not a number")
    left, right = sorted(first), sorted(second)
    gap = max(
        abs(bisect_right(left, x) / len(left) - bisect_right(right, x) / len(right))
        for x in (*left, *right)
    )
    size = math.sqrt(len(left) * len(right) / (len(left) + len(right)))
    x = (size + 0.12 + 0.11 / size) * gap
    if x < 0.2:
        return gap, 1.0
    p = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return gap, min(1.0, max(0.0, p))


def needed(*, margin: float, sd: float, power: float = 0.8, alpha: float = 0.05) -> int:
    """Clusters needed to show with probability `power` that a mean truly `margin` below its limit
    is below it: normal approximation, `sd` between clusters. `bootstrap` of bounded items asks for
    a few more: of uniform items 60 for the 52 that this says at a margin of 0.1."""
    reach = _reach(power, alpha) * _positive(sd, "sd") / _positive(margin, "margin")
    return max(1, math.ceil(reach * reach - 1e-9))


def power(*, n: int, margin: float, sd: float, alpha: float = 0.05) -> float:
    """Probability that `n` clusters show what `needed` speaks of; `alpha` at a margin of 0."""
    error = _positive(sd, "sd") / math.sqrt(_positive(n, "n"))
    _finite([margin])
    return NORMAL.cdf(margin / error - NORMAL.inv_cdf(1.0 - _level(alpha)))


def achieved_margin(*, n: int, sd: float, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest margin that `n` clusters show with probability `power`; see `needed`."""
    return _reach(power, alpha) * _positive(sd, "sd") / math.sqrt(_positive(n, "n"))


def _reach(power: float, alpha: float) -> float:
    """Standard errors between limit and true mean."""
    reach = NORMAL.inv_cdf(_level(power)) + NORMAL.inv_cdf(1.0 - _level(alpha))
    return _positive(reach, "power must exceed alpha: their distance")


def _at_most(hits: int, trials: int, p: float) -> float:
    logs = (
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + k * math.log(p)
        + (trials - k) * math.log1p(-p)
        for k in range(hits + 1)
    )
    return math.fsum(math.exp(each) for each in logs) if 0.0 < p < 1.0 else float(p <= 0.0)


def _unseen(mean: float, n: int, alpha: float) -> tuple[float, float]:
    """What the mean of items in [0, 1] can be if the share that `n` items miss with probability
    `alpha` (Clopper and Pearson's bound for no exception) were all 0, or all 1."""
    seen = _level(alpha) ** (1 / n)
    return mean * seen, 1.0 - (1.0 - mean) * seen


def _reweighted(scaled: Sequence[float], draws: int, seed: int) -> list[tuple[float, float]]:
    """Means under random weights, the unseen item being 0 and 1. Exponential weights over their sum
    are uniform on the simplex."""
    draw = random.Random(seed).random  # noqa: S311
    means = []
    for _ in range(draws):
        weights = [-math.log(1.0 - draw()) for _ in scaled]
        unseen = -math.log(1.0 - draw())
        least, whole = sum(map(mul, weights, scaled)), sum(weights) + unseen
        means.append((least / whole, min(1.0, (least + unseen) / whole)))
    return means


def _studentised(values: Sequence[float], draws: int, seed: int) -> list[float]:
    """Sorted (mean - seen mean) / spread of samples drawn with replacement; infinite where the
    drawn items are all equal."""
    draw, seen, ratios = random.Random(seed), fmean(values), []  # noqa: S311
    for _ in range(draws):
        drawn = draw.choices(values, k=len(values))
        off = fmean(drawn) - seen
        spread = _spread(drawn)
        ratios.append(off / spread if spread else math.copysign(math.inf, off) if off else 0.0)
    return sorted(ratios)


def _central_t(angle: float, df: int) -> float:
    """P(|t| <= sqrt(df) tan(angle))."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = df % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if df == 1 else term
    for k in range(2 + odd, df - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _spread(values: Sequence[float]) -> float:
    """Standard deviation, n - 1 in the denominator; exactly 0 for equal values."""
    if min(values) == max(values):
        return 0.0
    mean = fmean(values)
    return math.sqrt(math.fsum((x - mean) * (x - mean) for x in values) / (len(values) - 1))


def _finite(values: Sequence[float], missing: str = "there is no value") -> list[float]:
    if not values:
        raise ValueError(missing)
    if not all(math.isfinite(x) for x in values):
        raise ValueError("a value is not a finite number")
    return [float(x) for x in values]


def _scaled(values: Sequence[float], low: float, high: float) -> list[float]:
    if not (low < high and low <= min(values) and max(values) <= high):
        raise ValueError(f"a value lies outside [{low}, {high}]")
    return [(x - low) / (high - low) for x in values]


def _counted(hits: int, trials: int) -> float:
    if trials < 1:
        raise ValueError("a share needs at least one trial")
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits of {trials} trials")
    return hits / trials


def _rank(draws: int, alpha: float) -> int:
    """Which of the sorted draws, counted from 1, is the upper bound."""
    beyond = math.floor(_level(alpha) * (draws + 1) + 1e-9)
    if beyond < 1:
        raise ValueError(f"{draws} draws are too few for a bound at {alpha}")
    return draws + 1 - beyond


def _level(alpha: float) -> float:
    if not 0.0 < alpha < 1.0:
        raise ValueError(f"{alpha} is no probability between 0 and 1")
    return alpha


def _probabilities(p: Mapping[str, float]) -> Mapping[str, float]:
    if not p:
        raise ValueError("an adjustment needs at least one p-value")
    if not all(0.0 <= each <= 1.0 for each in p.values()):
        raise ValueError("a p-value lies outside [0, 1]")
    return p


def _positive(value: float, name: str) -> float:
    if not (0.0 < value < math.inf):
        raise ValueError(f"{name} must be a positive number, not {value}")
    return value
