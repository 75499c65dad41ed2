"""Leases, fences, and what a worker may record when."""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import (
    Adapter,
    AuditEntry,
    Case,
    ErasureRun,
    ProbeResult,
    Release,
    RunEvent,
    StaffMember,
)
from requests_app.models.runs import Phase, Verdict
from requests_app.services import manifests, runs
from requests_app.services.errors import Invalid, LeaseLost, NotAllowed, NotFound, WrongState
from requests_app.services.leases import WAKE_AFTER
from requests_app.services.manifests import ManifestAdapter, read_manifest
from requests_app.services.run_values import without_floats
from requests_app.verifier import canonical
from tests import factories
from tests.append_last import appended_last
from tests.factories import PROBES, PROTOCOL, executing_case, expire_lease, take_lease, work_off
from tests.threads import run_together

pytestmark = pytest.mark.django_db


@pytest.fixture
def run() -> ErasureRun:
    return executing_case().runs.get()


def reread(run: ErasureRun) -> ErasureRun:
    return ErasureRun.objects.select_related("case").get(pk=run.pk)


def record_adapter(lease: runs.Lease, **changes: Any) -> Adapter:
    values: dict[str, Any] = {
        "sha256": factories.digest("a", lease.run_id),
        "config_sha256": factories.digest("c"),
        "gate_sha256": factories.digest("g"),
        "base_sha256": factories.digest("b"),
        "overlap": "0.0",
        "settings": {"rank": 8},
    }
    return runs.record_adapter(lease, **{**values, **changes})


def entry_types(run: ErasureRun) -> list[str]:
    found = [entry.type for entry in audit.case_entries(run.case_id)]
    return found[found.index("run.queued") :]


# --- Leases -------------------------------------------------------------------------------------
def test_a_queued_run_is_leased_once(run: ErasureRun) -> None:
    lease = runs.lease_run(run_id=run.id, owner="worker-1")
    assert lease == runs.Lease(run.id, "worker-1", 1)
    assert runs.lease_run(run_id=run.id, owner="worker-2") is None
    stored = reread(run)
    assert (stored.state, stored.leases, stored.lease_owner) == (RunState.RUNNING, 1, "worker-1")
    assert stored.started_at is not None


def test_an_expired_lease_is_taken_over_and_the_stale_holder_is_refused_everywhere(
    run: ErasureRun,
) -> None:
    old = take_lease(run)
    expire_lease(run.id)
    new = take_lease(run, "worker-2")
    assert new.fence == old.fence + 1
    assert not runs.extend_lease(old)
    assert runs.extend_lease(new)
    writes: list[Callable[[], object]] = [
        lambda: runs.read_input(old),
        lambda: runs.add_event(old, phase="train", step=1, total=2, figures={}),
        lambda: runs.record_protocol(old, protocol=PROTOCOL),
        lambda: record_adapter(old),
        lambda: runs.record_evidence(old, evidence={}, verdict=Verdict.WITHIN, probes=()),
        lambda: runs.register_release(old, manifest=b"{}"),
        lambda: runs.finish_run(old),
        lambda: runs.fail_run(old, error="x"),
        lambda: runs.stop_run(old),
    ]
    entries = AuditEntry.objects.count()
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert AuditEntry.objects.count() == entries
    assert not RunEvent.objects.exists()


def test_a_paused_worker_goes_on_if_nobody_took_its_run(run: ErasureRun) -> None:
    lease = take_lease(run)
    expire_lease(run.id)
    assert runs.extend_lease(lease)
    assert runs.lease_run(run_id=run.id, owner="worker-2") is None


def test_after_three_leases_the_run_fails_and_its_case_is_reviewed(run: ErasureRun) -> None:
    for number in range(3):
        take_lease(run, f"worker-{number}")
        expire_lease(run.id)
    assert runs.lease_run(run_id=run.id, owner="worker-4") is None
    stored = reread(run)
    assert (stored.state, stored.error) == (RunState.FAILED, "too_many_leases")
    assert stored.verdict == Verdict.INCONCLUSIVE
    assert stored.case.status == CaseStatus.EVIDENCE_REVIEW
    assert runs.lease_run(run_id=run.id, owner="worker-5") is None
    assert entry_types(run) == ["run.queued", "run.failed"]


