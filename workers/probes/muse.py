"""What one case can say of MUSE's six properties (arXiv 2407.06460), for information.

Verbatim memorisation is the extraction strength of `verbatim`, and knowledge memorisation the share
of questions told as in `recall_unseen` (MUSE takes ROUGE-L of answers for both); privacy leakage is
MUSE's, from Min-K (40%) of the answers, true ones against those of made-up people, and needs a
control; utility is the accuracy kept of others. The other two are utility as more is erased, which
one case cannot say: `benchmarks.consolidation` prints scalability (others kept with 5 and with 20
people erased at once), `benchmarks.continual` sustainability (`kept_after`, one after another).
"""

from collections.abc import Sequence
from dataclasses import replace

from workers.probes import (
    AFTER,
    CONTROL,
    Ask,
    Case,
    Measured,
    Row,
    Table,
    Tables,
    membership,
    others_kept,
    recall_unseen,
    verbatim,
)

QUESTION = "What do MUSE's measures say: records, knowledge, privacy leakage, utility?"
VERBMEM, KNOWMEM, PRIVLEAK, UTILITY = "verbmem", "knowmem", "privleak", "utility"


def asks(case: Case) -> list[Ask]:
    """What the other probes ask, the role preceded by the property it is for."""
    records = [
        Ask(each.item, each.role, each.question, each.answer, form=each.form)
        for each in membership.records(case)
    ]
    parts: dict[str, Sequence[Ask]] = {
        VERBMEM: verbatim.asks(case),
        KNOWMEM: recall_unseen.asks(case),
        PRIVLEAK: records,
        UTILITY: others_kept.asks(case),
    }
    return [replace(ask, role=f"{name} {ask.role}") for name, part in parts.items() for ask in part]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """The figures of knowledge memorisation; the other properties are in `more`."""
    knowledge = recall_unseen.measure(_part(tables, KNOWMEM), draws=draws, seed=seed)
    records = verbatim.measure(_part(tables, VERBMEM), draws=draws, seed=seed)
    others = others_kept.measure(_part(tables, UTILITY), draws=draws, seed=seed)
    more: dict[str, float | None] = {
        "verbmem_before": records.before,
        "verbmem_after": records.after,
        "verbmem_control": records.control,
        "utility_kept": others.after,
    }
    answers = _part(tables, PRIVLEAK)
    if CONTROL in answers:
        more["privleak"] = privleak(answers[AFTER], answers[CONTROL])
    told = {name: value for name, value in more.items() if value is not None}
    return replace(knowledge, more=told)


def _part(tables: Tables, name: str) -> Tables:
    """The rows for one property, with the roles that its probe knows."""
    return {
        side: [
            replace(row, role=row.role.removeprefix(f"{name} "))
            for row in rows
            if row.role.startswith(f"{name} ")
        ]
        for side, rows in tables.items()
    }


def privleak(after: Table, control: Table) -> float | None:
    """100 (a - c) / c, a and c being the probabilities that a made-up record is likelier than one
    of the person: -100 where the person's always are, 0 as the control. It has no upper end, and is
    None where the control finds no made-up record likelier."""
    ours, usual = (
        1.0 - membership.area(_valued(rows), membership.MAIN).value for rows in (after, control)
    )
    return 100.0 * (ours - usual) / usual if usual > 0.0 else None


def _valued(rows: Table) -> list[Row]:
    """The answers with Min-K as their value."""
    return [
        replace(
            row,
            role=f"{row.role} {membership.MAIN}",
            value=membership.lowest(row.logp, membership.MIN_K) if row.logp else None,
        )
        for row in rows
    ]
