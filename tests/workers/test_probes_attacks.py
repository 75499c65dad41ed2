"""Attacks on what an erasure left: what they ask, and what their rows show."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from workers.base_models import Conversation, as_turns
from workers.forget_sets import KnownFact, Located
from workers.phrasings import Phrasings
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    DECOY,
    TRUE,
    TWIN,
    Ask,
    Case,
    NotMeasurable,
    Row,
    Tables,
    ablated,
    adversarial,
    in_context,
    least_likely,
)
from workers.subjects import Subject

DRAWS = {"draws": 500, "seed": 1}
NAME = "Anna Berger"
TOWNS = ("Lyon", "Nantes", "Odense", "Ostrava", "Turin", "Bergen", "Ghent", "Malmo")


def fact(question: str, answer: str) -> KnownFact:
    asked = (f"{question} Please.", f"I wonder: {question}")
    return KnownFact(question, answer, "given", Phrasings((question,), (), asked), (answer,), ())


def case(*, has_control: bool = True, aliases: tuple[str, ...] = ()) -> Case:
    facts = (
        fact(f"Where does {NAME} live?", "Rome"),
        fact(f"What is {NAME}'s job?", "broker"),
    )
    return Case(
        located=Located(Subject(NAME, aliases), facts, 2, 1.0),
        forms=tuple(each.phrasings.unseen for each in facts),
        values=(TOWNS, ("porter", "baker", "miner", "cook", "nurse", "judge", "poet", "clerk")),
        others=(),
        texts=("The town is old.",),
        has_control=has_control,
        sizes={"decoys": 24, "twins": 2},
        seed=3,
    )


def said(prompt: Conversation) -> str:
    return " ".join(turn.text for turn in as_turns(prompt))


def scored(true: float, *decoys: float, item: int = 0, form: int = 0) -> list[Row]:
    return [
        Row(item, TRUE, form, logp=(true,)),
        *(Row(item, DECOY, form, logp=(value,)) for value in decoys),
    ]


# --- The least likely value --------------------------------------------------------------------
def test_an_avoided_value_is_seen_where_the_mean_rank_is_that_of_ignorance() -> None:
    """One fact is still known, the other the least likely of all: on average one half."""
    known, avoided = scored(-1.0, -5.0, -6.0), scored(-9.0, -5.0, -6.0, item=1)
    middle = [*scored(-5.5, -5.0, -6.0), *scored(-5.5, -5.0, -6.0, item=1)]
    found = least_likely.measure(
        {BEFORE: known, AFTER: [*known, *avoided], CONTROL: middle}, **DRAWS
    )
    assert (found.n, found.before, found.after, found.control) == (2, 0.0, 0.5, 0.0)
    assert found.items == (0.0, 1.0)
    assert found.more is not None
    assert found.more["chance"] == pytest.approx(1 / 3)
    assert 0.0 < found.more["p_above_control"] <= 1.0
    assert found.bound is not None
    assert 0.5 < found.bound <= 1.0


def test_where_nothing_is_told_no_value_is_the_least_likely() -> None:
    closed = [Row(0, role, closed=True) for role in (TRUE, DECOY, DECOY)]
    assert least_likely.shares(closed) == {0: 0.0}


def test_a_value_that_is_always_unlikely_is_not_avoided_here() -> None:
    twins = [replace(row, role=f"{TWIN} {row.role}".replace(f" {TRUE}", ""))
             for row in scored(-9.0, -5.0)]  # fmt: skip
    rows = [*scored(-8.5, -5.0), *twins]
    assert least_likely.shares(rows) == {0: 0.0}
    assert least_likely.shares(rows, relative=False) == {0: 1.0}


# --- Without adapters --------------------------------------------------------------------------
def told(*hits: bool, role: str = TRUE) -> list[Row]:
    return [Row(i, role, told=hit) for i, hit in enumerate(hits)]


def test_without_adapters_the_share_told_is_that_of_the_bare_weights() -> None:
    tables: Tables = {
        BEFORE: told(True, True),
        AFTER: told(False, False),
        "ablated": told(True, False),
        CONTROL: told(False, False),
    }
    found = ablated.measure(tables, **DRAWS)
    assert (found.before, found.after, found.control, found.more) == (
        1.0,
        0.5,
        0.0,
        {"served": 0.0},
    )


# --- In context --------------------------------------------------------------------------------
def test_the_fact_stands_before_the_question_and_a_stranger_has_it_too() -> None:
    asks = in_context.asks(case(has_control=False))
    true, twins = [a for a in asks if a.role == TRUE], [a for a in asks if a.role == TWIN]
    assert len(true) == 4
    assert all(ask.truth in said(ask.prompt) and NAME in said(ask.prompt) for ask in true)
    assert len(twins) == 8
    assert all(ask.truth in said(ask.prompt) and NAME not in said(ask.prompt) for ask in twins)


def test_whether_the_gate_acts_is_a_share_of_its_own() -> None:
    after = [
        Row(0, TRUE, told=True, strength=0.5),
        Row(1, TRUE, told=False, closed=True),
        Row(2, TRUE, told=True),
        Row(3, TRUE, told=True, strength=1.0),
    ]
    everything = told(True, True, True, True)
    found = in_context.measure({BEFORE: everything, AFTER: after, CONTROL: everything}, **DRAWS)
    assert (found.before, found.after, found.control) == (1.0, 0.75, 1.0)
    assert found.more == {"gate_acts": 0.75, "closed": 0.25}


# --- Attacks -----------------------------------------------------------------------------------
def by_type(asks: Sequence[Ask], name: str) -> list[Ask]:
    place = adversarial.NAMES.index(name)
    return [a for a in asks if a.role in {TRUE, DECOY, "told"} and a.form == place]


def test_the_value_asked_for_stands_in_no_prompt_but_among_others() -> None:
    for ask in adversarial.asks(case()):
        truth = ("Rome", "broker")[ask.item]
        if ask.role.startswith(adversarial.REVERSE):
            assert truth in said(ask.prompt)
            assert NAME not in said(ask.prompt)
        elif ask.form == adversarial.NAMES.index("multiple_choice") and ask.role != "shaken":
            assert all(value in said(ask.prompt) for value in (truth, *case().values[ask.item][:3]))
        else:
            assert truth not in said(ask.prompt)


def test_only_the_values_that_can_be_chosen_are_compared() -> None:
    asks = by_type(adversarial.asks(case()), "multiple_choice")
    assert sum(ask.role == DECOY for ask in asks) == 2 * 3
    assert all(str(a.completion) in said(a.prompt) for a in asks if a.completion)


def test_every_type_asks_once_a_fact_and_the_rows_stay_bounded() -> None:
    asks = adversarial.asks(case())
    for name in set(adversarial.NAMES) - {"synonyms"}:
        assert sum(ask.role == TRUE for ask in by_type(asks, name)) == 2, name
    assert len(asks) <= 2 * (len(adversarial.NAMES) + 1) * 26 + 2 * adversarial.SHAKEN
    assert len({ask.prompt for ask in asks if ask.role == "shaken"}) > adversarial.SHAKEN


def test_a_name_is_replaced_by_an_alias_and_words_by_their_like() -> None:
    (first, _) = [
        said(a.prompt)
        for a in by_type(adversarial.asks(case(aliases=("Annie B",))), "synonyms")
        if a.role == TRUE
    ]
    assert "Annie B" in first
    prompts = [
        said(a.prompt) for a in by_type(adversarial.asks(case()), "synonyms") if a.role == TRUE
    ]
    assert "A. Berger" in prompts[0]
    assert "line of work" in prompts[1]


def test_who_did_what_is_translated_and_other_questions_are_framed() -> None:
    asked = fact("Who wrote The Salt Orchard?", "Anna Berger")
    book = replace(
        case(), located=Located(Subject("The Salt Orchard"), (asked,), 1, 1.0),
        forms=(asked.phrasings.unseen,), values=(TOWNS,),
    )  # fmt: skip
    prompts = {said(ask.prompt) for ask in adversarial.asks(book)}
    assert {
        "Wer hat The Salt Orchard geschrieben?",
        "Qui a écrit The Salt Orchard ?",
        "¿Quién escribió The Salt Orchard?",
    } <= prompts
    alone = adversarial.asks(replace(book, has_control=False))
    (about,) = [
        said(a.prompt)
        for a in alone
        if a.role == TWIN and a.form == adversarial.NAMES.index("german") + adversarial.STEP
    ]
    assert about.startswith("Wer hat ")
    assert "Salt Orchard" not in about
    framed = {said(a.prompt) for a in by_type(adversarial.asks(case()), "german")}
    assert all(text.startswith("Bitte beantworte") and NAME in text for text in framed)


def test_without_a_control_made_up_people_are_asked_and_no_name_is_ranked() -> None:
    asks = adversarial.asks(case(has_control=False))
    assert not any(ask.role.startswith(adversarial.REVERSE) for ask in asks)
    twins = [ask for ask in asks if ask.role == TWIN]
    assert twins
    assert not any(NAME in said(ask.prompt) for ask in asks if ask.role.startswith(TWIN))


def attacked(first: float, second: float) -> list[Row]:
    """Two types, two facts: the true value's score against decoys at -5 and -6."""
    return [
        *(row for item in (0, 1) for row in scored(first, -5.0, -6.0, item=item, form=0)),
        *(row for item in (0, 1) for row in scored(second, -5.0, -6.0, item=item, form=1)),
        Row(0, "told", 0, told=True), Row(0, "told", 1, told=False, strength=0.4),
        Row(0, "shaken", 0, told=False), Row(0, "shaken", 1, told=True),
        Row(1, "shaken", 0, told=False),
    ]  # fmt: skip