def test_one_run_at_a_time_works_on_a_model(settings: Settings) -> None:
    first, second = (executing_case().runs.get() for _ in range(2))
    settings.RTBF_MODELS = ["other"]
    elsewhere = executing_case().runs.get()
    lease = take_lease(first)
    assert runs.lease_run(run_id=second.id, owner="worker-2") is None
    assert take_lease(elsewhere).run_id == elsewhere.id
    work_off(first, lease=lease)
    assert take_lease(second).run_id == second.id


def test_the_end_of_a_run_wakes_the_one_that_has_waited_longest_for_its_model() -> None:
    first, second, third = (executing_case().runs.get() for _ in range(3))
    assert second.created_at < third.created_at
    factories.take_messages("model")
    with factories.on_commit():
        runs.fail_run(take_lease(first), error="x")
    woken = [message["args"] for message in factories.take_messages("model")]
    assert woken == [[str(second.id)]]
    with factories.on_commit():
        work_off(second)
    woken = [message["args"] for message in factories.take_messages("model")]
    assert [str(third.id)] in woken


def test_the_sweep_wakes_one_run_a_model_and_none_where_one_is_worked_on(
    settings: Settings,
) -> None:
    first, second = (executing_case().runs.get() for _ in range(2))
    settings.RTBF_MODELS = ["other"]
    elsewhere = executing_case().runs.get()
    long_ago = timezone.now() - 2 * WAKE_AFTER
    ErasureRun.objects.exclude(pk=first.pk).update(created_at=long_ago)
    ErasureRun.objects.filter(pk=first.pk).update(created_at=long_ago + timedelta(seconds=1))
    assert set(runs.runs_to_wake()) == {second.id, elsewhere.id}
    take_lease(first)
    assert runs.runs_to_wake() == [elsewhere.id]
    expire_lease(first.id)  # begun, and so it goes before the one that has waited for longer
    assert set(runs.runs_to_wake()) == {first.id, elsewhere.id}


def test_a_run_whose_worker_died_holds_up_the_others_of_its_model_until_it_ends() -> None:
    """Otherwise two adapters would be trained, and one released, without knowing of each other."""
    first, second = (executing_case().runs.get() for _ in range(2))
    take_lease(first)
    expire_lease(first.id)
    assert runs.lease_run(run_id=second.id, owner="worker-2") is None
    work_off(first, lease=take_lease(first, "worker-2"))
    assert take_lease(second).run_id == second.id


def test_a_run_killed_after_its_release_ends_as_succeeded(
    run: ErasureRun, engineer: StaffMember
) -> None:
    lease = take_lease(run)
    runs.record_protocol(lease, protocol=PROTOCOL)
    record_adapter(lease)
    runs.record_evidence(lease, evidence={}, verdict=Verdict.WITHIN, probes=PROBES)
    release = runs.register_release(
        lease, manifest=factories.manifest(run, reread(run).adapter.sha256)
    )
    runs.cancel_run(run_id=run.id, actor_member=engineer)  # too late: it is in force
    ErasureRun.objects.filter(pk=run.id).update(leases=3)
    expire_lease(run.id)
    assert runs.lease_run(run_id=run.id, owner="worker-2") is None
    stored = reread(run)
    assert (stored.state, stored.release, stored.error) == (RunState.SUCCEEDED, release, "")
    assert stored.case.status == CaseStatus.RESPONDING
    assert [a.case_id for a in runs.adapters_in_force(run.model_name)] == [run.case_id]


