"""Requests are answered by threads that stay: nothing of one is left for the next."""

import asyncio
from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from django.db.backends.signals import connection_created

from requests_app import middleware
from rtbf.handler import ThreadsThatStay
from rtbf.stack import BASE_DIR
from tests.asgi import asked, served

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def server() -> Iterator[ThreadsThatStay]:
    with served(threads=1) as handler:
        yield handler


def got(server: ThreadsThatStay, path: str, **headers: str) -> tuple[int, str]:
    """Status and text of the answer."""

    async def get() -> tuple[int, str]:
        request = asked(server, path, **headers)
        await request.send_input({"type": "http.request"})
        start, content = await request.receive_output(10), b""
        while (message := await request.receive_output(10)).get("more_body"):
            content += message["body"]
        await request.wait(10)
        return start["status"], (content + message.get("body", b"")).decode()

    return asyncio.run(get())


def test_requests_share_one_connection_to_the_database(server: ThreadsThatStay) -> None:
    opened: list[Any] = []

    def note(**values: Any) -> None:
        opened.append(values["connection"])

    connection_created.connect(note)
    try:
        found = [got(server, "/healthz") for _ in range(5)]
    finally:
        connection_created.disconnect(note)
    assert found == [(200, "ok\n")] * 5
    assert len(opened) == 1


def test_the_language_of_one_request_is_not_left_for_the_next(
    server: ThreadsThatStay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "CURRENT_SECONDS", 0.0)
    assert '<html lang="de"' in got(server, "/", accept_language="de")[1]
    monkeypatch.setattr(middleware, "why_not_served", lambda: "It is behind.")
    status, page = got(server, "/")  # answered before the language of the visitor is known
    assert status == 503
    assert '<html lang="en"' in page


@pytest.mark.parametrize(("seconds", "answer"), [(60.0, 200), (0.0, 503)])
def test_a_look_at_the_record_holds_for_a_while_and_no_longer(
    server: ThreadsThatStay, monkeypatch: pytest.MonkeyPatch, seconds: float, answer: int
) -> None:
    monkeypatch.setattr(middleware, "CURRENT_SECONDS", seconds)
    assert got(server, "/privacy")[0] == 200
    monkeypatch.setattr(middleware, "why_not_served", lambda: "It is behind.")
    assert got(server, "/privacy")[0] == answer


def test_whether_the_process_lives_is_told_while_every_page_waits(server: ThreadsThatStay) -> None:
    over = Event()
    waiting = server.threads.submit(over.wait, 10)
    try:
        assert got(server, "/healthz") == (200, "ok\n")
    finally:
        over.set()
    assert waiting.result()


def test_a_static_file_comes_whole(server: ThreadsThatStay) -> None:
    file = BASE_DIR / "requests_app" / "static" / "rtbf" / "style.css"
    assert got(server, "/static/rtbf/style.css") == (200, file.read_text())


def test_a_page_that_fails_is_a_500_and_the_thread_goes_on(
    server: ThreadsThatStay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> str:
        raise RuntimeError("a fault")

    with monkeypatch.context() as patched:
        patched.setattr(middleware, "why_not_served", fails)
        assert got(server, "/privacy")[0] == 500
    assert got(server, "/privacy")[0] == 200
