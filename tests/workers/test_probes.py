import importlib
import pkgutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import probes
from workers.probes import gate_fires, knowledge_rank, others_kept, perplexity, recall
from workers.probes.recall import upper_bound


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(probes.__path__)])
def test_every_probe_asks_a_question_and_measures(name: str) -> None:
    probe = importlib.import_module(f"workers.probes.{name}")
    assert probe.QUESTION.endswith("?")
    assert callable(probe.measure)


@pytest.mark.parametrize(
    ("hits", "trials", "bound"),
    # No leak in n trials: 1 - 0.05 ** (1 / n); the others from tables of the beta distribution.
    [(0, 20, 0.13911), (0, 59, 0.04951), (0, 299, 0.00997), (1, 20, 0.21611), (10, 20, 0.69805)],
)
def test_the_upper_bound_is_clopper_and_pearsons(hits: int, trials: int, bound: float) -> None:
    assert upper_bound(hits, trials) == pytest.approx(bound, abs=2e-5)


@given(st.integers(1, 200), st.data())
def test_the_upper_bound_lies_above_the_share_and_grows_with_the_hits(
    trials: int, data: st.DataObject
) -> None:
    hits = data.draw(st.integers(0, trials - 1))
    bound = upper_bound(hits, trials)
    assert hits / trials < bound <= upper_bound(hits + 1, trials) <= 1.0


def test_recall_counts_true_answers() -> None:
    found = recall.measure(["It is Lyon.", "Oslo", "no idea"], ["Lyon", "Oslo", "Bern"])
    assert (found.value, found.n, found.items) == (pytest.approx(2 / 3), 3, (1.0, 1.0, 0.0))


def test_the_rank_is_one_for_the_known_half_for_ties_and_zero_for_the_avoided() -> None:
    decoys = [-5.0, -6.0]
    scores = [[(-1.0, decoys)], [(-5.5, decoys)], [(-9.0, decoys), (-5.0, [-5.0])]]
    found = knowledge_rank.measure(scores, draws=200, seed=1)
    assert found.items == (1.0, 0.5, 0.25)
    assert found.upper95 is not None
    assert found.value < found.upper95 <= 1.0
    assert found == knowledge_rank.measure(scores, draws=200, seed=1)


def test_others_kept_looks_only_at_what_was_answered_before() -> None:
    found = others_kept.measure(
        ["Lyon", "Oslo", "?"], ["Lyon", "Bern", "Rome"], ["Lyon", "Oslo", "Rome"]
    )
    assert (found.value, found.n) == (0.5, 2)
    with pytest.raises(ValueError, match="answered before"):
        others_kept.measure(["?"], ["Rome"], ["Rome"])


def test_perplexity_is_a_ratio_and_the_gate_counts_any_strength() -> None:
    assert perplexity.measure(2.0, 2.0, texts=3).value == 1.0
    assert perplexity.measure(2.0, 2.1, texts=3).value > 1.1
    assert gate_fires.measure([0.0, 0.2, 1.0, 0.0]).value == 0.5


@pytest.mark.parametrize(
    "measure",
    [
        lambda: recall.measure([], []),
        lambda: knowledge_rank.measure([], draws=9, seed=1),
        lambda: gate_fires.measure([]),
    ],
)
def test_nothing_measured_is_an_error_and_no_default(measure: object) -> None:
    assert callable(measure)
    with pytest.raises(ValueError, match="at least one"):
        measure()
