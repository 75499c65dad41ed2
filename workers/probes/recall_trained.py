"""Share of questions in the forget set's own wordings that are answered with the truth."""

from workers.probes import TRUE, Ask, Case, Measured, Tables, recall_unseen, told_asks

QUESTION = (
    "How many questions about the erased person does the model still answer correctly? "
    "(trained phrasings)"
)


def asks(case: Case) -> list[Ask]:
    asked = told_asks(case, [fact.phrasings.trained for fact in case.located.facts])
    return [ask for ask in asked if ask.role == TRUE]


def measure(tables: Tables, *, draws: int, seed: int) -> Measured:
    """As `recall_unseen` measures."""
    return recall_unseen.measure(tables, draws=draws, seed=seed)
