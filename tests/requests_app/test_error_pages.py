"""Error pages: each says what to do, and renders when little else works."""

from __future__ import annotations

import re

import pytest
from django.conf import settings as django_settings
from django.core.exceptions import SuspiciousOperation
from django.template.loader import render_to_string
from django.test import Client, RequestFactory
from django.views import defaults
from django.views.csrf import csrf_failure
from pytest_django.fixtures import Settings

from requests_app import external, ratelimit
from tests import factories
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff

ALONE = ["400.html", "403_csrf.html", "500.html", "503.html"]


@pytest.mark.parametrize("name", ALONE)
def test_a_page_of_last_resort_needs_no_context_and_no_other_host(name: str) -> None:
    """No database either: this test has none, and a query would fail it."""
    page = render_to_string(name)
    assert len(re.findall("<h1", page)) == 1
    assert 'lang="' in page
    assert '<meta name="color-scheme" content="light dark">' in page
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)
    assert "{{" not in page
    for way in ("mailto:", "tel:"):  # nothing half empty where the context is missing
        assert f'"{way}"' not in page


def test_the_server_error_page_says_nothing_of_the_error_and_keeps_nothing() -> None:
    request = RequestFactory().post("/erasure/new/contact", {"name": factories.NAME})
    page = defaults.server_error(request).content.decode()
    assert factories.NAME not in page
    assert "may not be saved" in page


def test_without_a_database_every_address_answers_with_the_error_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No `django_db` mark: whatever asks the database fails, as it does when the server is gone.
    Once a checkpoint was signed, every page asks whether the database holds it."""
    monkeypatch.setattr(external, "why_behind", lambda size_of_log: f"{size_of_log()}")
    client = Client(raise_request_exception=False)
    for path in ("/", "/status", "/app/", "/not-there"):
        answer = client.get(path)
        assert answer.status_code == 500, path
        assert "Something went wrong" in text(answer)
        assert "Traceback" not in text(answer)


def test_a_request_that_cannot_be_read_and_a_forged_form_get_their_pages() -> None:
    request = RequestFactory().get("/")
    assert (
        "could not be read" in defaults.bad_request(request, SuspiciousOperation()).content.decode()
    )
    assert "reload the page" in csrf_failure(request).content.decode()


@pytest.mark.django_db
def test_too_many_tries_names_the_time_and_another_way(
    client: Client, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(ratelimit, "count", lambda *args, **kwargs: 10_000)
    answer = client.post("/status", {"reference": "x", "access_code": "y"})
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) >= 60
    assert re.search(r"wait \d+ minute", text(answer))
    assert settings.RTBF_CONTROLLER_PHONE in text(answer)


@pytest.mark.django_db
def test_an_unknown_address_leads_staff_back_to_their_work_and_others_to_the_start() -> None:
    officer = factories.make_staff("officer")
    assert 'href="/app/"' in main(text(as_staff(officer).get("/app/cases/ERQ-2026-999999")))
    assert 'href="/app/"' not in main(text(Client().get("/not-there")))


def main(page: str) -> str:
    return page.partition("<main")[2].partition("</main>")[0]


@pytest.mark.django_db
def test_a_refused_role_is_told_who_may_and_whom_to_ask() -> None:
    auditor = factories.make_staff("auditor")
    answer = as_staff(auditor).get("/app/cases/new")
    assert answer.status_code == 403
    assert "Your role is Auditor." in text(answer)
    assert "administrator" in main(text(answer))


def test_static_files_of_the_error_pages_need_no_manifest() -> None:
    """A missing manifest must not turn the page for errors into one."""
    backend = django_settings.STORAGES["staticfiles"]["BACKEND"]
    assert "Manifest" not in backend
