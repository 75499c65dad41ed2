"""Taking and holding a lease on a row (`models.leases.Leased`); the callers lock the row.

Whoever comes with an older fence than the row has must write nothing (Kleppmann, "How to do
distributed locking", 2016).
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from requests_app.models.leases import Leased

TOO_MANY = "too_many_leases"  # why a row ended that was taken up too often
WAKE_AFTER = timedelta(seconds=5)


def lease_time() -> timedelta:
    return timedelta(seconds=settings.RTBF_LEASE_SECONDS)


def is_worked_on_here(model_name: str) -> bool:
    """Tell whether this machine's worker takes work on a model (RTBF_WORKER_MODELS; none: all)."""
    return not settings.RTBF_WORKER_MODELS or model_name in settings.RTBF_WORKER_MODELS


def is_leased(row: Leased) -> bool:
    """Tell whether somebody holds the row now. Nobody does by a lease that ends later than one can
    be given out (with room for clocks that differ): the clock was put back since, and would let a
    dead worker hold the row for as long."""
    now, expires = timezone.now(), row.lease_expires_at
    return expires is not None and now <= expires <= now + 2 * lease_time()


def is_to_wake(queued: str, running: str) -> Q:
    """The rows in these states that somebody should take up: queued for over five seconds, or by
    the clock not queued yet; running without somebody who holds them."""
    now = timezone.now()
    waiting = Q(created_at__lt=now - WAKE_AFTER) | Q(created_at__gt=now)
    return Q(state=queued) & waiting | Q(state=running) & ~is_held(running)


def is_held(running: str) -> Q:
    """The rows in this state that somebody works on; see `is_leased`."""
    now = timezone.now()
    return Q(state=running, lease_expires_at__gte=now, lease_expires_at__lte=now + 2 * lease_time())


def take_lease(row: Leased, *, owner: str) -> None:
    """Give the row to `owner` under the next fence (the caller saves)."""
    row.leases += 1
    row.fence += 1
    row.lease_owner = owner[:80]
    row.lease_expires_at = timezone.now() + lease_time()


def drop_lease(row: Leased) -> None:
    """Nobody holds the row any more (the caller saves)."""
    row.lease_owner, row.lease_expires_at = "", None


def used_up(row: Leased) -> bool:
    """Tell whether the row was taken up RTBF_MAX_LEASES times and never ended."""
    return row.leases >= int(settings.RTBF_MAX_LEASES)
