"""Art. 12(3) GDPR, counted after Regulation 1182/71."""

from calendar import monthrange
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.deadlines import (
    UnknownCalendar,
    add_months,
    count_deadlines,
    deadlines,
    next_working_day,
)

EASTER = {2026: date(2026, 4, 5), 2027: date(2027, 3, 28), 2028: date(2028, 4, 16)}


def is_common_holiday(day: date) -> bool:
    """25 and 26 December, 1 January, Good Friday, Easter Monday, 1 May."""
    easter = EASTER.get(day.year)
    near_easter = easter is not None and day in (
        easter - timedelta(days=2),
        easter + timedelta(days=1),
    )
    return near_easter or (day.month, day.day) in {(12, 25), (12, 26), (1, 1), (5, 1)}


VECTORS = [
    ("2026-03-05", "2026-04-05", "2026-04-07", "2026-06-05"),
    ("2026-08-31", "2026-09-30", "2026-09-30", "2026-11-30"),
    ("2026-01-31", "2026-02-28", "2026-03-02", "2026-04-30"),
    ("2028-01-31", "2028-02-29", "2028-02-29", "2028-05-02"),
    ("2026-11-25", "2026-12-25", "2026-12-28", "2027-02-25"),
    ("2026-11-30", "2026-12-30", "2026-12-30", "2027-03-01"),
    ("2027-02-26", "2027-03-26", "2027-03-30", "2027-05-26"),
    ("2026-12-31", "2027-01-31", "2027-02-01", "2027-03-31"),
]


@pytest.mark.parametrize("received, raw, due, extended", VECTORS)
def test_the_published_vectors(received: str, raw: str, due: str, extended: str) -> None:
    found = count_deadlines(date.fromisoformat(received), is_holiday=is_common_holiday)
    assert found.base_due_raw == date.fromisoformat(raw)
    assert found.base_due == date.fromisoformat(due)
    assert found.extension_due == date.fromisoformat(extended)


def test_without_first_of_may_as_holiday_only_the_weekend_moves_the_date() -> None:
    found = count_deadlines(date(2028, 1, 31), is_holiday=lambda _: False)
    assert found.extension_due == date(2028, 5, 1)


def test_a_substitute_day_moves_the_date_once_more() -> None:
    # In Ireland St Stephen's Day 2026 falls on a Saturday; with Monday as substitute: Tuesday.
    found = count_deadlines(
        date(2026, 11, 25),
        is_holiday=lambda d: is_common_holiday(d) or d == date(2026, 12, 28),
    )
    assert found.base_due == date(2026, 12, 29)


def test_the_uk_calendar_knows_its_substitute_day() -> None:
    assert deadlines(date(2026, 11, 25), country="GB").base_due == date(2026, 12, 29)


def test_the_belgian_calendar_knows_easter_monday_but_not_good_friday() -> None:
    assert deadlines(date(2026, 3, 5), country="BE").base_due == date(2026, 4, 7)
    assert deadlines(date(2027, 2, 26), country="BE").base_due == date(2027, 3, 26)


def test_an_unknown_country_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnknownCalendar, match="RTBF_HOLIDAY_COUNTRY"):
        deadlines(date(2026, 1, 1), country="XX")


@pytest.mark.parametrize("buffer", [-1, 28])
def test_a_buffer_outside_the_month_is_refused(buffer: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 27"):
        count_deadlines(date(2026, 1, 1), is_holiday=lambda _: False, internal_buffer_days=buffer)


days = st.dates(date(2020, 1, 1), date(2040, 12, 31))
holiday_sets = st.frozensets(st.dates(date(2020, 1, 1), date(2041, 12, 31)), max_size=60)
countries = st.sampled_from(["BE", "IE", "DE", "FR", "GB", "US"])


@given(days, countries)
def test_the_legal_dates_are_working_days_and_never_earlier_than_the_raw_ones(
    day: date, country: str
) -> None:
    found = deadlines(day, country=country)
    for due, raw in (
        (found.base_due, found.base_due_raw),
        (found.extension_due, add_months(day, 3)),
    ):
        assert due.weekday() < 5
        assert raw <= due <= raw + timedelta(days=14)
    assert found.received_on < found.internal_due <= found.base_due_raw < found.extension_due


@given(days, st.integers(0, 400))
def test_a_later_receipt_is_never_due_earlier(day: date, later: int) -> None:
    first = deadlines(day, country="BE")
    second = deadlines(day + timedelta(days=later), country="BE")
    assert first.base_due <= second.base_due
    assert first.extension_due <= second.extension_due
    assert first.base_due_raw <= second.base_due_raw


@given(days, st.integers(0, 24))
def test_a_month_ends_on_the_same_day_number_or_the_last_day_of_the_month(
    day: date, months: int
) -> None:
    end = add_months(day, months)
    assert (end.year - day.year) * 12 + end.month - day.month == months
    assert end.day == min(day.day, monthrange(end.year, end.month)[1])


@given(days, holiday_sets)
def test_the_next_working_day_skips_nothing_that_is_one(day: date, closed: frozenset[date]) -> None:
    found = next_working_day(day, closed.__contains__)
    assert found.weekday() < 5
    assert found not in closed
    skipped = [day + timedelta(days=i) for i in range((found - day).days)]
    assert all(d.weekday() >= 5 or d in closed for d in skipped)


@given(days, st.integers(0, 27))
def test_a_bigger_buffer_never_gives_staff_more_time(day: date, buffer: int) -> None:
    wide = count_deadlines(day, is_holiday=is_common_holiday, internal_buffer_days=buffer)
    none = count_deadlines(day, is_holiday=is_common_holiday, internal_buffer_days=0)
    assert wide.internal_due <= none.internal_due == none.base_due_raw
    assert wide.base_due == none.base_due
