"""What breaks between two steps: connections, clocks, messages, the signer, the mail server.

Shown elsewhere and not here again: leases under fences, a sweep after lost messages, a capped
number of leases and finishing twice (tests/requests_app/test_runs.py); three approvers at once
(test_cases.py); a queue that is away (test_tasks.py); a signer that dies between its memory and its
checkpoint, and whose database goes away (test_signer.py); a database restored from yesterday
(test_restoring.py); a killed export (test_export_jobs.py); two hundred appends at once
(test_audit.py). The real processes are killed in test_killed_worker.py and in
`python -m benchmarks.faults`.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from django.conf import settings as installed
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django.fixtures import Settings

from benchmarks import faults_record, faults_worker
from requests_app import audit, external, keys
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import (
    AuditEntry,
    Case,
    Checkpoint,
    ErasureRun,
    Letter,
    LogHead,
    RecordMatch,
)
from requests_app.services import cases, intake, letters, restoring, runs, training, wake
from requests_app.services.errors import LeaseLost
from requests_app.signer import open_signer, sign_next
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from rtbf import celery_app
from rtbf.stack import Stack, start_redis
from tests import factories
from tests.faults.killing import Killed, killed
from tests.mail_server import SLOW, TAKES, MailServer, mail_server
from tests.requests_app import bundles
from workers import rechecks, tasks

pytestmark = pytest.mark.django_db(transaction=True)


# --- Messages -----------------------------------------------------------------------------------
@pytest.fixture
def without_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("measure_and_record", "base_model", "manifest_of", "reloaded"):
        monkeypatch.setattr(tasks, name, getattr(tasks, name))
    monkeypatch.setattr(rechecks, "work", rechecks.work)
    monkeypatch.setattr(faults_worker, "STEP_SECONDS", 0.0)
    faults_worker.without_engine()


@pytest.mark.usefixtures("without_engine")
@pytest.mark.parametrize("seed", range(3))
def test_messages_doubled_lost_and_in_any_order_and_workers_killed_anywhere_end_in_one_result_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: Settings, seed: int
) -> None:
    settings.RTBF_MAX_LEASES = 20
    draw = random.Random(seed)  # noqa: S311
    ids = [run.id for run in (factories.executing_case().runs.get() for _ in range(3))]
    steps = (
        "record_protocol", "save_step", "record_adapter", "record_evidence", "register_release",
        "finish_run",
    )  # fmt: skip
    for _ in range(12):
        with monkeypatch.context() as patch, suppress(Killed):
            patch.setattr(runs, draw.choice(steps), killed)
            tasks.run_erasure(str(draw.choice(ids)))
        if draw.random() < 0.7:  # else the next one comes while the lease still runs
            ErasureRun.objects.filter(state="running").update(
                lease_expires_at=timezone.now() - timedelta(seconds=1)
            )
    while waiting := runs.runs_to_wake() or list(
        ErasureRun.objects.filter(state="queued").values_list("id", flat=True)
    ):
        ErasureRun.objects.filter(state="running").update(
            lease_expires_at=timezone.now() - timedelta(seconds=1)
        )
        for run_id in draw.sample(waiting * 2, 2 * len(waiting)):
            tasks.run_erasure(str(run_id))
    assert not ErasureRun.objects.exclude(state=RunState.SUCCEEDED).exists()
    officer = factories.make_staff("officer")
    for case in Case.objects.all():
        if case.status == CaseStatus.EVIDENCE_REVIEW:
            cases.accept_evidence(case_id=case.id, actor_member=officer)
        cases.send_answer(case_id=case.id, actor_member=officer)
    letters.send_pending_letters()
    references = list(Case.objects.values_list("reference", flat=True))
    assert faults_record.lost(references, tmp_path / "adapters") == []
    assert faults_record.doubled(references) == []
    assert faults_record.wrong_deadlines() == []
    audit.verify_log()


def test_what_counts_lost_and_doubled_effects_can_fail(tmp_path: Path) -> None:
    case = factories.completed_case()
    run = case.runs.get()
    assert faults_record.doubled([case.reference]) == []
    assert faults_record.lost([case.reference], tmp_path) == [
        f"adapter {run.adapter.sha256} has no files"
    ]
    letters.store_letter(case, intake._acknowledgement(case))
    with transaction.atomic():
        audit.append_entry(
            type="run.verified", actor="system:worker", case=case, data={"run": str(run.id)}
        )
    open_case = factories.executing_case()
    Case.objects.filter(pk=case.pk).update(internal_due=case.received_on)
    told = "\n".join(faults_record.doubled([case.reference]))
    assert f"{open_case.reference} is nobody's" in told
    assert "2 acknowledgements" in told
    assert "2 times run.verified" in told
    told = "\n".join(faults_record.lost([case.reference, "ERQ-0"], tmp_path))
    assert "ERQ-0 is not in the record" in told
    assert f"{open_case.reference} is executing" in told
    assert "was not sent" in told
    assert faults_record.wrong_deadlines() == [case.reference]


def test_a_redis_server_that_hangs_does_not_hold_up_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    options = installed.CELERY_BROKER_TRANSPORT_OPTIONS
    assert 0 < options["socket_timeout"] <= 10
    assert installed.REDIS_TIMEOUTS.items() <= options.items()
    (tmp_path / "log").mkdir()
    stack = Stack(url="", var_dir=tmp_path, env={**os.environ})
    hanging = Celery("hanging", broker=start_redis(stack))
    hanging.conf.broker_transport_options = {
        **options, "socket_timeout": 0.3, "socket_connect_timeout": 0.3,
    }  # fmt: skip
    hanging.set_current()
    redis = stack.processes["redis"]
    try:
        wake.send("requests_app.send_letters")
        assert "cannot be reached" not in caplog.text
        redis.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        wake.send("requests_app.send_letters")
        assert time.monotonic() - started < 5
    finally:
        celery_app.set_current()
        redis.send_signal(signal.SIGCONT)
        stack.kill("redis")
        hanging.close()
    assert "The queue cannot be reached" in caplog.text


# --- Connections --------------------------------------------------------------------------------
@pytest.mark.database
def test_a_heartbeat_goes_on_once_the_database_is_back(settings: Settings) -> None:
    settings.RTBF_LEASE_SECONDS = 0.15
    held, broken = threading.Event(), threading.Event()

    def extend() -> bool:
        if not broken.is_set():
            broken.set()
            connection.ensure_connection()
            connection.connection.close()  # as a restarted server leaves it
        ErasureRun.objects.exists()
        held.set()
        return True

    with tasks.heartbeat(extend, "run 1"):
        assert held.wait(10)


@pytest.mark.database
@pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no server to end")
def test_a_connection_that_ends_during_an_append_leaves_all_of_it_or_nothing() -> None:
    case = factories.open_case().case
    before = LogHead.objects.get().size

    def append(then: str) -> None:
        with transaction.atomic(), connection.cursor() as cursor:
            audit.append_entry(type="test.happened", actor="system:test", case=case, data={})
            cursor.execute(then)

    with pytest.raises(OperationalError):
        append("SELECT pg_terminate_backend(pg_backend_pid())")
    assert LogHead.objects.get().size == AuditEntry.objects.count() == before
    append("SELECT 1")
    assert audit.verify_log().entries == before + 1


# --- The signer ---------------------------------------------------------------------------------
def test_a_signer_killed_between_signing_and_publishing_publishes_at_its_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factories.open_case()
    with open_signer(installed.RTBF_SIGNER_DIR) as signer, monkeypatch.context() as patch:
        patch.setattr(external, "publish", killed)
        with pytest.raises(Killed):
            sign_next(signer)
    size = Checkpoint.objects.get().size
    assert external.last_checkpoint() is None
    with open_signer(installed.RTBF_SIGNER_DIR) as signer:
        assert sign_next(signer)[1] is None  # nothing is signed a second time
    signed = external.last_checkpoint()
    assert signed is not None
    assert signed.head.size == size == len(dict(external.read_entries(external.entries_file())))
    assert restoring.why_not_served() == ""


def test_what_is_signed_while_somebody_looks_does_not_make_the_database_look_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factories.open_case()
    with open_signer(installed.RTBF_SIGNER_DIR) as signer:
        signer, _ = sign_next(signer)
        look = audit.log_size

        def look_late() -> int:
            size = look()
            factories.open_case()
            sign_next(signer)
            return size

        monkeypatch.setattr(audit, "log_size", look_late)
        assert restoring.why_not_served() == ""


# --- Mail ---------------------------------------------------------------------------------------
@pytest.fixture
def mails(settings: Settings) -> Iterator[MailServer]:
    """A mail server, and five letters that wait for it."""
    for _ in range(5):
        factories.confirmed_case()
    with mail_server() as server:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", server.port
        yield server


def test_a_slow_mail_server_gets_each_letter_once_from_two_workers(mails: MailServer) -> None:
    mails.manner, mails.seconds = SLOW, 0.2
    second = threading.Thread(target=work_once)
    second.start()
    letters.send_pending_letters()
    second.join()
    letters.send_pending_letters()
    assert len({mail["Message-ID"] for mail in mails.mails}) == len(mails.mails) == 5
    assert not Letter.objects.filter(sent_at=None).exists()


def work_once() -> None:
    letters.send_pending_letters()
    connection.close()


def test_a_mail_server_that_hangs_holds_up_one_sweep_for_three_mails_and_no_longer(
    mails: MailServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.EMAIL_TIMEOUT = 0.2
    mails.manner, mails.seconds = SLOW, 0.6
    assert letters.send_pending_letters() == 0
    assert caplog.text.count("not mailed") == 3
    assert Letter.objects.filter(sent_at=None).count() == 5
    mails.manner = TAKES
    settings.EMAIL_TIMEOUT = 10
    assert letters.send_pending_letters() == 2  # those that were not tried yet


def test_a_flushed_cache_may_repeat_a_mail_and_never_what_the_record_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    letter = factories.confirmed_case().letters.get()
    announce, sent = letters._announcement, []

    def flushed_meanwhile(each: Letter) -> Any:
        if not sent:
            sent.append(each)
            cache.clear()
            letters.send_pending_letters()  # another worker: nobody claims the letter any more
        return announce(each)

    monkeypatch.setattr(letters, "_announcement", flushed_meanwhile)
    letters.send_pending_letters()
    entries = AuditEntry.objects.filter(type="letter.sent", case_id=letter.case_id)
    assert entries.count() == 1


def test_a_code_that_a_killed_worker_was_mailing_is_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    case = factories.open_case().case
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(EmailMessage, "send", killed)
        letters.send_pending_codes()
    assert letters.send_pending_codes() == 0  # whether it went out nobody knows: never twice
    Case.objects.update(code_sent_at=timezone.now() - 2 * intake.CODE_PAUSE)
    client.post(reverse("erasure_resend"), {"reference": case.reference})
    code = factories.mailed_code(case.reference)
    confirmed = client.post(reverse("erasure_confirm"), {"reference": case.reference, "code": code})
    assert confirmed.status_code == 302
    case.refresh_from_db()
    assert case.status == CaseStatus.IDENTITY_CHECK


# --- Clocks -------------------------------------------------------------------------------------
@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The machine's clock; `ahead` is how far it is from the true time."""
    real, found = timezone.now, SimpleNamespace(ahead=timedelta(0))

    def now() -> datetime:
        return real() + found.ahead

    monkeypatch.setattr(timezone, "now", now)
    return found


