"""Requests are answered by a few threads that stay, each with its connections.

Django's own handler gives each request a new thread, and with it new connections to database and
Redis, for which every page pays; and it goes to and fro between the thread and the event
loop, though all our middleware and views are plain functions. A stream of events, an asynchronous
iterator, holds none of the threads.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.urls import set_script_prefix
from django.utils import translation

THREADS = 2
ASIDE = {"/healthz": 1, "/app/playground": 2}
"""Threads of their own: whether this process lives is asked while all others wait for something,
and an answer of a model may take a minute."""
TURN_SECONDS = 0.001
"""After which a thread that computes lets another on: a page waits for its turn after each of its
queries. Python's own is 5 ms."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class ThreadsThatStay(ASGIHandler):
    """Django's ASGI handler, answering each request in one go on one of a few threads."""

    def __init__(self, threads: int = THREADS) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        sys.setswitchinterval(TURN_SECONDS)
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="request")
        self.aside = {path: ThreadPoolExecutor(some) for path, some in ASIDE.items()}

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError("Only HTTP is served.")
        await self.handle(scope, receive, send)

    async def handle(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request; who goes away while a stream is sent ends it."""
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        loop = asyncio.get_running_loop()
        threads = self.aside.get(scope["path"], self.threads)
        response = await loop.run_in_executor(threads, self.answer, scope, body)
        if not response.streaming:
            await self.send_response(response, send)
            return
        tasks = [
            asyncio.ensure_future(self.send_response(response, send)),
            asyncio.ensure_future(receive()),  # after the body nothing comes but the disconnect
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            sent, _ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(sent, Exception):
            raise sent

    def answer(self, scope: Any, body: IO[bytes]) -> Any:
        """The response to one request, finished but for the pieces of a stream."""
        translation.deactivate()  # what the request before on this thread spoke
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=type(self), scope=scope)
        with body:
            request, refused = self.create_request(scope, body)
            response: Any = refused if request is None else self.get_response(request)
            if response.streaming and not response.is_async:  # a static file
                response.streaming_content = _at_once(b"".join(response.streaming_content))
            response.close()  # as the last thing of this thread: it lets go of old connections
        return response


async def _at_once(content: bytes) -> AsyncIterator[bytes]:
    yield content
