"""Django's registration of the wiring, and what it refuses to start with."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register
from django.utils import timezone

from requests_app.deadlines import UnknownCalendar, calendar_of, public_holidays
from requests_app.jurisdictions import UnknownProfile, current
from rtbf.telemetry import start_sentry


class RtbfConfig(AppConfig):
    name = "rtbf"

    def ready(self) -> None:
        register(check_clock)
        start_sentry()


def check_clock(**_: Any) -> Sequence[CheckMessage]:
    """No case can be opened without rules and holidays to count its deadline by."""
    try:
        law = current(settings.RTBF_JURISDICTION)
        public_holidays(calendar_of(law, settings.RTBF_HOLIDAY_COUNTRY), timezone.now().year)
    except (UnknownProfile, UnknownCalendar) as problem:
        return [Error(str(problem), id="rtbf.E001")]
    return []
