"""Many answers at once: one thread owns the models, requests join and leave between two tokens.

A release that goes live takes the new requests; answers in the making end on theirs
(`workers.lanes`). What fails ends in a failure, never in an unguarded answer.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import torch

from workers.lanes import Lane, Request, Row
from workers.serving import Served

log = logging.getLogger(__name__)
Result = TypeVar("Result")

ROWS = 8
WAITING = 64
IDLE_SECONDS = 0.5
GATHER = 0.02
"""How long the first of several requests waits for the others, as a share of what reading a prompt
took last: one reading of all is shorter than two by more than that."""


class Overloaded(RuntimeError):
    """Too many requests wait."""


class NotServing(RuntimeError):
    """Nothing may be answered now."""


def apart(work: Callable[[], Result]) -> Result:
    """`work`, in a thread that ends with it.

    A thread that has computed keeps OpenMP's helpers for as long as it lives. With those of the
    model's thread there are more than processors then, and between two small products they fall
    asleep instead of waiting awake: tokens take longer for good (`benchmarks.gateway`).
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(work).result()


class Batcher:
    """The model's thread. `serve` names the release for what is asked from now on."""

    def __init__(self, *, rows: int = ROWS, waiting: int = WAITING) -> None:
        self._rows, self._waiting = rows, waiting
        self._lanes: list[Lane] = []
        self._current: Lane | None = None
        self._jobs: deque[Callable[[], None]] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._seeds = torch.Generator()
        self._seeds.seed()
        self._thread = threading.Thread(target=self._work, name="model", daemon=True)
        self._thread.start()

    def serve(self, served: Served) -> None:
        """New requests, and those that nobody has begun with, go to this release."""
        with self._ready:
            lane = Lane(served, self._rows)
            if self._current is not None:
                self._jobs.append(partial(self._current.hand_over, lane))
            self._lanes.append(lane)
            self._current = lane
            self._ready.notify()

    def shut(self) -> None:
        """Answer nothing more; what is in the making ends in failures."""
        with self._ready:
            self._current = None
            for lane in self._lanes:
                self._jobs.append(lane.fail)
            self._ready.notify()

    def ask(self, request: Request) -> None:
        """Raises Overloaded or NotServing."""
        with self._ready:
            lane = self._current
            if lane is None or self._closed or lane.served.gate.shut:
                raise NotServing
            if len(lane.waiting) >= self._waiting:
                raise Overloaded
            seed = request.seed
            if seed is None:
                seed = int(torch.randint(2**62, (1,), generator=self._seeds))
            lane.waiting.append(Row(request, torch.Generator().manual_seed(seed)))
            self._ready.notify()

    def run(self, work: Callable[[], Any]) -> "Future[Any]":
        """`work`, done by the model's thread between two tokens."""
        future: Future[Any] = Future()

        def job() -> None:
            try:
                future.set_result(work())
            except Exception as error:  # noqa: BLE001  (it goes to whoever waits)
                future.set_exception(error)

        with self._ready:
            self._jobs.append(job)
            self._ready.notify()
        return future

    def close(self) -> None:
        """End the thread; what is in the making ends in failures."""
        with self._ready:
            self._closed, self._current = True, None
            self._ready.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                # Restrictions are followed while nobody asks, too.
                self._ready.wait_for(
                    lambda: self._closed or self._jobs or self._busy(), timeout=IDLE_SECONDS
                )
                self._gather()
                jobs, lanes = list(self._jobs), list(self._lanes)
                self._jobs.clear()
            for job in jobs:
                job()
            for lane in lanes:
                try:
                    with torch.inference_mode():
                        lane.fail() if self._closed else lane.turn()
                except Exception as error:  # noqa: BLE001  (its text may quote what was asked)
                    log.error("the model failed: %s", type(error).__name__)
                    lane.fail()
            with self._ready:
                self._lanes = [
                    each
                    for each in self._lanes
                    if each is self._current or each.rows or each.is_waited_for
                ]
            if self._closed:
                return

    def _gather(self) -> None:
        """Let the others of a burst come, where nobody would be kept waiting but its first."""
        lane = self._current
        if lane is not None and lane.waiting and not any(each.rows for each in self._lanes):
            self._ready.wait_for(
                lambda: self._closed or len(lane.waiting) >= self._rows,
                timeout=GATHER * lane.reading_seconds,
            )

    def _busy(self) -> bool:
        return any(lane.rows or lane.is_waited_for for lane in self._lanes)
