"""The case page and the settings in a browser: barriers, width, print, keyboard."""

from __future__ import annotations

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from requests_app import keys
from requests_app.models import ErasureRun, RunEvent, StaffMember
from requests_app.services import notes
from tests import factories
from tests.e2e.pages import Picture, Window, barriers, check_everywhere, too_wide
from tests.requests_app import bundles

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


def test_case_pages_have_no_barriers(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    done = factories.completed_case()
    notes.add_note(case_id=done.id, text="Called on Monday.", actor_member=officer)
    running = factories.executing_case()
    run = running.runs.get()
    factories.take_lease(run)
    ErasureRun.objects.filter(pk=run.pk).update(phase="train")
    RunEvent.objects.create(run=run, seq=0, at=timezone.now(), phase="train", step=30, total=120)
    late = factories.confirmed_case(received_at=timezone.now() - factories.timedelta(days=45))
    refused = factories.propose(factories.case_in_review(), outcome="refused")
    paths = [
        f"/app/cases/{done.reference}?print=1",
        *(f"/app/cases/{each.reference}" for each in (running, late, refused, done)),
        f"/app/cases/{refused.reference}/approval",
        f"/app/cases/{late.reference}/decision",  # 409
        f"/app/cases/{late.reference}/notes",
        "/app/cases/ERQ-2026-999999",
        "/app/staff",  # 403
    ]
    check_everywhere(open_window, picture, paths, member=officer, revealed=[done, refused])


def test_settings_and_registers_have_no_barriers(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    factories.open_case(received_at=timezone.now() - factories.timedelta(days=45))
    keys.attest_key()
    bundles.sign()
    parts = ("", "/letters", "/letters/refusal", "/retention", "/deadlines", "/roles", "/system")
    paths = [f"/app/settings{part}" for part in parts]
    paths += ["/app/settings/deadlines?received=2026-03-31", "/app/training", "/app/recipients"]
    paths += ["/app/recipients/new"]
    check_everywhere(open_window, picture, paths, member=officer)


def test_on_paper_nothing_of_the_person_is_left(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    case = factories.completed_case()
    notes.add_note(case_id=case.id, text="Called on Monday.", actor_member=officer)
    page = open_window(member=officer, revealed=[case])
    page.goto(f"/app/cases/{case.reference}")
    expect(page.locator("#person")).to_be_visible()
    page.emulate_media(media="print")
    for hidden in ("#person", "#notes", "#note-form", "#revealed"):
        expect(page.locator(hidden)).to_be_hidden()
    paper = page.locator("main").inner_text()
    assert not [canary for canary in factories.CANARIES if canary in paper]
    assert "Personal data is not printed." in paper
    picture(page, "staff-case-paper")


def test_the_case_page_works_without_script_and_by_its_anchors(
    open_window: Window, officer: StaffMember
) -> None:
    case = factories.confirmed_case()
    page = open_window(member=officer, revealed=[case], script=False)
    page.goto(f"/app/cases/{case.reference}")
    expect(page.get_by_role("button", name="Copy")).to_have_count(0)  # a script makes it
    page.get_by_role("link", name="Timeline").click()
    assert page.url.endswith("#h-timeline")
    page.get_by_role("textbox", name="Note").fill("Called on Monday.")
    page.get_by_role("button", name="Add note").click()
    expect(page.locator("#notes")).to_contain_text("Called on Monday.")
    page.get_by_role("link", name="People").click()
    expect(page.locator("#timeline li").first).to_contain_text("Note written")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_of_last_resort_have_no_barriers(open_window: Window, scheme: str) -> None:
    from django.template.loader import render_to_string

    page = open_window(scheme=scheme, width=320)
    page.goto("/accessibility")  # so that the stylesheet's address is this server's
    for name in ("400.html", "403_csrf.html", "500.html", "503.html"):
        page.set_content(
            render_to_string(name).replace(
                'href="/static/', f'href="{page.url.rpartition("/")[0]}/static/'
            )
        )
        assert not barriers(page), name
        assert not too_wide(page), name
