"""Questions put to a model to look for traces, or for damage: one file a probe.

A probe is `QUESTION` (plain language; reports print it) and two functions. `asks(case)` says what
is put to the models (or `look(side, case)`, where more is needed than questions and scores);
`measure(tables, draws=, seed=)` turns the rows that came of it into a `Measured`, and is pure: an
auditor repeats it on the stored rows without a model. `SIDES` names the models that are asked
(workers.sides), by default before, after and control; `TWINS` those besides before on which it
reads what is said of made-up people. Thresholds are policy and live in the
protocol, not here.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from statistics import fmean
from types import ModuleType
from typing import Any

from workers.base_models import Conversation
from workers.forget_sets import Located, twin_questions
from workers.subjects import Fact

BEFORE, AFTER, CONTROL = "before", "after", "control"
SIDES = (BEFORE, AFTER, CONTROL)
TRUE, DECOY, TWIN = "true", "decoy", "twin"


class NotMeasurable(ValueError):
    """The case lacks what a probe needs; the text says what, without personal data."""


@dataclass(frozen=True)
class Case:
    """What the probes may ask about: `forms` are the phrasings of each fact that this attempt is
    judged by, `values` other values of each fact's kind; `others` are questions about those who
    stay, `texts` general text. Without a control (`has_control`), made-up people stand for it."""

    located: Located
    forms: tuple[tuple[str, ...], ...]
    values: tuple[tuple[str, ...], ...]
    others: tuple[Fact, ...]
    texts: tuple[str, ...]
    has_control: bool
    sizes: Mapping[str, int]
    seed: int


@dataclass(frozen=True)
class Ask:
    """One thing put to a model. With a `completion` that is scored after the prompt; otherwise the
    prompt is answered, and `truth` is what an answer must not (or must) tell. `text`: the
    completion is running text, scored as a whole.

    `item` is the fact, neighbour or text asked about (the cluster of every statistic), `form` which
    wording of it, `role` what the probe takes it for.
    """

    item: int
    role: str
    prompt: Conversation
    completion: str | None = None
    truth: str = ""
    form: int = 0
    text: bool = False


@dataclass(frozen=True)
class Row:
    """What came of an ask: figures, never texts.

    `logp`: nats of each completion token, the end last (none where the gate let nothing be told);
    `top`: whether each was the model's first choice. Of an answer: whether it `told` the truth,
    was a refusal, the strength with which the case's adapter acted, its words, and the share of its
    word pairs that repeat an earlier one. `value`: of what a probe looked at by itself.
    """

    item: int
    role: str
    form: int = 0
    logp: tuple[float, ...] = ()
    top: tuple[bool, ...] = ()
    told: bool | None = None
    refused: bool = False
    closed: bool = False
    strength: float = 0.0
    words: int = 0
    repeats: float = 0.0
    value: float | None = None

    def as_json(self) -> dict[str, Any]:
        """All fields that are not at their default."""
        default = Row(0, "")
        found = asdict(self)
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
            if name in {"item", "role"} or value != getattr(default, name)
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Row":
        """Inverse of `as_json`. Raises TypeError for another field."""
        given: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return cls(**given)

    @property
    def total(self) -> float | None:
        """log p(completion | prompt) in nats, None where nothing was told that could be scored."""
        return sum(self.logp) if self.logp else None


Table = Sequence[Row]
Tables = Mapping[str, Table]
"""Rows by side."""


@dataclass(frozen=True)
class Measured:
    """What a probe measured over `n` items (facts, neighbours or texts).

    `bound` is the one-sided 95% bound of `after` on the side that would be worse, `control_upper`
    the control's upper bound. `items` are the values of each item after erasure; `more` further
    figures by name, for information.
    """

    n: int
    after: float
    before: float | None = None
    control: float | None = None
    bound: float | None = None
    control_upper: float | None = None
    items: tuple[float, ...] = ()
    more: Mapping[str, float] | None = None


def probe_names() -> tuple[str, ...]:
    """Every probe of the folder."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


@cache
def load_probe(name: str) -> ModuleType:
    """The probe of this name. Raises ValueError for an unknown one, naming those there are."""
    if name not in probe_names():
        raise ValueError(f"There is no probe {name!r}; known: {', '.join(probe_names())}.")
    return importlib.import_module(f"{__name__}.{name}")


def sides_of(name: str) -> tuple[str, ...]:
    return tuple(getattr(load_probe(name), "SIDES", SIDES))


# --- What several probes ask -------------------------------------------------------------------
def told_asks(case: Case, forms: Sequence[Sequence[str]]) -> list[Ask]:
    """Every wording of every fact, to be answered; without a control also about made-up people."""
    found = []
    for item, (fact, asked) in enumerate(zip(case.located.facts, forms, strict=True)):
        for form, question in enumerate(asked):
            found.append(Ask(item, TRUE, question, truth=fact.answer, form=form))
            found += [
                Ask(item, TWIN, twin, truth=fact.answer, form=form * case.sizes["twins"] + i)
                for i, twin in enumerate(twins_of(case, question))
            ]
    return found


def value_asks(
    case: Case, forms: Sequence[Sequence[Conversation]], *, decoys: int | None = None
) -> list[Ask]:
    """The true value and others of its kind, scored after every wording of every fact; without a
    control also after the wordings about made-up people. With `decoys` 0 the true value alone."""
    if decoys != 0 and not all(case.values):
        raise NotMeasurable("some facts have no other values of their kind to compare with")
    found = []
    for item, (fact, asked) in enumerate(zip(case.located.facts, forms, strict=True)):
        others = case.values[item][: case.sizes["decoys"] if decoys is None else decoys]
        for form, question in enumerate(asked):
            found.append(Ask(item, TRUE, question, fact.answer, form=form))
            found += [Ask(item, DECOY, question, value, form=form) for value in others]
            for twin in twins_of(case, question)[:1]:  # each costs as much as the question itself
                found.append(Ask(item, TWIN, twin, fact.answer, form=form))
                found += [Ask(item, f"{TWIN} {DECOY}", twin, v, form=form) for v in others]
    return found


def twins_of(case: Case, question: Conversation) -> tuple[str, ...]:
    """The question about made-up people, where they stand for the control."""
    if case.has_control or not isinstance(question, str):
        return ()
    return twin_questions(case.located.subject, question, count=case.sizes["twins"], seed=case.seed)


def of(rows: Table, role: str) -> list[Row]:
    return [row for row in rows if row.role == role]


def never(tables: Tables) -> list[Row]:
    """What a model says that never saw the person: the control's rows, or those about made-up
    people, as the model before erasure answered them. Empty if neither was asked."""
    if CONTROL in tables:
        return list(tables[CONTROL])
    found = [row for row in tables.get(BEFORE, ()) if row.role.startswith(TWIN)]
    return [Row(**{**_as_dict(row), "role": row.role.removeprefix(TWIN).strip() or TRUE})
            for row in found]  # fmt: skip


def _as_dict(row: Row) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row)}


def by_item(rows: Iterable[Row], value: Callable[[Row], float]) -> dict[int, float]:
    """Mean of `value` over each item's rows, in the order of the items."""
    found: dict[int, list[float]] = {}
    for row in rows:
        found.setdefault(row.item, []).append(value(row))
    return {item: fmean(found[item]) for item in sorted(found)}
