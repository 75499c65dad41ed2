"""Perplexity on general text through the gate, against the base model's."""

import math

from workers.probes import Estimate

QUESTION = "Does general language suffer?"


def measure(before: float, after: float, *, texts: int) -> Estimate:
    """Ratio of perplexities from mean nats a token; 1 means unchanged."""
    ratio = math.exp(after - before)
    return Estimate(value=ratio, n=texts, upper95=None, items=(before, after))
