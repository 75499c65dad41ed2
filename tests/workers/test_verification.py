import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.tiny import tiny_model
from workers.forget_sets import Located
from workers.probes.recall import upper_bound
from workers.subjects import Fact, Subject
from workers.verification import (
    INCONCLUSIVE,
    NOT_MET,
    THRESHOLDS,
    WITHIN,
    decimal,
    judge,
    others,
    recorded,
)

PROTOCOL = {"thresholds": {**THRESHOLDS, "unseen": {"rule": "control_upper95"}}}


def figures(
    *,
    before: float = 0.9,
    after: float = 0.02,
    kept: float = 1.0,
    ratio: float = 1.0,
    upper: float = 0.12,
) -> dict[str, Any]:
    unseen = {"n": 50, "before": before, "after": after, "after_upper95": upper}
    return {
        "erased": {"unseen": {**unseen, "control_upper95": 0.09}},
        "others": {"kept": kept},
        "perplexity": {"ratio": ratio},
    }


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, WITHIN),
        ({"after": 0.09}, WITHIN),
        ({"after": 0.1}, NOT_MET),
        ({"kept": 0.97}, NOT_MET),
        ({"ratio": 1.03}, NOT_MET),
        ({"before": 0.09}, INCONCLUSIVE),
        ({"before": 0.05, "after": 0.0}, INCONCLUSIVE),
        ({"after": 0.0, "upper": 0.21}, INCONCLUSIVE),
        ({"after": 0.1, "upper": 0.21}, NOT_MET),
    ],
)
def test_the_verdict_follows_the_protocol(changed: dict[str, float], verdict: str) -> None:
    found, reasons = judge(figures(**changed), PROTOCOL)
    assert found == verdict
    assert reasons


@pytest.mark.parametrize(("told", "asked"), [(1, 2), (2, 4), (2, 6), (0, 13)])
def test_a_sample_too_small_never_passes(told: int, asked: int) -> None:
    """The control's own bound is wide when few questions are asked: it must not let a case pass."""
    found = figures(before=1.0, after=told / asked, upper=upper_bound(told, asked))
    found["erased"]["unseen"]["control_upper95"] = upper_bound(0, asked)
    assert judge(found, PROTOCOL)[0] != WITHIN


def test_people_of_the_demo_are_never_asked_about_on_another_model() -> None:
    """The demo's made-up people are unknown to it: their answers would say nothing of damage."""
    subject = Subject("Anna Berger", (), (), ())
    located = Located(subject, (), asked=0, accuracy=0.0)
    assert others(tiny_model(), located, count=5, seed=1) == []
    neighbour = Fact("Who wrote Faust?", "Goethe")
    located = Located(replace(subject, neighbours=(neighbour,)), (), asked=0, accuracy=0.0)
    assert others(tiny_model(), located, count=5, seed=1) == [neighbour]


def test_an_error_is_inconclusive_whatever_was_measured() -> None:
    assert judge(figures(), PROTOCOL, ["others could not be measured"])[0] == INCONCLUSIVE


def test_without_a_control_the_protocols_own_limit_counts() -> None:
    protocol = {"thresholds": {**THRESHOLDS, "unseen": {"rule": "limit", "limit": "0.01"}}}
    assert judge(figures(after=0.02), protocol)[0] == NOT_MET
    assert judge(figures(after=0.01), protocol)[0] == WITHIN


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
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
