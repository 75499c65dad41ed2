"""For a while: another time, other settings, no queue and no mail. For samples alone.

Services ask Django for the time, so one name stands for the clock of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.conf import settings
from django.utils import timezone

from requests_app.services import wake


@contextmanager
def clock_at(moment: datetime) -> Iterator[None]:
    """Everything that asks Django for the time gets this one, meanwhile."""
    with replaced(timezone, "now", lambda: moment):
        yield


@contextmanager
def no_waking() -> Iterator[None]:
    """Nothing goes on the queue: what a sample leaves waiting is not for workers."""
    with replaced(wake, "send", lambda *args, **kwargs: None):
        yield


@contextmanager
def no_mail() -> Iterator[None]:
    """The addresses are invented: nothing is sent, nothing fills the outbox."""
    with setting(EMAIL_BACKEND="django.core.mail.backends.dummy.EmailBackend"):
        yield


@contextmanager
def setting(**values: Any) -> Iterator[None]:
    before = {name: getattr(settings, name) for name in values}
    try:
        for name, value in values.items():
            setattr(settings, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)


@contextmanager
def replaced(owner: Any, name: str, value: object) -> Iterator[None]:
    before = getattr(owner, name)
    try:
        setattr(owner, name, value)
        yield
    finally:
        setattr(owner, name, before)
