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


def ks_p_value(one: Sequence[float], other: Sequence[float]) -> float:
    """p-value of the two-sample Kolmogorov-Smirnov test (forget quality: of the truth ratios of
    the unlearnt model and of the control). Asymptotic, with Stephens' correction (1970)."""
    values = sorted({*one, *other})
    gap, left, right = 0.0, sorted(one), sorted(other)
    i = j = 0
    for value in values:
        while i < len(left) and left[i] <= value:
            i += 1
        while j < len(right) and right[j] <= value:
            j += 1
        gap = max(gap, abs(i / len(left) - j / len(right)))
    size = math.sqrt(len(left) * len(right) / (len(left) + len(right)))
    x = (size + 0.12 + 0.11 / size) * gap
    if x < 0.2:
        return 1.0
    found = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, found))
