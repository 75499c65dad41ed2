"""Every file of the folder is a probe; each turns rows into what they show."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    DECOY,
    TRUE,
    TWIN,
    Row,
    Tables,
    gate_fires,
    knowledge_rank,
    load_probe,
    never,
    others_kept,
    perplexity,
    probe_names,
    recall_unseen,
    sides_of,
)

DRAWS = {"draws": 500, "seed": 1}


@pytest.mark.parametrize("name", probe_names())
def test_every_probe_asks_a_question_and_measures(name: str) -> None:
    probe = load_probe(name)
    assert probe.QUESTION.endswith(("?", "phrasings)"))
    assert len(probe.QUESTION) <= 200
    assert probe.__doc__
    assert callable(probe.measure)
    assert hasattr(probe, "asks") != hasattr(probe, "look")
    assert AFTER in sides_of(name) or not {BEFORE, CONTROL} & set(sides_of(name))


def test_an_unknown_probe_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="recall_unseen"):
        load_probe("telepathy")


def told(*hits: bool, role: str = TRUE) -> list[Row]:
    """Two wordings a fact."""
    return [Row(i // 2, role, i % 2, told=hit) for i, hit in enumerate(hits)]


def test_recall_counts_true_answers_and_clusters_them_by_fact() -> None:
    tables: Tables = {
        BEFORE: told(True, True, True, False),
        AFTER: told(True, False, False, False),
        CONTROL: told(False, False, False, False),
    }
    found = recall_unseen.measure(tables, **DRAWS)
    assert (found.n, found.before, found.after, found.control) == (4, 0.75, 0.25, 0.0)
    assert found.items == (0.5, 0.0)
    assert found.control_upper == pytest.approx(1 - 0.05 ** (1 / 4))
    assert found.bound is not None
    assert found.after < found.bound <= 1.0


def test_without_a_control_made_up_people_stand_for_it() -> None:
    before = [*told(True, True), *told(False, True, False, False, role=TWIN)]
    tables: Tables = {BEFORE: before, AFTER: told(False, False)}
    assert [row.role for row in never(tables)] == [TRUE] * 4
    assert recall_unseen.measure(tables, **DRAWS).control == 0.25
    nobody: Tables = {BEFORE: told(True, True), AFTER: told(False, False)}
    assert recall_unseen.measure(nobody, **DRAWS).control_upper is None


def scored(true: float, *decoys: float, item: int = 0, role: str = TRUE) -> list[Row]:
    other = DECOY if role == TRUE else f"{role} {DECOY}"
    return [
        Row(item, role, logp=(true,)),
        *(Row(item, other, logp=(value,)) for value in decoys),
    ]


def test_the_rank_is_one_for_the_known_half_for_ties_and_zero_for_the_avoided() -> None:
    known = [*scored(-1.0, -5.0, -6.0), *scored(-2.0, -5.0, -6.0, item=1)]
    after = [*scored(-9.0, -5.0, -6.0), *scored(-5.5, -5.0, -6.0, item=1)]
    tables: Tables = {BEFORE: known, AFTER: after, CONTROL: after}
    found = knowledge_rank.measure(tables, **DRAWS)
    assert (found.before, found.after, found.items) == (1.0, 0.25, (0.0, 0.5))
    assert found.bound is not None
    assert 0.25 < found.bound <= 1.0
    closed = [Row(0, role, closed=True) for role in (TRUE, DECOY, DECOY)]
    assert knowledge_rank.ranks(closed) == {0: 0.5}


def test_without_a_control_a_value_is_judged_against_the_same_value_elsewhere() -> None:
    """The true value is likelier beforehand: that is no knowledge of the person."""
    likely = [*scored(-1.0, -5.0, -6.0), *scored(-1.0, -5.0, -6.0, role=TWIN)]
    assert knowledge_rank.ranks(likely) == {0: 0.5}
    known = [*scored(-0.5, -5.0, -6.0), *scored(-1.0, -5.0, -6.0, role=TWIN)]
    assert knowledge_rank.ranks(known) == {0: 1.0}


def test_a_closed_wording_is_a_tie_beside_made_up_people_too() -> None:
    """Nothing is told: what is usual elsewhere must not rank the values in its place."""
    closed = [Row(0, role, closed=True) for role in (TRUE, DECOY, DECOY)]
    usual = scored(-9.0, -5.0, -6.0, role=TWIN)
    assert knowledge_rank.ranks([*closed, *usual]) == {0: 0.5}
    # And a closed question about nobody says nothing of what is usual.
    silent = [Row(0, role, closed=True) for role in (TWIN, f"{TWIN} {DECOY}", f"{TWIN} {DECOY}")]
    assert knowledge_rank.ranks([*scored(-5.5, -5.0, -6.0), *silent]) == {0: 0.5}


@given(st.lists(st.floats(-50, 0), min_size=2, max_size=12))
def test_a_rank_lies_between_none_and_all(values: list[float]) -> None:
    assert 0.0 <= knowledge_rank.ranks(scored(*values))[0] <= 1.0


def test_others_kept_is_a_share_of_what_was_answered_before() -> None:
    tables: Tables = {BEFORE: told(True, True, False), AFTER: told(True, False, False)}
    found = others_kept.measure(tables, **DRAWS)
    assert (found.after, found.n) == (0.5, 3)
    assert found.more is not None
    assert found.more["still_answered"] == 0.5
    with pytest.raises(ValueError, match="answered before"):
        others_kept.measure({BEFORE: told(False), AFTER: told(True)}, **DRAWS)


def test_perplexity_is_a_ratio_over_all_tokens() -> None:
    before = [Row(0, TRUE, logp=(-2.0, -2.0)), Row(1, TRUE, logp=(-2.0,))]
    assert perplexity.measure({BEFORE: before, AFTER: before}, **DRAWS).after == 1.0
    worse = [Row(0, TRUE, logp=(-2.3, -2.3)), Row(1, TRUE, logp=(-2.0,))]
    found = perplexity.measure({BEFORE: before, AFTER: worse}, **DRAWS)
    assert found.after == pytest.approx(math.exp(0.2))
    with pytest.raises(ValueError, match="closed"):
        perplexity.measure({BEFORE: before, AFTER: [Row(0, TRUE, closed=True)] * 2}, **DRAWS)


def test_the_gate_counts_any_strength_and_a_closed_answer() -> None:
    rows = [
        Row(0, "erased", strength=0.2), Row(1, "erased", closed=True), Row(2, "erased"),
        Row(0, "others"), Row(1, "others", strength=1.0),
    ]  # fmt: skip
    found = gate_fires.measure({AFTER: rows}, **DRAWS)
    assert (found.n, found.after, found.control) == (3, pytest.approx(2 / 3), 0.5)


@pytest.mark.parametrize("name", ["recall_unseen", "knowledge_rank", "gate_fires"])
def test_nothing_measured_is_an_error_and_no_default(name: str) -> None:
    with pytest.raises(ValueError, match=r"at least one|requires at least"):
        load_probe(name).measure({BEFORE: [], AFTER: [], CONTROL: []}, **DRAWS)


@given(
    st.builds(
        Row,
        item=st.integers(0, 99),
        role=st.sampled_from([TRUE, DECOY]),
        form=st.integers(0, 9),
        logp=st.lists(st.floats(-99, 0), max_size=4).map(tuple),
        top=st.lists(st.booleans(), max_size=4).map(tuple),
        told=st.none() | st.booleans(),
        strength=st.floats(0, 1),
        value=st.none() | st.floats(-9, 9),
    )
)
def test_a_row_survives_being_written(row: Row) -> None:
    assert Row.from_json(json.loads(json.dumps(row.as_json()))) == row
