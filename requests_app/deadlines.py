"""The dates of a case, counted from receipt by a jurisdiction profile; for the EU and the UK after
Regulation (EEC, Euratom) No 1182/71, Art. 3.

- Art. 3(1): the day of receipt itself is not counted.
- Art. 3(2)(c): a period of months ends on the day with the same number; if the month has no such
  day, on its last day. It is never "30 days".
- Art. 3(4): if that day is a Saturday, Sunday or public holiday, it ends on the next working day.
- The extension of Art. 12(3) makes three months *from receipt*, counted in one go: it is not added
  to a date that was already moved.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from types import MappingProxyType

import holidays

from requests_app.jurisdictions import Profile, Span

ONE_DAY = timedelta(days=1)
SATURDAY = 5
BUFFER_DAYS = 5
CALENDAR_VERSION = f"holidays {holidays.__version__}"  # recorded with each case

IsHoliday = Callable[[date], bool]


class UnknownCalendar(ValueError):
    """There is no public-holiday calendar for this code."""


@dataclass(frozen=True)
class Deadlines:
    """The dates of one case, all in the controller's time zone, each until the end of the day."""

    received_on: date
    base_due_raw: date  # before weekends and holidays are looked at
    base_due: date  # the legal date
    extension_due: date  # the legal date once extended
    internal_due: date  # what staff work towards: never later than `base_due_raw`
    extension_internal_due: date  # the same once extended: never later than period after period
    acknowledge_by: date | None  # None: this law sets no such date


def add_months(start: date, months: int) -> date:
    """Same day `months` later, or that month's last day (Regulation 1182/71, Art. 3(2)(c))."""
    year, month0 = divmod(start.year * 12 + start.month - 1 + months, 12)
    return date(year, month0 + 1, min(start.day, monthrange(year, month0 + 1)[1]))


def add_span(start: date, span: Span) -> date:
    return add_months(start, span.months) + timedelta(days=span.days)


def next_working_day(day: date, is_holiday: IsHoliday) -> date:
    """`day` itself, or the first working day after it (Regulation 1182/71, Art. 3(4))."""
    while day.weekday() >= SATURDAY or is_holiday(day):
        day += ONE_DAY
    return day


def add_working_days(start: date, days: int, is_holiday: IsHoliday) -> date:
    """The `days`-th working day after `start`, which itself is not counted."""
    for _ in range(days):
        start = next_working_day(start + ONE_DAY, is_holiday)
    return start


def count_deadlines(
    received_on: date,
    *,
    profile: Profile,
    is_holiday: IsHoliday,
    internal_buffer_days: int = BUFFER_DAYS,
) -> Deadlines:
    """Count all dates with a given set of holidays; pure.

    Raises ValueError if the buffer is not between 0 and 27 days (a target before receipt).
    """
    if not 0 <= internal_buffer_days <= 27:
        raise ValueError("The internal buffer must be between 0 and 27 days.")
    buffer = timedelta(days=internal_buffer_days)
    raw = add_span(received_on, profile.period)
    further = Span(
        profile.extended.months - profile.period.months, profile.extended.days - profile.period.days
    )
    base_due = _legal(raw, profile, is_holiday)
    extension_due = _legal(add_span(received_on, profile.extended), profile, is_holiday)
    return Deadlines(
        received_on=received_on,
        base_due_raw=raw,
        base_due=base_due,
        extension_due=extension_due,
        internal_due=min(raw, base_due - buffer),
        # One month and then two can end a day or two before three months: 31 January, 28 April.
        extension_internal_due=min(add_span(raw, further), extension_due - buffer),
        acknowledge_by=add_working_days(received_on, profile.acknowledge_days, is_holiday)
        if profile.acknowledge_days
        else None,
    )


def deadlines(
    received_on: date, *, profile: Profile, calendar: str, internal_buffer_days: int = BUFFER_DAYS
) -> Deadlines:
    """Count all dates with the public holidays of `calendar` (ISO 3166: `BE`, `GB-SCT`).

    Raises UnknownCalendar. Regulation 1182/71, Art. 2(1): the holidays are those of the place where
    the controller acts.
    """
    return count_deadlines(
        received_on,
        profile=profile,
        is_holiday=holidays_of(calendar),
        internal_buffer_days=internal_buffer_days,
    )


def due_without(
    received_on: date, *, profile: Profile, calendar: str, days: int, extended: bool
) -> date:
    """The due date if `days` of the period do not count (a suspended clock)."""
    raw = add_span(received_on, profile.extended if extended else profile.period)
    return _legal(raw + timedelta(days=days), profile, holidays_of(calendar))


def day_of_share(received_on: date, due: date, percent: int) -> date:
    """The first day on which that share of the period up to `due` has passed."""
    return received_on + timedelta(days=-(-(due - received_on).days * percent // 100))


def calendar_of(profile: Profile, setting: str) -> str:
    """The calendar of the holidays: the setting, unless the profile is of another country."""
    same = profile.calendar.partition("-")[0] in ("", setting.partition("-")[0])
    return setting if same else profile.calendar


def skipped_days(
    raw: date, due: date, calendar: str, names_in: str = "en_US"
) -> list[tuple[date, str]]:
    """Each day from `raw` up to `due`, with the name of the public holiday, if it is one.

    A working day that the calendar as it is today knows nothing of was one in the calendar used.
    """
    days = [raw + timedelta(days=i) for i in range((due - raw).days)]
    return [(day, public_holidays(calendar, day.year, names_in).get(day, "")) for day in days]


def holidays_of(calendar: str) -> IsHoliday:
    """Whether a day is a public holiday of that calendar; UnknownCalendar once asked."""
    return lambda day: day in public_holidays(calendar, day.year)


@lru_cache(maxsize=64)
def public_holidays(calendar: str, year: int, names_in: str = "en_US") -> Mapping[date, str]:
    """Date and name of the holidays of one calendar and year, from the `holidays` library, whose
    code `names_in` is (`names_for`)."""
    country, _, subdivision = calendar.partition("-")
    try:
        found = holidays.country_holidays(
            country, subdiv=subdivision or None, years=year, language=names_in or None
        )
    except NotImplementedError:
        raise UnknownCalendar(
            f"No holiday calendar for “{calendar}”: set RTBF_HOLIDAY_COUNTRY to a country code"
            " such as BE, IE or DE, or one with its part such as GB-SCT."
        ) from None
    return MappingProxyType(dict(found))


@lru_cache(maxsize=64)
def names_for(calendar: str, language: str) -> str:
    """The code under which the library names this calendar's holidays for readers of a language: in
    that if it can, else in the calendar's own; empty where it says nothing of languages, or has no
    such calendar."""
    try:
        kept = holidays.country_holidays(calendar.partition("-")[0])
    except NotImplementedError:
        return ""
    codes = [code for code in kept.supported_languages if code.partition("_")[0] == language]
    found: str = ("en_US" if "en_US" in codes else codes[0]) if codes else kept.default_language
    return found or ""


def _legal(raw: date, profile: Profile, is_holiday: IsHoliday) -> date:
    return next_working_day(raw, is_holiday) if profile.moves else raw
