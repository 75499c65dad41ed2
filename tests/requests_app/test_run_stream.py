"""A run followed by Server-Sent Events: nothing lost, nothing twice, never open for long."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.conf import settings as django_settings
from django.contrib.sessions.models import Session
from django.db import connections
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from requests_app.accounts import LOGGED_IN
from requests_app.models import ErasureRun, RunEvent, StaffMember
from requests_app.models.people import Role
from requests_app.services import runs
from requests_app.views import run_stream
from rtbf.handler import ThreadsThatStay
from tests import factories
from tests.asgi import asked, served
from tests.staff import as_staff

pytestmark = pytest.mark.django_db
ACCEPT = "text/event-stream"


class Reader:
    """What a browser makes of a stream (HTML, 9.2.6): a message counts once it is complete."""

    def __init__(self) -> None:
        self.last = ""
        self.seen: list[int] = []
        self.kinds: list[str] = []

    def read(self, stream: str) -> None:
        complete = stream.split("\n\n")[:-1]
        for block in complete:
            fields = dict(
                line.split(": ", 1) for line in block.split("\n") if not line.startswith(":")
            )
            if "id" in fields:
                self.last = fields["id"]
                self.seen.append(json.loads(fields["data"])["seq"])
            if "data" in fields:
                self.kinds.append(fields["event"])


def stream(client: Client, run: ErasureRun, last: str = "") -> str:
    """The whole answer of a server without ASGI."""
    headers = {"Accept": ACCEPT, **({"Last-Event-ID": last} if last else {})}
    response = client.get(f"/app/runs/{run.pk}/stream", headers=headers)
    assert response.headers["Content-Type"] == ACCEPT
    assert response.headers["Cache-Control"] == "no-store"
    return response.getvalue().decode()


def happen(run: ErasureRun, count: int) -> None:
    """So many further events."""
    first = run.events.count()
    RunEvent.objects.bulk_create(
        RunEvent(run=run, seq=first + i, at=timezone.now(), phase="train", step=i, total=9)
        for i in range(count)
    )


def running() -> tuple[ErasureRun, runs.Lease]:
    run = factories.executing_case().runs.get()
    lease = factories.take_lease(run)
    return ErasureRun.objects.get(pk=run.pk), lease


@pytest.fixture
def followed(officer: StaffMember) -> tuple[ErasureRun, Client]:
    return running()[0], as_staff(officer)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cuts=st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), max_size=6),
    late=st.integers(0, 3),
)
def test_every_event_comes_once_wherever_the_connection_is_cut(
    followed: tuple[ErasureRun, Client], cuts: list[tuple[int, float]], late: int
) -> None:
    run, client = followed
    run.events.all().delete()
    ErasureRun.objects.filter(pk=run.pk).update(state="running")
    browser = Reader()
    for count, where in cuts:
        happen(run, count)
        answer = stream(client, run, browser.last)
        browser.read(answer[: int(where * len(answer))])
    happen(run, late)
    ErasureRun.objects.filter(pk=run.pk).update(state="failed")
    browser.read(stream(client, run, browser.last))
    assert browser.seen == list(range(run.events.count()))
    assert browser.kinds[-1] == "end"
    assert browser.kinds.count("end") == 1


def test_a_page_goes_on_from_what_it_shows(officer: StaffMember) -> None:
    run, lease = running()
    for step in range(3):
        runs.add_event(lease, phase="train", step=step, total=9, figures={"loss": 0.5})
    client = as_staff(officer)
    page = client.get(f"/app/runs/{run.pk}").content.decode()
    assert f'data-stream="/app/runs/{run.pk}/stream" data-after="2"' in page
    runs.add_event(lease, phase="train", step=3, total=9, figures={"loss": 0.4})
    response = client.get(f"/app/runs/{run.pk}/stream?after=2", headers={"Accept": ACCEPT})
    browser = Reader()
    browser.read(response.getvalue().decode())
    assert browser.seen == [3]
    assert browser.kinds == ["step", "page"]


def test_the_page_that_is_sent_is_the_one_that_is_polled(officer: StaffMember) -> None:
    run, lease = running()
    runs.add_event(lease, phase="train", step=3, total=12, figures={"loss": 0.5})
    client = as_staff(officer)
    answer = stream(client, run)
    page = answer.split("event: page\n")[1]
    sent = "\n".join(line.removeprefix("data: ") for line in page.split("\n") if line)
    polled = client.get(f"/app/runs/{run.pk}/progress").content.decode()
    assert sent.split('id="times"')[0] == polled.strip("\n").split('id="times"')[0]


@pytest.mark.parametrize("role", [Role.ADMINISTRATOR, None])
def test_only_who_may_open_the_run_page_may_follow_it(role: Role | None) -> None:
    run, _lease = running()
    client = as_staff(factories.make_staff(role)) if role else Client()
    response = client.get(f"/app/runs/{run.pk}/stream")
    assert response.status_code == (403 if role else 302)


def test_watching_alone_does_not_keep_a_session_alive(officer: StaffMember) -> None:
    run, _lease = running()
    client = as_staff(officer)
    session = client.session
    minutes_ago = int(time.time()) - 60 * (django_settings.RTBF_SESSION_IDLE_MINUTES - 1)
    session[LOGGED_IN] = {"since": minutes_ago, "seen": minutes_ago}
    session.save()
    stream(client, run)
    assert client.session[LOGGED_IN]["seen"] == minutes_ago
    session[LOGGED_IN] = {"since": minutes_ago, "seen": minutes_ago - 60}
    session.save()
    response = client.get(f"/app/runs/{run.pk}/stream", headers={"Accept": ACCEPT})
    assert response.status_code == 302


def test_what_a_look_finds_ends_with_the_session_the_role_or_the_account(
    officer: StaffMember,
) -> None:
    run, _lease = running()
    client = as_staff(officer)
    watcher = run_stream.Watcher(client.session.session_key or "", run.pk, "en")
    assert not run_stream.look(watcher, -1).ended
    StaffMember.objects.filter(pk=officer.pk).update(role=Role.ADMINISTRATOR)
    assert run_stream.look(watcher, -1) == run_stream.Look("", -1, None, ended=True)
    StaffMember.objects.filter(pk=officer.pk).update(role=Role.OFFICER, is_active=False)
    assert run_stream.look(watcher, -1).ended
    StaffMember.objects.filter(pk=officer.pk).update(is_active=True)
    assert not run_stream.look(watcher, -1).ended
    client.logout()
    assert run_stream.look(watcher, -1).ended


def test_a_page_is_drawn_again_only_if_it_changed(officer: StaffMember) -> None:
    run, lease = running()
    watcher = run_stream.Watcher(as_staff(officer).session.session_key or "", run.pk, "en")
    first = run_stream.look(watcher, -1)
    assert "event: page" in first.messages
    assert not run_stream.look(watcher, first.last, first.shown).messages
    alive = run_stream.look(watcher, first.last, first.shown, alive=True).messages
    assert ": alive\n\n" in alive
    ErasureRun.objects.filter(pk=run.pk).update(cancel_requested_at=timezone.now())
    assert "Cancelling" in run_stream.look(watcher, first.last, first.shown).messages
    ErasureRun.objects.filter(pk=run.pk).update(
        cancel_requested_at=None, started_at=timezone.now() - timedelta(seconds=200)
    )
    assert "Stalled: no event for 200 s" in run_stream.look(watcher, 0, first.shown).messages
    runs.add_event(lease, phase="train", step=1, total=9, figures={})
    assert "Stalled" not in run_stream.look(watcher, -1, first.shown).messages


# --- As uvicorn serves it -------------------------------------------------------------------------
@pytest.fixture
def server() -> Iterator[ThreadsThatStay]:
    with served(threads=2) as handler:
        yield handler


def opened(
    server: ThreadsThatStay, client: Client, run: ErasureRun, last: str = ""
) -> ApplicationCommunicator:
    cookie = client.cookies[django_settings.SESSION_COOKIE_NAME]
    headers = {"accept": ACCEPT, "cookie": f"{cookie.key}={cookie.value}"}
    if last:
        headers["last-event-id"] = last
    return asked(server, f"/app/runs/{run.pk}/stream", **headers)


async def parts(followed: ApplicationCommunicator) -> AsyncIterator[str]:
    """What the server sends, until it closes."""
    await followed.send_input({"type": "http.request"})
    start = await followed.receive_output(5)
    assert start["status"] == 200
    while True:
        message = await followed.receive_output(5)
        if body := message.get("body"):
            yield body.decode()
        if not message.get("more_body"):
            await followed.wait(5)
            return


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_stream, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(run_stream, "ALIVE_EVERY", 0.1)
    monkeypatch.setattr(run_stream, "OPEN_FOR", 1.0)


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("quick")
def test_an_open_stream_tells_what_happens_and_closes_after_its_time(
    officer: StaffMember, server: ThreadsThatStay
) -> None:
    run, lease = running()
    client = as_staff(officer)
    browser = Reader()

    def happens(step: int) -> None:
        runs.add_event(lease, phase="train", step=step, total=9, figures={})
        connections.close_all()

    async def follow() -> tuple[str, float]:
        began, told, step = time.monotonic(), "", 0
        async for part in parts(opened(server, client, run, browser.last)):
            told += part
            if step < 3:
                await sync_to_async(happens)(step)
                step += 1
        return told, time.monotonic() - began

    told, took = asyncio.run(follow())
    assert 1.0 <= took < 5
    assert ": alive" in told
    browser.read(told)
    assert browser.seen == [0, 1, 2]
    assert "end" not in browser.kinds
    factories.work_off(run, lease=lease)
    told, took = asyncio.run(follow_to_end(server, client, run, browser.last))
    browser.read(told)
    assert browser.seen == [0, 1, 2]
    assert browser.kinds[-1] == "end"


async def follow_to_end(
    server: ThreadsThatStay, client: Client, run: ErasureRun, last: str
) -> tuple[str, float]:
    began = time.monotonic()
    told = "".join([part async for part in parts(opened(server, client, run, last))])
    return told, time.monotonic() - began


def end_sessions() -> None:
    Session.objects.all().delete()
    connections.close_all()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("quick")
def test_viewers_hold_no_thread_and_a_session_that_ends_ends_their_streams(
    officer: StaffMember, server: ThreadsThatStay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _lease = running()
    client = as_staff(officer)
    for name in ("OPEN_FOR", "ALIVE_EVERY"):
        monkeypatch.setattr(run_stream, name, 30.0)
    viewers = 12

    async def watch() -> tuple[int, float]:
        before = threading.active_count()
        streams: list[Any] = [parts(opened(server, client, run)) for _ in range(viewers)]
        for each in streams:
            assert "retry" in await anext(each)
            assert "event: page" in await anext(each)
        await asyncio.sleep(0.1)
        threads = threading.active_count() - before
        await sync_to_async(end_sessions)()
        began = time.monotonic()
        for each in streams:
            assert all(["event" not in part async for part in each])
        return threads, time.monotonic() - began

    threads, took = asyncio.run(watch())
    # two that answer requests, two readers, and the one that this test ends the session with
    assert threads <= 5
    assert took < 5


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("quick")
def test_who_goes_away_ends_their_stream(
    officer: StaffMember, server: ThreadsThatStay, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _lease = running()
    client = as_staff(officer)
    monkeypatch.setattr(run_stream, "OPEN_FOR", 30.0)

    async def leave() -> None:
        stream = opened(server, client, run)
        assert "retry" in await anext(parts(stream))
        await stream.send_input({"type": "http.disconnect"})
        await stream.wait(5)

    asyncio.run(leave())