def test_only_the_release_that_was_verified_can_be_registered(run: ErasureRun) -> None:
    lease = take_lease(run)
    runs.record_protocol(lease, protocol=PROTOCOL)
    record_adapter(lease)
    verified = factories.manifest(run, reread(run).adapter.sha256)
    evidence = {"release": hashlib.sha256(verified).hexdigest()}
    runs.record_evidence(lease, evidence=evidence, verdict=Verdict.WITHIN, probes=PROBES)
    with pytest.raises(Invalid, match="not the release that was verified"):
        runs.register_release(lease, manifest=verified + b" ")
    assert runs.register_release(lease, manifest=verified).digest == evidence["release"]


def test_an_unknown_run_is_not_found() -> None:
    with pytest.raises(NotFound):
        runs.lease_run(run_id=uuid4(), owner="w")


def test_the_sweep_finds_what_waits_and_what_was_orphaned(run: ErasureRun) -> None:
    assert runs.runs_to_wake() == []
    ErasureRun.objects.update(created_at=timezone.now() - WAKE_AFTER * 2)
    assert runs.runs_to_wake() == [run.id]
    lease = take_lease(run)
    assert runs.runs_to_wake() == []
    expire_lease(run.id)
    assert runs.runs_to_wake() == [run.id]
    runs.fail_run(lease, error="x")
    assert runs.runs_to_wake() == []


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_of_many_workers_woken_at_once_one_gets_the_run() -> None:
    run = executing_case().runs.get()
    leases: list[runs.Lease | None] = []
    run_together(lambda: leases.append(runs.lease_run(run_id=run.id, owner="w")), 5)
    assert len([lease for lease in leases if lease]) == 1
    assert reread(run).leases == 1


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_of_two_runs_of_one_model_woken_at_once_one_starts() -> None:
    waiting = [executing_case().runs.get() for _ in range(2)]
    todo = list(waiting)
    leases: list[runs.Lease | None] = []
    run_together(lambda: leases.append(runs.lease_run(run_id=todo.pop().id, owner="w")), 2)
    assert len([lease for lease in leases if lease]) == 1


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_finishing_twice_at_once_finishes_once() -> None:
    run = executing_case().runs.get()
    lease = take_lease(run)
    runs.record_protocol(lease, protocol=PROTOCOL)
    record_adapter(lease)
    runs.record_evidence(lease, evidence={}, verdict=Verdict.WITHIN, probes=PROBES)
    lost: list[LeaseLost] = []

    def finish() -> None:
        try:
            runs.finish_run(lease)
        except LeaseLost as problem:
            lost.append(problem)

    run_together(finish, 3)
    assert len(lost) == 2
    assert entry_types(run).count("run.finished") == 1


# --- Reading and progress -----------------------------------------------------------------------
def test_a_worker_reads_everything_it_needs_and_shows_none_of_it(run: ErasureRun) -> None:
    found = runs.read_input(take_lease(run))
    assert (found.name, found.aliases) == (factories.NAME, (factories.ALIAS,))
    assert found.facts == factories.FACTS
    assert (found.model_name, found.seed, found.phase) == ("demo", reread(run).seed, Phase.LOCATE)
    assert (found.protocol, found.adapter_sha256, found.parent_release) == (None, None, None)
    assert found.adapters_in_force == ()
    assert not any(word in repr(found) for word in factories.CANARIES)


def test_a_resumed_worker_finds_what_was_done(run: ErasureRun) -> None:
    lease = take_lease(run)
    runs.record_protocol(lease, protocol=PROTOCOL)
    adapter = record_adapter(lease)
    expire_lease(run.id)
    found = runs.read_input(take_lease(run, "worker-2"))
    assert found.phase == Phase.VERIFY
    assert found.protocol == PROTOCOL
    assert found.adapter_sha256 == adapter.sha256
    assert found.adapter is not None
    assert (found.adapter.case_id, found.adapter.gate_sha256) == (run.case_id, adapter.gate_sha256)


