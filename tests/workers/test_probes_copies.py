"""Probes that look into copies of the served weights, or inside the model."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.workers.test_guarded import served
from tests.workers.test_probes_attacks import DRAWS, case, scored
from tests.workers.tiny import tiny_model
from workers.guarded import GuardedModel
from workers.probes import (
    AFTER,
    BEFORE,
    CONTROL,
    Case,
    NotMeasurable,
    Row,
    Tables,
    quantised,
    relearned,
    traces,
)
from workers.rows import rows_after
from workers.sides import Stack

CASE = "00000000-0000-4000-8000-000000000000"


# --- Rounded -----------------------------------------------------------------------------------
def asked(first: float, second: float, *, hits: int = 0) -> list[Row]:
    return [
        *scored(first, -5.0, -6.0),
        *scored(second, -5.0, -6.0, item=1),
        *(Row(i, "told", told=i < hits) for i in range(2)),
    ]


def test_the_copy_on_which_more_comes_back_is_the_figure() -> None:
    tables: Tables = {
        BEFORE: asked(-1.0, -1.0, hits=2),
        AFTER: asked(-9.0, -9.0),
        "int8": asked(-5.5, -9.0),
        "int4": asked(-1.0, -5.5, hits=1),
        CONTROL: asked(-5.5, -5.5),
    }
    found = quantised.measure(tables, **DRAWS)
    assert (found.n, found.before, found.after, found.control) == (2, 1.0, 0.75, 0.5)
    assert found.items == (1.0, 0.5)
    assert found.more is not None
    assert (found.more["rank_after"], found.more["rank_int8"]) == (0.0, 0.25)
    assert (found.more["told_int4"], found.more["told_control"], found.more["back"]) == (
        0.5,
        0,
        0.5,
    )


def test_rounding_asks_for_answers_and_for_few_values() -> None:
    asks = quantised.asks(case())
    assert sum(ask.role == "told" for ask in asks) == 4
    assert len(asks) == 4 * (1 + 1 + 8)
    assert {ask.role for ask in quantised.asks(case(has_control=False))} == {
        "told", "true", "decoy", "twin", "twin told", "twin decoy",
    }  # fmt: skip


# --- Taught a little further -------------------------------------------------------------------
def stages(start: float, general: float, partial: float) -> list[Row]:
    """Two facts, the same on both; scores of the true value against decoys at -5 and -6."""
    return [
        replace(row, role=row.role.replace("true", stage).replace("decoy", f"{stage} decoy"))
        for stage, true in (("start", start), ("general", general), ("partial", partial))
        for item in (0, 1)
        for row in scored(true, -5.0, -6.0, item=item)
    ]


def test_what_comes_back_is_held_against_what_the_control_gains() -> None:
    tables: Tables = {AFTER: stages(-9.0, -5.5, -1.0), CONTROL: stages(-5.5, -5.5, -5.5)}
    found = relearned.measure(tables, **DRAWS)
    assert (found.n, found.after, found.items) == (2, 1.0, (1.0, 1.0))
    assert found.more is not None
    assert (found.more["gain_general"], found.more["gain_partial"]) == (0.5, 1.0)
    assert (found.more["start_after"], found.more["partial_after"]) == (0.0, 1.0)
    assert found.more["partial_control"] == 0.5
    both: Tables = {AFTER: stages(-9.0, -9.0, -5.5), CONTROL: stages(-9.0, -9.0, -5.5)}
    assert relearned.measure(both, **DRAWS).after == 0.0


def test_equal_items_bound_no_gain() -> None:
    """Two facts that agree say nothing of a third."""
    tables: Tables = {AFTER: stages(-9.0, -9.0, -9.0), CONTROL: stages(-9.0, -9.0, -9.0)}
    assert relearned.measure(tables, **DRAWS).bound is None


def test_relearning_without_a_control_is_not_measured() -> None:
    side = GuardedModel.without_adapters(tiny_model())
    stack = Stack(side, side, None, CASE, 1)
    with pytest.raises(NotMeasurable, match="control"):
        relearned.look(side, case(has_control=False), stack)
    with pytest.raises(NotMeasurable, match="4 are needed"):
        relearned.look(side, case(), stack)
    with pytest.raises(NotMeasurable, match="control"):
        relearned.measure({AFTER: []}, **DRAWS)


def test_each_fact_is_held_out_once() -> None:
    first, second = relearned.halves(7, seed=3)
    assert first | second == set(range(7))
    assert not first & second
    assert abs(len(first) - len(second)) == 1
    assert relearned.halves(7, seed=3) == (first, second)


def doubled() -> Case:
    """Four facts, the second two like the first."""
    one = case()
    return replace(
        one,
        located=replace(one.located, facts=one.located.facts * 2),
        forms=one.forms * 2,
        values=tuple(each[:2] for each in one.values * 2),
    )


def test_the_served_stack_is_taught_as_a_copy(tmp_path: Path) -> None:
    base = tiny_model()
    guarded, _ = served(base, tmp_path, cases=1)
    with guarded:
        stack = Stack(guarded, GuardedModel.without_adapters(base), tiny_model(seed=1), CASE, 1)
        before = guarded.scored([("where lives Carl", "Lyon")])
        tables: Tables = {
            AFTER: relearned.look(guarded, doubled(), stack),
            CONTROL: relearned.look(
                GuardedModel.without_adapters(tiny_model(seed=1)), doubled(), stack
            ),
        }
        assert guarded.scored([("where lives Carl", "Lyon")]) == before
    for rows in tables.values():
        for stage in ("start", "general", "partial"):
            assert sum(row.role == stage for row in rows) == 8
            assert sum(row.role == f"{stage} decoy" for row in rows) == 16
    found = relearned.measure(tables, **DRAWS)
    assert found.n == 4
    # Each half holds a fact of the same kind and answer as one of the other: it is learned there.
    start = [row.total or 0.0 for row in tables[CONTROL] if row.role == "start"]
    end = [row.total or 0.0 for row in tables[CONTROL] if row.role == "partial"]
    assert sum(end) > sum(start)


# --- Inside the model --------------------------------------------------------------------------
def test_all_layers_of_a_small_model_are_read_and_some_of_a_large_one() -> None:
    assert traces._layers(4) == [1, 2, 3, 4]
    assert traces._layers(30) == list(range(15, 31))
    assert traces._layers(64) == list(range(4, 65, 4))


def test_the_lens_on_the_last_layer_is_the_models_own_answer(tmp_path: Path) -> None:
    base = tiny_model()
    guarded, _ = served(base, tmp_path, cases=1)
    with guarded:
        stack = Stack(guarded, GuardedModel.without_adapters(base), None, CASE, 1)
        tables: Tables = {
            BEFORE: traces.look(stack.before, case(), stack),
            AFTER: traces.look(guarded, case(), stack),
        }
        question, answer = case().forms[0][0], case().located.facts[0].answer
        (row,) = rows_after(base, [(question, answer)])
        (logits,) = guarded.looked_at(
            [question],
            lambda _, model: [model(torch.tensor([row.ids[: -row.completion]])).logits[0, -1]],
        )
    assert logits is not None
    place = int((logits > logits[row.ids[-row.completion]]).sum())
    (last,) = [r for r in tables[AFTER] if (r.item, r.role, r.form) == (0, "lens 0", 2)]
    assert last.value == place
    assert not any(row.role == "concept" for row in tables[BEFORE])
    alike = [row.value for row in tables[AFTER] if row.role == "concept"]
    assert len(alike) == 2 * 2
    assert all(value is not None and 0.0 <= value < 1.0 for value in alike)
    assert traces.measure(tables, **DRAWS).n == 2


def test_concepts_of_an_unchanged_model_are_the_same() -> None:
    side = GuardedModel.without_adapters(tiny_model())
    rows = traces.look(side, case(), Stack(side, side, None, CASE, 1))
    assert {row.value for row in rows if row.role == "concept"} == {1.0}


def lens(*places: float, item: int = 0) -> list[Row]:
    """One wording, layer by layer."""
    return [Row(item, "lens 0", i + 1, value=place) for i, place in enumerate(places)]


def test_the_layer_where_the_value_stands_out_most_is_the_figure() -> None:
    tables: Tables = {
        BEFORE: [*lens(9, 0), *lens(9, 1, item=1)],
        AFTER: [*lens(1, 99), *lens(3, 12, item=1), Row(0, "concept", 1, value=0.5)],
        CONTROL: [*lens(99, 99), *lens(99, 99, item=1)],
    }
    found = traces.measure(tables, **DRAWS)
    assert (found.before, found.after, found.control) == (0.75, 0.375, 0.01)
    assert found.items == (0.5, 0.25)
    assert found.more is not None
    assert (found.more["layer_before"], found.more["layer_after"]) == (2.0, 1.0)
    assert (found.more["top10_after"], found.more["top10_control"]) == (1.0, 0.0)
    assert (found.more["layers"], found.more["closed"]) == (2.0, 0.0)
    assert found.more["concepts_alike"] == 0.5


def test_behind_a_closed_gate_there_is_no_state_to_look_at() -> None:
    shut = [Row(1, "lens 0", closed=True)]
    found = traces.measure({BEFORE: lens(0), AFTER: [*lens(1), *shut]}, **DRAWS)
    assert (found.n, found.control) == (1, None)
    assert found.more is not None
    assert found.more["closed"] == 0.5
    with pytest.raises(NotMeasurable, match="closed"):
        traces.measure({BEFORE: lens(0), AFTER: shut}, **DRAWS)
