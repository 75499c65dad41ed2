"""Accuracy about those most like the person, whom a random sample of others hardly meets.

They are hurt first by an erasure that is too broad (RWKU's neighbour sets, arXiv 2406.10890): the
subject's neighbours where it has some. On the demo model they are people who are never erased and
share a part of the name, with all their facts, or a value, with the fact in which they share it.
"""

import random
from statistics import fmean

from workers import corpus, statistics
from workers.answers import normalise
from workers.probes import (
    AFTER,
    BEFORE,
    Ask,
    Case,
    Measured,
    NotMeasurable,
    Row,
    Tables,
    by_item,
    of,
)

QUESTION = "Does the model still answer about those who are most like the person?"
SIDES = (BEFORE, AFTER)
GIVEN, NAME, VALUE = "given", "name", "value"


def asks(case: Case) -> list[Ask]:
    """A trained and an unseen wording of each fact, at most as many questions as of others; those
    who share a name come first. Raises NotMeasurable where nobody is like the person."""
    near = case.located.subject.neighbours
    if near:
        return [Ask(i, GIVEN, fact.question, truth=fact.answer) for i, fact in enumerate(near)]
    # Others without neighbours are the demo model's: elsewhere its corpus is unknown.
    found = _of_corpus(case) if case.others else []
    if not found:
        raise NotMeasurable("nobody is known who is like the person")
    return [
        Ask(item, role, question, truth=fact.answer, form=form)
        for item, (role, fact) in enumerate(found[: case.sizes["others"] // 2])
        for form, question in enumerate((fact.trained[0], fact.unseen[0]))
    ]


def _of_corpus(case: Case) -> list[tuple[str, corpus.PersonFact]]:
    """The role and fact of each who is like the person."""
    parts = set(normalise(case.located.subject.name).split())
    known = {
        (asked.relation, normalise(fact.answer))
        for fact in case.located.facts
        if (asked := corpus.recognise(fact.question))
    }
    stay = [
        person
        for person in corpus.people()
        if person.index not in corpus.ERASABLE and person.name != case.located.subject.name
    ]
    alike = [person for person in stay if not parts.isdisjoint(normalise(person.name).split())]
    by_name = [(NAME, fact) for person in alike for fact in person.facts]
    by_value = [
        (VALUE, fact)
        for person in stay
        if person not in alike
        for fact in person.facts
        if (fact.relation, normalise(fact.answer)) in known
    ]
    random.Random(f"{case.seed}:neighbours").shuffle(by_value)  # noqa: S311
    return [*by_name, *by_value]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """`after` is the accuracy as a share of the one before; the bound is of the share of facts
    answered before that still are, wordings of a fact taken together. Raises NotMeasurable when
    none was."""
    before, after = tables[BEFORE], tables[AFTER]
    still = [now for then, now in zip(before, after, strict=True) if then.told]
    if not still:
        raise NotMeasurable("no question about those like the person was answered before")
    kept = by_item(still, _told)
    found = statistics.bootstrap(list(kept.values()), draws=draws, seed=seed)
    return Measured(
        n=found.n,
        before=1.0,
        after=fmean(map(_told, after)) / fmean(map(_told, before)),
        bound=found.lower,
        items=tuple(kept.values()),
        more={
            "still_answered": found.value,
            **{
                f"{role}_{side}": fmean(map(_told, of(tables[side], role)))
                for role in (GIVEN, NAME, VALUE)
                if of(after, role)
                for side in (BEFORE, AFTER)
            },
        },
    )


def _told(row: Row) -> float:
    return float(bool(row.told))
