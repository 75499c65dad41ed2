"""The verifier's judgement, written a second time, is the engine's on whatever was measured."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from requests_app.verifier import canonical, figures
from requests_app.verifier.errors import Invalid
from workers.probes import Measured, load_probe, probe_names
from workers.protocol import CONTROL_UPPER, FAST, PRIMARY, RULES
from workers.results import probe_results
from workers.verification import decimal, figures_of, judge, recorded

DIGEST = "ab" * 32
ADAPTER = {"sha256": DIGEST, "gate_sha256": DIGEST}
PLAN: dict[str, Any] = {
    "form": 3,
    "profile": "fast",
    "level": "gated",
    "model": {"sha256": DIGEST, "tokenizer_sha256": DIGEST},
    "control": {"made_up_people": 3},
    "probes": {
        name: {"question": load_probe(name).QUESTION, "rules": [*map(dict, RULES.get(name, ()))]}
        for name in FAST
    },
    "not_tested": {n: load_probe(n).QUESTION for n in probe_names() if n not in FAST},
    "attempts": [{"attempt": 1, "seed": 7}],
}
shares = st.one_of(
    st.sampled_from([0.0, 0.02, 0.2, 0.7, 0.95, 0.98, 1.0, 1.02, 1 / 3, float("nan")]),
    st.floats(0.0, 1.2),
)
measured = st.builds(
    Measured,
    n=st.integers(1, 60),
    after=shares,
    before=shares,
    control=st.none() | shares,
    bound=st.none() | shares,
    control_upper=st.none() | shares,
)
found = st.dictionaries(st.sampled_from(FAST), measured, min_size=4)
missing = st.sampled_from(["could not be measured (ValueError)", "nobody to ask about"])


def logged(told: dict[str, Any], failed: dict[str, str], verdict: str) -> tuple[Any, Any]:
    """The figures as a worker stores them, and what the log says of them."""
    content = {
        "protocol": PLAN,
        "adapter": ADAPTER,
        "control": None,
        "model": {"sha256": DIGEST, "tokenizer": DIGEST},
        "attempt": {"number": 1},
        "release": DIGEST,
        "probes": told,
        "not_measured": failed,
    }
    rows = {row.pop("probe"): row for row in probe_results({"probes": told})}
    for row in rows.values():
        row.pop("question")
    fact = {
        "adapter": ADAPTER,
        "attempt": 1,
        "release": None,
        "verdict": verdict,
        "figures": {"estimates": rows},
    }
    return json.loads(canonical.dumps(recorded(content))), fact


@settings(max_examples=60)
@given(found, missing)
def test_both_come_to_the_same_verdict(found: dict[str, Measured], why: str) -> None:
    told = {name: figures_of(one, RULES.get(name, ())) for name, one in found.items()}
    failed = dict.fromkeys(set(FAST) - set(found), why)
    verdict, _ = judge(told, PLAN, failed)
    plan = figures.read_plan(canonical.dumps(PLAN), file="plan")
    content, fact = logged(told, failed, verdict)
    figures.check_figures(plan, fact, content, file="figures")
    for other in {"within_thresholds", "not_met", "inconclusive"} - {verdict}:
        try:
            figures.check_figures(plan, {**fact, "verdict": other}, content, file="figures")
        except Invalid:
            continue
        raise AssertionError(f"{other} was accepted in the place of {verdict}")


def test_both_know_the_same_names() -> None:
    assert (figures.PRIMARY, figures.CONTROL_UPPER) == (PRIMARY, CONTROL_UPPER)
    assert all(figures._DECIMAL.fullmatch(decimal(x)) for x in (0.0, -1e-9, 1e20, float("inf")))
