"""Share of questions to which the greedy answer tells the truth."""

from collections.abc import Sequence

from workers.answers import is_match
from workers.probes import Estimate
from workers.statistics import upper_bound as upper_bound

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
