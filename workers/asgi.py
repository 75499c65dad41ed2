"""What the gateway needs of ASGI and of HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from workers.lanes import Done, Event, Failed, Piece
from workers.openai_form import Refused

LARGEST_BODY = 1024 * 1024

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


def not_serving() -> Refused:
    return Refused(503, "The model does not answer now. Try again later.", code="not_serving")


class HungUp(Exception):
    """Whoever asked has hung up."""


async def hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def next_of(
    heard: "asyncio.Queue[Event]", gone: "asyncio.Task[None]", *, seconds: float | None = None
) -> Any:
    """The next event; None if there is none for so many seconds."""
    waiting = asyncio.create_task(heard.get())
    try:
        done, _ = await asyncio.wait(
            {waiting, gone}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
    finally:
        if not waiting.done():
            waiting.cancel()
    if waiting in done:
        return waiting.result()
    if gone in done:
        raise HungUp
    return None


async def all_of(
    first: Event, heard: "asyncio.Queue[Event]", gone: "asyncio.Task[None]"
) -> tuple[list[Piece], Done]:
    pieces = []
    while isinstance(first, Piece):
        pieces.append(first)
        first = await next_of(heard, gone)
    if isinstance(first, Failed):
        raise not_serving()
    return pieces, first


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise Refused(400, "The request is too long.")
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return body


async def answer_json(send: Send, status: int, data: Any) -> None:
    body = json.dumps(data).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status in (429, 503):
        headers.append((b"retry-after", b"60" if status == 429 else b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
