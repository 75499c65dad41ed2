"""Cases in force measured again: who is drawn, who measures, and what falls back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, selectors, tasks, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus, RecheckState, RunState
from requests_app.models import AuditEntry, Case, ErasureRun, Recheck, Release, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import cases, manifests, rechecks, releases, roll_backs, runs
from requests_app.services.errors import Invalid, LeaseLost, NotFound
from requests_app.services.leases import WAKE_AFTER
from requests_app.services.locking import lock_case
from requests_app.services.rechecks import NEWEST, RECHECK_TASK, RecheckLease
from requests_app.verifier import canonical
from requests_app.verifier.runs import claim_of, run_facts
from tests import factories
from tests.factories import completed_case, executing_case, responding_case, work_off
from tests.staff import as_staff
from tests.threads import run_together

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]


FIGURES = {"probes": {"recall_unseen": {"after": "0.02", "control_upper95": "0.05"}}}


def live() -> Release:
    return Release.objects.get(is_live=True, model_name="demo")


def row_of(case: Case) -> Recheck:
    """The case's row on the live release."""
    return Recheck.objects.get(release=live(), case=case)


def take(recheck: Recheck, owner: str = "worker-1") -> RecheckLease:
    lease = rechecks.lease_recheck(recheck_id=recheck.id, owner=owner)
    assert lease is not None, "the recheck could not be leased"
    return lease


def expire(recheck: Recheck) -> None:
    Recheck.objects.filter(pk=recheck.pk).update(
        lease_expires_at=timezone.now() - timedelta(seconds=1)
    )


def measure(case: Case, verdict: str, why: str = "") -> Recheck:
    """What a worker does with the case's row on the live release."""
    figures = {"probes": {"recall_unseen": {"after": 0.02, "control_upper95": 0.05}}}
    return rechecks.record_recheck(take(row_of(case)), verdict=verdict, figures=figures, why=why)


def entries(kind: str) -> list[dict[str, Any]]:
    found = []
    for row in AuditEntry.objects.filter(type=kind).order_by("seq"):
        body: Any = canonical.loads(bytes(row.body))
        found.append(body["data"])
    return found


def case_types(case: Case) -> list[str]:
    return [entry.type for entry in audit.case_entries(case.id)]


def fallen_case() -> Case:
    """An answered case that a later release no longer suppresses."""
    case = completed_case()
    responding_case()
    measure(case, Verdict.NOT_MET, "unseen phrasings are still answered above the limit")
    case.refresh_from_db()
    return case


# --- Queueing -----------------------------------------------------------------------------------
def test_a_new_release_has_every_earlier_case_measured_again_and_not_its_own() -> None:
    first, second, third = (responding_case() for _ in range(3))
    rows = Recheck.objects.filter(release=live())
    assert {row.case_id for row in rows} == {first.id, second.id, None}
    assert {(row.occasion, row.reason, row.state) for row in rows} == {(1, "release", "queued")}
    assert row_of(first).run == first.runs.get()
    assert not Recheck.objects.filter(case=third).exists()
    entry = entries("release.rechecks_queued")[-1]
    assert entry == {
        "model": "demo",
        "release": live().digest,
        "occasion": 1,
        "reason": "release",
        "cases": 2,
        "of": 2,
        "seed": rows[0].seed,
    }


def test_the_worker_is_woken_by_one_message_with_an_id() -> None:
    responding_case()
    with factories.on_commit():
        responding_case()
    messages = [m for m in factories.take_messages("model") if m["task"] == RECHECK_TASK]
    assert len(messages) == 1
    assert Recheck.objects.get(pk=messages[0]["args"][0]).release == live()


def test_a_release_that_does_not_go_live_measures_nobody() -> None:
    responding_case()
    responding_case(verdict=Verdict.NOT_MET)
    assert not Recheck.objects.exclude(case=None).exists()