def test_a_clock_that_goes_back_an_hour_leaves_a_case_whose_bundle_verifies(
    clock: SimpleNamespace,
) -> None:
    case = factories.executing_case()
    due = case.due
    clock.ahead = timedelta(hours=-1)
    factories.work_off(case.runs.get())
    cases.send_answer(case_id=case.id, actor_member=factories.make_staff("officer"))
    case.refresh_from_db()
    assert case.due == due
    audit.verify_log()
    data = bundles.export(case)
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    assert verify(data, trust=trust).claim == "suppression-measured"


@pytest.mark.database
@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_lease_of_a_dead_worker_ends_however_the_clock_jumps(
    clock: SimpleNamespace, jump: timedelta
) -> None:
    run = factories.executing_case().runs.get()
    old = factories.take_lease(run)
    clock.ahead = jump
    assert runs.runs_to_wake() == [run.id]
    new = runs.lease_run(run_id=run.id, owner="worker-2")
    assert new is not None
    assert not runs.extend_lease(old)  # were it alive after all, it could write nothing more
    assert runs.extend_lease(new)
    assert runs.runs_to_wake() == []


def test_a_living_worker_keeps_its_lease_when_the_clock_jumps(clock: SimpleNamespace) -> None:
    run = factories.executing_case().runs.get()
    lease = factories.take_lease(run)
    clock.ahead = timedelta(hours=-1)
    assert runs.extend_lease(lease)
    assert runs.lease_run(run_id=run.id, owner="worker-2") is None


