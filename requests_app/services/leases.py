"""Taking and holding a lease on a row (`models.leases.Leased`); the callers lock the row.

Whoever comes with an older fence than the row has must write nothing (Kleppmann, "How to do
distributed locking", 2016).
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.utils import timezone

from requests_app.models.leases import Leased

TOO_MANY = "too_many_leases"  # why a row ended that was taken up too often


def lease_time() -> timedelta:
    return timedelta(seconds=settings.RTBF_LEASE_SECONDS)


def is_worked_on_here(model_name: str) -> bool:
    """Tell whether this machine's worker takes work on a model (RTBF_WORKER_MODELS; none: all)."""
    return not settings.RTBF_WORKER_MODELS or model_name in settings.RTBF_WORKER_MODELS


def is_leased(row: Leased) -> bool:
    """Tell whether somebody holds the row now."""
    return row.lease_expires_at is not None and row.lease_expires_at >= timezone.now()


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