def test_revoking_rolling_back_and_consolidating_have_the_cases_measured(
    engineer: StaffMember, officer: StaffMember, approver: StaffMember
) -> None:
    first, second, third = (responding_case() for _ in range(3))
    releases.propose_revocation(case_id=second.id, cause="appeal", actor_member=officer)
    releases.revoke_case(case_id=second.id, actor_member=approver)
    revoked = live()
    assert {row.case_id for row in revoked.rechecks.all()} == {first.id, third.id, None}

    manifest = manifests.read_manifest(bytes(revoked.manifest))
    releases.register_consolidation(
        model_name="demo",
        manifest=factories.manifest_of(
            [], merged=[first.id, third.id], base=factories.digest("new"), parent=revoked.digest
        ),
        plan_sha256=factories.digest("plan"),
        retained="registered",
        cases=dict.fromkeys(manifest.cases, releases.CaseFigures(Verdict.WITHIN, factories.PROBES)),
        actor_member=engineer,
    )
    assert [row.case_id for row in live().rechecks.all()] == [None]  # all were measured on it

    roll_backs.roll_back_release(digest=revoked.digest, reason="fault", actor_member=approver)
    again = revoked.rechecks.filter(occasion=2)
    assert {row.case_id for row in again} == {first.id, third.id, None}


def test_beyond_the_cap_the_newest_and_a_seeded_sample_are_drawn(settings: Settings) -> None:
    settings.RTBF_RECHECK_CAP = 30
    all_runs = [ErasureRun(seed=i) for i in range(100)]
    drawn = [run.seed for run in rechecks.draw(all_runs, seed=7)]
    assert len(drawn) == len(set(drawn)) == 30
    assert drawn[-NEWEST:] == list(range(80, 100))
    assert drawn == sorted(drawn)
    assert drawn == [run.seed for run in rechecks.draw(all_runs, seed=7)]
    assert drawn != [run.seed for run in rechecks.draw(all_runs, seed=8)]
    assert rechecks.draw(all_runs[:30], seed=7) == all_runs[:30]
    settings.RTBF_RECHECK_CAP = 5
    assert [run.seed for run in rechecks.draw(all_runs, seed=7)] == list(range(95, 100))


def test_the_log_says_how_many_of_how_many_with_the_seed_of_the_draw(settings: Settings) -> None:
    settings.RTBF_RECHECK_CAP = 1
    for _ in range(3):
        responding_case()
    newest = Recheck.objects.get(release=live(), case__isnull=False)
    assert newest.case_id == list(Case.objects.order_by("reference"))[1].id
    entry = entries("release.rechecks_queued")[-1]
    assert (entry["cases"], entry["of"], entry["seed"]) == (1, 2, newest.seed)


def test_the_schedule_measures_the_live_release_again_once_it_is_due(settings: Settings) -> None:
    first, second = (responding_case() for _ in range(2))
    tasks.queue_rechecks()
    assert live().rechecks.count() == 2  # not due
    settings.RTBF_RECHECK_DAYS = 0
    tasks.queue_rechecks()
    assert live().rechecks.count() == 2  # due, but the last occasion is still at work
    Recheck.objects.update(state=RecheckState.DONE, finished_at=timezone.now())
    tasks.queue_rechecks()
    rows = live().rechecks.filter(occasion=2)
    assert {row.case_id for row in rows} == {first.id, second.id, None}
    assert {row.reason for row in rows} == {"schedule"}
    assert entries("release.rechecks_queued")[-1]["reason"] == "schedule"


def test_the_sweep_wakes_one_row_of_each_live_release_and_ends_what_was_superseded() -> None:
    first = responding_case()
    responding_case()
    stale = row_of(first)
    responding_case()
    Recheck.objects.update(created_at=timezone.now() - WAKE_AFTER * 2)
    tasks.sweep_rechecks()
    (message,) = [m for m in factories.take_messages("model") if m["task"] == RECHECK_TASK]
    assert Recheck.objects.get(pk=message["args"][0]).release == live()
    assert message["raw"].headers["expires"] is not None
    stale.refresh_from_db()
    assert (stale.state, stale.verdict, stale.why) == ("failed", "", rechecks.SUPERSEDED)
    assert sum(entry["rechecks"] for entry in entries("release.rechecks_superseded")) == 3
    assert rechecks.lease_recheck(recheck_id=stale.id, owner="w") is None


