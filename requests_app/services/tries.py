"""Sending that is tried again: a try is claimed in the database by the time of the next one.

So two sweeps at once, of two beats perhaps, do not send twice, and one that died holds a row up for
a single pause. After RTBF_SEND_TRIES tries a row waits for staff (`stuck`).
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db.models import F, Q, QuerySet
from django.utils import timezone

LONGEST_PAUSE = timedelta(hours=6)
MINUTE = timedelta(minutes=1)


def due() -> Q:
    """Rows with `tries` and `next_try_at` that may be tried now."""
    free = Q(next_try_at=None) | Q(next_try_at__lte=timezone.now())
    return free & Q(tries__lt=settings.RTBF_SEND_TRIES)


def used_up() -> Q:
    """Rows that are not tried any more."""
    return Q(tries__gte=settings.RTBF_SEND_TRIES)


def claim(row: QuerySet[Any], *, tries: int, first: timedelta = MINUTE) -> bool:
    """Claim a try of the one row in the query set, which had `tries` before; False if it is not due
    any more. The pause until the next one doubles from `first` up to six hours."""
    pause = min(first * 2 ** min(tries, 10), LONGEST_PAUSE)
    return bool(row.filter(due()).update(next_try_at=timezone.now() + pause, tries=F("tries") + 1))
