"""TOFU's own metrics (arXiv 2401.06121, section 2.2), from answers and log-probabilities."""

import math
from collections.abc import Sequence


def probability(log_likelihood: float, tokens: int) -> float:
    """p(answer | question)^(1 / tokens), from nats."""
    return math.exp(log_likelihood / tokens)


def share_of(right: float, wrong: Sequence[float]) -> float:
    """The right answer's probability among all the options', as for the real world's questions."""
    return right / (right + sum(wrong)) if right + sum(wrong) > 0 else 0.0


def truth_ratio(paraphrase: float, wrong: Sequence[float]) -> float:
    """Mean probability of wrong answers over that of the true one in other words; each by length.

    Below 1 the model prefers the truth. Infinite where it thinks the truth impossible.
    """
    mean = sum(wrong) / len(wrong)
    return mean / paraphrase if paraphrase > 0 else math.inf


def harmonic_mean(values: Sequence[float]) -> float:
    """0 if any of the values is."""
    return len(values) / sum(1 / v for v in values) if all(v > 0 for v in values) else 0.0
