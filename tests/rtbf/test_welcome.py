"""The newcomer's page shows passwords: in a demonstration, to this machine, and nowhere else."""

from __future__ import annotations

from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client
from pytest_django.fixtures import Settings

from requests_app.models import StaffMember
from rtbf.management.commands.run import begin_here
from rtbf.stack import Stack
from tests.requests_app.test_staff_pages import text

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _demo_staff() -> None:
    call_command("create_staff", "--demo", stdout=StringIO())


def test_it_leads_to_every_role_with_its_log_in() -> None:
    client = Client()
    page = text(client.get("/welcome"))
    assert page.count("data-role=") == 5
    assert "make sample" in page
    assert 'href="/app/"' in page
    row = page.partition('data-role="officer"')[2].partition("</tr>")[0]
    password = row.rpartition("<code>")[2].partition("</code>")[0]
    assert StaffMember.objects.get(username="officer").check_password(password)


@pytest.mark.parametrize(
    ("change", "address"),
    [({"RTBF_PRODUCTION": True}, "127.0.0.1"), ({"RTBF_DEMO_DATA": False}, "127.0.0.1"),
     ({}, "192.0.2.7"), ({}, "")],
)  # fmt: skip
def test_it_is_not_there_for_anybody_else(
    settings: Settings, change: dict[str, bool], address: str
) -> None:
    for name, value in change.items():
        setattr(settings, name, value)
    response = Client().get("/welcome", REMOTE_ADDR=address)
    assert response.status_code == 404
    assert "data-role" not in text(response)


def test_make_run_ends_on_it_with_the_log_ins(
    monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    told = StringIO()
    call_command("create_staff", "--demo", "--json", stdout=told)
    monkeypatch.setattr(Stack, "manage", lambda self, *arguments: told.getvalue())
    env = {"RTBF_GATEWAY_URL": "http://127.0.0.1:8010"}
    stack = Stack(url="http://127.0.0.1:8000", var_dir=settings.RTBF_VAR_DIR, env=env)
    lines = begin_here(stack)
    assert lines[0] == "Ready. Begin at http://127.0.0.1:8000/welcome"
    assert sum("log-in" in line for line in lines) == 5
    settings.RTBF_DEMO_DATA = False
    assert not any("log-in" in line or "welcome" in line for line in begin_here(stack))
