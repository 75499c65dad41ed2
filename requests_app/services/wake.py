"""Waking the queue after commit. Messages carry ids only; a lost one costs one sweep interval."""

from __future__ import annotations

import logging
from functools import partial
from uuid import UUID

from celery import current_app
from django.core.cache import cache
from django.db import transaction
from django.utils import timezone
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

WORKER_SEEN = "worker:seen"  # in the cache: when the legal queue was last worked on, ISO 8601


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


def note_worker() -> None:
    """Note that a worker of the legal queue is at work, for the start page."""
    try:
        cache.set(WORKER_SEEN, timezone.now().isoformat(), timeout=None)
    except RedisError as problem:
        logger.warning("The worker's time was not noted (%s).", type(problem).__name__)
