"""The task of rechecks on the demo model: real releases, read back from disk and measured again."""

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, selectors
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Recheck, Release
from requests_app.models.runs import Verdict
from requests_app.services import cases, rechecks, releases, runs
from tests import factories
from workers import corpus, erasure, tasks, utility, verification
from workers import rechecks as task
from workers.adapters import WEIGHTS_FILE, AdapterRef
from workers.base_models import BaseModel
from workers.guarded import GuardedModel
from workers.subjects import Fact, Subject
from workers.training import Recipe

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters that do nothing: the model stays as it is. Few questions about others, for speed."""

    def recipe(base: BaseModel, *, attempt: int = 1) -> Recipe:
        return Recipe(max_steps=1, min_steps=0, learning_rate=1e-9, surrogates=16)

    monkeypatch.setattr(erasure, "recipe_for", recipe)
    monkeypatch.setattr(utility, "OTHERS", 24)


def in_force(number: int, *, facts: int) -> Case:
    """A case about a person of the demo, its adapter really trained by `erasure.recipe_for`, and
    recorded as within thresholds whatever it does."""
    person = corpus.people()[number]
    held = [(fact.trained[0], fact.answer) for fact in person.facts[:facts]]
    case = factories.confirmed_case(name=person.name)
    officer = staff_actor(factories.make_staff("officer"))
    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=officer)
    case = cases.attach_facts(case_id=case.id, facts=held, aliases=(), actor=officer)
    factories.propose(case)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    lease = factories.take_lease(case.runs.get())
    given, base = runs.read_input(lease), tasks.base_model("demo")
    subject = Subject(given.name, given.aliases, tuple(Fact(q, a) for q, a in given.facts), ())
    located = erasure.locate(base, subject)
    control = tasks.control_model("demo")
    protocol = erasure.make_protocol(base, located, control=control, recipes=[], seed=given.seed)
    runs.record_protocol(lease, protocol=protocol)
    tasks.train(lease, given, base, located, tasks.Progress(lease))
    given = runs.read_input(lease)
    release = tasks.manifest_of(base, given, tasks.own_adapter(given))
    runs.record_evidence(
        lease,
        evidence={"release": release.sha256},
        verdict=Verdict.WITHIN,
        probes=factories.PROBES,
    )
    runs.register_release(lease, manifest=tasks.manifest_bytes(release))
    runs.finish_run(lease)
    return Case.objects.get(pk=case.pk)


def live() -> Release:
    return Release.objects.get(is_live=True)


def rows() -> dict[Any, Recheck]:
    """The rows of the live release's last occasion, by case (None: the release as a whole)."""
    last = live().rechecks.order_by("occasion").last()
    assert last is not None
    return {row.case_id: row for row in live().rechecks.filter(occasion=last.occasion)}


def work_through() -> None:
    """As a worker that was woken once."""
    task.recheck(str(rows()[None].id))


@pytest.mark.usefixtures("idle")
def test_an_adapter_that_does_nothing_falls_short_and_its_case_is_reopened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = in_force(5, facts=3), in_force(6, facts=3)
    loaded = counted(monkeypatch, task, "reloaded")
    with caplog.at_level(logging.INFO):
        work_through()
    found = rows()
    assert set(found) == {first.id, None}
    assert (found[first.id].state, found[first.id].verdict) == ("done", Verdict.NOT_MET)
    assert "still answered" in found[first.id].why
    assert loaded == [1]  # the release was read from disk once for all rows
    first.refresh_from_db()
    second.refresh_from_db()
    assert first.status == CaseStatus.EVIDENCE_REVIEW
    assert second.status == CaseStatus.RESPONDING
    types = [entry.type for entry in audit.case_entries(first.id)]
    assert types[-2:] == ["case.rechecked", "case.reopened"]

    (step,) = selectors.utility_trend("demo")
    assert (step.digest, step.number, step.why) == (live().digest, 2, "")
    assert float(step.kept) == pytest.approx(1.0, abs=0.02)
    assert float(step.perplexity_ratio) == pytest.approx(1.0, abs=0.01)
    written = str(found[first.id].figures) + found[first.id].why + caplog.text
    for person in corpus.people()[5:7]:
        assert person.name not in written
        assert not any(fact.answer in written for fact in person.facts[:3])


def test_an_erasure_that_holds_is_measured_again_on_schedule(settings: Settings) -> None:
    case = in_force(5, facts=24)
    work_through()
    assert set(rows()) == {None}  # its own case was measured when it was released
    settings.RTBF_RECHECK_DAYS = 0
    assert rechecks.queue_due_rechecks() == 1
    work_through()
    row = rows()[case.id]
    assert (row.state, row.verdict, row.reason) == ("done", Verdict.WITHIN, "schedule")
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING
    assert len(selectors.utility_trend("demo")) == 1
    answered = factories.make_staff("officer")
    cases.send_answer(case_id=case.id, actor_member=answered)
    factories.letters.send_pending_letters()
    cases.seal_case(case_id=case.id, actor=staff_actor(answered))
    assert rechecks.queue_due_rechecks() == 1
    work_through()
    row = rows()[case.id]
    assert (row.verdict, row.why) == (Verdict.INCONCLUSIVE, rechecks.SEALED)
    case.refresh_from_db()
    assert case.status == CaseStatus.SEALED


