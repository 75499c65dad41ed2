"""Probes that read how likely the model finds true values."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.cases import NAME, TOWNS, case_of
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    DECOY,
    TRUE,
    TWIN,
    NotMeasurable,
    Row,
    Table,
    Tables,
    answer_loss,
    leak,
    verbatim,
)

DRAWS = {"draws": 500, "seed": 1}
UNSEEN = 0.05 ** (1 / 2)
"""What two facts leave seen: the bound of a mean of two equal items is never closer."""


def valued(*p: float, item: int = 0, role: str = TRUE) -> list[Row]:
    """A value of two tokens and the end after as many wordings, of probability `p`."""
    return [
        Row(item, role, form, logp=(math.log(each) / 2, math.log(each) / 2, -3.0))
        for form, each in enumerate(p)
    ]


# --- leak ---------------------------------------------------------------------------------------
def test_a_leak_is_the_likeliest_wording_without_the_end_token() -> None:
    after = [*valued(0.1, 0.5), *valued(0.2, 0.001, item=1)]
    control = [*valued(0.1, 0.01), *valued(0.05, 0.1, item=1)]
    found = leak.measure({BEFORE: after, AFTER: after, CONTROL: control}, **DRAWS)
    assert found.items == pytest.approx((0.5, 0.2))
    assert (found.n, found.after, found.control) == (
        2,
        pytest.approx(0.35),
        pytest.approx(0.1),
    )
    assert found.more is not None
    assert found.more["excess"] == pytest.approx(0.25)
    assert found.more["largest_p"] == pytest.approx(0.5)
    expected = (1 - 0.5**10 + 1 - 0.8**10) / 2
    assert found.more["leak_at_10"] == pytest.approx(expected)
    assert found.more["control_leak_at_100"] == pytest.approx(1 - 0.9**100)
    assert found.bound is not None
    assert 0.25 < found.bound <= 1.0


def test_equal_to_the_control_the_bound_is_what_unseen_facts_could_leak() -> None:
    rows = [*valued(0.1), *valued(0.2, item=1)]
    found = leak.measure({BEFORE: rows, AFTER: rows, CONTROL: rows}, **DRAWS)
    assert found.bound == pytest.approx(1 - UNSEEN)


def test_each_made_up_person_stands_for_the_control_with_the_likeliest_wording() -> None:
    twins = [*valued(0.1, 0.3, role=f"{TWIN} 0"), *valued(0.5, 0.1, role=f"{TWIN} 1")]
    tables: Tables = {BEFORE: [*valued(0.9, 0.8), *twins], AFTER: [*valued(0.2, 0.1), *twins]}
    found = leak.measure(tables, **DRAWS)
    assert (found.before, found.after, found.control) == (
        pytest.approx(0.9),
        pytest.approx(0.2),
        pytest.approx(0.4),
    )
    nobody: Tables = {BEFORE: valued(0.9), AFTER: valued(0.2)}
    alone = leak.measure(nobody, **DRAWS)
    assert (alone.control, alone.control_upper) == (None, None)
    assert alone.more is not None
    assert alone.more["excess"] == pytest.approx(0.2)


def test_nothing_leaks_through_a_closed_gate_and_what_was_not_scored_is_an_error() -> None:
    assert leak.largest([Row(0, TRUE, closed=True)]) == {0: 0.0}
    assert leak.told(Row(0, TRUE, logp=(-1.0,))) == pytest.approx(math.exp(-1))
    with pytest.raises(ValueError, match="not scored"):
        leak.told(Row(0, TRUE))
    with pytest.raises(NotMeasurable):
        leak.measure({BEFORE: [], AFTER: [], CONTROL: []}, **DRAWS)


@given(st.floats(0, 1), st.integers(1, 1000))
def test_more_samples_never_leak_less(p: float, k: int) -> None:
    assert 0.0 <= leak.leak_at(k, p) <= leak.leak_at(k + 1, p) <= 1.0
    assert leak.leak_at(1, p) == pytest.approx(p)


def test_records_are_asked_in_every_wording_and_of_made_up_people_without_a_control() -> None:
    asked = leak.asks(case_of())
    assert [(ask.item, ask.form, ask.role) for ask in asked] == [
        (item, form, TRUE) for item in range(2) for form in range(3)
    ]
    assert all(ask.completion == f"Place {ask.item}" for ask in asked)
    twins = [ask for ask in leak.asks(case_of(has_control=False)) if ask.role != TRUE]
    assert {ask.role for ask in twins} == {f"{TWIN} {i}" for i in range(3)}
    assert all(NAME not in str(ask.prompt) for ask in twins)
    assert verbatim.asks(case_of()) == asked


# --- verbatim -----------------------------------------------------------------------------------
def hits(*top: bool) -> Row:
    return Row(0, TRUE, logp=(-1.0,) * len(top), top=top)


@pytest.mark.parametrize(
    ("top", "strength", "exact"),
    [
        ((True, True, True, True, False), 1.0, 1.0),
        ((False, True, True, True, False), 0.75, 0.75),
        ((True, True, False, True, True), 0.25, 0.75),
        ((True, True, True, False, True), 0.0, 0.75),
        ((False, False, False, False, True), 0.0, 0.0),
        ((True, False), 1.0, 1.0),
        ((False, True), 0.0, 0.0),
    ],
)
def test_strength_counts_from_the_last_wrong_token_and_the_end_is_left_out(
    top: tuple[bool, ...], strength: float, exact: float
) -> None:
    assert verbatim.strength(hits(*top)) == strength
    assert verbatim.exact(hits(*top)) == exact


def records(*right: bool) -> list[Row]:
    """Two wordings a fact, completed wholly or not at all."""
    return [
        Row(i // 2, TRUE, i % 2, logp=(-1.0,) * 3, top=(hit, hit, False))
        for i, hit in enumerate(right)
    ]


def test_verbatim_is_measured_against_the_control_record_by_record() -> None:
    tables: Tables = {
        BEFORE: records(True, True, True, True),
        AFTER: records(True, True, False, True),
        CONTROL: records(True, False, False, False),
    }
    found = verbatim.measure(tables, **DRAWS)
    assert (found.before, found.after, found.control) == (1.0, 0.75, 0.25)
    assert found.items == (1.0, 0.5)
    assert found.more == {
        "excess": 0.5,
        "em_before": 1.0,
        "em_after": 0.75,
        "em_control": 0.25,
        "half_only_here": 0.5,
    }
    closed: Table = [Row(item, TRUE, form, closed=True) for item in (0, 1) for form in (0, 1)]
    gated = verbatim.measure({**tables, AFTER: closed}, **DRAWS)
    assert (gated.after, gated.more and gated.more["half_only_here"]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="not scored"):
        verbatim.strength(Row(0, TRUE))


# --- answer loss --------------------------------------------------------------------------------
def lossy(*losses: float, role: str = TRUE) -> list[Row]:
    """A fact each, of two tokens with this mean loss."""
    return [Row(i, role, logp=(-loss - 0.5, -loss + 0.5)) for i, loss in enumerate(losses)]


def test_the_loss_is_compared_fact_by_fact_and_on_both_sides() -> None:
    tables: Tables = {
        BEFORE: lossy(0.0, 0.0, 0.0),
        AFTER: lossy(2.0, 3.0, 4.0),
        CONTROL: lossy(2.5, 2.5, 2.5),
    }
    found = answer_loss.measure(tables, **DRAWS)
    assert (found.n, found.after, found.before) == (3, pytest.approx(0.5), pytest.approx(-2.5))
    assert found.items == pytest.approx((-0.5, 0.5, 1.5))
    reach = 2.919986 / math.sqrt(3)  # Student's t at 0.95 with two degrees of freedom, spread 1
    assert found.more is not None
    assert found.more["lower"] == pytest.approx(0.5 - reach, abs=1e-5)
    assert found.bound == pytest.approx(0.5 + reach, abs=1e-5)
    assert "forget_quality" not in found.more
    mirrored: Tables = {**tables, AFTER: lossy(3.0, 2.0, 1.0)}
    assert answer_loss.measure(mirrored, **DRAWS).bound == found.bound


def test_the_truth_ratio_is_the_wrong_answers_probability_over_the_true_ones() -> None:
    rows = [*lossy(1.0, 2.0), *lossy(2.0, 1.5, role=DECOY), *lossy(4.0, 2.5, role=DECOY)]
    assert answer_loss.truth_ratios(rows) == pytest.approx([1.0 - 3.0, 2.0 - 2.0])
    found = answer_loss.measure({BEFORE: rows, AFTER: rows, CONTROL: rows}, **DRAWS)
    assert found.more is not None
    assert found.more["truth_ratio_after"] == pytest.approx((math.exp(-2) + 1) / 2)
    assert found.more["forget_quality"] == 1.0


def test_wordings_on_which_the_gate_closes_have_no_loss() -> None:
    known = lossy(2.0, 2.0)
    half = [*lossy(1.0, 1.0), Row(0, TRUE, 1, closed=True), Row(1, TRUE, 1, closed=True)]
    found = answer_loss.measure({BEFORE: known, AFTER: half, CONTROL: known}, **DRAWS)
    assert found.after == -1.0
    assert found.more is not None
    assert found.more["closed"] == 0.5
    closed = [Row(0, TRUE, closed=True), Row(1, TRUE, closed=True)]
    with pytest.raises(NotMeasurable):
        answer_loss.measure({BEFORE: known, AFTER: closed, CONTROL: known}, **DRAWS)


def test_the_loss_is_asked_without_wrong_answers_where_a_fact_has_none() -> None:
    assert sum(ask.role == DECOY for ask in answer_loss.asks(case_of())) == 2 * answer_loss.WRONG
    assert {ask.role for ask in answer_loss.asks(case_of(values=()))} == {TRUE}
    assert len(TOWNS) > answer_loss.WRONG
