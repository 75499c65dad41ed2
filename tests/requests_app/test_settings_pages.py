"""The settings pages: what is set, which variable sets it, and nothing secret."""

from __future__ import annotations

import re
from datetime import timedelta
from html import unescape

import pytest
from django.conf import settings as django_settings
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import keys
from requests_app.models import AuditEntry, Case, StaffMember
from requests_app.models.people import Role
from requests_app.permissions import PAGES
from requests_app.services import holds, letter_texts
from tests import factories
from tests.requests_app.bundles import sign
from tests.requests_app.test_staff_pages import text
from tests.staff import as_staff

pytestmark = pytest.mark.django_db


def test_an_administrator_reads_the_settings_and_no_case(officer: StaffMember) -> None:
    admin = factories.make_staff(Role.ADMINISTRATOR)
    index = text(as_staff(admin).get("/app/settings"))
    assert "/app/settings/roles" in index
    assert "/app/settings/retention" not in index
    assert as_staff(admin).get("/app/settings/retention").status_code == 403
    assert "/app/settings/retention" in text(as_staff(officer).get("/app/settings"))


def test_every_letter_is_listed_in_every_language_and_can_be_read(
    officer: StaffMember, settings: Settings
) -> None:
    settings.RTBF_REVIEWED_LETTERS_ONLY = True
    client = as_staff(officer)
    page = unescape(text(client.get("/app/settings/letters")))
    links = re.findall(r'href="(/app/settings/letters/\w+\?language=\w+)"', page)
    count = sum(len(letter_texts.kinds(code)) for code, _ in django_settings.LANGUAGES)
    assert len(links) == len(set(links)) == count
    assert "RTBF_REVIEWED_LETTERS_ONLY" in page
    assert "English is sent" in page
    for link in links:
        letter = client.get(link)
        assert letter.status_code == 200, link
        assert letter.context["wording"].missing == ()
        assert letter.context["wording"].text
    assert "Jane Example" in text(client.get("/app/settings/letters/refusal"))
    for unknown in ("refusal?language=xx", "no-such-letter", "recipient_notice?language=de"):
        assert client.get(f"/app/settings/letters/{unknown}").status_code == 404


def test_the_dry_run_names_what_would_go_and_changes_nothing(officer: StaffMember) -> None:
    old = timezone.now() - timedelta(days=200)
    going, held = factories.open_case(received_at=old).case, factories.completed_case()
    Case.objects.filter(pk=held.pk).update(completed_at=old)
    holds.place_hold(
        case_id=held.pk, reason="A claim.", until=timezone.localdate(), actor_member=officer
    )
    before = AuditEntry.objects.count()
    page = unescape(text(as_staff(officer).get("/app/settings/retention")))
    assert "Never confirmed: 1. Closed: 0. Stopped: 1." in page
    assert re.search(
        rf"{going.reference}.*Never confirmed.*{held.reference}.*legal hold", page, re.S
    )
    assert "RTBF_KEEP_CLOSED_DAYS" in page
    assert AuditEntry.objects.count() == before


def test_an_example_date_is_counted_by_each_law_in_words(
    officer: StaffMember, settings: Settings
) -> None:
    client = as_staff(officer)
    page = unescape(text(client.get("/app/settings/deadlines?received=2026-03-05")))
    assert "a Sunday (Easter Sunday). 6 April 2026 is Easter Monday." in page
    assert "45 days from 5 March 2026 end on" in page
    assert re.search(r'data-profile="EU/2026-1">.*?New cases', page, re.S)
    wrong = client.get("/app/settings/deadlines?received=32nd")
    assert wrong.status_code == 422
    assert "There is a problem" in text(wrong)


def test_the_table_of_roles_is_the_one_the_pages_obey(auditor: StaffMember) -> None:
    page = text(as_staff(auditor).get("/app/settings/roles"))
    assert page.count('<tr><th scope="row">') == len(PAGES)
    row = re.findall(r"<tr>.*?/app/settings/retention.*?</tr>", page, re.S)[-1]
    said = [word == "Yes" for word in re.findall(r"hidden\">(Yes|No)<", row.rpartition("<tr>")[2])]
    assert said == [role in PAGES["settings_retention"] for role in Role]


def test_keys_are_shown_by_fingerprint_and_tree_size_and_nothing_secret(
    engineer: StaffMember, settings: Settings
) -> None:
    factories.confirmed_case()
    attest = keys.attest_key()
    sign()
    page = unescape(text(as_staff(engineer).get("/app/settings/system")))
    assert attest.name in page
    assert "from " in page
    secret = attest.private.private_bytes_raw().hex()
    for hidden in (settings.SECRET_KEY, settings.RTBF_GATE_KEY, secret, "PRIVATE KEY"):
        assert hidden not in page
    assert "Signed up to" in page
