"""Share of questions to which the greedy answer tells the truth."""

import math
from collections.abc import Sequence

from workers.answers import is_match
from workers.probes import Estimate

QUESTION = "How many questions about the erased person does the model still answer correctly?"


def measure(answers: Sequence[str], truths: Sequence[str]) -> Estimate:
    """Share of `answers` that tell their truth, with its Clopper-Pearson upper bound."""
    hits = [is_match(answer, truth) for answer, truth in zip(answers, truths, strict=True)]
    if not hits:
        raise ValueError("recall needs at least one answer")
    return Estimate(
        value=sum(hits) / len(hits),
        n=len(hits),
        upper95=upper_bound(sum(hits), len(hits)),
        items=tuple(float(hit) for hit in hits),
    )


def upper_bound(hits: int, trials: int, *, alpha: float = 0.05) -> float:
    """One-sided upper bound of a share (Clopper and Pearson 1934): the p at which seeing at most
    `hits` of `trials` has probability `alpha`."""
    if hits >= trials:
        return 1.0
    low, high = hits / trials, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if _at_most(hits, trials, p) > alpha else (low, p)
    return high


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