def test_events_are_numbered_and_hold_no_floats(run: ErasureRun) -> None:
    lease = take_lease(run)
    expire_lease(run.id)
    runs.add_event(lease, phase="train", step=1, total=9, figures={"loss": 0.5, "n": 3})
    runs.add_event(lease, phase="locate", step=2, total=9, figures={})
    first, second = RunEvent.objects.order_by("seq")
    assert (first.seq, first.figures) == (0, {"loss": "0.5", "n": 3})
    assert (second.seq, second.phase) == (1, "locate")
    stored = reread(run)
    assert stored.phase == Phase.TRAIN  # a resumed worker never sets the phase back
    assert stored.lease_expires_at is not None
    assert stored.lease_expires_at > timezone.now()
    with pytest.raises(Invalid, match="no phase"):
        runs.add_event(lease, phase="dream", step=1, total=1, figures={})


# --- Results ------------------------------------------------------------------------------------
def test_the_protocol_is_logged_by_its_digest_and_fixed_once(run: ErasureRun) -> None:
    lease = take_lease(run)
    digest = runs.record_protocol(lease, protocol=PROTOCOL)
    assert runs.record_protocol(lease, protocol=dict(reversed(PROTOCOL.items()))) == digest
    stored = reread(run)
    assert stored.protocol is not None
    assert hashlib.sha256(bytes(stored.protocol)).hexdigest() == digest == stored.protocol_sha256
    assert canonical.loads(bytes(stored.protocol)) == PROTOCOL
    with pytest.raises(Invalid, match="fixed once"):
        runs.record_protocol(lease, protocol={**PROTOCOL, "threshold": "0.9"})
    assert entry_types(run) == ["run.queued", "run.protocol_fixed"]


def test_a_protocol_with_a_float_is_refused(run: ErasureRun) -> None:
    with pytest.raises(Invalid, match="protocol"):
        runs.record_protocol(take_lease(run), protocol={"threshold": 0.05})


def test_no_adapter_without_a_protocol_before_it(run: ErasureRun) -> None:
    lease = take_lease(run)
    with pytest.raises(Invalid, match="protocol first"):
        record_adapter(lease)
    runs.record_protocol(lease, protocol=PROTOCOL)
    adapter = record_adapter(lease)
    assert record_adapter(lease) == adapter
    with pytest.raises(Invalid, match="another adapter"):
        record_adapter(lease, sha256=factories.digest("other"))
    assert Adapter.objects.count() == 1
    assert entry_types(run)[-2:] == ["run.protocol_fixed", "adapter.created"]


@pytest.mark.parametrize("value", ["", "AB" * 32, "g" * 64, "a" * 63])
def test_a_digest_that_is_none_is_refused(run: ErasureRun, value: str) -> None:
    lease = take_lease(run)
    runs.record_protocol(lease, protocol=PROTOCOL)
    with pytest.raises(Invalid, match="digest"):
        record_adapter(lease, gate_sha256=value)


def test_evidence_is_stored_logged_and_kept_as_it_was_first(run: ErasureRun) -> None:
    lease = take_lease(run)
    with pytest.raises(Invalid, match="adapter first"):
        runs.record_evidence(lease, evidence={}, verdict=Verdict.WITHIN, probes=())
    runs.record_protocol(lease, protocol=PROTOCOL)
    record_adapter(lease)
    with pytest.raises(Invalid, match="verdict"):
        runs.record_evidence(lease, evidence={}, verdict="splendid", probes=())
    evidence = {"unseen": {"after": 0.0208, "n": 48}}
    runs.record_evidence(lease, evidence=evidence, verdict=Verdict.NOT_MET, probes=PROBES)
    runs.record_evidence(lease, evidence={"x": 1}, verdict=Verdict.WITHIN, probes=())
    stored = reread(run)
    assert stored.evidence == {"unseen": {"after": "0.0208", "n": 48}}
    assert stored.verdict == Verdict.NOT_MET
    assert ProbeResult.objects.get(probe="unseen").after == "0.0208"
    body: Any = canonical.loads(bytes(audit.case_entries(run.case_id)[-1].body))
    assert body["type"] == "run.verified"
    assert body["data"]["verdict"] == "not_met"
    assert body["data"]["estimates"]["unseen"]["after"] == "0.0208"
    digest = hashlib.sha256(canonical.dumps(stored.evidence)).hexdigest()
    assert body["data"]["figures_sha256"] == digest


