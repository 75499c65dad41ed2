"""What used up its attempts waits for staff; two beats at once send nothing twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core import mail
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import tasks
from requests_app.lifecycle import CaseStatus
from requests_app.models import (
    ApiClient,
    ApiRequest,
    AuditEntry,
    Case,
    ExportJob,
    Letter,
    Recheck,
    RecipientNotice,
    StaffMember,
)
from requests_app.models.people import Role
from requests_app.models.recipients import Recipient
from requests_app.services import export_jobs, letters, rechecks, recipients, reminders, runs, stuck
from requests_app.services.errors import NotAllowed, NotFound, WrongState
from rtbf import celery_app
from tests import factories
from tests.staff import as_staff
from tests.threads import run_together
from workers import tasks as worker_tasks

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("entries_last")]


def entries(kind: str) -> list[dict[str, Any]]:
    rows = AuditEntry.objects.filter(type=kind).order_by("seq")
    return [json.loads(bytes(row.body)) for row in rows]


def make_recipient() -> Recipient:
    return recipients.save_recipient(
        data=recipients.RecipientData(
            name="Vendor", kind="processor", how="mail", email="dsr@vendor.example"
        ),
        actor_member=factories.make_staff(Role.OFFICER),
    )


def stuck_run() -> Case:
    case = factories.executing_case()
    run = case.runs.get()
    run.leases = 3
    run.save()
    assert runs.lease_run(run_id=run.id, owner="worker-4") is None
    return Case.objects.get(pk=case.pk)


def stuck_recheck() -> Recheck:
    factories.responding_case()
    factories.responding_case()
    row = Recheck.objects.filter(release__is_live=True, case__isnull=False).get()
    Recheck.objects.filter(pk=row.pk).update(leases=3)
    assert rechecks.lease_recheck(recheck_id=row.id, owner="worker-4") is None
    return Recheck.objects.get(pk=row.pk)


def stuck_export() -> ExportJob:
    today = timezone.localdate()
    job = export_jobs.ask_export(
        export="register_json",
        level="authority",
        first=date(today.year, 1, 1),
        last=today,
        actor_member=factories.make_staff(Role.AUDITOR),
    )
    ExportJob.objects.filter(pk=job.pk).update(leases=3)
    assert export_jobs.lease_export(job_id=job.id, owner="worker-4") is None
    return ExportJob.objects.get(pk=job.pk)


def stuck_letter() -> Letter:
    letter = factories.confirmed_case().letters.get()
    Letter.objects.filter(pk=letter.pk).update(tries=20)
    return Letter.objects.get(pk=letter.pk)


def stuck_notice() -> RecipientNotice:
    make_recipient()
    notice = factories.executing_case().notices.get()
    RecipientNotice.objects.filter(pk=notice.pk).update(tries=20)
    return RecipientNotice.objects.get(pk=notice.pk)


def stuck_callback() -> ApiRequest:
    now = timezone.now()
    return ApiRequest.objects.create(
        client=ApiClient.objects.create(name="shop", key_digest="0" * 64, created_at=now),
        case=factories.confirmed_case(),
        subject_request_id=uuid4(),
        submitted_time=now,
        received_at=now,
        tries=20,
    )


MADE: dict[str, tuple[Callable[[], Any], str]] = {
    "run": (stuck_run, "run.queued"),
    "recheck": (stuck_recheck, "recheck.retried"),
    "export": (stuck_export, "export.retried"),
    "letter": (stuck_letter, "letter.retried"),
    "notice": (stuck_notice, "notice.retried"),
    "callback": (stuck_callback, "api.callback_retried"),
}


# --- Listed, and tried again ----------------------------------------------------------------------
@pytest.mark.parametrize("kind", MADE)
def test_what_used_up_its_attempts_is_listed_and_is_tried_again_by_staff(
    kind: str, engineer: StaffMember
) -> None:
    make, told = MADE[kind]
    make()
    assert {k for k, count in stuck.count_stuck().items() if count} == {kind}
    (work,) = stuck.list_stuck()
    stuck.retry_work(kind=work.kind, row_id=work.id, actor_member=engineer)
    assert stuck.list_stuck() == []
    assert entries(told)[-1]["actor"] == f"engineer:{engineer.pseudonym}"
    with pytest.raises(WrongState):
        stuck.retry_work(kind=work.kind, row_id=work.id, actor_member=engineer)


def test_a_run_is_tried_again_as_a_further_one_until_all_are_made(engineer: StaffMember) -> None:
    case = stuck_run()
    assert case.status == CaseStatus.EVIDENCE_REVIEW
    for number in (2, 3):
        (work,) = stuck.list_stuck()
        stuck.retry_work(kind="run", row_id=work.id, actor_member=engineer)
        run = case.runs.get(number=number)
        run.leases = 3
        run.save()
        runs.lease_run(run_id=run.id, owner="worker-4")
    (work,) = stuck.list_stuck()
    with pytest.raises(WrongState, match="Accept the evidence"):
        stuck.retry_work(kind="run", row_id=work.id, actor_member=engineer)


def test_a_recheck_that_is_tried_again_counts_what_it_then_measures(engineer: StaffMember) -> None:
    row = stuck_recheck()
    before = row.fence
    stuck.retry_work(kind="recheck", row_id=str(row.id), actor_member=engineer)
    lease = rechecks.lease_recheck(recheck_id=row.id, owner="worker-5")
    assert lease is not None
    assert lease.fence == before + 1
    rechecks.record_recheck(lease, figures={"after": "0.01"}, verdict="within_thresholds")
    told = [entry["data"]["verdict"] for entry in entries("case.rechecked")]
    assert told == ["inconclusive", "within_thresholds"]


def test_a_letter_stops_being_mailed_after_its_tries_and_goes_on_after_a_retry(
    settings: Settings, engineer: StaffMember
) -> None:
    letter = factories.confirmed_case().letters.get()
    mail.outbox.clear()
    settings.RTBF_SEND_TRIES = 2
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    for _ in range(3):
        letters.send_pending_letters()
        Letter.objects.update(next_try_at=timezone.now() - timedelta(seconds=1))
    assert Letter.objects.get().tries == 2
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    assert letters.send_pending_letters() == 0
    stuck.retry_work(kind="letter", row_id=str(letter.pk), actor_member=engineer)
    assert letters.send_pending_letters() == 1
    assert len(mail.outbox) == 1


def test_who_decides_does_not_operate_and_a_made_up_id_is_not_found(
    officer: StaffMember, engineer: StaffMember
) -> None:
    letter = stuck_letter()
    with pytest.raises(NotAllowed):
        stuck.retry_work(kind="letter", row_id=str(letter.pk), actor_member=officer)
    for kind, row_id in [("letter", "x"), ("run", "7"), ("nothing", "7"), ("run", str(uuid4()))]:
        with pytest.raises(NotFound):
            stuck.retry_work(kind=kind, row_id=row_id, actor_member=engineer)
    assert entries("letter.retried") == []


@pytest.mark.parametrize("role", [Role.ENGINEER, Role.ADMINISTRATOR])
def test_the_page_names_no_case_and_its_button_works(role: Role) -> None:
    letter = stuck_letter()
    stuck_export()
    client = as_staff(factories.make_staff(role))
    page = client.get("/app/stuck").content.decode()
    assert page.count("data-kind=") == 2
    assert letter.case.reference not in page
    assert not [canary for canary in factories.CANARIES if canary in page]
    posted = {"kind": "letter", "id": str(letter.pk)}
    page = client.post("/app/stuck/retry", posted, follow=True).content.decode()
    assert page.count("data-kind=") == 1
    assert client.post("/app/stuck/retry", posted).status_code == 409
    assert client.post("/app/stuck/retry", {"kind": "letter"}).status_code == 404


# --- Never twice ----------------------------------------------------------------------------------
@pytest.mark.django_db(transaction=True)
def test_two_beats_at_once_send_every_mail_once(settings: Settings) -> None:
    make_recipient()
    for _ in range(3):
        factories.due_on(factories.executing_case(), timezone.localdate() - timedelta(days=1))
    waiting = [factories.open_case().case for _ in range(2)]
    mail.outbox.clear()
    settings.EMAIL_BACKEND = "tests.slow_mail.EmailBackend"
    settings.RTBF_ESCALATION_MAIL = "deadlines@controller.example"

    def sweep() -> None:
        tasks.send_letters()
        tasks.tell_recipients()
        reminders.queue_reminders()
        reminders.send_reminders()

    run_together(sweep, 2)
    sent = Counter((each.subject, each.to[0]) for each in mail.outbox)
    assert {each: count for each, count in sent.items() if count > 1} == {}
    assert len(mail.outbox) == 3 * 3 + len(waiting)
    assert len(entries("letter.sent")) == len(entries("notice.sent")) == 3


def test_a_sweep_that_listed_a_letter_before_another_sent_it_does_not_send_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for _ in range(2):
        factories.confirmed_case()
    mail.outbox.clear()
    send, others = mail.EmailMessage.send, iter([letters.send_pending_letters])

    def slowly(message: mail.EmailMessage, fail_silently: bool = False) -> int:
        for other in others:  # a second sweep runs from start to end meanwhile
            other()
        return send(message, fail_silently)

    monkeypatch.setattr(mail.EmailMessage, "send", slowly)
    letters.send_pending_letters()
    assert len({each.subject for each in mail.outbox}) == len(mail.outbox) == 2


# --- The queue's settings -------------------------------------------------------------------------
def test_messages_come_back_when_a_worker_dies_and_not_while_it_works(settings: Settings) -> None:
    assert celery_app.conf.task_acks_late
    assert celery_app.conf.worker_prefetch_multiplier == 1
    hard = settings.RTBF_LONGEST_TASK_HOURS * 3600
    assert celery_app.conf.broker_transport_options["visibility_timeout"] > hard
    assert hard > settings.RTBF_LEASE_SECONDS


def test_a_worker_that_hangs_ends_at_the_hard_limit(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.RTBF_LEASE_SECONDS, settings.RTBF_LONGEST_TASK_HOURS = 0.03, 0.0
    ended, seen = threading.Event(), threading.Event()
    codes: list[int] = []
    extended: list[bool] = []

    def end(code: int) -> None:
        codes.append(code)
        ended.set()
        seen.wait(5)  # nothing comes after the end of a process

    monkeypatch.setattr(worker_tasks.os, "_exit", end)
    with worker_tasks.heartbeat(lambda: bool(extended.append(True)), "run"):
        assert ended.wait(5)
        assert (codes, extended) == ([worker_tasks.EXIT_TOO_LONG], [])
        seen.set()
