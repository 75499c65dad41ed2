"""What somebody with the attest key, but without the log key, cannot make the verifier accept."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.verifier import canonical, dsse, merkle, notes, statements
from requests_app.verifier.checks import Event, verify
from requests_app.verifier.errors import Invalid
from requests_app.verifier.runs import claim_of, run_facts
from tests.requests_app.bundles import Made, forge, made_bundle, refused, statement_of

pytestmark = pytest.mark.django_db


@pytest.fixture
def made() -> Made:
    return made_bundle()


def test_the_attest_key_alone_can_repeat_what_was_logged(made: Made) -> None:
    assert forge(made, {}) == made.bundle


def test_a_changed_event_is_not_in_the_log(made: Made) -> None:
    name = statements.event_file(2)
    body = {**json.loads(made.files[name]), "actor": "officer:somebody-else"}
    problem = refused(made, forge(made, {name: canonical.dumps(body)}))
    assert problem.file == statements.proof_name(2)


def test_swapped_events_break_the_chain(made: Made) -> None:
    one, two = (statements.event_file(n) for n in (1, 2))
    proof_one, proof_two = (statements.proof_name(n) for n in (1, 2))
    swapped = {
        one: made.files[two],
        two: made.files[one],
        proof_one: made.files[proof_two],
        proof_two: made.files[proof_one],
    }
    assert refused(made, forge(made, swapped)).file == one


def test_an_event_of_another_case_is_refused(made: Made) -> None:
    other = str(made.attest.name)
    edit = lambda predicate: predicate.update(case=other)  # noqa: E731
    assert "case" in str(refused(made, forge(made, {}, edit)))


def test_a_case_cut_short_is_not_the_stated_head_or_warns(made: Made) -> None:
    count = statement_of(made.files)["predicate"]["events"]
    short = {
        name: data
        for name, data in made.files.items()
        if name not in (statements.event_file(count - 1), statements.proof_name(count - 1))
    }
    cut = Made(made.bundle, short, made.trust_text, made.attest, made.log, b"", b"")
    refused(made, forge(cut, {}))
    refused(made, forge(cut, {}, lambda predicate: predicate.update(events=count - 1)))
    head = merkle.leaf_hash(made.files[statements.event_file(count - 2)])

    def edit(predicate: dict[str, Any]) -> None:
        predicate.update(events=count - 1, caseHead=head.hex())

    result = verify(forge(cut, {}, edit), trust=made.trust)
    assert "not closed" in result.warnings[0]


@pytest.mark.parametrize("edit", ["longer", "shorter", "index", "checkpoint"])
def test_a_proof_that_does_not_fit_is_refused(made: Made, edit: str) -> None:
    name = statements.proof_name(3)
    proof = notes.parse_proof(made.files[name], file=name)
    path, index, note = proof.path, proof.index, proof.note
    if edit == "longer":
        path = (*path, bytes(32))
    elif edit == "shorter":
        path = path[:-1]
    elif edit == "index":
        index += 1
    else:
        note = made.first_checkpoint
    forged = notes.proof_file(notes.InclusionProof(index=index, path=path, note=note))
    assert refused(made, forge(made, {name: forged})).file == name


@pytest.mark.parametrize("edit", ["longer", "shorter", "root", "size", "later"])
def test_a_consistency_proof_that_does_not_fit_is_refused(made: Made, edit: str) -> None:
    value = json.loads(made.files[statements.CONSISTENCY])
    if edit == "longer":
        value["path"].append(notes.encode(bytes(32)))
    elif edit == "shorter":
        value["path"].pop()
    elif edit == "root":
        value["first"]["root"] = notes.encode(bytes(32))
    elif edit == "size":
        value["first"]["size"] += 1
    else:
        head = verify(made.bundle, trust=made.trust).head
        value = {"first": {"size": head.size, "root": notes.encode(head.root)}, "path": []}
    forged = canonical.dumps(value)
    problem = refused(made, forge(made, {statements.CONSISTENCY: forged}))
    assert problem.file == statements.CONSISTENCY


def test_an_older_or_foreign_checkpoint_is_refused(made: Made) -> None:
    for note in (made.first_checkpoint, made.later_checkpoint):
        refused(made, forge(made, {statements.CHECKPOINT: note}))
    foreign = notes.TreeHead("elsewhere.example", 99, bytes(32))
    note = notes.sign_note(
        notes.checkpoint_text(foreign), name=made.log.name, private=made.log.private
    )
    assert "elsewhere" in str(refused(made, forge(made, {statements.CHECKPOINT: note})))


def _run_edits() -> dict[str, Callable[[dict[str, Any]], object]]:
    def run(predicate: dict[str, Any]) -> dict[str, Any]:
        first: dict[str, Any] = predicate["runs"][0]
        return first

    return {
        "verdict": lambda p: run(p).update(verdict="not_met"),
        "adapter": lambda p: run(p)["adapter"].update(sha256="00" * 32),
        "plan": lambda p: run(p)["protocol"].update(logged_at=0),
        "estimate": lambda p: run(p)["tests"][1].update(after="0.0000"),
        "test left out": lambda p: run(p)["tests"].pop(),
        "test twice": lambda p: run(p)["tests"].append(run(p)["tests"][0]),
        "run left out": lambda p: p["runs"].clear(),
        "figures file": lambda p: run(p)["files"].update(metrics="eval/config.json"),
        "no plan file": lambda p: run(p)["files"].pop("protocol"),
        "no test result": lambda p: run(p)["files"].pop("testResult"),
        "claim": lambda p: p["claim"].update(name="request-recorded"),
        "unknown claim": lambda p: p["claim"].update(name="removal"),
        "level": lambda p: run(p).update(level="merged"),
        "level of the claim": lambda p: p["claim"].update(level="merged", scope="served-weights"),
        "limit left out": lambda p: p["limitations"].pop(),
        "not tested left out": lambda p: run(p)["evaluation"]["notTested"].clear(),
        "another question": lambda p: run(p)["tests"][0].update(question="Does it tell anything?"),
        "another method": lambda p: run(p)["method"].update(name="exact"),
        "another base model": lambda p: run(p)["resolvedDependencies"][0].update(name="x"),
        "unknown limit": lambda p: p["limitations"].append("L9"),
        "head": lambda p: p.update(caseHead="00" * 32),
        "root": lambda p: p["log"].update(root=notes.encode(bytes(32))),
        "result word": lambda p: run(p)["tests"][1].update(result="FAILED"),
        "holds": lambda p: run(p)["tests"][0].update(holds=True),
        "holds as a number": lambda p: run(p)["tests"][1].update(holds=1),
        "no holds": lambda p: run(p)["tests"][1].pop("holds"),
    }


@pytest.mark.parametrize("edit", _run_edits())
def test_a_statement_that_says_more_or_else_than_the_log_is_refused(made: Made, edit: str) -> None:
    refused(made, forge(made, {}, _run_edits()[edit]))


ODD = (None, True, -1, 2**53 - 1, "", "x", [], {}, ["x"], {"x": 1})


def paths_of(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value) if isinstance(value, list) else inside
    found = [path for key, item in inside for path in paths_of(item, (*at, key))]
    return [at, *found] if at else found


def test_nothing_in_a_signed_statement_can_be_anything_else(made: Made) -> None:
    original = statement_of(made.files)["predicate"]
    for number, path in enumerate(paths_of(original)):
        for odd in (ODD[number % len(ODD)], ODD[(number + 3) % len(ODD)]):

            def edit(predicate: dict[str, Any], path: Any = path, odd: Any = odd) -> None:
                for key in path[:-1]:
                    predicate = predicate[key]
                predicate[path[-1]] = odd

            changed = json.loads(json.dumps(original))
            edit(changed)
            if canonical.dumps(changed) != canonical.dumps(original):
                refused(made, forge(made, {}, edit))


RUN, DIGEST = {"run": "r"}, "ab" * 32
ROW = {"n": 48, "before": "0.9", "after": "0.0", "control": "0.0", "bound": "0.1"}
QUEUED = ("run.queued", {"model": "demo", "number": 1, "seed": 7})
FIXED = ("run.protocol_fixed", {"sha256": DIGEST})
ADAPTER = ("sha256", "config_sha256", "gate_sha256", "base_sha256", "settings_sha256", "overlap")
CREATED = ("adapter.created", dict.fromkeys(ADAPTER, DIGEST))
RELEASED = ("release.registered", {"release": DIGEST, "live": True})
UP_TO_ADAPTER = (QUEUED, FIXED, CREATED)


def verified(verdict: str, holds: object = True) -> tuple[str, dict[str, Any]]:
    estimates = {"unseen": {**ROW, "threshold": "0.1", "holds": holds}}
    data = {"verdict": verdict, "figures_sha256": DIGEST, "estimates": estimates}
    return "run.verified", data


def ended(kind: str, verdict: str) -> tuple[str, dict[str, Any]]:
    return f"run.{kind}", {"verdict": verdict, "error": ""}


def facts_of(*steps: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    bodies = [{"type": kind, "data": {**RUN, **data}} for kind, data in steps]
    return run_facts(Event(i, f"events/{i}", body, b"", b"") for i, body in enumerate(bodies))


@pytest.mark.parametrize("verdict", [*statements.RESULTS, ""])
def test_a_run_that_was_not_verified_cannot_finish(verdict: str) -> None:
    with pytest.raises(Invalid, match="never verified"):
        facts_of(*UP_TO_ADAPTER, ended("finished", verdict))


@pytest.mark.parametrize("kind", ["finished", "failed", "cancelled"])
@pytest.mark.parametrize("measured", statements.RESULTS)
def test_a_run_ends_with_the_verdict_that_was_measured(kind: str, measured: str) -> None:
    (fact,) = facts_of(*UP_TO_ADAPTER, verified(measured), ended(kind, measured))
    assert (fact["state"], fact["verdict"]) == (kind, measured)
    for other in {*statements.RESULTS, ""} - {measured}:
        with pytest.raises(Invalid, match="another verdict"):
            facts_of(*UP_TO_ADAPTER, verified(measured), ended(kind, other))


@pytest.mark.parametrize("kind", ["failed", "cancelled"])
def test_a_run_that_broke_off_unmeasured_is_inconclusive_at_most(kind: str) -> None:
    for verdict in ("inconclusive", ""):
        (fact,) = facts_of(QUEUED, ended(kind, verdict))
        assert fact["verdict"] == verdict
    for verdict in ("within_thresholds", "not_met"):
        with pytest.raises(Invalid, match="never verified"):
            facts_of(*UP_TO_ADAPTER, ended(kind, verdict))


def test_a_verdict_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Invalid, match="no verdict"):
        facts_of(*UP_TO_ADAPTER, verified("perfect"))


def test_a_release_is_registered_once_between_the_tests_and_the_end() -> None:
    within = "within_thresholds"
    (fact,) = facts_of(*UP_TO_ADAPTER, verified(within), RELEASED, ended("finished", within))
    assert fact["release"] == DIGEST
    for steps in (
        (QUEUED, RELEASED),
        (*UP_TO_ADAPTER, RELEASED),
        (*UP_TO_ADAPTER, RELEASED, verified(within)),
        (*UP_TO_ADAPTER, verified(within), RELEASED, RELEASED),
        (*UP_TO_ADAPTER, verified(within), ended("finished", within), RELEASED),
        (*UP_TO_ADAPTER, verified(within), ended("failed", within), RELEASED),
    ):
        with pytest.raises(Invalid, match=r"release\.registered"):
            facts_of(*steps)


@pytest.mark.parametrize("holds", [1, 0, "true", "", []])
def test_a_test_holds_or_not_or_decides_nothing(holds: object) -> None:
    with pytest.raises(Invalid, match="holds"):
        facts_of(*UP_TO_ADAPTER, verified("not_met", holds))


@pytest.mark.parametrize(
    ("holds", "threshold", "word"),
    [
        (True, "0.1", "PASSED"),
        (False, "0.1", "FAILED"),
        (False, "", "FAILED"),
        (None, "0.1", "WARNED"),
        (None, "", "INFORMATIONAL"),
    ],
)
def test_the_word_for_a_test_is_what_was_logged(
    holds: bool | None, threshold: str, word: str
) -> None:
    assert statements.result_word(holds=holds, threshold=threshold) == word


def test_a_test_that_was_not_passed_is_not_called_passed_by_two_statements(made: Made) -> None:
    name = "test-result.dsse.json"
    statement = statement_of(made.files, name)
    forged = dsse.sign_statement(
        subject=statement["subject"],
        predicate_type=statement["predicateType"],
        predicate={**statement["predicate"], "passedTests": ["trained", "unseen"]},
        name=made.attest.name,
        private=made.attest.private,
    )

    def edit(predicate: dict[str, Any]) -> None:
        (test,) = [t for t in predicate["runs"][0]["tests"] if t["name"] == "trained"]
        assert test["result"] == "INFORMATIONAL"
        test["result"] = "PASSED"

    assert refused(made, forge(made, {name: forged}, edit)).file == statements.STATEMENT


KINDS = (
    *("run.queued", "run.protocol_fixed", "adapter.created", "run.verified"),
    *("release.registered", "run.finished", "run.failed", "something.else"),
    *("case.merged", "case.reverified", "case.regated", "case.revoked"),
)
FIELDS = (
    *("run", "model", "number", "seed", "sha256", "verdict", "estimates", "figures_sha256"),
    *("release", "error", "overlap", "releases"),
)
odd_data = st.dictionaries(
    st.sampled_from(FIELDS), st.sampled_from(["a", "b", 1, None, [], {}, {"p": {}}, {"p": 1}])
)
odd_bodies = st.fixed_dictionaries({"type": st.sampled_from(KINDS), "data": odd_data})


@given(st.lists(odd_bodies, max_size=6))
def test_odd_events_are_refused_or_read_but_never_crash(bodies: list[dict[str, Any]]) -> None:
    events = [Event(i, f"events/{i}", body, b"", b"") for i, body in enumerate(bodies)]
    try:
        facts = run_facts(events)
    except Invalid:
        return
    assert claim_of(facts) in statements.CLAIMS


def test_changed_figures_do_not_fit_the_logged_digest(made: Made) -> None:
    for name in ("eval/metrics.json", "eval/protocol.json", "eval/config.json"):
        assert refused(made, forge(made, {name: b"{}"})).file == name


def test_a_test_result_of_another_verdict_is_refused(made: Made) -> None:
    name = "test-result.dsse.json"
    statement = statement_of(made.files, name)
    forged = dsse.sign_statement(
        subject=statement["subject"],
        predicate_type=statement["predicateType"],
        predicate={**statement["predicate"], "result": "FAILED"},
        name=made.attest.name,
        private=made.attest.private,
    )
    assert refused(made, forge(made, {name: forged})).file == name
