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
    for pool in (handler.threads, *handler.aside.values()):
        each_once = Barrier(pool._max_workers)

        def close(each_once: Barrier = each_once) -> None:
            each_once.wait(10)
            connections.close_all()

        for done in [pool.submit(close) for _ in range(pool._max_workers)]:
            done.result()
        pool.shutdown()


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
