"""Exports made by jobs: asked once, made under a lease, digest logged, gone after a week."""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.conf import settings
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import export_files, exports, extract, tasks
from requests_app.actors import staff_actor
from requests_app.exports import register_json
from requests_app.extract import Extract
from requests_app.models import AuditEntry, ExportJob, Release, StaffMember
from requests_app.services import export_jobs
from requests_app.services.errors import Invalid, LeaseLost, NotAllowed, NotFound
from requests_app.services.export_jobs import ExportLease
from requests_app.services.leases import WAKE_AFTER
from tests import factories

pytestmark = [pytest.mark.django_db, pytest.mark.database]

Messages = Callable[[str], list[dict[str, Any]]]


def ask(member: StaffMember, export: str = "register_json", **changes: Any) -> ExportJob:
    today = timezone.localdate()
    values = {"level": "authority", "first": date(today.year, 1, 1), "last": today, **changes}
    return export_jobs.ask_export(export=export, actor_member=member, **values)


def make(job: ExportJob) -> ExportJob:
    export_files.make(job.id, owner="worker-1")
    return ExportJob.objects.get(pk=job.pk)


def take(job: ExportJob, owner: str = "worker-1") -> ExportLease:
    lease = export_jobs.lease_export(job_id=job.id, owner=owner)
    assert lease is not None
    return lease


def expire(job: ExportJob) -> None:
    ExportJob.objects.filter(pk=job.pk).update(lease_expires_at=timezone.now() - timedelta(1))


def entries(kind: str) -> list[dict[str, Any]]:
    rows = AuditEntry.objects.filter(type=kind).order_by("seq")
    return [json.loads(bytes(row.body)) for row in rows]


def files() -> set[str]:
    folder = settings.RTBF_VAR_DIR / "exports"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


# --- From asking to the file --------------------------------------------------------------------
def test_asking_is_one_entry_and_one_message_with_an_id(
    auditor: StaffMember, queue_messages: Messages
) -> None:
    with factories.on_commit():
        job = ask(auditor)
    (entry,) = entries("export.requested")
    assert entry["actor"] == staff_actor(auditor).name == job.asked_by
    assert (entry["data"]["job"], entry["data"]["export"]) == (str(job.id), "register_json")
    (message,) = queue_messages("legal")
    assert (message["task"], message["args"]) == ("requests_app.make_export", [str(job.id)])


@pytest.mark.parametrize("name", exports.names(exports.RECORD, exports.RELEASE))
def test_every_export_is_made_and_its_digest_logged(name: str, auditor: StaffMember) -> None:
    factories.completed_case()
    release = None
    if exports.load_job(name).OF == exports.RELEASE:
        release = Release.objects.get(is_live=True).digest
    job = make(ask(auditor, name, release=release))
    data = export_jobs.file_of(job.id).read_bytes()
    assert (job.state, job.error, job.size) == ("done", "", len(data))
    assert job.sha256 == hashlib.sha256(data).hexdigest()
    assert entries("export.made")[0]["data"] == {
        "job": str(job.id),
        "export": name,
        "sha256": job.sha256,
        "bytes": len(data),
    }
    assert files() == {str(job.id)}


def test_the_file_is_the_export(auditor: StaffMember) -> None:
    factories.completed_case()
    job = make(ask(auditor))
    pieces = register_json.render(extract.gather(job))
    assert export_jobs.file_of(job.id).read_bytes() == b"".join(pieces)


def test_the_task_makes_it_and_a_second_message_does_nothing(auditor: StaffMember) -> None:
    job = ask(auditor, "statistics_json")
    tasks.make_export(str(job.id))
    tasks.make_export(str(job.id))
    assert len(entries("export.made")) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"first": date(2026, 2, 1), "last": date(2026, 1, 1)}, "after its last"),
        ({"last": date(2999, 1, 1)}, "in the future"),
        ({"level": "public", "first": date(2026, 1, 2), "last": date(2026, 1, 31)}, "whole months"),
        ({"level": "public", "first": date(2026, 1, 1), "last": date(2026, 1, 30)}, "whole months"),
        ({"level": "everybody"}, "no such export"),
        ({"export": "../secret"}, "no such export"),
        ({"release": "0" * 64}, "no release"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    changes: dict[str, Any], reason: str, auditor: StaffMember
) -> None:
    with pytest.raises(Invalid, match=reason):
        ask(auditor, **changes)
    assert not ExportJob.objects.exists()
    assert entries("export.requested") == []


def test_the_public_gets_no_month_that_has_not_ended(auditor: StaffMember) -> None:
    today = timezone.localdate()
    this_month = today.replace(day=1)
    with pytest.raises(Invalid):
        ask(auditor, "statistics_json", level="public", first=this_month, last=today)
    before = this_month - timedelta(days=1)
    job = ask(auditor, "statistics_json", level="public", first=before.replace(day=1), last=before)
    assert make(job).state == "done"


def test_engineers_and_intake_ask_for_nothing(
    engineer: StaffMember, intake_clerk: StaffMember
) -> None:
    for member in (engineer, intake_clerk):
        with pytest.raises(NotAllowed):
            ask(member)


