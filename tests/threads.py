"""Several threads at once, each with a database connection of its own."""

import threading
from collections.abc import Callable

from django.db import connection


def run_together(work: Callable[[], object], count: int) -> None:
    """Run `work` in `count` threads at once; a failure in any of them fails the test."""
    failures: list[BaseException] = []
    gate = threading.Barrier(count)

    def guarded() -> None:
        gate.wait()
        try:
            work()
        except BaseException as failure:  # noqa: BLE001 - handed to the test's own thread
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
