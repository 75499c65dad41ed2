"""Members of staff at the test client: logged in just now, and what they reveal."""

from __future__ import annotations

import time
from uuid import UUID

from allauth.account.internal.flows.login import (
    _AUTHENTICATION_METHODS_USER_SESSION_KEY as WHOSE,
)
from allauth.account.internal.flows.login import AUTHENTICATION_METHODS_SESSION_KEY as RECORDS
from django.test import Client
from django.urls import reverse

from requests_app import urls
from requests_app.models import Case, StaffMember


def as_staff(member: StaffMember, *revealed: Case) -> Client:
    """A browser of this member, authenticated a moment ago; they reveal the cases one by one."""
    client = Client()
    client.force_login(member)
    authenticate(client, member)
    for case in revealed:
        reveal(client, case)
    return client


def authenticate(client: Client, member: StaffMember, *, ago: float = 0) -> None:
    """As if the member had entered their password again, `ago` seconds before now."""
    session = client.session
    record = {"method": "password", "at": time.time() - ago, "reauthenticated": True}
    session[RECORDS], session[WHOSE] = [record], str(member.pk)
    session.save()


def page_addresses(case: Case) -> dict[str, str]:
    """Every staff page by its name, for a case with a run and a letter."""
    known = {
        "reference": case.reference,
        "run_id": case.runs.order_by("pk")[0].pk,
        "letter_id": case.letters.order_by("pk")[0].pk,
        "name": "bundle",
        "kind": "svg",
        "pseudonym": UUID(int=0),
        "job_id": UUID(int=0),
        "consolidation_id": UUID(int=0),
        "recipient_id": 0,
        "notice_id": 0,
        "item_id": 0,
        "digest": "0" * 64,
    }
    pages = [page for page in urls.urlpatterns if str(page.pattern).startswith("app/")]
    return {
        str(page.name): reverse(
            str(page.name), kwargs={key: known[key] for key in page.pattern.converters}
        )
        for page in pages
    }


def reveal(client: Client, case: Case) -> None:
    """Say why on the reveal page, as a person does."""
    path = f"/app/cases/{case.reference}/reveal"
    response = client.post(path, {"reason": "decision", "text": ""})
    assert response.status_code == 302, response.status_code
