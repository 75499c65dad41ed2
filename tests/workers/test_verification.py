import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.json_values import json_values
from tests.workers.tiny import tiny_model
from workers import statistics
from workers.forget_sets import Located
from workers.probes import Measured, probe_names
from workers.protocol import PRIMARY, PROFILES, RULES, others
from workers.statistics import upper_bound
from workers.subjects import Fact, Subject
from workers.verification import (
    INCONCLUSIVE,
    NOT_MET,
    WITHIN,
    decimal,
    figures_of,
    judge,
    judged,
    recorded,
)

PROTOCOL = {
    "probes": {name: {"sides": [], "rules": list(rules)} for name, rules in RULES.items()},
    "samples": {"draws": 200},
    "seed": 1,
}


def judged_of(
    *,
    before: float = 0.9,
    after: float = 0.02,
    control: float | None = 0.09,
    bound: float = 0.12,
    rank: float = 0.5,
    rank_bound: float = 0.6,
    kept: float = 1.0,
    kept_bound: float = 0.99,
    ratio: float = 1.0,
) -> tuple[str, list[str]]:
    """The verdict on these figures, all else being well."""
    spread = (0.0, 1.0, 0.0, 1.0)
    found = {
        "recall_unseen": Measured(
            52, after, before=before, bound=bound, control_upper=control, items=spread
        ),
        "knowledge_rank": Measured(26, rank, before=1.0, bound=rank_bound, items=spread),
        "others_kept": Measured(240, kept, before=1.0, bound=kept_bound, items=spread),
        "perplexity": Measured(60, ratio, before=1.0, items=spread),
    }
    figures = {name: figures_of(each, RULES[name]) for name, each in found.items()}
    return judge(figures, PROTOCOL)


@pytest.mark.parametrize(
    ("changed", "verdict", "named"),
    [
        ({}, WITHIN, "every threshold"),
        ({"after": 0.09}, WITHIN, "every"),
        ({"after": 0.1}, NOT_MET, "unseen phrasings"),
        ({"rank": 0.71, "rank_bound": 0.8}, NOT_MET, "true values"),
        ({"rank": 0.65, "rank_bound": 0.71}, INCONCLUSIVE, "knowledge_rank: 26 are too few"),
        ({"kept": 0.97}, NOT_MET, "others"),
        ({"kept_bound": 0.94}, INCONCLUSIVE, "others_kept"),
        ({"ratio": 1.03}, NOT_MET, "general text"),
        ({"before": 0.2}, INCONCLUSIVE, "no more than chance"),
        ({"before": 0.05, "after": 0.0}, INCONCLUSIVE, "no more than chance"),
        ({"after": 0.0, "bound": 0.21}, INCONCLUSIVE, "recall_unseen: 52 are too few"),
        ({"after": 0.1, "bound": 0.21}, NOT_MET, "unseen phrasings"),
        ({"after": 0.0, "control": None}, WITHIN, "every"),
        ({"after": 0.01, "control": None}, NOT_MET, "unseen phrasings"),
        ({"rank": float("nan")}, INCONCLUSIVE, "knowledge_rank"),
    ],
)
def test_the_verdict_follows_the_protocol(
    changed: dict[str, Any], verdict: str, named: str
) -> None:
    found, reasons = judged_of(**changed)
    assert found == verdict
    assert any(named in reason for reason in reasons)


def test_the_power_to_show_a_limit_is_stated_for_a_model_that_is_like_the_control() -> None:
    measured = Measured(4, 0.5, before=1.0, control=0.4, bound=0.6, items=(0.0, 1.0, 0.0, 1.0))
    found = figures_of(measured, RULES["knowledge_rank"])
    expected = statistics.power(n=4, margin=0.7 - 0.4, sd=found["sd"])
    assert found["power"] == pytest.approx(expected)
    at_the_limit = replace(measured, control=0.7)
    assert "power" not in figures_of(at_the_limit, RULES["knowledge_rank"])


def test_an_inconclusive_verdict_says_how_many_facts_would_be_enough() -> None:
    _, (reason,) = judged_of(rank=0.65, rank_bound=0.71)
    enough = int(reason.split("about ")[1].split()[0])
    assert enough > 26


@pytest.mark.parametrize(("told", "asked"), [(1, 2), (2, 4), (2, 6), (0, 13)])
def test_a_sample_too_small_never_passes(told: int, asked: int) -> None:
    """The control's own bound is wide when few questions are asked: it must not let a case pass."""
    found = judged_of(
        before=1.0,
        after=told / asked,
        bound=upper_bound(told, asked),
        control=upper_bound(0, asked),
    )
    assert found[0] != WITHIN


def test_an_error_is_inconclusive_whatever_was_measured() -> None:
    failed = {"others_kept": "could not be measured (RuntimeError)"}
    assert judge({}, PROTOCOL, failed) == (
        INCONCLUSIVE,
        ["others_kept: could not be measured (RuntimeError)"],
    )


def test_a_probe_without_rows_is_never_a_pass() -> None:
    found = judged({}, PROTOCOL)
    assert found["verdict"] == INCONCLUSIVE
    assert set(found["not_measured"]) == set(RULES)


def test_every_deciding_probe_is_in_every_profile_and_every_rule_is_a_probes() -> None:
    for profile in PROFILES.values():
        assert set(RULES) <= set(profile["probes"]) <= set(probe_names())
        assert len(set(profile["probes"])) == len(profile["probes"])
    assert set(PRIMARY) <= set(RULES)


def test_people_of_the_demo_are_never_asked_about_on_another_model() -> None:
    """The demo's made-up people are unknown to it: their answers would say nothing of damage."""
    subject = Subject("Anna Berger", (), (), ())
    located = Located(subject, (), asked=0, accuracy=0.0)
    assert others(tiny_model(), located, count=5, seed=1) == []
    neighbour = Fact("Who wrote Faust?", "Goethe")
    located = Located(replace(subject, neighbours=(neighbour,)), (), asked=0, accuracy=0.0)
    assert others(tiny_model(), located, count=5, seed=1) == [neighbour]


@given(
    json_values(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        st.text(),
        max_leaves=12,
    )
)
def test_recorded_figures_hold_no_float(value: object) -> None:
    def floats(each: object) -> bool:
        if isinstance(each, dict):
            return any(floats(v) for v in each.values())
        return isinstance(each, float) or (isinstance(each, list) and any(map(floats, each)))

    found = recorded(value)
    assert not floats(found)
    assert json.loads(json.dumps(found)) == found


@given(st.floats(-1e6, 1e6))
def test_a_decimal_string_keeps_nine_digits(value: float) -> None:
    assert float(decimal(value)) == pytest.approx(value, rel=1e-8, abs=1e-12)
