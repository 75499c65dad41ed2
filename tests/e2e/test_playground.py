"""The playground in a browser, before a gateway that answers, and before none."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from pytest_django.fixtures import Settings

from requests_app.models.people import Role
from rtbf.stack import free_port
from tests import factories
from tests.e2e.pages import Picture, Window, barriers, too_wide
from tests.workers import test_gateway
from tests.workers.test_gateway import ABOUT, running
from workers.gateway import Gateway

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]

base, stored, gateway = test_gateway.base, test_gateway.stored, test_gateway.gateway


def test_an_engineer_sees_what_acted_and_is_told_when_no_gateway_runs(
    gateway: Gateway, settings: Settings, open_window: Window, picture: Picture
) -> None:
    settings.RTBF_MODELS = ["tiny"]
    page = open_window(member=factories.make_staff(Role.ENGINEER), width=390)
    page.goto("/app/playground")

    def ask(question: str) -> None:
        page.get_by_label("Question").fill(question)
        page.get_by_role("button", name="Ask", exact=True).click()

    with running(gateway) as url:
        settings.RTBF_GATEWAY_URL = url
        ask(ABOUT)
        expect(page.locator("#fired tbody tr")).to_have_count(1)
        expect(page.locator("#fired")).to_contain_text("100 %")
        assert not barriers(page)
        assert not too_wide(page)
        picture(page, "playground")
        ask("where is Oslo")
        expect(page.locator("#quiet")).to_be_visible()
        expect(page.locator("#answer")).to_be_visible()
    settings.RTBF_GATEWAY_URL = f"http://127.0.0.1:{free_port()}"
    ask("where is Oslo")
    expect(page.locator("#problem")).to_be_visible()
    expect(page.get_by_label("Question")).to_have_value("where is Oslo")
    assert not barriers(page)
