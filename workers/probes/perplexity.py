"""Perplexity of general text, against the model before erasure."""

import math

from workers import statistics
from workers.probes import AFTER, BEFORE, TRUE, Ask, Case, Measured, Table, Tables

QUESTION = "Does general language suffer?"
SIDES = (BEFORE, AFTER)


def asks(case: Case) -> list[Ask]:
    return [Ask(i, TRUE, "", text, text=True) for i, text in enumerate(case.texts)]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """Ratio of perplexities over all tokens; 1 means unchanged. The bound is a bootstrap over
    texts of their mean change in nats a token; none where no text changed at all."""
    before, after = mean_nll(tables[BEFORE]), mean_nll(tables[AFTER])
    changes = [
        sum(then.logp) / len(then.logp) - sum(now.logp) / len(now.logp)
        for then, now in zip(tables[BEFORE], tables[AFTER], strict=True)
    ]
    found = statistics.bootstrap(changes, draws=draws, seed=seed, bounded=False)
    return Measured(
        n=len(changes),
        before=1.0,
        after=math.exp(after - before),
        bound=math.exp(found.upper) if math.isfinite(found.upper) else None,
        items=tuple(math.exp(change) for change in changes),
        more={"nats_before": before, "nats_after": after},
    )


def mean_nll(rows: Table) -> float:
    """Nats a token. Raises ValueError where the gate let a text not be scored."""
    if not all(row.logp for row in rows):
        raise ValueError("the gate closed on general text")
    return -sum(sum(row.logp) for row in rows) / sum(len(row.logp) for row in rows)