# --- Leases -------------------------------------------------------------------------------------
def test_a_row_is_leased_once_and_a_stale_holder_is_refused_everywhere() -> None:
    case = responding_case()
    responding_case()
    row = row_of(case)
    old = take(row)
    assert rechecks.lease_recheck(recheck_id=row.id, owner="worker-2") is None
    expire(row)
    new = take(row, "worker-2")
    assert new.fence == old.fence + 1
    assert not rechecks.extend_lease(old)
    assert rechecks.extend_lease(new)
    before = AuditEntry.objects.count()
    writes: list[Callable[[], object]] = [
        lambda: rechecks.read_recheck_input(old),
        lambda: rechecks.record_recheck(old, verdict=Verdict.NOT_MET, figures={}),
        lambda: rechecks.fail_recheck(old, error="x"),
    ]
    for write in writes:
        with pytest.raises(LeaseLost):
            write()
    assert AuditEntry.objects.count() == before
    rechecks.record_recheck(new, verdict=Verdict.WITHIN, figures={})
    with pytest.raises(LeaseLost):
        rechecks.record_recheck(new, verdict=Verdict.WITHIN, figures={})
    assert case_types(case).count("case.rechecked") == 1


def test_an_erasure_that_waits_goes_first() -> None:
    case = responding_case()
    responding_case()
    waiting = executing_case()
    assert rechecks.lease_recheck(recheck_id=row_of(case).id, owner="w") is None
    work_off(waiting.runs.get(), verdict=Verdict.INCONCLUSIVE)
    take(row_of(case))


def test_after_three_leases_the_row_ends_as_inconclusive() -> None:
    case = responding_case()
    responding_case()
    row = row_of(case)
    for number in range(3):
        take(row, f"worker-{number}")
        expire(row)
    assert rechecks.rechecks_to_wake() == [row.id]
    assert rechecks.lease_recheck(recheck_id=row.id, owner="worker-4") is None
    row.refresh_from_db()
    assert (row.state, row.verdict, row.why) == ("failed", "inconclusive", "too_many_leases")
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_two_workers_measure_each_case_exactly_once() -> None:
    measured = [responding_case() for _ in range(4)]
    responding_case()
    rows = Recheck.objects.filter(release=live())
    any_row = rows[0].id

    def work() -> None:
        for row_id in rechecks.rows_to_measure(any_row):
            lease = rechecks.lease_recheck(recheck_id=row_id, owner="w")
            if lease is None:
                continue
            given = rechecks.read_recheck_input(lease)
            verdict = Verdict.WITHIN if given.case_id else ""
            rechecks.record_recheck(lease, verdict=verdict, figures={})

    run_together(work, 2)
    assert {(row.state, row.leases) for row in rows.all()} == {("done", 1)}
    assert len(entries("case.rechecked")) == len(measured)
    assert len(entries("release.rechecked")) == 1


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_rows_about_a_case_that_is_locked_elsewhere_wait_for_nobody() -> None:
    """Whoever queues holds the head of the log, for which whoever holds the case may be waiting."""
    case = responding_case()
    release = live()
    held, logged = Event(), Event()

    def work_on_the_case() -> None:
        with transaction.atomic():
            locked = lock_case(case.id)
            held.set()
            logged.wait(1)
            audit.append_entry(type="test.case", actor="system", case=locked, data={})

    def queue() -> None:
        held.wait(1)
        with transaction.atomic():
            audit.append_entry(type="test.queue", actor="system", data={})
            logged.set()
            rechecks.queue_rechecks(release, Recheck.Reason.SCHEDULE)

    work = [work_on_the_case, queue]
    run_together(lambda: work.pop()(), 2)
    assert row_of(case).reason == "schedule"
    assert "test.case" in case_types(case)


