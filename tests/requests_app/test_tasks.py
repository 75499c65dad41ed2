"""Tasks of the legal queue, and the wake-up messages."""

import json
import stat
from datetime import timedelta
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from celery import Celery
from django.core import mail
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import tasks, vault
from requests_app.models import Draft, ErasureRun, StaffMember
from requests_app.services import wake
from requests_app.services.leases import WAKE_AFTER
from rtbf import celery_app
from tests import factories

pytestmark = pytest.mark.django_db


def test_the_sweep_wakes_waiting_runs_by_id_with_messages_that_expire() -> None:
    run = factories.executing_case().runs.get()
    ErasureRun.objects.update(created_at=timezone.now() - WAKE_AFTER * 2)
    tasks.sweep_runs()
    (message,) = factories.take_messages("model")
    assert (message["task"], message["args"]) == ("workers.run_erasure", [str(run.id)])
    assert message["raw"].headers["expires"] is not None


def test_the_mail_task_sends_codes_and_letters_that_wait() -> None:
    case = factories.open_case().case
    factories.open_case(channel="phone")
    tasks.send_letters()
    assert len(mail.outbox) == 2
    assert not vault.has(case, "code")


def test_beat_starts_tasks_that_exist_and_reminds_staff_every_hour(settings: Settings) -> None:
    schedule = settings.CELERY_BEAT_SCHEDULE
    celery_app.loader.import_default_modules()
    assert {entry["task"] for entry in schedule.values()} <= set(celery_app.tasks)
    assert schedule["remind-staff"] == {"task": "requests_app.remind_staff", "schedule": 3600}


def test_the_purge_task_deletes_old_drafts_only() -> None:
    old, new = vault.save_draft(None, {}), vault.save_draft(None, {})
    Draft.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=2))
    tasks.purge_drafts()
    assert list(Draft.objects.all()) == [new]


def test_only_ids_go_through_the_queue() -> None:
    with pytest.raises(ValueError, match="only ids"):
        wake.send("workers.run_erasure", factories.NAME)  # type: ignore[arg-type]
    assert factories.take_messages("legal") == []


def test_a_queue_that_is_away_does_not_undo_the_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = Celery("away", broker="redis://127.0.0.1:1/0")
    away.conf.broker_transport_options = {"max_retries": 1, "interval_start": 0}
    away.set_current()
    try:
        wake.send("workers.run_erasure", uuid4(), queue="model")
    finally:
        celery_app.set_current()
    assert "The queue cannot be reached" in caplog.text


# --- Staff accounts -----------------------------------------------------------------------------
def create_staff(*args: str) -> str:
    out = StringIO()
    call_command("create_staff", *args, stdout=out)
    return out.getvalue()


def test_the_demonstration_accounts_are_made_once_and_told_each_time(vault_keys: Path) -> None:
    first = json.loads(create_staff("--demo", "--json"))["staff"]
    assert json.loads(create_staff("--demo", "--json"))["staff"] == first
    roles = ["officer", "approver", "engineer", "auditor", "administrator"]
    assert [login["role"] for login in first] == roles
    for login in first:
        member = StaffMember.objects.get(username=login["username"])
        assert member.check_password(login["password"])
        assert member.role == login["role"]
        assert not member.is_superuser
    assert stat.S_IMODE((vault_keys / "demo_staff.json").stat().st_mode) == 0o600


def test_demonstration_accounts_are_refused_where_there_is_no_demonstration(
    settings: Settings,
) -> None:
    settings.RTBF_DEMO_DATA = False
    with pytest.raises(CommandError, match="RTBF_DEMO_DATA"):
        create_staff("--demo")


def test_one_account_with_a_given_or_a_generated_password(monkeypatch: pytest.MonkeyPatch) -> None:
    made = json.loads(create_staff("--role", "auditor", "--username", "ana", "--json"))["staff"][0]
    assert StaffMember.objects.get(username="ana").check_password(made["password"])
    assert "(unchanged)" in create_staff("--role", "auditor", "--username", "ana")
    monkeypatch.setenv("RTBF_STAFF_PASSWORD", "a password of ours")
    create_staff("--role", "officer", "--username", "bo")
    assert StaffMember.objects.get(username="bo").check_password("a password of ours")


def test_accounts_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="--demo"):
        create_staff()
    create_staff("--role", "auditor", "--username", "ana")
    with pytest.raises(CommandError, match="role auditor"):
        create_staff("--role", "approver", "--username", "ana")
    monkeypatch.setenv("RTBF_STAFF_PASSWORD", "short")
    with pytest.raises(CommandError, match="RTBF_STAFF_PASSWORD"):
        create_staff("--role", "officer", "--username", "cy")