# --- Killed, lost, doubled ----------------------------------------------------------------------
def test_progress_is_told_while_it_is_made(
    auditor: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        factories.open_case()
    monkeypatch.setattr(extract, "PAGE", 2)
    monkeypatch.setattr(export_files, "EVERY", 0.0)
    seen: list[tuple[int, int]] = []
    original = export_jobs.report_rows

    def report(lease: ExportLease, *, done: int, total: int) -> None:
        original(lease, done=done, total=total)
        seen.append(ExportJob.objects.values_list("done", "total").get())

    monkeypatch.setattr(export_jobs, "report_rows", report)
    make(ask(auditor))
    assert seen == [(2, 5), (4, 5), (5, 5)]


class Killed(BaseException):
    """The worker was killed: nothing is caught or cleaned up."""


def test_a_killed_worker_leaves_no_finished_file_and_the_next_one_starts_again(
    auditor: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.completed_case()

    def dying(source: Extract) -> Iterator[bytes]:
        yield b"half"
        raise Killed

    job = ask(auditor)
    with monkeypatch.context() as patch:
        patch.setattr(register_json, "render", dying)
        with pytest.raises(Killed):
            make(job)
    assert not export_jobs.file_of(job.id).exists()
    assert make(job).state == "running"  # still leased
    expire(job)
    assert export_jobs.exports_to_wake() == [job.id]
    made = make(job)
    assert (made.state, made.leases) == ("done", 2)
    assert json.loads(export_jobs.file_of(job.id).read_bytes())
    export_jobs.remove_old_exports()
    assert files() == {str(job.id)}  # what the killed one left is gone


def test_a_worker_that_lost_its_lease_never_replaces_the_file_of_another(
    auditor: StaffMember,
) -> None:
    job = ask(auditor)
    stale = take(job)
    export_jobs.partial_file(stale).write_bytes(b"stale")
    expire(job)
    made = make(job)
    with pytest.raises(LeaseLost):
        export_jobs.report_rows(stale, done=1, total=1)
    with pytest.raises(LeaseLost):
        export_jobs.finish_export(stale, sha256="0" * 64, size=5)
    assert hashlib.sha256(export_jobs.file_of(job.id).read_bytes()).hexdigest() == made.sha256
    assert len(entries("export.made")) == 1


def test_a_job_that_keeps_dying_fails_in_the_end(auditor: StaffMember, settings: Settings) -> None:
    settings.RTBF_MAX_LEASES = 2
    job = ask(auditor)
    for _ in range(2):
        take(job)
        expire(job)
    assert export_jobs.lease_export(job_id=job.id, owner="worker-2") is None
    job.refresh_from_db()
    assert (job.state, job.error) == ("failed", "too_many_leases")
    assert entries("export.failed")[0]["data"]["error"] == "too_many_leases"


@pytest.mark.parametrize(
    ("export", "problem", "error"),
    [("no_such_export", None, "unknown_export"), ("register_json", OSError, "cannot_write")],
)
def test_what_cannot_be_made_fails_with_a_code(
    export: str,
    problem: type[OSError] | None,
    error: str,
    auditor: StaffMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(source: Extract) -> Iterator[bytes]:
        raise OSError("No space left on device")
        yield b""

    if problem:
        monkeypatch.setattr(register_json, "render", full)
    job = make(ask(auditor, export))
    assert (job.state, job.error) == ("failed", error)
    assert not export_jobs.file_of(job.id).exists()


def test_waiting_jobs_are_woken_by_the_sweep(
    auditor: StaffMember, queue_messages: Messages
) -> None:
    job = ask(auditor)
    assert export_jobs.exports_to_wake() == []  # its own message is on the way
    ExportJob.objects.update(created_at=timezone.now() - WAKE_AFTER * 2)
    tasks.sweep_exports()
    (message,) = queue_messages("legal")
    assert message["args"] == [str(job.id)]
    assert message["raw"].headers["expires"] is not None


# --- The file's life ----------------------------------------------------------------------------
def test_a_download_is_logged_with_who_took_what(auditor: StaffMember) -> None:
    job = make(ask(auditor, "statistics_json"))
    path = export_jobs.record_download(job_id=job.id, actor=staff_actor(auditor))
    assert path.exists()
    (entry,) = entries("export.downloaded")
    assert (entry["actor"], entry["data"]["sha256"]) == (staff_actor(auditor).name, job.sha256)


def test_there_is_nothing_to_download_before_the_end_or_on_another_machine(
    auditor: StaffMember,
) -> None:
    job = ask(auditor)
    actor = staff_actor(auditor)
    for job_id in (job.id, uuid4()):
        with pytest.raises(NotFound):
            export_jobs.record_download(job_id=job_id, actor=actor)
    make(job)
    export_jobs.file_of(job.id).unlink()
    with pytest.raises(NotFound):
        export_jobs.record_download(job_id=job.id, actor=actor)
    assert entries("export.downloaded") == []


def test_files_go_after_a_week_and_the_row_stays(auditor: StaffMember) -> None:
    old, new = make(ask(auditor)), make(ask(auditor))
    long_ago = timezone.now() - timedelta(days=7, minutes=1)
    ExportJob.objects.filter(pk=old.pk).update(finished_at=long_ago)
    stray = settings.RTBF_VAR_DIR / "exports" / f"{UUID(int=1)}.3"
    stray.write_bytes(b"left by a killed worker")
    running = take(ask(auditor))
    export_jobs.partial_file(running).write_bytes(b"being written")
    tasks.remove_exports()
    tasks.remove_exports()
    assert files() == {str(new.id), export_jobs.partial_file(running).name}
    old.refresh_from_db()
    assert old.removed_at is not None
    assert old.sha256
    assert [entry["data"]["job"] for entry in entries("export.removed")] == [str(old.id)]
    with pytest.raises(NotFound):
        export_jobs.record_download(job_id=old.id, actor=staff_actor(auditor))


def test_nobody_else_may_read_the_folder_and_no_name_says_what_is_in_a_file(
    auditor: StaffMember,
) -> None:
    job = make(ask(auditor))
    folder = settings.RTBF_VAR_DIR / "exports"
    assert folder.stat().st_mode & 0o077 == 0
    assert files() == {str(job.id)}