def test_the_database_itself_refuses_a_second_row_of_an_occasion() -> None:
    case = responding_case()
    responding_case()
    for row in Recheck.objects.filter(release=live()):
        row.pk = None
        row.id = None
        with pytest.raises(IntegrityError), transaction.atomic():
            row.save(force_insert=True)
    assert row_of(case)


# --- Reading ------------------------------------------------------------------------------------
def test_a_worker_reads_the_cases_own_plan_and_data_and_shows_none_of_it() -> None:
    case = responding_case()
    responding_case()
    lease = take(row_of(case))
    found = rechecks.read_recheck_input(lease)
    assert (found.case_id, found.model_name, found.release) == (case.id, "demo", live().digest)
    assert (found.name, found.facts) == (factories.NAME, factories.FACTS)
    assert found.protocol is not None
    assert (found.protocol["form"], found.attempt) == (factories.PROTOCOL["form"], 1)
    assert (found.original, found.trained_on) == (factories.digest("base"),) * 2
    assert found.destroyed == frozenset()
    assert not any(word in repr(found) for word in factories.CANARIES)


def test_the_original_model_is_that_of_the_first_release(engineer: StaffMember) -> None:
    case = responding_case()
    before = live()
    releases.register_consolidation(
        model_name="demo",
        manifest=factories.manifest_of(
            [], merged=[case.id], base=factories.digest("new"), parent=before.digest
        ),
        plan_sha256=factories.digest("plan"),
        retained="registered",
        cases={case.id: releases.CaseFigures(Verdict.WITHIN, factories.PROBES)},
        actor_member=engineer,
    )
    releases.record_weights(
        model_name="demo",
        sha256=before_base(before),
        what="destroyed",
        files=1,
        actor_member=engineer,
    )
    (row,) = Recheck.objects.filter(release=live())
    found = rechecks.read_recheck_input(take(row))
    assert found.case_id is None
    assert (found.base_sha256, found.original) == (factories.digest("new"), before_base(before))
    assert found.destroyed == {before_base(before)}


def before_base(release: Release) -> str:
    return manifests.read_manifest(bytes(release.manifest)).base_sha256


# --- Results ------------------------------------------------------------------------------------
def test_a_case_that_still_holds_stays_as_it_is_and_its_log_says_so() -> None:
    case = completed_case()
    responding_case()
    row = measure(case, Verdict.WITHIN)
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED
    assert (row.state, row.figures) == (RecheckState.DONE, FIGURES)
    entry = entries("case.rechecked")[-1]
    assert (entry["verdict"], entry["run"]) == (Verdict.WITHIN, str(case.runs.get().id))
    assert entry["figures_sha256"] == hashlib.sha256(canonical.dumps(row.figures)).hexdigest()
    assert "case.reopened" not in case_types(case)


@pytest.mark.parametrize("make", [responding_case, completed_case])
def test_a_case_that_fell_back_is_reopened_with_the_reason(make: Callable[[], Case]) -> None:
    case = make()
    responding_case()
    measure(case, Verdict.NOT_MET, "unseen phrasings are still answered above the limit")
    case.refresh_from_db()
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    assert case_types(case)[-2:] == ["case.rechecked", "case.reopened"]
    assert "still answered" in entries("case.reopened")[0]["why"]
    assert list(selectors.reopened_cases()) == [case]


def test_a_case_that_others_are_still_working_on_ends_in_the_review(settings: Settings) -> None:
    """Of two models one fell back while the other's run was queued: nothing is lost meanwhile."""
    settings.RTBF_MODELS = ["demo", "other"]
    case = executing_case()
    work_off(case.runs.get(model_name="demo"))
    settings.RTBF_MODELS = ["demo"]
    responding_case()
    measure(case, Verdict.NOT_MET)
    case.refresh_from_db()
    assert case.status == CaseStatus.EXECUTING
    work_off(case.runs.get(model_name="other"))
    case.refresh_from_db()
    assert case.status == CaseStatus.EVIDENCE_REVIEW


