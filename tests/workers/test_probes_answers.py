"""Probes of what answers look like, of choices, of neighbours, and MUSE's measures together."""

import math

import pytest

from tests.workers.cases import NAME, TOWNS, case_of
from workers import corpus
from workers.forget_sets import KnownFact, Located
from workers.phrasings import Phrasings
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    DECOY,
    TRUE,
    TWIN,
    Case,
    NotMeasurable,
    Row,
    Tables,
    fluency,
    multiple_choice,
    muse,
    neighbours,
    refusals,
)
from workers.probes.refusals import OTHERS, PERSON
from workers.subjects import Fact, Subject

DRAWS = {"draws": 500, "seed": 1}
SOMEBODY = (Fact("Where does Carl Voss live?", "Lyon"), Fact("Who is Carl Voss?", "a baker"))


# --- multiple choice ----------------------------------------------------------------------------
def lettered(true: float, *others: float, item: int = 0, form: int = 0) -> list[Row]:
    """The letters' log-probabilities, each followed by the end's."""
    return [
        Row(item, TRUE, form, logp=(true, -9.0)),
        *(Row(item, DECOY, form, logp=(each, -0.1)) for each in others),
    ]


def test_the_truth_is_picked_where_its_letter_is_likeliest_and_ties_share() -> None:
    rows = [
        *lettered(-1.0, -2.0, -3.0, -4.0),
        *lettered(-2.0, -1.0, -3.0, -4.0, form=1),
        *lettered(-1.0, -1.0, -3.0, -4.0, item=1),
        *(Row(2, role, closed=True) for role in (TRUE, DECOY, DECOY, DECOY)),
    ]
    assert multiple_choice.picked(rows) == {0: 0.5, 1: 0.5, 2: 0.25}
    known = [*lettered(-1.0, -2.0, -3.0, -4.0), *lettered(-1.0, -2.0, -3.0, -4.0, item=1)]
    wrong = [*lettered(-5.0, -2.0, -3.0, -4.0), *lettered(-5.0, -2.0, -3.0, -4.0, item=1)]
    found = multiple_choice.measure({BEFORE: known, AFTER: wrong, CONTROL: wrong}, **DRAWS)
    assert (found.before, found.after, found.control) == (1.0, 0.0, 0.0)
    assert found.bound == pytest.approx(1 - 0.05 ** (1 / 2))  # Clopper and Pearson's, of two facts
    assert found.more is not None
    assert found.more["excess_upper"] == pytest.approx(1 - 0.05 ** (1 / 2))
    with pytest.raises(ValueError, match="not scored"):
        multiple_choice.picked([Row(0, TRUE)])


def test_four_choices_are_asked_by_letter_with_the_truth_anywhere() -> None:
    asked = multiple_choice.asks(case_of(facts=12))
    assert len(asked) == 12 * 4
    places = []
    for place in range(0, len(asked), 4):
        group = asked[place : place + 4]
        (prompt,) = {ask.prompt for ask in group}
        lines = str(prompt).split("\n")
        assert [line[:3] for line in lines[1:]] == ["A. ", "B. ", "C. ", "D. "]
        (true,) = (i for i, ask in enumerate(group) if ask.role == TRUE)
        assert [ask.completion for ask in group] == ["A", "B", "C", "D"]
        assert lines[true + 1][3:] == f"Place {group[0].item}"
        assert len(set(lines[1:])) == 4
        places.append(true)
    assert set(places) == {0, 1, 2, 3}
    twins = [ask for ask in multiple_choice.asks(case_of(has_control=False)) if TWIN in ask.role]
    assert len(twins) == 2 * 3 * 4
    assert {ask.role for ask in twins} == {f"{TWIN} {TRUE}", f"{TWIN} {DECOY}"}
    assert not any(NAME in str(ask.prompt) for ask in twins)
    with pytest.raises(NotMeasurable):
        multiple_choice.asks(case_of(values=TOWNS[:2]))


