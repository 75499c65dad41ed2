"""How often the gate lets the case's adapter act, or closes, on the person and on others."""

from dataclasses import replace
from statistics import fmean

from workers import statistics
from workers.probes import AFTER, Ask, Case, Measured, Tables, of, others_kept, recall_unseen

QUESTION = "Does the gate act on questions about the erased person, and leave the others alone?"
SIDES = (AFTER,)
ERASED, OTHERS = "erased", "others"


def asks(case: Case) -> list[Ask]:
    """The questions of `recall_unseen` and of `others_kept`."""
    about = [replace(ask, role=ERASED) for ask in recall_unseen.asks(case) if ask.role == "true"]
    return [*about, *(replace(ask, role=OTHERS) for ask in others_kept.asks(case))]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """Share of questions about the person on which the adapter acted at all or nothing was told;
    `control` is the same for the others, which should be near 0."""
    fired = {
        role: [row.closed or row.strength > 0.0 for row in of(tables[AFTER], role)]
        for role in (ERASED, OTHERS)
    }
    return Measured(
        n=len(fired[ERASED]),
        after=fmean(fired[ERASED]),
        control=fmean(fired[OTHERS]),
        bound=statistics.share(sum(fired[ERASED]), len(fired[ERASED])).lower,
        items=tuple(map(float, fired[ERASED])),
    )
