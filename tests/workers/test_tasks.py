"""The task of a run, called directly: every ending is a written row, without personal data.

A run that reaches its result is tested with real processes in tests/faults and by `make demo`.
"""

import logging
from pathlib import Path

import pytest
from pytest_django.fixtures import Settings

from requests_app import audit, keys
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import Case, ErasureRun, Release
from requests_app.models.runs import Verdict
from requests_app.services import cases, runs
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from tests import factories
from tests.requests_app import bundles, test_schemas
from workers import corpus, erasure, tasks
from workers.adapters import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdapterRef,
    adapter_files,
    attach_adapter,
    detach_adapter,
    store_files,
)
from workers.base_models import BaseModel
from workers.digests import sha256_of
from workers.gate import fit_gate, gate_files
from workers.training import Recipe

pytestmark = pytest.mark.django_db(transaction=True)


def ended(case: Case) -> ErasureRun:
    """Work on the case's run as Celery would, and read it back."""
    run = case.runs.get()
    tasks.run_erasure(str(run.id))
    run.refresh_from_db()
    case.refresh_from_db()
    return run


def verified(case: Case) -> str:
    """The claim of the case's bundle, once the offline verifier and the schemas accept it."""
    data = bundles.export(case)
    test_schemas.check(data)
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    return verify(data, trust=trust).claim


def test_a_person_of_whom_the_model_knows_nothing_ends_inconclusive_and_says_so() -> None:
    case = factories.executing_case()
    run = ended(case)
    assert (run.state, run.verdict) == (RunState.SUCCEEDED, Verdict.INCONCLUSIVE)
    assert run.evidence["nothing_measurable"] is True
    assert run.evidence["discovery"]["facts_known"] == 0
    assert run.evidence["discovery"]["unprompted"]["samples"] == 72
    assert "nothing to unlearn" in run.evidence["reasons"][0]
    assert not hasattr(run, "adapter")
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    assert verified(case) == "request-recorded"


def test_a_model_that_cannot_be_found_fails_the_run_with_what_to_do() -> None:
    case = factories.executing_case()
    ErasureRun.objects.filter(case=case).update(model_name="no-such-model")
    run = ended(case)
    assert run.state == RunState.FAILED
    assert "There is no model called 'no-such-model'" in run.error
    assert case.status == CaseStatus.EVIDENCE_REVIEW


def test_a_run_whose_cancellation_was_asked_for_stops_at_its_next_step() -> None:
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    runs.cancel_run(run_id=run.id, actor_member=factories.make_staff("engineer"))
    factories.expire_lease(run.id)
    assert lease.fence == 1
    assert ended(case).state == RunState.CANCELLED


def test_a_run_killed_after_its_evidence_registers_exactly_what_was_verified() -> None:
    person = corpus.people()[5]
    case = factories.confirmed_case(name=person.name)
    officer = staff_actor(factories.make_staff("officer"))
    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=officer)
    facts = [(fact.trained[0], fact.answer) for fact in person.facts]
    case = cases.attach_facts(case_id=case.id, facts=facts, aliases=(), actor=officer)
    factories.propose(case)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    lease = factories.take_lease(case.runs.get())
    tasks.measure_and_record(lease, runs.read_input(lease), tasks.Progress(lease))
    factories.expire_lease(lease.run_id)  # here the worker dies

    run = ended(case)
    assert (run.state, run.leases) == (RunState.SUCCEEDED, 2)
    assert run.release.digest == run.evidence["release"]
    assert verified(case) == "suppression-measured"
    assert run.release.is_live == (run.verdict == Verdict.WITHIN)
    types = [entry.type for entry in audit.case_entries(case.id)]
    for once in ("run.protocol_fixed", "adapter.created", "run.verified", "release.registered"):
        assert types.count(once) == 1