def test_a_run_that_found_nothing_to_measure_is_inconclusive_without_an_adapter(
    run: ErasureRun,
) -> None:
    lease = take_lease(run)
    runs.record_evidence(
        lease, evidence={"nothing_measurable": True}, verdict=Verdict.INCONCLUSIVE, probes=()
    )
    runs.finish_run(lease)
    stored = reread(run)
    assert (stored.state, stored.verdict) == (RunState.SUCCEEDED, Verdict.INCONCLUSIVE)
    assert stored.case.status == CaseStatus.EVIDENCE_REVIEW


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"x"])
def test_a_figure_that_is_no_figure_is_refused(value: object) -> None:
    with pytest.raises(Invalid):
        without_floats({"figures": [value]})


def test_a_release_within_thresholds_goes_live_and_takes_over(run: ErasureRun) -> None:
    work_off(run)
    first = Release.objects.get()
    assert first.is_live
    assert first.parent is None
    assert hashlib.sha256(bytes(first.manifest)).hexdigest() == first.digest
    second_run = executing_case().runs.get()
    lease = take_lease(second_run)
    found = runs.read_input(lease)
    assert found.parent_release == first.digest
    assert [(a.case_id, a.sha256) for a in found.adapters_in_force] == [
        (run.case_id, run.adapter.sha256)
    ]
    work_off(second_run, lease=lease)
    live = Release.objects.get(is_live=True)
    assert live.parent == first
    assert [a.case_id for a in runs.adapters_in_force("demo")] == [run.case_id, second_run.case_id]


def test_a_release_that_fell_short_never_goes_live(run: ErasureRun) -> None:
    work_off(run)
    short = executing_case().runs.get()
    work_off(short, verdict=Verdict.NOT_MET)
    live = Release.objects.get(is_live=True)
    assert live.digest == reread(run).release_id
    assert Release.objects.count() == 2
    assert [a.case_id for a in runs.adapters_in_force("demo")] == [run.case_id]


def test_a_release_may_not_lose_an_earlier_adapter(run: ErasureRun) -> None:
    work_off(run)
    later = executing_case().runs.get()
    lease = take_lease(later)
    runs.record_protocol(lease, protocol=PROTOCOL)
    own = record_adapter(lease).sha256
    with pytest.raises(Invalid, match="evidence first"):
        runs.register_release(lease, manifest=b"{}")
    runs.record_evidence(lease, evidence={}, verdict=Verdict.WITHIN, probes=PROBES)
    right = read_manifest(factories.manifest(later, own))
    earlier, last = right.adapters

    def written(*adapters: ManifestAdapter, **changes: Any) -> bytes:
        values = {"base": right.base_sha256, "parent": right.parent, **changes}
        return factories.manifest_of(adapters, **values)

    stranger = ManifestAdapter(uuid4(), earlier.sha256, earlier.gate_sha256)
    for adapters in (
        [last],
        [last, earlier],
        [earlier],
        [stranger, last],
        [earlier, last, stranger],
    ):
        with pytest.raises(Invalid, match="all adapters in force"):
            runs.register_release(lease, manifest=written(*adapters))
    with pytest.raises(Invalid, match="all adapters in force"):
        runs.register_release(lease, manifest=written(last, merged=[run.case_id]))
    for wrong in ({"parent": None}, {"base": factories.digest("other")}):
        with pytest.raises(Invalid, match="does not follow"):
            runs.register_release(lease, manifest=written(earlier, last, **wrong))
    with pytest.raises(Invalid, match="not the manifest"):
        runs.register_release(lease, manifest=b'["' + own.encode() + b'"]')
    release = runs.register_release(lease, manifest=right.raw)
    assert runs.register_release(lease, manifest=b"other") == release


