"""Staff pages in another language: what machines read of them, and every export, stays."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from django.conf import settings as django_settings
from django.test import Client

from requests_app import exports, permissions
from requests_app.models import Case
from requests_app.models.people import Role
from tests import factories
from tests.requests_app import bundles
from tests.staff import as_staff, page_addresses

pytestmark = pytest.mark.django_db

FORMS = {"value", "name", "id", "for", "href", "action", "method", "type", "datetime", "max", "min"}
SHAPES = {"viewbox", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "transform"}
SHAPES |= {"width", "height", "font-size", "stroke-width", "stroke-dasharray", "opacity"}
WORDS = {"data-label", "data-done", "data-lost", "data-stopped"}
PAIRS = {"points", "d"}
MOMENT = re.compile(r"(?<=since=)\d+")  # of the answer itself
READERS = (Role.OFFICER, Role.APPROVER, Role.ENGINEER, Role.ADMINISTRATOR)


class Machine(HTMLParser):
    """What is not for reading: fields, addresses, times, the shapes of figures."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[tuple[str, str, str]] = []
        self.commas: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get("name") == "csrfmiddlewaretoken":
            return
        for name, value in given.items():
            if name in WORDS:
                continue
            if name in FORMS or name.startswith(("data-", "hx-")):
                self.read.append((tag, name, MOMENT.sub("", value)))
            allowed = 1 if name in PAIRS else 0  # x,y
            if name in SHAPES | PAIRS and any(n.count(",") > allowed for n in value.split()):
                self.commas.append(f"<{tag} {name}={value}>")


def seen(page: str) -> Machine:
    machine = Machine()
    machine.feed(re.sub(r"since=\d+", "since=", page))
    return machine


@pytest.fixture
def case() -> Case:
    """Answered, and its bundle ready."""
    case = factories.completed_case()
    bundles.export(case)
    return case


def test_staff_choose_the_language_of_their_pages_and_their_browser_does_until_then() -> None:
    client = as_staff(factories.make_staff(Role.OFFICER))
    assert '<html lang="en"' in client.get("/app/").content.decode()
    first = client.get("/app/", headers={"Accept-Language": "de"}).content.decode()
    assert '<html lang="de"' in first
    assert 'name="language" value="fr"' not in first  # chosen under Preferences
    assert 'name="language" value="fr"' in client.get("/app/preferences").content.decode()
    client.post("/language", {"language": "fr", "next": "/app/"})
    chosen = client.get("/app/", headers={"Accept-Language": "de"}).content.decode()
    assert '<html lang="fr"' in chosen
    assert '<html lang="pl"' in in_language(Client(), "pl").get("/accounts/login/").content.decode()


def in_language(client: Client, language: str) -> Client:
    client.cookies[django_settings.LANGUAGE_COOKIE_NAME] = language
    return client


def test_every_staff_page_opens_in_german_and_only_its_words_differ(case: Case) -> None:
    clients = {role: as_staff(factories.make_staff(role), case) for role in READERS[:2]}
    clients |= {role: as_staff(factories.make_staff(role)) for role in READERS[2:]}
    opened = set()
    for name, path in page_addresses(case).items():
        role = next(role for role in READERS if role in permissions.PAGES[name])
        english = in_language(clients[role], "en").get(path)
        german = in_language(clients[role], "de").get(path)
        assert german.status_code == english.status_code, name
        if english.status_code != 200 or english.streaming or name == "export":
            continue
        opened.add(name)
        pages = english.content.decode(), german.content.decode()
        if "<html" in pages[1]:
            assert '<html lang="de"' in pages[1], name
        before, after = map(seen, pages)
        assert after.commas == [], name
        assert after.read == before.read, name
    assert {"case", "queue", "today", "run", "run_evidence", "audit", "staff", "reports"} <= opened
    assert len(opened) >= 15


def test_the_exports_of_a_case_are_the_same_bytes_in_every_language(case: Case) -> None:
    client = as_staff(factories.make_staff(Role.OFFICER))
    for name in exports.names(exports.CASE):
        path = f"/app/cases/{case.reference}/exports/{name}"
        english, german = (in_language(client, code).get(path) for code in ("en", "de"))
        assert english.status_code == 200
        assert german.content == english.content, name
