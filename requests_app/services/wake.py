"""Waking the queue after commit, and when its workers were last at work. Messages carry ids only; a
lost one costs one sweep interval."""

from __future__ import annotations

import logging
import time
from functools import partial
from uuid import UUID

from celery import current_app
from django.core.cache import cache
from django.db import transaction
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)
QUEUES = ("legal", "model")


def send(task: str, *ids: UUID, queue: str = "legal", expires: int | None = None) -> None:
    """Put one message on the queue now; if the broker is away, say so and leave it to the sweep."""
    args = [str(i) for i in ids]
    try:
        current_app.send_task(task, args=args, queue=queue, expires=expires, retry=False)
    except OperationalError:
        logger.warning("The queue cannot be reached; the next sweep starts %s.", task)


def send_after_commit(task: str, *ids: UUID, queue: str = "legal") -> None:
    """Put one message on the queue once the current transaction has committed."""
    transaction.on_commit(partial(send, task, *ids, queue=queue))


def note_seen(queue: str) -> None:
    """A worker of the queue is at work: for `last_seen` alone; a lost cache does no harm."""
    try:
        cache.set(f"seen:{queue}", int(time.time()), timeout=None)
    except RedisError as problem:
        logger.warning("Worker not noted (%s).", type(problem).__name__)


def last_seen(queue: str) -> int | None:
    """When a worker of the queue was last at work, in Unix seconds; None if nobody knows."""
    try:
        seen: int | None = cache.get(f"seen:{queue}")
    except RedisError:
        return None
    return seen