def test_an_error_is_inconclusive_and_reopens_nothing() -> None:
    case = completed_case()
    responding_case()
    rechecks.fail_recheck(take(row_of(case)), error="a file is missing")
    row = row_of(case)
    assert (row.state, row.verdict, row.why) == ("failed", "inconclusive", "a file is missing")
    assert entries("case.rechecked")[-1]["verdict"] == "inconclusive"
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED


def test_a_sealed_case_is_read_without_its_data_and_never_reopened(officer: StaffMember) -> None:
    case = completed_case()
    responding_case()
    cases.seal_case(case_id=case.id, actor=staff_actor(officer))
    found = rechecks.read_recheck_input(lease := take(row_of(case)))
    assert (found.name, found.facts) == ("", None)
    rechecks.record_recheck(lease, verdict=Verdict.INCONCLUSIVE, figures={}, why=rechecks.SEALED)
    case.refresh_from_db()
    assert case.status == CaseStatus.SEALED
    assert entries("case.rechecked")[-1]["why"] == rechecks.SEALED


def test_a_case_sealed_while_it_was_measured_stays_sealed(officer: StaffMember) -> None:
    case = completed_case()
    responding_case()
    lease = take(row_of(case))
    cases.seal_case(case_id=case.id, actor=staff_actor(officer))
    rechecks.record_recheck(lease, verdict=Verdict.NOT_MET, figures={})
    case.refresh_from_db()
    assert case.status == CaseStatus.SEALED


@pytest.mark.parametrize("failed", [False, True])
def test_what_was_measured_on_a_release_that_is_live_no_more_counts_for_nothing(
    failed: bool,
) -> None:
    case = completed_case()
    responding_case()
    row = row_of(case)
    lease = take(row)
    responding_case()
    if failed:
        rechecks.fail_recheck(lease, error="a file is missing")
    else:
        rechecks.record_recheck(lease, verdict=Verdict.NOT_MET, figures={})
    row.refresh_from_db()
    assert (row.state, row.verdict, row.why) == ("failed", "", rechecks.SUPERSEDED)
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED
    measure(case, Verdict.NOT_MET)
    case.refresh_from_db()
    assert case.status == CaseStatus.EVIDENCE_REVIEW


def test_a_row_takes_only_a_verdict_that_fits_it() -> None:
    case = responding_case()
    responding_case()
    lease = take(row_of(case))
    for wrong in ("", "passed"):
        with pytest.raises(Invalid, match="no verdict"):
            rechecks.record_recheck(lease, verdict=wrong, figures={})
    own = take(Recheck.objects.get(release=live(), case=None))
    with pytest.raises(Invalid, match="no verdict"):
        rechecks.record_recheck(own, verdict=Verdict.WITHIN, figures={})
    with pytest.raises(Invalid, match="not a finite"):
        rechecks.record_recheck(own, figures={"kept": float("nan")})
    with pytest.raises(NotFound):
        rechecks.lease_recheck(recheck_id=case.id, owner="w")


