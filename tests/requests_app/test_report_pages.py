"""The page on which exports of the record are asked for, followed and taken."""

import hashlib
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.http import HttpResponse
from django.test import AsyncClient
from django.utils import timezone

from requests_app import export_files
from requests_app.models import AuditEntry, ExportJob, Release, StaffMember
from requests_app.models.people import Role
from requests_app.views import reports
from tests import factories
from tests.staff import as_staff

pytestmark = pytest.mark.django_db

PAGE = "/app/exports"


def text(response: HttpResponse) -> str:
    return response.content.decode()


def fields(**changes: Any) -> dict[str, Any]:
    today = timezone.localdate()
    values = {
        "of": "record",
        "export": "register_csv",
        "level": "authority",
        "first": f"{today.year}-01-01",
        "last": today.isoformat(),
    }
    return {**values, **changes}


def make_all() -> None:
    for job in ExportJob.objects.filter(state="queued"):
        export_files.make(job.id, owner="worker-1")


def test_officers_approvers_and_auditors_see_the_page_and_nobody_else() -> None:
    for role in Role:
        client = as_staff(factories.make_staff(role))
        allowed = role in (Role.OFFICER, Role.APPROVER, Role.AUDITOR)
        assert client.get(PAGE).status_code == (200 if allowed else 403)
        assert client.get(f"{PAGE}/jobs").status_code == (200 if allowed else 403)
        assert client.post(PAGE, fields()).status_code == (302 if allowed else 403)
        assert ('href="/app/exports"' in text(client.get("/app/"))) == allowed
    assert ExportJob.objects.count() == 3


def test_an_export_is_asked_for_followed_and_taken_without_a_script(auditor: StaffMember) -> None:
    case = factories.completed_case()
    client = as_staff(auditor)
    assert "None yet" in text(client.get(PAGE))
    assert client.post(PAGE, fields()).url == PAGE  # type: ignore[attr-defined]
    waiting = text(client.get(PAGE))
    assert 'http-equiv="refresh"' in waiting
    assert 'data-state="queued"' in waiting
    ExportJob.objects.update(state="running", done=3, total=10)
    for polled in (PAGE, f"{PAGE}/jobs"):
        page = text(client.get(polled))
        assert '<progress max="10" value="3"' in page
        assert 'hx-get="/app/exports/jobs"' in page
    ExportJob.objects.update(state="queued")
    make_all()
    ready = text(client.get(PAGE))
    assert "hx-get" not in ready
    assert 'http-equiv="refresh"' not in ready
    (address,) = re.findall(r'href="(/app/exports/[0-9a-f-]{36})"', ready)
    response = client.get(address)
    assert response.status_code == 200
    content = b"".join(response.streaming_content)  # type: ignore[attr-defined]
    assert case.reference.encode() in content
    assert response["Content-Length"] == str(len(content))
    assert response["Content-Type"].startswith("text/csv")
    assert re.fullmatch(
        r'attachment; filename="register_csv-authority-[\d-]+\.csv"',
        response["Content-Disposition"],
    )
    last = AuditEntry.objects.order_by("seq").last()
    assert last is not None
    assert last.type == "export.downloaded"


def test_under_asgi_a_file_is_sent_piece_by_piece(
    auditor: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    factories.completed_case()
    as_staff(auditor).post(PAGE, fields())
    make_all()
    monkeypatch.setattr(reports, "PIECE", 100)
    client = AsyncClient()
    client.force_login(auditor)
    job_id = ExportJob.objects.get().id

    async def pieces() -> list[bytes]:
        response = await client.get(f"{PAGE}/{job_id}")
        return [piece async for piece in response.streaming_content]  # type: ignore[attr-defined]

    sent = async_to_sync(pieces)()
    assert len(sent) > 1
    assert hashlib.sha256(b"".join(sent)).hexdigest() == ExportJob.objects.get().sha256


def test_a_release_is_exported_from_its_own_form(auditor: StaffMember) -> None:
    client = as_staff(auditor)
    assert "There is no release yet" in text(client.get(PAGE))
    factories.completed_case()
    release = Release.objects.get(is_live=True)
    client.post(PAGE, {"of": "release", "export": "model_bom", "release": release.digest})
    make_all()
    job = ExportJob.objects.get()
    assert (job.state, job.release_id) == ("done", release.digest)
    response = client.get(f"{PAGE}/{job.id}")
    assert f"model_bom-{release.digest[:12]}.cdx.json" in response["Content-Disposition"]
    bom = json.loads(b"".join(response.streaming_content))  # type: ignore[attr-defined]
    assert bom["bomFormat"] == "CycloneDX"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": "public"}, "This export is made for: Authority, Internal"),
        ({"export": ""}, "Select what is to be exported"),
        ({"export": "bundle"}, "Select one of the exports given"),
        ({"first": "yesterday"}, "Enter the date as year-month-day"),
        ({"last": "2999-01-01"}, "The period ends in the future."),
        ({"export": "statistics_csv", "level": "public"}, "whole months that have ended"),
        ({"of": "release", "export": "model_bom", "release": "0"}, "Select one of the releases"),
    ],
)
def test_what_does_not_fit_is_said_in_the_form(
    changes: dict[str, str], message: str, auditor: StaffMember
) -> None:
    factories.completed_case()
    page = text(as_staff(auditor).post(PAGE, fields(**changes)))
    assert "There is a problem" in page
    assert message in page
    assert not ExportJob.objects.exists()


def test_every_export_of_the_record_is_on_offer_with_its_levels(auditor: StaffMember) -> None:
    page = text(as_staff(auditor).get(PAGE))
    assert "Register of cases (CSV). For: Authority, Internal" in page
    assert "Statistics of a period (JSON). For: Public, Authority" in page
    assert "Evidence bundle" not in page


def test_a_file_that_is_gone_or_never_was_is_not_found(auditor: StaffMember) -> None:
    client = as_staff(auditor)
    client.post(PAGE, fields())
    job = ExportJob.objects.get()
    assert client.get(f"{PAGE}/{job.id}").status_code == 404
    make_all()
    ExportJob.objects.update(removed_at=timezone.now(), finished_at=timezone.now() - timedelta(8))
    assert client.get(f"{PAGE}/{job.id}").status_code == 404
    assert "Removed after 7 days" in text(client.get(PAGE))
    ExportJob.objects.update(export="gone_export")
    assert client.get(f"{PAGE}/{job.id}").status_code == 404
    assert "gone_export" in text(client.get(PAGE))
