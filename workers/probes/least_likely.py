"""How often the true value is the least likely of all: over-forgetting that names what was there.

A model driven away from a value gives it away to whoever asks for the least likely one (inverse
greedy decoding, "Streisand" effect: OpenReview hPruSo1bEE). By chance it is one of m + 1 values in
1 / (m + 1) of the wordings; an average rank may hide it, where some facts are avoided and others
still known. The same questions and values as `knowledge_rank`.
"""

from statistics import fmean

from workers import statistics
from workers.probes import AFTER, BEFORE, Ask, Case, Measured, Table, Tables, knowledge_rank, never

QUESTION = "Has the true value become the least likely of all, which would itself give it away?"
TWINS = (AFTER,)


def asks(case: Case) -> list[Ask]:
    return knowledge_rank.asks(case)


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """Share of wordings in which every decoy is likelier than the true value, with a bound over
    facts. `chance` is what ignorance gives, `p_above_control` the p-value of a paired sign-flip
    test over facts."""
    after, before = shares(tables[AFTER]), shares(tables[BEFORE])
    control = shares(never(tables), relative=False)
    found = statistics.bootstrap(list(after.values()), draws=draws, seed=seed)
    more = {"chance": _chance(tables[AFTER])}
    limit = None
    if control:
        limit = statistics.bootstrap(list(control.values()), draws=draws, seed=seed)
        apart = [value - control[item] for item, value in after.items()]
        more["p_above_control"] = statistics.sign_flip_p(apart, draws=draws, seed=seed)
    return Measured(
        n=len(after),
        before=fmean(before.values()),
        after=found.value,
        control=limit.value if limit else None,
        bound=found.upper,
        control_upper=limit.upper if limit else None,
        items=tuple(after.values()),
        more=more,
    )


def shares(rows: Table, *, relative: bool = True) -> dict[int, float]:
    """Each fact's share of wordings after which the true value is below every decoy. A tie, as
    where the gate lets nothing be told, is none."""
    found: dict[int, list[bool]] = {}
    for (item, _), (true, decoys) in knowledge_rank.compared(rows, relative=relative).items():
        found.setdefault(item, []).append(true < min(decoys))
    return {item: fmean(found[item]) for item in sorted(found)}


def _chance(rows: Table) -> float:
    return fmean(1.0 / (1 + len(decoys)) for _, decoys in knowledge_rank.compared(rows).values())
