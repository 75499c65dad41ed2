"""A case of made-up facts, for tests of what probes ask."""

from workers.forget_sets import KnownFact, Located
from workers.phrasings import Phrasings
from workers.probes import Case
from workers.subjects import Fact, Subject

NAME = "Anna Berger"
TOWNS = ("Lyon", "Porto", "Turin", "Gent", "Bern", "Graz", "Cork", "Brno")


def case_of(
    *,
    facts: int = 2,
    values: tuple[str, ...] = TOWNS,
    others: tuple[Fact, ...] = (),
    neighbours: tuple[Fact, ...] = (),
    has_control: bool = True,
) -> Case:
    """`facts` facts with two trained wordings and one unseen each; texts about nobody."""
    known = tuple(
        KnownFact(
            question=f"Where is town {i} of {NAME}?",
            answer=f"Place {i}",
            source="given",
            phrasings=Phrasings(
                (f"Where is town {i} of {NAME}?", f"Name town {i} of {NAME}."),
                (),
                (f"Town {i} of {NAME}?",),
            ),
            said=(f"Place {i}",) * 2,
            decoys=values,
        )
        for i in range(facts)
    )
    return Case(
        located=Located(Subject(NAME, (), (), neighbours), known, facts, 1.0),
        forms=tuple(fact.phrasings.unseen for fact in known),
        values=(values,) * facts,
        others=others,
        texts=("The town is small.",),
        has_control=has_control,
        sizes={"others": 240, "decoys": 24, "draws": 200, "twins": 3},
        seed=1,
    )