@pytest.mark.parametrize("verdict", [Verdict.WITHIN, Verdict.NOT_MET])
def test_what_a_run_records_is_appended_last(run: ErasureRun, verdict: str) -> None:
    """From a transaction's first entry to its commit everybody else's entries wait."""
    with appended_last():
        work_off(run, verdict=verdict)
    assert entry_types(run)[-1] == ("run.finished" if verdict == Verdict.WITHIN else "run.queued")


@pytest.mark.database
def test_registering_asks_and_locks_the_same_whatever_is_in_force(settings: Settings) -> None:
    settings.RTBF_RECHECK_CAP = 1

    def registering(count: int) -> list[tuple[str, int]]:
        """The statements, by their first words, and the rows that each of them locked."""
        gate = factories.digest("g")
        held = [ManifestAdapter(uuid4(), factories.digest("a", i), gate) for i in range(count)]
        live = factories.manifest_of(held, base=factories.digest("base"), parent=None)
        Release.objects.filter(is_live=True).update(is_live=False)
        Release.objects.create(
            digest=read_manifest(live).digest, model_name="demo", manifest=live, is_live=True,
            created_at=timezone.now(),
        )  # fmt: skip
        ErasureRun.objects.update(verdict=Verdict.INCONCLUSIVE)
        lease = take_lease(executing_case().runs.get())
        runs.record_protocol(lease, protocol=PROTOCOL)
        own = record_adapter(lease)
        manifest = factories.manifest(own.run, own.sha256)
        runs.record_evidence(lease, evidence={}, verdict=Verdict.WITHIN, probes=PROBES)
        found: list[tuple[str, int]] = []

        def noted(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
            result = execute(sql, params, many, context)
            locked = context["cursor"].rowcount if " FOR " in sql else 0
            words = [word for word in sql.split()[:3] if not word.startswith('"s')]  # savepoints
            found.append((" ".join(words), locked))
            return result

        manifests._last_read.clear()
        with connection.execute_wrapper(noted):
            runs.register_release(lease, manifest=manifest)
        runs.finish_run(lease)
        return found

    registering(2)  # the first one makes what is made once
    assert registering(2) == registering(40)


def test_the_database_itself_refuses_two_live_releases(run: ErasureRun) -> None:
    work_off(run)
    work_off(executing_case().runs.get(), verdict=Verdict.NOT_MET)
    with pytest.raises(IntegrityError), transaction.atomic():
        Release.objects.update(is_live=True)


def test_the_database_itself_refuses_two_active_runs_of_a_case_and_model(run: ErasureRun) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        ErasureRun.objects.create(
            case=run.case, model_name="demo", number=2, created_at=timezone.now()
        )


# --- Endings ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "verdict, status",
    [
        (Verdict.WITHIN, CaseStatus.RESPONDING),
        (Verdict.INCONCLUSIVE, CaseStatus.EVIDENCE_REVIEW),
    ],
)
def test_a_finished_run_moves_its_case_by_its_verdict(
    run: ErasureRun, verdict: str, status: str
) -> None:
    work_off(run, verdict=verdict)
    stored = reread(run)
    assert (stored.state, stored.phase, stored.case.status) == (
        RunState.SUCCEEDED,
        Phase.DONE,
        status,
    )
    assert entry_types(run) == [
        "run.queued",
        "run.protocol_fixed",
        "adapter.created",
        "run.verified",
        "release.registered",
        "run.finished",
    ]


def test_a_run_that_is_not_met_is_tried_again_on_the_plan_of_the_first(run: ErasureRun) -> None:
    work_off(run, verdict=Verdict.NOT_MET)
    assert reread(run).case.status == CaseStatus.EXECUTING
    second = ErasureRun.objects.get(number=2)
    lease = take_lease(second)
    found = runs.read_input(lease)
    assert (found.attempt, found.protocol, found.adapter) == (2, factories.protocol(run), None)
    assert second.seed == run.seed + 1
    with pytest.raises(Invalid, match="share the first one's"):
        runs.record_protocol(lease, protocol={**PROTOCOL, "threshold": "0.9"})
    work_off(second, lease=lease)
    assert not ErasureRun.objects.filter(number=3).exists()
    assert reread(run).case.status == CaseStatus.RESPONDING
    assert reread(second).protocol_sha256 == reread(run).protocol_sha256