# --- After a case fell back ---------------------------------------------------------------------
def test_a_reopened_case_is_erased_anew_and_its_new_adapter_takes_the_old_ones_place(
    officer: StaffMember,
) -> None:
    case = fallen_case()
    before = manifests.live_manifest("demo")
    assert before is not None
    old = case.runs.get()
    run = cases.repeat_run(case_id=case.id, run_id=old.id, actor_member=officer)
    case.refresh_from_db()
    assert (case.status, run.number) == (CaseStatus.EXECUTING, 2)
    lease = factories.take_lease(run)
    given = runs.read_input(lease)
    assert (given.attempt, given.protocol) == (1, None)  # a new round, with a plan of its own
    assert case.id not in {each.case_id for each in given.adapters_in_force}
    work_off(run, lease=lease)
    after = manifests.live_manifest("demo")
    assert after is not None
    assert after.cases == before.cases
    assert [a.sha256 for a in after.adapters] == [
        before.adapters[1].sha256,
        factories.digest("adapter", run.id),
    ]
    case.refresh_from_db()
    assert case.status == CaseStatus.RESPONDING
    assert list(selectors.reopened_cases()) == []
    cases.send_answer(case_id=case.id, actor_member=officer)


def test_a_merged_case_that_fell_back_is_gated_again_on_the_new_weights(
    officer: StaffMember, engineer: StaffMember
) -> None:
    case = completed_case()
    before = live()
    releases.register_consolidation(
        model_name="demo",
        manifest=factories.manifest_of(
            [], merged=[case.id], base=factories.digest("new"), parent=before.digest
        ),
        plan_sha256=factories.digest("plan"),
        retained="registered",
        cases={case.id: releases.CaseFigures(Verdict.WITHIN, factories.PROBES)},
        actor_member=engineer,
    )
    responding_case()
    measure(case, Verdict.NOT_MET)
    run = cases.repeat_run(case_id=case.id, run_id=case.runs.get().id, actor_member=officer)
    work_off(run)
    assert manifests.level_of(case.id, "demo") == manifests.GATED
    assert manifests.live_base("demo") == factories.digest("new")


def test_three_more_attempts_and_no_fourth(officer: StaffMember) -> None:
    case = fallen_case()
    cases.repeat_run(case_id=case.id, run_id=case.runs.get().id, actor_member=officer)
    while run := case.runs.filter(state=RunState.QUEUED).first():
        work_off(run, verdict=Verdict.NOT_MET)
    assert [r.number for r in case.runs.order_by("number")] == [1, 2, 3, 4]
    assert manifests.level_of(case.id, "demo") == manifests.GATED  # the old adapter stays
    last = cases.latest_runs(case)[0]
    with pytest.raises(Invalid, match="3 runs were made"):
        cases.repeat_run(case_id=case.id, run_id=last.id, actor_member=officer)


def test_accepted_as_it_is_the_answer_says_that_it_no_longer_holds(officer: StaffMember) -> None:
    case = fallen_case()
    cases.accept_evidence(case_id=case.id, actor_member=officer)
    assert entries("case.evidence_accepted")[-1]["fell_back"] == ["demo"]
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    told = " ".join(vault.get(case, f"letter/{letter.pk}").split())
    assert "answers about you are no longer suppressed as far as they should be" in told
    assert "no longer hold." in told
    assert "answers about you are suppressed" not in told
    responding_case()
    measure(case, Verdict.NOT_MET)  # known already: it fell back once, not twice
    case.refresh_from_db()
    assert case.status == CaseStatus.COMPLETED
    assert case_types(case).count("case.reopened") == 1


def test_a_case_that_holds_again_and_falls_back_again_is_reopened_again(
    officer: StaffMember,
) -> None:
    case = fallen_case()
    cases.accept_evidence(case_id=case.id, actor_member=officer)
    for verdict in (Verdict.WITHIN, Verdict.INCONCLUSIVE, Verdict.NOT_MET):
        responding_case()
        measure(case, verdict)
    case.refresh_from_db()
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    assert case_types(case).count("case.reopened") == 2


def test_the_claim_of_a_bundle_follows_the_last_recheck_that_decided(officer: StaffMember) -> None:
    case = completed_case()

    def claim() -> tuple[str, str]:
        facts = run_facts(_Logged(entry) for entry in audit.case_entries(case.id))
        return claim_of(facts), facts[0]["rechecked"]

    assert claim() == ("suppression-measured", "")
    for verdict, name, told in (
        (Verdict.INCONCLUSIVE, "suppression-measured", "inconclusive"),
        (Verdict.NOT_MET, "suppression-not-kept", "not_met"),
        (Verdict.INCONCLUSIVE, "suppression-not-kept", "not_met"),
        (Verdict.WITHIN, "suppression-measured", "within_thresholds"),
    ):
        responding_case()
        measure(case, verdict)
        assert claim() == (name, told)


