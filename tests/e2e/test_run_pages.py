"""A run followed in a browser by Server-Sent Events, and no barriers on its pages."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from playwright.sync_api import Page, Request, expect
from pytest_django.live_server_helper import LiveServer

from requests_app.models import ErasureRun, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import runs
from requests_app.views import run_stream
from rtbf import stack
from rtbf.handler import ThreadsThatStay
from tests import factories
from tests.asgi import served
from tests.e2e.pages import Picture, Window, barriers, check_everywhere
from tests.requests_app.test_run_pages import SAID, measured_case, sampled_case

pytestmark = [pytest.mark.e2e, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def asgi(live_server: LiveServer) -> Iterator[str]:
    """The address of the same pages as uvicorn serves them; cookies do not mind the port."""
    with served(threads=4) as handler:
        yield from address_of(handler, live_server)


def address_of(handler: ThreadsThatStay, live_server: LiveServer) -> Iterator[str]:
    host = live_server.url.split("//")[1].split(":")[0]
    port = stack.free_port()
    config = uvicorn.Config(
        handler, host=host, port=port, log_config=None, lifespan="off",
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < until
        time.sleep(0.02)
    yield f"http://{host}:{port}"
    server.should_exit = True
    thread.join()


def streams_of(page: Page) -> list[Request]:
    """The requests for the stream that the page makes from now on."""
    found: list[Request] = []

    def note(request: Request) -> None:
        if request.url.split("?")[0].endswith("/stream"):
            found.append(request)

    page.on("request", note)
    return found


def until(holds: Callable[[], bool], page: Page) -> None:
    """Wait until it holds, at most ten seconds, while the page goes on."""
    for _ in range(100):
        if holds():
            return
        page.wait_for_timeout(100)
    pytest.fail("It did not come in ten seconds.")


def test_the_page_follows_a_run_over_cut_streams_to_its_end(
    open_window: Window,
    picture: Picture,
    officer: StaffMember,
    asgi: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run_stream, "OPEN_FOR", 1.5)
    monkeypatch.setattr(run_stream, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(run_stream, "COME_AGAIN", 300)
    run = factories.executing_case().runs.get()
    page = open_window(member=officer)
    streams = streams_of(page)
    page.goto(f"{asgi}/app/runs/{run.pk}")
    expect(page.get_by_text("Place 1 in the queue")).to_be_visible()
    lease = factories.take_lease(run)
    for step in range(1, 6):
        figures = {"forget_loss": 3 / step, "keep_loss": 0.1}
        runs.add_event(lease, phase="train", step=step, total=12, figures=figures)
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "5")
    expect(page.locator("#run-words")).to_have_text("Step 3 of 5: Train the adapter")
    page.locator("#d-train summary").click()
    until(lambda: len(streams) > 1, page)
    assert streams[0].headers.get("last-event-id") is None
    assert streams[1].all_headers()["last-event-id"] == "4"
    runs.add_event(lease, phase="train", step=6, total=12, figures={"forget_loss": 0.5})
    expect(page.get_by_role("progressbar")).to_have_attribute("value", "6")
    expect(page.locator("#d-train")).to_have_attribute("open", "")  # what was opened stays so
    expect(page.locator("#run-words")).to_have_text("Step 3 of 5: Train the adapter")
    picture(page, "staff-run-live-light-1280")
    assert not barriers(page)
    factories.work_off(ErasureRun.objects.get(pk=run.pk), lease=lease)
    expect(page.get_by_role("link", name="See the evidence")).to_be_visible()


def test_lost_updates_are_said_and_so_is_that_they_are_back(
    open_window: Window, officer: StaffMember
) -> None:
    run = factories.executing_case().runs.get()
    page = open_window(member=officer)
    page.route("**/stream*", lambda route: route.abort("internetdisconnected"))
    page.goto(f"/app/runs/{run.pk}")
    words = page.locator("#run-words")
    expect(words).to_have_text("Live updates stopped; reconnecting")
    page.unroute("**/stream*")
    expect(words).to_have_text("")


def test_pages_of_a_run_have_no_barriers(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    case, run = measured_case()
    of_sample, sampled = sampled_case()
    waiting = factories.responding_case(verdict=Verdict.NOT_MET)
    failed = factories.executing_case().runs.get()
    lease = factories.take_lease(failed)
    runs.add_event(lease, phase="train", step=3, total=9, figures={"forget_loss": 0.5})
    runs.fail_run(lease, error="There are no free directions left.")
    last = waiting.runs.get(number=3)
    paths = [
        f"/app/runs/{failed.pk}",
        f"/app/runs/{last.pk}",
        f"/app/runs/{last.pk}/evidence",
        f"/app/runs/{run.pk}/evidence?fact=1",
        f"/app/runs/{sampled.pk}/evidence?sample=1",
        f"/app/runs/{factories.executing_case().runs.get().pk}/evidence",
    ]
    check_everywhere(open_window, picture, paths, member=officer, revealed=[case, of_sample])


def test_a_fact_or_sample_that_is_shown_is_not_printed(
    open_window: Window, picture: Picture, officer: StaffMember
) -> None:
    case, run = measured_case()
    page = open_window(member=officer, revealed=[case])
    page.goto(f"/app/runs/{run.pk}/evidence?fact=1")
    expect(page.get_by_text(factories.ANSWER)).to_be_visible()
    page.emulate_media(media="print")
    expect(page.get_by_text(factories.ANSWER)).to_be_hidden()
    picture(page, "staff-evidence-print")
    case, run = sampled_case()
    page = open_window(member=officer, revealed=[case])
    page.goto(f"/app/runs/{run.pk}/evidence?sample=1")
    expect(page.get_by_text(SAID["before"])).to_be_visible()
    page.emulate_media(media="print")
    expect(page.get_by_text(SAID["before"])).to_be_hidden()
