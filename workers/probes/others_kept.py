"""Of what the model answered correctly about others, how much it still does."""

from collections.abc import Sequence

from workers.answers import is_match
from workers.probes import Estimate

QUESTION = "Does the model still answer what it should go on answering about others?"


def measure(before: Sequence[str], after: Sequence[str], truths: Sequence[str]) -> Estimate:
    """Share of the questions answered correctly `before` that are answered correctly `after`.

    Raises ValueError when none was answered before: then there is nothing to measure.
    """
    items = tuple(
        float(is_match(now, truth))
        for then, now, truth in zip(before, after, truths, strict=True)
        if is_match(then, truth)
    )
    if not items:
        raise ValueError("no question about others was answered before")
    return Estimate(value=sum(items) / len(items), n=len(items), upper95=None, items=items)