def test_a_run_queued_by_a_clock_that_was_ahead_is_woken(clock: SimpleNamespace) -> None:
    run = factories.executing_case().runs.get()
    clock.ahead = timedelta(hours=-1)
    assert runs.runs_to_wake() == [run.id]


@pytest.mark.database
@pytest.mark.parametrize("jump", [timedelta(hours=-1), timedelta(hours=1)])
def test_a_search_ends_once_however_the_clock_jumps(
    clock: SimpleNamespace, jump: timedelta, tmp_path: Path
) -> None:
    data = tmp_path / "crm.jsonl"
    data.write_text('{"id": "r-1", "text": "Ada Quillfeather of Testville"}\n')
    engineer, officer = (factories.make_staff(role) for role in ("engineer", "officer"))
    training.register_training_set(
        name="crm", location=str(data), id_field="id", actor_member=engineer
    )
    case = factories.case_in_review()
    (search,) = training.queue_searches(case_id=case.id, actor_member=officer)
    first = training.lease_search(search_id=search.id, owner="worker-1")
    assert first is not None
    clock.ahead = jump
    assert training.searches_to_wake() == [search.id]
    second = training.lease_search(search_id=search.id, owner="worker-2")
    assert second is not None
    match = training.FoundRecord("r-1", ("name",), 1, "…")
    with pytest.raises(LeaseLost):  # it only stood still, and may write nothing any more
        training.save_matches(first, records=1, found=[match])
    with pytest.raises(LeaseLost):
        training.end_search(first)
    clock.ahead = timedelta(0)
    training.save_matches(second, records=1, found=[match])
    assert training.searches_to_wake() == []
    assert training.lease_search(search_id=search.id, owner="worker-1") is None
    training.end_search(second)
    search.refresh_from_db()
    assert (search.state, search.leases, search.found) == ("done", 2, 1)
    assert RecordMatch.objects.count() == 1