def test_three_attempts_not_met_end_as_not_met_and_all_are_kept(run: ErasureRun) -> None:
    for number in (1, 2, 3):
        work_off(ErasureRun.objects.get(number=number), verdict=Verdict.NOT_MET)
    kept = list(ErasureRun.objects.order_by("number"))
    assert [(r.state, r.verdict) for r in kept] == [(RunState.SUCCEEDED, Verdict.NOT_MET)] * 3
    assert Adapter.objects.count() == 3
    assert not Release.objects.filter(is_live=True).exists()
    assert reread(run).case.status == CaseStatus.EVIDENCE_REVIEW
    assert entry_types(run).count("run.verified") == 3


def test_an_attempt_that_dies_is_taken_up_again_as_the_same_attempt(run: ErasureRun) -> None:
    work_off(run, verdict=Verdict.NOT_MET)
    second = ErasureRun.objects.get(number=2)
    runs.record_protocol(take_lease(second), protocol=factories.protocol(second))
    expire_lease(second.id)
    found = runs.read_input(take_lease(second, "worker-2"))
    assert (found.run_id, found.attempt, found.seed) == (second.id, 2, second.seed)
    assert ErasureRun.objects.count() == 2


def test_no_attempt_follows_a_run_that_somebody_asked_to_cancel(
    run: ErasureRun, engineer: StaffMember
) -> None:
    lease = take_lease(run)
    runs.cancel_run(run_id=run.id, actor_member=engineer)
    work_off(run, verdict=Verdict.NOT_MET, lease=lease)
    assert ErasureRun.objects.count() == 1
    assert reread(run).case.status == CaseStatus.EVIDENCE_REVIEW


def test_a_run_that_decided_nothing_is_not_tried_again_by_itself(run: ErasureRun) -> None:
    work_off(run, verdict=Verdict.INCONCLUSIVE)
    assert ErasureRun.objects.count() == 1


def test_a_case_waits_for_all_of_its_runs(settings: Settings) -> None:
    settings.RTBF_MODELS = ["demo", "second"]
    case = executing_case()
    first, second = case.runs.order_by("model_name")
    runs.fail_run(take_lease(first), error="out of memory")
    assert Case.objects.get().status == CaseStatus.EXECUTING
    work_off(second)
    assert Case.objects.get().status == CaseStatus.EVIDENCE_REVIEW


def test_a_worker_leaves_the_models_of_other_machines_alone(settings: Settings) -> None:
    settings.RTBF_MODELS = ["demo", "second"]
    case = executing_case()
    demo, second = case.runs.order_by("model_name")
    settings.RTBF_WORKER_MODELS = ["second"]
    assert runs.lease_run(run_id=demo.id, owner="big") is None
    assert runs.lease_run(run_id=second.id, owner="big") is not None
    settings.RTBF_WORKER_MODELS = ["demo"]
    assert runs.lease_run(run_id=demo.id, owner="small") is not None
    assert set(case.runs.values_list("lease_owner", flat=True)) == {"big", "small"}


def test_a_run_without_evidence_has_not_succeeded(run: ErasureRun) -> None:
    with pytest.raises(Invalid, match="without evidence"):
        runs.finish_run(take_lease(run))


def test_a_failed_run_is_inconclusive_and_keeps_a_short_error(run: ErasureRun) -> None:
    lease = take_lease(run)
    runs.fail_run(lease, error="e" * 500)
    stored = reread(run)
    assert (stored.state, stored.verdict) == (RunState.FAILED, Verdict.INCONCLUSIVE)
    assert len(stored.error) == 400
    with pytest.raises(LeaseLost):
        runs.fail_run(lease, error="again")