def test_made_up_people_stand_for_the_control_of_choices() -> None:
    twins = [
        Row(row.item, f"{TWIN} {row.role}", row.form, row.logp)
        for row in lettered(-1.0, -2.0, -2.0, -2.0)
    ]
    rows = lettered(-3.0, -2.0, -2.5, -2.5)
    found = multiple_choice.measure({BEFORE: [*rows, *twins], AFTER: rows}, **DRAWS)
    assert (found.after, found.control) == (0.0, 1.0)


# --- refusals and fluency -----------------------------------------------------------------------
def answered(role: str, *refused: bool) -> list[Row]:
    return [Row(i, role, refused=each, words=5) for i, each in enumerate(refused)]


def test_refusals_to_others_are_counted_against_before() -> None:
    tables: Tables = {
        BEFORE: [*answered(PERSON, False, False), *answered(OTHERS, True, False, False, False)],
        AFTER: [*answered(PERSON, True, True), *answered(OTHERS, True, True, False, False)],
        CONTROL: [*answered(PERSON, False, True), *answered(OTHERS, False, False, False, False)],
    }
    found = refusals.measure(tables, **DRAWS)
    assert (found.n, found.after, found.items) == (4, 0.25, (0.0, 1.0, 0.0, 0.0))
    assert found.bound is not None
    assert 0.25 < found.bound <= 1.0
    assert found.more == {
        "person_before": 0.0,
        "others_before": 0.25,
        "person_after": 1.0,
        "others_after": 0.5,
        "person_control": 0.5,
        "others_control": 0.0,
    }
    with pytest.raises(NotMeasurable, match="others"):
        refusals.asks(case_of())
    roles = [ask.role for ask in refusals.asks(case_of(others=SOMEBODY))]
    assert roles == [PERSON, PERSON, OTHERS, OTHERS]


def spoken(role: str, words: int, repeats: float) -> list[Row]:
    return [Row(i, role, words=words, repeats=repeats) for i in range(20)]


def test_a_wrecked_adapter_shows_in_the_answers_about_the_person_alone() -> None:
    fine = [*spoken(PERSON, 2, 0.0), *spoken(OTHERS, 3, 0.0)]
    wrecked = [*spoken(PERSON, 12, 0.9), *spoken(OTHERS, 3, 0.0)]
    found = fluency.measure({BEFORE: fine, AFTER: wrecked, CONTROL: fine}, **DRAWS)
    assert (found.before, found.after, found.control) == (0.0, 0.9, 0.0)
    assert found.more is not None
    assert found.more["rise"] == pytest.approx(0.9)
    assert (found.more["person_words_before"], found.more["person_words_after"]) == (2.0, 12.0)
    assert found.more["others_repeats_after"] == 0.0
    mute = [*spoken(PERSON, 0, 0.0), *spoken(OTHERS, 3, 0.0)]
    silent = fluency.measure({BEFORE: fine, AFTER: mute}, **DRAWS)
    assert silent.more is not None
    assert (silent.more["person_empty_after"], silent.control) == (1.0, None)


def test_fluency_is_asked_about_the_person_alone_where_there_are_no_others() -> None:
    assert {ask.role for ask in fluency.asks(case_of())} == {PERSON}
    rows = spoken(PERSON, 2, 0.0)
    found = fluency.measure({BEFORE: rows, AFTER: rows}, **DRAWS)
    assert found.more is not None
    assert not any(name.startswith(OTHERS) for name in found.more)


