"""What an operator who holds every key and writes the log cannot have verified: an unbacked claim.

False input at the time of writing cannot be seen (limit L3). But what is claimed must follow from
what was logged and enclosed, by the plan that was fixed before.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import Any
from uuid import uuid4

import pytest

from requests_app.verifier.checks import verify
from requests_app.verifier.errors import Invalid
from rtbf.made_up_runs import SHORT
from tests.requests_app.bundles import Made, Written, made_bundle, operator_bundle

pytestmark = pytest.mark.django_db

Edit = Callable[[Written], object]


@pytest.fixture
def made() -> Made:
    return made_bundle()


def test_an_operator_who_changes_nothing_that_matters_is_verified(made: Made) -> None:
    data = operator_bundle(made, lambda written: None)
    result = verify(data, trust=made.trust)
    assert (result.claim, result.authenticated) == ("suppression-measured", True)


def unseen(written: Written) -> dict[str, Any]:
    found: dict[str, Any] = written.figures["probes"]["unseen"]
    return found


def logged(written: Written) -> dict[str, Any]:
    found: dict[str, Any] = written.data("run.verified")["estimates"]["unseen"]
    return found


def move(written: Written, kind: str, *, before: str) -> None:
    body = written.bodies.pop(written.place(kind))
    written.bodies.insert(written.place(before), body)


def add(written: Written, kind: str, data: dict[str, Any], *, before: str, actor: str = "") -> None:
    like = written.bodies[written.place(before)]
    body = {**deepcopy(like), "type": kind, "data": data, "actor": actor or like["actor"]}
    written.bodies.insert(written.place(before), body)


def fell_short(written: Written) -> None:
    """Measured as short in file and log alike; the verdict stays."""
    unseen(written).update(SHORT, outcome="short")
    unseen(written).pop("holds")
    logged(written).update(SHORT)


def _plan_again(written: Written, **changes: Any) -> None:
    written.plan.update(changes)
    written.figures["protocol"] = written.plan


def _no_rules(written: Written) -> None:
    written.plan["probes"]["unseen"]["rules"] = []
    _plan_again(written)
    unseen(written).pop("limits")
    unseen(written).pop("outcome")
    logged(written).update(threshold="", holds=None)


def _laxer_rule(written: Written) -> None:
    """The plan is as it was; what the figures were held to is not."""
    unseen(written).update(after="0.5", bound="0.62", limits=["0.9", "0.9"], outcome="holds")
    logged(written).update(after="0.5", bound="0.62", threshold="0.9", holds=True)


def _left_out(written: Written, why: str = "") -> None:
    written.figures["probes"].pop("unseen")
    written.data("run.verified")["estimates"].pop("unseen")
    if why:
        written.figures["not_measured"] = {"unseen": why}


def _second_run(written: Written, **changes: Any) -> None:
    """A further attempt that is only queued, and cancelled."""
    run, first = str(uuid4()), written.data("run.queued")
    data = {**first, "run": run, "number": 2, "seed": first["seed"] + 5, **changes}
    ending = {"run": run, "verdict": "inconclusive", "error": "cancelled"}
    add(written, "run.queued", data, before="case.completed")
    add(written, "run.cancelled", ending, before="case.completed")


def _same_person(written: Written) -> None:
    proposal = written.bodies[written.place("decision.proposed")]
    person = proposal["actor"].partition(":")[2]
    written.bodies[written.place("decision.approved")]["actor"] = f"approver:{person}"


def _refused_but_run(written: Written) -> None:
    for kind in ("decision.proposed", "decision.approved"):
        written.data(kind)["outcome"] = "refused"


def _kept_but_run(written: Written) -> None:
    for item in written.data("decision.proposed")["scope"]:
        item["result"] = "keep"


def _retrained(written: Written, **changes: str) -> None:
    """The merged case said to be on weights trained anew, with what it would have to name."""
    _merged(written, "within_thresholds", holds=True)
    written.bodies[written.place("case.merged")]["type"] = "case.retrained"
    named = {"gate_report_sha256": "ab" * 32, "build_sha256": "cd" * 32}
    written.data("case.retrained").update({**named, **changes})


def _merged(written: Written, verdict: str, *, holds: bool | None) -> None:
    data = {
        "model": "demo",
        "verdict": verdict,
        "estimates": {"unseen": {**logged(written), "holds": holds}},
        "release": "ab" * 32,
        "adapter_sha256": "",
        "gate_sha256": "",
        "base_sha256": "cd" * 32,
    }
    add(written, "case.merged", data, before="case.completed")


FORGERIES: dict[str, tuple[Edit, str]] = {
    "a verdict that its figures do not carry": (fell_short, "verdict does not follow"),
    "a word that bound and threshold do not carry": (
        lambda w: (unseen(w).update(after="0.5"), logged(w).update(after="0.5")),
        "outcome does not follow",
    ),
    "a bound beyond its threshold": (
        lambda w: (unseen(w).update(bound="0.25"), logged(w).update(bound="0.25")),
        "outcome does not follow",
    ),
    "better figures in the log than in the file": (
        lambda w: logged(w).update(after="0.0"),
        "not those that were logged",
    ),
    "another threshold than planned": (_laxer_rule, "outcome does not follow"),
    "a plan by which nothing decides": (_no_rules, "verdict does not follow"),
    "a deciding test left out": (_left_out, "became of unseen"),
    "a deciding test that could not be measured": (
        lambda w: _left_out(w, "could not be measured (ValueError)"),
        "verdict does not follow",
    ),
    "another plan in the figures": (
        lambda w: w.figures.update(protocol={**w.plan, "profile": "full"}),
        "protocol",
    ),
    "the figures of another run": (lambda w: w.figures.update(run=str(uuid4())), "another run"),
    "the figures of another adapter": (
        lambda w: w.figures.update(adapter=dict.fromkeys(("sha256", "gate_sha256"), "ab" * 32)),
        "adapter",
    ),
    "the figures of another release": (
        lambda w: w.figures.update(release="ab" * 32),
        "model, attempt and release",
    ),
    "the figures of another attempt": (
        lambda w: w.figures["attempt"].update(number=2),
        "model, attempt and release",
    ),
    "the figures of another model": (
        lambda w: w.figures["model"].update(sha256="ab" * 32),
        "model, attempt and release",
    ),
    "another control than planned": (
        lambda w: w.figures.update(control={"sha256": "ab" * 32}),
        "control",
    ),
    "the environment of another run": (
        lambda w: setattr(w, "environment", {"python": "2.7"}),
        "environment",
    ),
    "an adapter on other weights than planned": (
        lambda w: w.data("adapter.created").update(base_sha256="ab" * 32),
        "other weights",
    ),
    "another recipe than planned": (lambda w: w.settings.update(rate="0.5"), "rate"),
    "another seed than planned": (
        lambda w: w.data("run.queued").update(seed=w.data("run.queued")["seed"] + 1),
        "another seed",
    ),
    "a plan that lists no attempt": (lambda w: _plan_again(w, attempts=[]), "no attempt 1"),
    "a plan fixed after training": (
        lambda w: move(w, "run.protocol_fixed", before="run.verified"),
        "before its test plan",
    ),
    "a plan fixed after the tests": (
        lambda w: move(w, "run.protocol_fixed", before="release.registered"),
        "run",
    ),
    "an earlier run left out": (lambda w: w.data("run.queued").update(number=2), "left out"),
    "a later run left out": (lambda w: _second_run(w, number=3), "left out"),
    "an adapter that another run made": (
        lambda w: (_second_run(w), _copied_adapter(w)),
        "another run",
    ),
    "a release that went live against its verdict": (
        lambda w: w.data("release.registered").update(live=False),
        "against its verdict",
    ),
    "one person for two": (_same_person, "One person"),
    "no proposal": (lambda w: w.bodies.pop(w.place("decision.proposed")), "not the decision"),
    "a proposal that was returned": (
        lambda w: add(w, "decision.returned", {"decision": 1}, before="decision.approved"),
        "not the decision",
    ),
    "no approval": (lambda w: w.bodies.pop(w.place("decision.approved")), "without a decision"),
    "another outcome approved": (
        lambda w: w.data("decision.approved").update(outcome="partly_granted"),
        "Another outcome",
    ),
    "a run although it was refused": (_refused_but_run, "without a decision"),
    "a run on what was to be kept": (_kept_but_run, "without a decision"),
    "merged although it fell short": (
        lambda w: _merged(w, "not_met", holds=False),
        "fell short",
    ),
    "merged with a test that failed": (
        lambda w: _merged(w, "within_thresholds", holds=False),
        "fell short",
    ),
    "merged without naming the weights": (
        lambda w: (
            _merged(w, "within_thresholds", holds=True),
            w.data("case.merged").pop("base_sha256"),
        ),
        "does not name what is in force",
    ),
    "merged on a model without an adapter": (
        lambda w: (
            _merged(w, "within_thresholds", holds=True),
            w.data("case.merged").update(model="other"),
        ),
        "nothing was in force",
    ),
    "exact without a report of the training gate": (
        lambda w: _retrained(w, gate_report_sha256=""),
        "trained on",
    ),
    "exact without a build": (
        lambda w: _retrained(w, build_sha256="build.jsonl"),
        "trained on",
    ),
    "revoked by one": (
        lambda w: add(
            w,
            "case.revoked",
            {"revocation": 1, "cause": "appeal", "releases": {"demo": "ab" * 32}},
            before="case.completed",
        ),
        "not the revocation",
    ),
}


def _copied_adapter(written: Written) -> None:
    run = written.data("run.queued")["run"]
    copied = {**written.data("adapter.created"), "run": run}
    plan = {**written.data("run.protocol_fixed"), "run": run}
    add(written, "run.protocol_fixed", plan, before="run.cancelled")
    add(written, "adapter.created", copied, before="run.cancelled")


@pytest.mark.parametrize("name", FORGERIES)
def test_what_is_claimed_follows_from_what_was_logged_and_enclosed(made: Made, name: str) -> None:
    edit, reason = FORGERIES[name]
    with pytest.raises(Invalid, match=reason):
        verify(operator_bundle(made, edit), trust=made.trust)


def test_what_lowers_the_claim_is_said_and_not_refused(made: Made) -> None:
    """A release that was never registered: nothing is in force, and nothing more is claimed."""

    def edit(written: Written) -> None:
        written.bodies.pop(written.place("release.registered"))

    result = verify(operator_bundle(made, edit), trust=made.trust)
    assert result.claim == "procedure-executed"
    assert any(limit.startswith("L2") for limit in result.limitations)


def test_a_case_merged_within_thresholds_is_said_to_be_so(made: Made) -> None:
    data = operator_bundle(made, lambda written: _merged(written, "within_thresholds", holds=True))
    result = verify(data, trust=made.trust)
    assert result.claim == "suppression-in-weights"
    assert result.runs[0]["served"]["base_sha256"] == "cd" * 32


def test_a_case_on_weights_trained_anew_is_said_to_be_exact_for_them(made: Made) -> None:
    result = verify(operator_bundle(made, _retrained), trust=made.trust)
    assert (result.claim, result.runs[0]["level"]) == ("exact-by-construction", "exact")
    assert any(limit.startswith("L9") for limit in result.limitations)
    assert not any(limit.startswith("L1") for limit in result.limitations)


def test_an_adapter_that_several_cases_share_is_stated_as_the_one_in_force(made: Made) -> None:
    def edit(written: Written) -> None:
        _merged(written, "within_thresholds", holds=True)
        written.bodies[written.place("case.merged")]["type"] = "case.reverified"
        written.data("case.reverified").update(adapter_sha256="ef" * 32, gate_sha256="ef" * 32)

    result = verify(operator_bundle(made, edit), trust=made.trust, adapter_sha256="ef" * 32)
    assert (result.claim, result.runs[0]["level"]) == ("suppression-measured", "gated")