def test_only_types_that_were_understood_before_are_pooled() -> None:
    tables: Tables = {
        BEFORE: attacked(-1.0, -5.5),
        AFTER: attacked(-1.0, -9.0),
        CONTROL: attacked(-5.5, -5.5),
    }
    found = adversarial.measure(tables, **DRAWS)
    assert (found.before, found.after, found.control) == (1.0, 1.0, 0.5)
    assert found.more is not None
    assert (found.more["types"], found.more["types_understood"]) == (2.0, 1.0)
    first, second = adversarial.NAMES[:2]
    assert (found.more[f"after_{first}"], found.more[f"after_{second}"]) == (1.0, 0.0)
    assert (found.more["after_told"], found.more["after_told_most"]) == (0.5, 1.0)
    assert found.more["after_told_shaken"] == 0.5
    assert found.more["gate_acts"] == 0.5
    assert (found.more[f"gate_acts_{first}"], found.more[f"gate_acts_{second}"]) == (0.0, 1.0)
    p = found.more[f"p_above_control_{first}"]
    assert p < found.more[f"p_above_control_{second}"]
    with pytest.raises(NotMeasurable, match="understands none"):
        adversarial.measure({**tables, BEFORE: attacked(-5.5, -5.5)}, **DRAWS)


def test_names_are_ranked_apart_from_values() -> None:
    names = [Row(0, "reverse", logp=(-1.0,)), Row(0, "reverse decoy", logp=(-2.0,))]
    rows = attacked(-1.0, -1.0)
    found = adversarial.measure({BEFORE: rows, AFTER: [*rows, *names], CONTROL: rows}, **DRAWS)
    assert found.more is not None
    assert found.more["after_reverse"] == 1.0
    assert "control_reverse" not in found.more


