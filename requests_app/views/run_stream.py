"""The events of a run as Server-Sent Events, which a browser resumes exactly where it was cut off.

The `id` of a message is the event's number, so that `Last-Event-ID` says what to go on with; the
record is the truth, and nothing is kept here. `page` messages carry the part of the page that
changes, without an id. Under ASGI a stream stays open for `OPEN_FOR` seconds and holds neither a
thread nor a database connection between two looks at the record; another server gives what there is
and closes. Either way the browser comes again. Standard: HTML, 9.2 Server-sent events.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from typing import cast
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user
from django.core.handlers.asgi import ASGIRequest
from django.db import connections
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.loader import render_to_string
from django.utils import translation
from django.views.decorators.http import require_GET

from requests_app import selectors
from requests_app.models import RunEvent, StaffMember
from requests_app.permissions import PAGES, is_over, staff_page
from requests_app.views.run_progress import Progress, progress_of

LOOK_EVERY = 1.0  # seconds between two looks at the record
ALIVE_EVERY = 15.0  # a comment at least so often, so that no proxy takes the stream for dead
OPEN_FOR = 300.0
COME_AGAIN = 2000  # milliseconds after which a browser reconnects
END = "event: end\ndata: end\n\n"

readers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="run-stream")
"""Where all streams look at the record, one query after the other."""


@dataclass(frozen=True)
class Watcher:
    """Who follows which run, in which language."""

    session_key: str
    run_id: UUID
    language: str


@dataclass(frozen=True)
class Look:
    """What is new of a run: messages to send, the last event told, what the page shows by now
    (`shown`), and whether the stream is over."""

    messages: str
    last: int
    shown: object
    ended: bool


@staff_page("run_stream")
@require_GET
def run_stream(request: HttpRequest, run_id: UUID) -> HttpResponse:
    """Stream the run's events after `Last-Event-ID`, or after `?after=` of the page."""
    if selectors.run_progress(run_id) is None:
        raise Http404
    after = _last_seen(request)
    watcher = Watcher(request.session.session_key or "", run_id, translation.get_language() or "en")
    first = f"retry: {COME_AGAIN}\n\n"
    response = StreamingHttpResponse(
        _follow(watcher, after, first)
        if isinstance(request, ASGIRequest)
        else [first, look(watcher, after).messages],
        content_type="text/event-stream",
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return cast(HttpResponse, response)  # django-stubs: a sibling, not a subclass


def look(watcher: Watcher, after: int, shown: object = None, *, alive: bool = False) -> Look:
    """What is new since event `after`, and the changing part of the page if it changed or `alive`.

    The end comes only once every event was told: the state is read before the events are.
    """
    if not _may_watch(watcher):
        return Look("", after, shown, ended=True)  # the browser comes again, to the log-in page
    progress = progress_of(watcher.run_id)
    if progress is None:
        return Look("", after, shown, ended=True)
    new = [event for event in progress.events if event.seq > after]
    messages = [_message(event) for event in new]
    now = _shown(progress)
    if not progress.active:
        messages.append(END)
    elif new or now != shown or alive:
        with translation.override(watcher.language):
            messages.append(_page(progress))
    if alive:
        messages.append(": alive\n\n")
    last = new[-1].seq if new else after
    return Look("".join(messages), last, now, ended=not progress.active)


async def _follow(watcher: Watcher, after: int, first: str) -> AsyncIterator[str]:
    yield first
    began = told = time.monotonic()
    shown: object = None
    while True:
        alive = time.monotonic() - told >= ALIVE_EVERY
        found = await asyncio.get_running_loop().run_in_executor(
            readers, _look_alone, watcher, after, shown, alive
        )
        after, shown = found.last, found.shown
        if found.messages:
            told = time.monotonic()
            yield found.messages
        if found.ended or time.monotonic() - began >= OPEN_FOR:
            return
        await asyncio.sleep(LOOK_EVERY)


def _look_alone(watcher: Watcher, after: int, shown: object, alive: bool) -> Look:
    """A look in a thread of `readers`, which keeps no connection afterwards."""
    try:
        return look(watcher, after, shown, alive=alive)
    finally:
        connections.close_all()


def _may_watch(watcher: Watcher) -> bool:
    """Whether the session is still that of a member of staff who may open the page of a run."""
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(watcher.session_key)
    user = get_user(request)
    return (
        isinstance(user, StaffMember)
        and user.role in PAGES["run_stream"]
        and not is_over(request.session)
    )


def _last_seen(request: HttpRequest) -> int:
    """The number of the last event that the browser knows; -1 if it knows none."""
    given = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    return int(given) if given.isascii() and given.isdigit() else -1


def _shown(progress: Progress) -> object:
    """What changes the page without an event."""
    run = progress.run
    return run.state, run.phase, run.cancel_requested_at, progress.place, progress.silent is None


def _message(event: RunEvent) -> str:
    data = {
        "seq": event.seq,
        "at": event.at.isoformat(),
        "phase": event.phase,
        "step": event.step,
        "total": event.total,
        "figures": event.figures,
    }
    return f"id: {event.seq}\nevent: step\ndata: {json.dumps(data)}\n\n"


def _page(progress: Progress) -> str:
    part = render_to_string("staff/run_progress.html", progress.context())
    lines = "".join(f"data: {line}\n" for line in part.splitlines())
    return f"event: page\n{lines}\n"
