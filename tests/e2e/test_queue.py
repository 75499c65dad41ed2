"""What the queue does in a browser alone: keys, the search box, the notice of changes, colours."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from requests_app.models import Case, StaffMember
from tests import factories
from tests.e2e.pages import Window

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_rows_and_search_are_reached_by_keys_unless_switched_off(
    open_window: Window, officer: StaffMember
) -> None:
    first = factories.confirmed_case(received_at=timezone.now() - timedelta(days=20))
    second = factories.confirmed_case()
    page = open_window(member=officer)
    page.goto("/app/cases")
    for key, case in (("j", first), ("j", second), ("k", first)):
        page.keyboard.press(key)
        expect(page.get_by_role("link", name=case.reference)).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.type(second.reference[:-1])
    expect(page.locator("#palette-hits a")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("g")
    page.keyboard.press("t")
    expect(page.get_by_role("heading", level=1)).to_have_text("Today")
    page.goto("/app/preferences")
    page.get_by_label("Dark").check()
    page.get_by_role("checkbox", name="Keyboard shortcuts").uncheck()
    page.get_by_role("button", name="Save").click()
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.keyboard.press("/")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Control+k")
    expect(page.get_by_role("dialog")).to_be_visible()


def test_what_changed_is_told_and_rows_stay(open_window: Window, officer: StaffMember) -> None:
    case = factories.confirmed_case()
    page = open_window(member=officer)
    page.goto("/app/cases")
    Case.objects.get(pk=case.pk).save()
    expect(page.get_by_text("1 case changed.")).to_be_visible(timeout=15_000)
    expect(page.locator("#queue tbody tr")).to_have_count(1)