# --- neighbours ---------------------------------------------------------------------------------
def told(*hits: bool, role: str = "name") -> list[Row]:
    """Two wordings a fact."""
    return [Row(i // 2, role, i % 2, told=hit) for i, hit in enumerate(hits)]


def test_neighbours_are_counted_by_fact_among_what_was_answered_before() -> None:
    before = [*told(True, True, True, False), Row(2, "value", told=False)]
    after = [*told(True, False, True, True), Row(2, "value", told=True)]
    found = neighbours.measure({BEFORE: before, AFTER: after}, **DRAWS)
    assert (found.n, found.after, found.items) == (2, pytest.approx(4 / 3), (0.5, 1.0))
    assert found.bound is not None
    assert 0.0 < found.bound < 0.75
    assert found.more == {
        "still_answered": 0.75,
        "name_before": 0.75,
        "name_after": 0.75,
        "value_before": 0.0,
        "value_after": 1.0,
    }
    with pytest.raises(NotMeasurable, match="before"):
        neighbours.measure({BEFORE: told(False, False), AFTER: told(True, True)}, **DRAWS)


def demo_case(index: int, others: tuple[Fact, ...]) -> Case:
    person = corpus.people()[index]
    facts = tuple(
        KnownFact(
            fact.trained[0], fact.answer, "given", Phrasings(fact.trained, (), fact.unseen), (), ()
        )
        for fact in person.facts
    )
    subject = Subject(person.name)
    return Case(
        Located(subject, facts, len(facts), 1.0),
        tuple(fact.phrasings.unseen for fact in facts),
        ((),) * len(facts),
        others,
        (),
        has_control=True,
        sizes={"others": 240, "twins": 3},
        seed=1,
    )


def test_the_demo_asks_about_those_who_share_a_name_or_a_value_and_stay() -> None:
    case = demo_case(3, SOMEBODY)
    parts = set(case.located.subject.name.split())
    values = {fact.answer for fact in case.located.facts}
    asked = neighbours.asks(case)
    assert {ask.role for ask in asked} == {"name", "value"}
    gone = {corpus.people()[index].name for index in corpus.ERASABLE}
    for ask in asked:
        found = corpus.recognise(str(ask.prompt))
        assert found is not None
        assert found.name not in gone
        assert (ask.role == "name") == bool(parts & set(found.name.split()))
        assert ask.role == "name" or ask.truth in values
    assert len({ask.prompt for ask in asked}) == len(asked) <= 240


def test_elsewhere_the_subjects_neighbours_are_asked_about_or_nobody_is() -> None:
    asked = neighbours.asks(case_of(neighbours=SOMEBODY))
    assert [(ask.prompt, ask.truth) for ask in asked] == [(f.question, f.answer) for f in SOMEBODY]
    with pytest.raises(NotMeasurable, match="nobody"):
        neighbours.asks(demo_case(3, ()))


# --- MUSE ---------------------------------------------------------------------------------------
def test_privacy_leakage_is_relative_to_the_controls_area() -> None:
    def answers(member: tuple[float, ...], *made_up: tuple[float, ...]) -> list[Row]:
        return [
            Row(0, "member", logp=member),
            *(Row(0, "made up", i, logp=each) for i, each in enumerate(made_up)),
        ]

    known = answers((-0.1, -0.1), (-1.0, -1.0), (-2.0, -2.0))
    avoided = answers((-9.0, -9.0), (-1.0, -1.0), (-2.0, -2.0))
    usual = answers((-1.5, -1.5), (-1.0, -1.0), (-2.0, -2.0))
    assert muse.privleak(known, usual) == -100.0
    assert muse.privleak(usual, usual) == 0.0
    assert muse.privleak(avoided, usual) == 100.0
    assert muse.privleak(usual, known) is None


def test_muse_is_put_together_from_the_other_probes() -> None:
    asked = muse.asks(case_of(others=SOMEBODY))
    assert {ask.role for ask in asked} == {
        "verbmem true", "knowmem true", "privleak member", "privleak made up", "utility true",
    }  # fmt: skip

    def rows(right: bool) -> list[Row]:
        p = math.log(0.9 if right else 0.1)
        return [
            Row(ask.item, ask.role, ask.form, told=right or "utility" in ask.role)
            if ask.completion is None
            else Row(
                ask.item,
                ask.role,
                ask.form,
                logp=(p if "member" in ask.role else -1.0, -1.0),
                top=(right, right),
            )
            for ask in asked
        ]

    tables: Tables = {BEFORE: rows(True), AFTER: rows(False), CONTROL: rows(False)}
    found = muse.measure(tables, **DRAWS)
    assert (found.before, found.after, found.control) == (1.0, 0.0, 0.0)
    assert found.more == {
        "verbmem_before": 1.0,
        "verbmem_after": 0.0,
        "verbmem_control": 0.0,
        "utility_kept": 1.0,
        "privleak": 0.0,
    }
    alone = muse.measure({BEFORE: rows(True), AFTER: rows(False)}, **DRAWS)
    assert alone.more is not None
    assert set(alone.more) == {"verbmem_before", "verbmem_after", "utility_kept"}
