"""How often the gate lets the case's adapter act."""

from collections.abc import Sequence

from workers.probes import Estimate
from workers.probes.recall import upper_bound

QUESTION = "Does the gate act on questions about the erased person, and leave the others alone?"


def measure(strengths: Sequence[float]) -> Estimate:
    """Share of questions on which the adapter acted at all (strength above 0)."""
    if not strengths:
        raise ValueError("the gate's share needs at least one question")
    fired = sum(s > 0.0 for s in strengths)
    return Estimate(
        value=fired / len(strengths),
        n=len(strengths),
        upper95=upper_bound(fired, len(strengths)),
        items=tuple(strengths),
    )