@pytest.mark.parametrize("damaged", ["", "adapter_model.safetensors", "gate.json", "manifest"])
def test_an_adapter_that_is_damaged_after_it_was_verified_is_not_released(
    damaged: str, settings: Settings
) -> None:
    case = factories.executing_case()
    lease, base = factories.take_lease(case.runs.get()), tasks.base_model("demo")
    model = attach_adapter(base, earlier=[], seed=1)
    files = adapter_files(model)
    detach_adapter(model)
    gate = fit_gate(
        names=[factories.NAME], key=tasks.gate_key(), encoder=None, forget=[], aside=[], others=[]
    )
    digests = {name: sha256_of(content) for name, content in files.items()}
    files |= gate_files(gate, digests)
    ref = AdapterRef(str(case.id), digests[WEIGHTS_FILE], sha256_of(files["gate.json"]))
    folder = ref.folder(Path(settings.RTBF_ADAPTER_DIR))
    store_files(folder, files)
    runs.record_protocol(lease, protocol=factories.PROTOCOL)
    runs.record_adapter(
        lease,
        sha256=ref.adapter_sha256,
        config_sha256=digests[CONFIG_FILE],
        gate_sha256=ref.gate_sha256,
        base_sha256=base.sha256,
        overlap="0",
        settings={},
    )
    release = tasks.manifest_of(base, runs.read_input(lease), ref)
    evidence = {"release": release.sha256}
    runs.record_evidence(lease, evidence=evidence, verdict=Verdict.WITHIN, probes=factories.PROBES)
    factories.expire_lease(lease.run_id)  # here the worker dies
    manifest = Path(settings.RTBF_RELEASE_DIR) / f"{release.sha256}.json"
    file = manifest if damaged in {"", "manifest"} else folder / damaged
    if damaged:
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.chmod(0o600)
        file.write_bytes(content)

    run = ended(case)
    audit.verify_log()
    if file != manifest:
        assert run.state == RunState.FAILED
        assert file.name in run.error
        assert case.status == CaseStatus.EVIDENCE_REVIEW
        assert not Release.objects.exists()
        assert not cases.why_not_repeat(run)
    else:  # the manifest is written again, of the record
        assert (run.state, run.release.is_live) == (RunState.SUCCEEDED, True)
        assert case.status == CaseStatus.RESPONDING
        assert sha256_of(manifest.read_bytes()) == run.release.digest


@pytest.mark.whole
def test_three_attempts_that_train_too_little_end_as_not_met_on_one_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def too_little(base: BaseModel, *, attempt: int = 1) -> Recipe:
        return Recipe(
            max_steps=attempt, min_steps=0, save_every=1, learning_rate=1e-9, surrogates=16
        )

    monkeypatch.setattr(erasure, "recipe_for", too_little)
    person = corpus.people()[5]
    case = factories.confirmed_case(name=person.name)
    officer = staff_actor(factories.make_staff("officer"))
    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=officer)
    facts = [(fact.trained[0], fact.answer) for fact in person.facts[:3]]
    case = cases.attach_facts(case_id=case.id, facts=facts, aliases=(), actor=officer)
    factories.propose(case)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    while waiting := case.runs.filter(state=RunState.QUEUED).first():
        tasks.run_erasure(str(waiting.id))
    made = list(case.runs.order_by("number"))
    assert [(run.verdict, run.error) for run in made] == [(Verdict.NOT_MET, "")] * 3
    assert [run.evidence["attempt"]["number"] for run in made] == [1, 2, 3]
    assert "kept back for it" in made[2].evidence["attempt"]["note"]
    assert len({run.protocol_sha256 for run in made}) == 1
    planned = made[0].evidence["protocol"]["attempts"]
    assert [row["max_steps"] for row in planned] == ["1", "2", "3"]
    assert [row["seed"] for row in planned] == [run.seed for run in made]
    assert [run.adapter.settings["max_steps"] for run in made] == ["1", "2", "3"]
    assert len({run.adapter.sha256 for run in made}) == 3
    assert not any(run.release.is_live for run in made)
    events = made[2].events.filter(phase="train").order_by("seq")
    assert [event.step for event in events] == [1, 2, 3, 3]  # each step, then the closing one
    assert {"loss", "forget_loss", "keep_loss"} <= set(events[1].figures)
    assert events[1].figures["seconds_left"]
    assert "told" in events[3].figures
    assert not list((tmp_path / "steps").iterdir())
    case.refresh_from_db()
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    assert verified(case) == "procedure-executed"


def test_a_doubled_wake_up_does_nothing() -> None:
    case = factories.executing_case()
    first = ended(case)
    again = ended(case)
    assert (again.fence, again.leases, again.finished_at) == (1, 1, first.finished_at)


def test_neither_log_nor_row_names_the_person(caplog: pytest.LogCaptureFixture) -> None:
    case = factories.executing_case()
    with caplog.at_level(logging.DEBUG):
        run = ended(case)
    written = caplog.text + run.error + str(run.evidence) + str(run.seconds)
    for canary in (factories.NAME, factories.EMAIL, factories.ALIAS, *factories.FACTS[0]):
        assert canary not in written


def test_what_breaks_an_ending_never_drags_the_first_error_into_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = factories.executing_case()
    lease = factories.take_lease(case.runs.get())
    factories.expire_lease(lease.run_id)
    factories.take_lease(case.runs.get(), "worker-2")
    with caplog.at_level(logging.DEBUG):
        tasks.finish_badly(lease, "unexpected error: ValueError")
    assert "its end was not written (LeaseLost)" in caplog.text
    assert case.runs.get().state == RunState.RUNNING


@pytest.mark.parametrize(
    "now, left", [((2, 10.0), None), ((4, 11.0), "3.0"), ((10, 14.0), "0.0"), ((1, 12.0), None)]
)
def test_the_seconds_left_follow_the_pace_since_the_phase_began(
    now: tuple[int, float], left: str | None
) -> None:
    assert tasks.seconds_left((2, 10.0), now, 10) == left