@pytest.mark.usefixtures("idle")
def test_a_worker_killed_between_rows_is_followed_by_one_that_does_the_rest_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in (5, 6, 7):
        in_force(number, facts=1)
    measured: list[str] = []
    whole = task.case_again

    def killed(guarded: Any, given: Any, case_id: str, facts: Any) -> dict[str, Any]:
        if len(measured) == 1:
            raise KeyboardInterrupt
        measured.append(case_id)
        return whole(guarded, given, case_id, facts)

    monkeypatch.setattr(task, "case_again", killed)
    with pytest.raises(KeyboardInterrupt):
        work_through()
    assert sorted(row.state for row in rows().values()) == ["done", "queued", "running"]
    monkeypatch.setattr(task, "case_again", whole)
    work_through()  # the lease of the one it died on has not run out yet
    assert sorted(row.state for row in rows().values()) == ["done", "done", "running"]
    Recheck.objects.filter(state="running").update(
        lease_expires_at=timezone.now() - timedelta(seconds=1)
    )
    (again,) = rechecks.rechecks_to_wake()
    task.recheck(str(again))
    assert {row.state for row in rows().values()} == {"done"}
    assert sorted(row.leases for row in rows().values()) == [1, 1, 2]
    for case_id in rows():
        types = [entry.type for entry in audit.case_entries(case_id)] if case_id else []
        assert types.count("case.rechecked") == (1 if case_id else 0)


@pytest.mark.usefixtures("idle")
def test_a_revocations_manifest_comes_from_the_record_and_a_missing_file_is_inconclusive(
    settings: Settings,
) -> None:
    first, second = in_force(5, facts=1), in_force(6, facts=1)
    officer, approver = factories.make_staff("officer"), factories.make_staff("approver")
    releases.propose_revocation(case_id=first.id, cause="appeal", actor_member=officer)
    releases.revoke_case(case_id=first.id, actor_member=approver)
    assert not (settings.RTBF_RELEASE_DIR / f"{live().digest}.json").exists()
    work_through()
    found = rows()
    assert set(found) == {second.id, None}
    assert {row.state for row in found.values()} == {"done"}

    settings.RTBF_RECHECK_DAYS = 0
    rechecks.queue_due_rechecks()
    adapter = second.runs.get().adapter
    ref = AdapterRef(str(second.id), adapter.sha256, adapter.gate_sha256)
    (ref.folder(settings.RTBF_ADAPTER_DIR) / WEIGHTS_FILE).unlink()
    work_through()
    row = rows()[second.id]
    assert (row.state, row.verdict) == ("failed", Verdict.INCONCLUSIVE)
    assert "cannot be served" in row.why


@pytest.mark.parametrize(
    ("destroyed", "why"),
    [(True, "the original weights were destroyed"), (False, "are not on this machine")],
)
def test_what_cannot_be_compared_with_weights_that_are_gone_is_never_a_pass(
    destroyed: bool, why: str
) -> None:
    base = tasks.base_model("demo")
    lost = "f" * 64
    given = rechecks.RecheckInput(
        recheck_id=UUID(int=1),
        case_id=UUID(int=2),
        model_name="demo",
        release="0" * 64,
        manifest=b"",
        base_sha256=base.sha256,
        original=lost,
        trained_on=lost,
        destroyed=frozenset({lost} if destroyed else ()),
        protocol={"form": 2},
        attempt=1,
        name=factories.NAME,
        aliases=(),
        facts=factories.FACTS,
    )
    guarded = GuardedModel.without_adapters(base)
    figures, missing = task.release_again(guarded, given)
    assert figures == {}
    assert why in missing
    found = task.case_again(guarded, given, "case", factories.FACTS)
    assert found["verdict"] == verification.INCONCLUSIVE
    assert why in found["reasons"][0]


def test_a_row_keeps_estimates_alone() -> None:
    measured = {
        "verdict": "not_met",
        "reasons": ["a sentence"],
        "probes": {"rank": {"value": 0.25, "n": 3, "items": [0.1, 0.2], "note": "a text"}},
        "control": None,
    }
    assert task.numbers(measured) == {"probes": {"rank": {"value": "0.25", "n": 3}}}


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[int]:
    """How often a function was called, as the only item of the list."""
    calls, original = [0], getattr(module, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, call)
    return calls