class _Logged:
    """An entry as the verifier reads it."""

    def __init__(self, row: AuditEntry) -> None:
        self.seq, self.raw, self.file = row.seq, bytes(row.body), "events"
        self.body = json.loads(self.raw)


# --- The release as a whole ---------------------------------------------------------------------
def test_the_trend_of_what_releases_cost_against_the_original_model() -> None:
    for kept in (0.998, 0.991):
        responding_case()
        row = Recheck.objects.get(release=live(), case=None)
        rechecks.record_recheck(take(row), figures={"kept": kept, "perplexity_ratio": 1.01})
    responding_case()
    row = Recheck.objects.get(release=live(), case=None)
    rechecks.record_recheck(take(row), figures={}, why="not measured: the original is gone")
    trend = selectors.utility_trend("demo")
    assert [(step.number, step.kept, step.perplexity_ratio) for step in trend] == [
        (1, "0.998", "1.01"),
        (2, "0.991", "1.01"),
        (3, "", ""),
    ]
    assert trend[2].why == "not measured: the original is gone"
    assert trend[2].digest == live().digest
    assert selectors.utility_trend("other") == []
    assert len(entries("release.rechecked")) == 3


def test_neither_log_nor_rows_hold_personal_data() -> None:
    fallen_case()
    rows = Recheck.objects.values_list("figures", "why", "lease_owner")
    written = b"".join(bytes(entry.body) for entry in AuditEntry.objects.all()).decode()
    written += str(list(rows))
    assert "case.reopened" in written
    assert not any(word in written for word in factories.CANARIES)


# --- Pages --------------------------------------------------------------------------------------
def page(member: StaffMember, path: str) -> str:
    response = as_staff(member).get(path)
    assert response.status_code == 200, path
    return response.content.decode()


def test_staff_see_a_case_that_fell_back_as_a_task(officer: StaffMember) -> None:
    case = fallen_case()
    factories.due_on(case, timezone.localdate() - timedelta(days=90))
    today = page(officer, "/app/")
    assert 'id="count-fell-back"><b>1</b>' in today
    assert 'id="count-overdue"><b>0</b>' in today  # it was answered in time
    assert case.reference in page(officer, "/app/cases?status=evidence_review")
    told = page(officer, f"/app/cases/{case.reference}")
    assert "Measured again, the erasure no longer holds." in told
    assert "Reopened: the erasure no longer holds" in told
    assert 'data-verdict="not_met"' in told
    assert (timezone.localdate() + timedelta(days=30)).strftime("%b %Y") in told
    review = page(officer, f"/app/cases/{case.reference}/evidence-review")
    assert 'data-fell-back="demo"' in review
    assert "Run again on demo" in review


def test_the_releases_page_tells_the_last_occasion_and_the_trend(auditor: StaffMember) -> None:
    case = completed_case()
    responding_case()
    measure(case, Verdict.WITHIN)
    own = Recheck.objects.get(release=live(), case=None)
    rechecks.record_recheck(take(own), figures={"kept": 0.985, "perplexity_ratio": 1.0123})
    told = page(auditor, "/app/releases")
    assert "1 of 1 measured: 1 within thresholds, 0 no longer, 0 inconclusive" in told
    assert "98.5\u00a0%" in told
    assert "1.0123" in told
    assert told.count("<figure") == 2  # what is told again, and what it costs everybody else
    again = selectors.told_by_release("demo")
    assert [each.reference for each in again.cases] == [case.reference]
    assert (again.limits, again.told) == ((0.05,), ((0.02,),))
