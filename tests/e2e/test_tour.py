"""The pictures of docs/tour.md, taken on a sample.

`RTBF_TOUR=1 python -m pytest tests/e2e/test_tour.py` writes them to docs/tour/, else they go to
var/screenshots/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from django.conf import settings as django_settings
from playwright.sync_api import Page

from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import Case, ErasureRun, Release, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import serving
from rtbf.sample import ENDINGS, make_sample
from rtbf.sample_runs import MODEL
from tests import factories

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

TOUR = Path(django_settings.BASE_DIR) / "docs" / "tour.md"
LARGEST = 80_000  # bytes of a picture
WIDTH, HEIGHT = 960, 560


def folder() -> Path:
    wanted = TOUR.parent / "tour" if os.environ.get("RTBF_TOUR") else None
    return wanted or Path(django_settings.BASE_DIR) / "var" / "screenshots"


def test_the_pictures_of_the_tour(open_window: Callable[..., Page]) -> None:
    make_sample(count=len(ENDINGS) + 10)
    live = Release.objects.get(model_name=MODEL, is_live=True)
    serving.note_served(process="gateway-1", kind="gateway", model_name=MODEL, digest=live.digest)
    proposed = Case.objects.filter(status=CaseStatus.AWAITING_APPROVAL, holds=None).latest("due")
    completed = Case.objects.filter(status=CaseStatus.COMPLETED).latest("completed_at")
    measured = ErasureRun.objects.filter(verdict=Verdict.WITHIN).latest("finished_at")
    at_work = ErasureRun.objects.get(state=RunState.RUNNING)
    officer, approver = (StaffMember.objects.get(username=n) for n in ("officer", "approver"))
    engineer, auditor = factories.make_staff("engineer"), factories.make_staff("auditor")
    visits: list[tuple[str, StaffMember | None, str]] = [
        ("start", None, "/"),
        ("today", officer, "/app/"),
        ("queue", officer, "/app/cases"),
        ("case", officer, f"/app/cases/{completed.reference}"),
        ("approval", approver, f"/app/cases/{proposed.reference}/approval"),
        ("run", engineer, f"/app/runs/{at_work.pk}"),
        ("releases", engineer, "/app/releases"),
        ("evidence", auditor, f"/app/runs/{measured.pk}/evidence"),
        ("audit", auditor, "/app/audit"),
    ]
    folder().mkdir(parents=True, exist_ok=True)
    for number, (name, member, path) in enumerate(visits, start=1):
        revealed = [proposed] if name == "approval" else []
        page = open_window(member=member, revealed=revealed, width=WIDTH)
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        response = page.goto(path)
        assert response is not None
        assert response.status == 200, path
        picture = folder() / f"{number}-{name}.png"
        page.screenshot(path=str(picture))
        assert picture.stat().st_size < LARGEST, picture.name
        assert f"tour/{picture.name}" in TOUR.read_text()
        page.context.close()


def test_the_tour_shows_the_pictures_that_are_there() -> None:
    shown = set(re.findall(r"\]\(tour/([\w-]+\.png)\)", TOUR.read_text()))
    assert shown == {path.name for path in (TOUR.parent / "tour").glob("*.png")}