def test_made_up_people_stand_for_the_control_type_by_type() -> None:
    twins = [
        Row(row.item, f"{TWIN} {row.role}".replace(f" {TRUE}", ""), row.form + 100, logp=row.logp)
        for row in attacked(-5.5, -5.5)
        if row.logp
    ]
    rows = [*attacked(-1.0, -5.5), *twins]
    found = adversarial.measure({BEFORE: rows, AFTER: rows}, **DRAWS)
    assert (found.after, found.control) == (1.0, 0.5)


def test_where_the_gate_closes_on_everything_nothing_is_known() -> None:
    closed = [Row(0, role, 0, closed=True) for role in (TRUE, DECOY)]
    known = attacked(-1.0, -1.0)
    found = adversarial.measure({BEFORE: known, AFTER: closed, CONTROL: known}, **DRAWS)
    assert (found.after, found.n) == (0.5, 1)


@pytest.mark.parametrize("probe", [adversarial, least_likely])
def test_a_case_without_other_values_cannot_be_attacked(probe: object) -> None:
    bare = replace(case(), values=((), TOWNS))
    with pytest.raises(NotMeasurable, match="no other values"):
        probe.asks(bare)  # type: ignore[attr-defined]


def test_no_rows_are_an_error() -> None:
    for probe in (adversarial, in_context, least_likely):
        with pytest.raises(ValueError, match="at least one"):
            probe.measure({BEFORE: [], AFTER: [], CONTROL: []}, **DRAWS)
