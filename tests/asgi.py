"""Requests to our ASGI handler without a server."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Barrier

from asgiref.testing import ApplicationCommunicator
from django.db import connections

from rtbf.handler import ThreadsThatStay


@contextmanager
def served(*, threads: int) -> Iterator[ThreadsThatStay]:
    """A handler of its own, whose threads keep no connection to the test's database afterwards."""
    handler = ThreadsThatStay(threads)
    yield handler
    each_once = Barrier(threads)

    def close() -> None:
        each_once.wait(10)
        connections.close_all()

    for done in [handler.threads.submit(close) for _ in range(threads)]:
        done.result()
    handler.threads.shutdown()


def asked(handler: ThreadsThatStay, path: str, **headers: str) -> ApplicationCommunicator:
    """A GET of that path, begun."""
    given = {"host": "testserver", **{name.replace("_", "-"): headers[name] for name in headers}}
    return ApplicationCommunicator(
        handler,
        {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "server": ("testserver", 80),
        },
    )
