"""Questions put to a model to look for traces, or for damage: one file a probe.

A probe is `QUESTION` (plain language; reports print it) and one function `measure`, which turns
what was observed into an `Estimate`: the value, its bound, and the values per item. Thresholds are
policy and live in the protocol, not here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured value over `n` items; `upper95` is a one-sided 95% upper confidence bound, None
    where the probe has none. `items` are the values per item, in the order of the items."""

    value: float
    n: int
    upper95: float | None
    items: tuple[float, ...]