def test_a_queued_run_is_cancelled_at_once(run: ErasureRun, engineer: StaffMember) -> None:
    cancelled = runs.cancel_run(run_id=run.id, actor_member=engineer)
    assert cancelled.state == RunState.CANCELLED
    assert reread(run).case.status == CaseStatus.EVIDENCE_REVIEW
    assert runs.lease_run(run_id=run.id, owner="w") is None
    with pytest.raises(WrongState):
        runs.cancel_run(run_id=run.id, actor_member=engineer)


def test_the_worker_stops_a_running_run_when_asked(run: ErasureRun, officer: StaffMember) -> None:
    lease = take_lease(run)
    with pytest.raises(WrongState):
        runs.stop_run(lease)
    assert not runs.is_cancelled(lease)
    runs.cancel_run(run_id=run.id, actor_member=officer)
    runs.cancel_run(run_id=run.id, actor_member=officer)
    assert runs.is_cancelled(lease)
    runs.stop_run(lease)
    assert reread(run).state == RunState.CANCELLED
    assert entry_types(run) == ["run.queued", "run.cancel_requested", "run.cancelled"]


def test_a_cancelled_run_whose_worker_died_is_closed_by_the_next_one(
    run: ErasureRun, officer: StaffMember
) -> None:
    take_lease(run)
    runs.cancel_run(run_id=run.id, actor_member=officer)
    expire_lease(run.id)
    assert runs.lease_run(run_id=run.id, owner="worker-2") is None
    assert reread(run).state == RunState.CANCELLED


def test_auditors_cancel_nothing(run: ErasureRun, auditor: StaffMember) -> None:
    with pytest.raises(NotAllowed):
        runs.cancel_run(run_id=run.id, actor_member=auditor)


# --- The saved step -----------------------------------------------------------------------------
def test_a_saved_step_is_read_by_the_next_worker_and_by_nobody_else(
    run: ErasureRun, tmp_path: Path
) -> None:
    old = take_lease(run)
    assert runs.saved_step(old) is None
    runs.save_step(old, b"Zelda's tensors, step 10")
    runs.save_step(old, b"Zelda's tensors, step 20")
    expire_lease(run.id)
    new = take_lease(run, "worker-2")
    assert runs.saved_step(new) == b"Zelda's tensors, step 20"
    for refused in (lambda: runs.save_step(old, b"late"), lambda: runs.saved_step(old)):
        with pytest.raises(LeaseLost):
            refused()
    (file,) = (tmp_path / "steps").iterdir()
    assert file.name == str(run.id)
    assert b"Zelda" not in file.read_bytes()
    assert file.stat().st_mode & 0o077 == 0


def test_a_changed_saved_step_is_not_used(
    run: ErasureRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lease = take_lease(run)
    runs.save_step(lease, b"state")
    (file,) = (tmp_path / "steps").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert runs.saved_step(lease) is None
    assert "cannot be opened" in caplog.text


@pytest.mark.parametrize("ending", ["adapter", "failed", "cancelled"])
def test_a_saved_step_goes_when_it_is_no_longer_needed(
    run: ErasureRun, tmp_path: Path, officer: StaffMember, ending: str
) -> None:
    lease = take_lease(run)
    runs.record_protocol(lease, protocol=PROTOCOL)
    runs.save_step(lease, b"state")
    with factories.on_commit():
        if ending == "adapter":
            record_adapter(lease)
        elif ending == "failed":
            runs.fail_run(lease, error="out of memory")
        else:
            runs.cancel_run(run_id=run.id, actor_member=officer)
            runs.stop_run(lease)
    assert not list((tmp_path / "steps").iterdir())


def test_the_sweep_removes_what_a_late_worker_left(run: ErasureRun, tmp_path: Path) -> None:
    lease = take_lease(run)
    runs.save_step(lease, b"state")
    (tmp_path / "steps" / "lost+found").mkdir()
    runs.drop_orphaned_steps()
    assert runs.saved_step(lease) == b"state"
    runs.fail_run(lease, error="x")  # nothing waits for the commit inside this test
    (tmp_path / "steps" / f"{run.id}.1.unfinished").write_bytes(b"half")
    runs.drop_orphaned_steps()
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["lost+found"]
