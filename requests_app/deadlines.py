"""The month of Art. 12(3) GDPR, counted after Regulation (EEC, Euratom) No 1182/71, Art. 3.

- Art. 3(1): the day of receipt itself is not counted.
- Art. 3(2)(c): a period of months ends on the day with the same number; if the month has no such
  day, on its last day. It is never "30 days".
- Art. 3(4): if that day is a Saturday, Sunday or public holiday, it ends on the next working day.
- The extension of Art. 12(3) makes three months *from receipt*, counted in one go: it is not added
  to a date that was already moved.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache

import holidays

ONE_DAY = timedelta(days=1)
SATURDAY = 5


class UnknownCalendar(ValueError):
    """There is no public-holiday calendar for this country code."""


@dataclass(frozen=True)
class Deadlines:
    """The dates of one case, all in the controller's time zone, each until the end of the day."""

    received_on: date
    base_due_raw: date  # receipt + 1 month, before weekends and holidays are looked at
    base_due: date  # the legal date
    extension_due: date  # the legal date once extended
    internal_due: date  # what staff work towards: never later than `base_due_raw`


def add_months(start: date, months: int) -> date:
    """Same day `months` later, or that month's last day (Regulation 1182/71, Art. 3(2)(c))."""
    year, month0 = divmod(start.year * 12 + start.month - 1 + months, 12)
    return date(year, month0 + 1, min(start.day, monthrange(year, month0 + 1)[1]))


def next_working_day(day: date, is_holiday: Callable[[date], bool]) -> date:
    """`day` itself, or the first working day after it (Regulation 1182/71, Art. 3(4))."""
    while day.weekday() >= SATURDAY or is_holiday(day):
        day += ONE_DAY
    return day


def count_deadlines(
    received_on: date, *, is_holiday: Callable[[date], bool], internal_buffer_days: int = 5
) -> Deadlines:
    """Count all dates with a given set of holidays; pure.

    Raises ValueError if the buffer is not between 0 and 27 days (a target before receipt).
    """
    if not 0 <= internal_buffer_days <= 27:
        raise ValueError("The internal buffer must be between 0 and 27 days.")
    raw = add_months(received_on, 1)
    base_due = next_working_day(raw, is_holiday)
    return Deadlines(
        received_on=received_on,
        base_due_raw=raw,
        base_due=base_due,
        extension_due=next_working_day(add_months(received_on, 3), is_holiday),
        internal_due=min(raw, base_due - timedelta(days=internal_buffer_days)),
    )


def deadlines(received_on: date, *, country: str, internal_buffer_days: int = 5) -> Deadlines:
    """Count all dates with the public holidays of `country` (ISO 3166-1 alpha-2, e.g. `BE`).

    Raises UnknownCalendar for a country without a calendar. Regulation 1182/71, Art. 2(1): the
    holidays are those of the place where the controller acts.
    """
    return count_deadlines(
        received_on,
        is_holiday=lambda day: day in public_holidays(country, day.year),
        internal_buffer_days=internal_buffer_days,
    )


@lru_cache(maxsize=64)
def public_holidays(country: str, year: int) -> frozenset[date]:
    """The public holidays of one country and year, from the `holidays` library."""
    try:
        return frozenset(holidays.country_holidays(country, years=year))
    except NotImplementedError:
        raise UnknownCalendar(
            f"No holiday calendar for “{country}”: set RTBF_HOLIDAY_COUNTRY to a country code"
            " such as BE, IE or DE."
        ) from None
