"""Rank of the true value among values that were never true, by teacher-forced log-probability.

0.5 is ignorance, 1 is knowing by heart; below 0.5 the model avoids the truth, a trace in itself.
"""

import random
from collections.abc import Sequence
from statistics import fmean

from workers.probes import Estimate

QUESTION = "Does the model find the true value likelier than other values of its kind?"


def measure(
    scores: Sequence[Sequence[tuple[float, Sequence[float]]]], *, draws: int, seed: int
) -> Estimate:
    """A = mean P(true value scores above a decoy), ties counting half.

    `scores` holds per fact and per phrasing the true value's log-probability and those of the
    decoys. The upper bound is a bootstrap over facts, since phrasings of a fact are not
    independent; `items` are the facts' own values.
    """
    items = [fmean(_above(true, decoys) for true, decoys in fact) for fact in scores]
    if not items:
        raise ValueError("the rank needs at least one fact")
    draw = random.Random(seed)  # noqa: S311
    means = sorted(fmean(draw.choices(items, k=len(items))) for _ in range(draws))
    return Estimate(
        value=fmean(items),
        n=len(items),
        upper95=means[min(len(means) - 1, int(0.95 * len(means)))],
        items=tuple(items),
    )


def _above(true: float, decoys: Sequence[float]) -> float:
    return fmean(1.0 if true > decoy else 0.5 if true == decoy else 0.0 for decoy in decoys)
