"""The dates of each jurisdiction; for the EU and the UK after Regulation 1182/71."""

from calendar import monthrange
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from requests_app.deadlines import (
    UnknownCalendar,
    add_months,
    add_span,
    add_working_days,
    calendar_of,
    count_deadlines,
    day_of_share,
    deadlines,
    due_without,
    names_for,
    next_working_day,
    public_holidays,
    skipped_days,
)
from requests_app.jurisdictions import PROFILES, Profile, Span, UnknownProfile, current, profile

EASTER = {2026: date(2026, 4, 5), 2027: date(2027, 3, 28), 2028: date(2028, 4, 16)}
EU, UK, CALIFORNIA = current("EU"), current("UK"), current("CA")


def is_common_holiday(day: date) -> bool:
    """25 and 26 December, 1 January, Good Friday, Easter Monday, 1 May."""
    easter = EASTER.get(day.year)
    near_easter = easter is not None and day in (
        easter - timedelta(days=2),
        easter + timedelta(days=1),
    )
    return near_easter or (day.month, day.day) in {(12, 25), (12, 26), (1, 1), (5, 1)}


VECTORS = [
    # received, + 1 month, legal, + 3 months, legal, one month and then two, "30 days"
    "2026-03-05 2026-04-05 2026-04-07 2026-06-05 2026-06-05 2026-06-05 2026-04-04",
    "2026-08-31 2026-09-30 2026-09-30 2026-11-30 2026-11-30 2026-11-30 2026-09-30",
    "2026-01-31 2026-02-28 2026-03-02 2026-04-30 2026-04-30 2026-04-28 2026-03-02",
    "2028-01-31 2028-02-29 2028-02-29 2028-04-30 2028-05-02 2028-04-29 2028-03-01",
    "2026-11-25 2026-12-25 2026-12-28 2027-02-25 2027-02-25 2027-02-25 2026-12-25",
    "2026-11-30 2026-12-30 2026-12-30 2027-02-28 2027-03-01 2027-02-28 2026-12-30",
    "2027-02-26 2027-03-26 2027-03-30 2027-05-26 2027-05-26 2027-05-26 2027-03-28",
    "2026-12-31 2027-01-31 2027-02-01 2027-03-31 2027-03-31 2027-03-31 2027-01-30",
]


@pytest.mark.parametrize("law", [EU, UK], ids=lambda law: str(law.id))
@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector[:10]))
def test_the_published_vectors(vector: str, law: Profile) -> None:
    received, raw, due, raw3, extended, chained, thirty = map(date.fromisoformat, vector.split())
    found = count_deadlines(
        received, profile=law, is_holiday=is_common_holiday, internal_buffer_days=0
    )
    assert (found.base_due_raw, found.base_due) == (raw, due)
    assert (add_months(received, 3), found.extension_due) == (raw3, extended)
    assert found.extension_internal_due == chained  # the earlier one is what staff work towards
    assert found.internal_due == raw
    assert received + timedelta(days=30) == thirty  # what a count of 30 days would have given


def test_without_first_of_may_as_holiday_only_the_weekend_moves_the_date() -> None:
    found = count_deadlines(date(2028, 1, 31), profile=EU, is_holiday=lambda _: False)
    assert found.extension_due == date(2028, 5, 1)


def test_a_substitute_day_moves_the_date_once_more() -> None:
    # In Ireland St Stephen's Day 2026 falls on a Saturday; with Monday as substitute: Tuesday.
    found = count_deadlines(
        date(2026, 11, 25),
        profile=EU,
        is_holiday=lambda d: is_common_holiday(d) or d == date(2026, 12, 28),
    )
    assert found.base_due == date(2026, 12, 29)


@pytest.mark.parametrize("calendar", ["GB", "GB-ENG", "GB-SCT", "GB-NIR"])
def test_the_uk_calendars_know_their_substitute_day(calendar: str) -> None:
    found = deadlines(date(2026, 11, 25), profile=UK, calendar=calendar)
    assert found.base_due == date(2026, 12, 29)


def test_a_part_of_a_country_has_its_own_holidays() -> None:
    day = date(2026, 3, 6)  # one month ends on Easter Monday, which Scotland does not keep
    assert deadlines(day, profile=UK, calendar="GB-SCT").base_due == date(2026, 4, 6)
    assert deadlines(day, profile=UK, calendar="GB-ENG").base_due == date(2026, 4, 7)


def test_the_belgian_calendar_knows_easter_monday_but_not_good_friday() -> None:
    assert deadlines(date(2026, 3, 5), profile=EU, calendar="BE").base_due == date(2026, 4, 7)
    assert deadlines(date(2027, 2, 26), profile=EU, calendar="BE").base_due == date(2027, 3, 26)


def test_california_counts_calendar_days_from_receipt_and_moves_nothing() -> None:
    # 45 days from Thursday 5 February end on a Sunday, 90 days on a Wednesday.
    found = deadlines(date(2026, 2, 5), profile=CALIFORNIA, calendar="US-CA")
    assert found.base_due == found.base_due_raw == date(2026, 3, 22)
    assert found.extension_due == date(2026, 5, 6)
    # Ten working days: without two weekends, Presidents' Day and no day of receipt.
    assert found.acknowledge_by == date(2026, 2, 20)
    assert deadlines(date(2026, 2, 5), profile=EU, calendar="BE").acknowledge_by is None


def test_an_unknown_calendar_is_refused_with_what_to_do() -> None:
    for calendar in ("XX", "BE-XX"):
        with pytest.raises(UnknownCalendar, match="RTBF_HOLIDAY_COUNTRY"):
            deadlines(date(2026, 1, 1), profile=EU, calendar=calendar)


@pytest.mark.parametrize("buffer", [-1, 28])
def test_a_buffer_outside_the_month_is_refused(buffer: int) -> None:
    with pytest.raises(ValueError, match="between 0 and 27"):
        count_deadlines(
            date(2026, 1, 1),
            profile=EU,
            is_holiday=lambda _: False,
            internal_buffer_days=buffer,
        )


def test_the_days_that_moved_a_date_are_named() -> None:
    found = skipped_days(date(2026, 4, 5), date(2026, 4, 7), "BE")
    assert found == [
        (date(2026, 4, 5), "Easter Sunday"),
        (date(2026, 4, 6), "Easter Monday"),
    ]
    assert skipped_days(date(2026, 4, 7), date(2026, 4, 7), "BE") == []
    # A day that only the calendar used at receipt knew
    assert skipped_days(date(2026, 4, 8), date(2026, 4, 9), "BE")[0][1] == ""


@pytest.mark.parametrize(
    ("calendar", "language", "code", "name"),
    [
        ("BE", "en", "en_US", "Easter Monday"),
        ("BE", "fr", "fr", "Lundi de Pâques"),
        ("BE", "pl", "nl", "Paasmaandag"),  # the library names Belgian holidays in no Polish
        ("IT", "it", "it_IT", "Lunedì dell'Angelo"),
        ("GB-NIR", "de", "en_GB", "Easter Monday"),
    ],
)
def test_holidays_are_named_for_their_reader_or_as_their_calendar_does(
    calendar: str, language: str, code: str, name: str
) -> None:
    assert names_for(calendar, language) == code
    found = public_holidays(calendar, 2026, code)
    assert found[date(2026, 4, 6)] == name
    assert found.keys() == public_holidays(calendar, 2026).keys()


def test_holidays_are_those_of_the_profiles_country() -> None:
    assert calendar_of(EU, "IE") == "IE"
    assert calendar_of(UK, "BE") == "GB-ENG"
    assert calendar_of(UK, "GB-SCT") == "GB-SCT"
    assert calendar_of(CALIFORNIA, "BE") == "US-CA"


# --- Profiles -----------------------------------------------------------------------------------
def test_profiles_are_found_by_id_and_the_last_of_a_region_is_the_current_one() -> None:
    assert [profile(each.id) for each in PROFILES] == list(PROFILES)
    assert len({each.id for each in PROFILES}) == len(PROFILES)
    assert {each.region for each in PROFILES} == {"EU", "UK", "CA"}
    with pytest.raises(UnknownProfile, match="EU/2026-1"):
        profile("EU")
    with pytest.raises(UnknownProfile, match="EU, UK, CA"):
        current("US")


@pytest.mark.parametrize("law", PROFILES, ids=lambda law: str(law.id))
def test_a_profile_is_whole(law: Profile) -> None:
    assert bool(law.period.months) != bool(law.period.days)
    assert add_span(date(2026, 1, 1), law.period) < add_span(date(2026, 1, 1), law.extended)
    assert public_holidays(calendar_of(law, "BE"), 2026)
    assert all((law.title, law.law, law.counting, law.complaint, law.remedy))
    assert law.suspends <= {"identity", "clarification"}
    assert bool(law.suspends) == bool(law.ask_within)
    assert law.record_months >= 24
    assert len(law.id) <= 16


def test_a_span_reads_as_words() -> None:
    spans = (Span(months=1), Span(months=3), Span(days=45))
    assert [str(span) for span in spans] == ["one month", "three months", "45 days"]


# --- Properties ---------------------------------------------------------------------------------
days = st.dates(date(2020, 1, 1), date(2040, 12, 31))
holiday_sets = st.frozensets(st.dates(date(2020, 1, 1), date(2041, 12, 31)), max_size=60)
monthly = st.sampled_from(
    [(EU, code) for code in ("BE", "IE", "DE", "FR", "DE-BY")]
    + [(UK, code) for code in ("GB-ENG", "GB-SCT", "GB-NIR")]
)
places = st.one_of(monthly, st.just((CALIFORNIA, "US-CA")))


@given(days, monthly)
def test_the_legal_dates_are_working_days_and_never_earlier_than_the_raw_ones(
    day: date, place: tuple[Profile, str]
) -> None:
    law, calendar = place
    found = deadlines(day, profile=law, calendar=calendar)
    assert found.base_due_raw == add_months(day, 1)
    for due, raw in (
        (found.base_due, found.base_due_raw),
        (found.extension_due, add_months(day, 3)),
    ):
        assert due.weekday() < 5
        assert due not in public_holidays(calendar, due.year)
        assert raw <= due <= raw + timedelta(days=14)
        assert len(skipped_days(raw, due, calendar)) == (due - raw).days
        assert all(name or day.weekday() >= 5 for day, name in skipped_days(raw, due, calendar))
    assert found.received_on < found.internal_due <= found.base_due_raw < found.extension_due


@given(days, places)
def test_an_extension_never_gives_less_and_staff_never_work_towards_a_later_day(
    day: date, place: tuple[Profile, str]
) -> None:
    law, calendar = place
    found = deadlines(day, profile=law, calendar=calendar)
    assert found.base_due < found.extension_due
    assert found.internal_due <= found.base_due_raw
    further = add_months(found.base_due_raw, 2) if law.period.months else found.extension_due
    assert found.base_due_raw < found.extension_internal_due <= min(further, found.extension_due)


@given(days, places, st.integers(0, 400))
def test_a_later_receipt_is_never_due_earlier(
    day: date, place: tuple[Profile, str], later: int
) -> None:
    law, calendar = place
    first = deadlines(day, profile=law, calendar=calendar)
    second = deadlines(day + timedelta(days=later), profile=law, calendar=calendar)
    assert first.base_due <= second.base_due
    assert first.extension_due <= second.extension_due
    assert first.base_due_raw <= second.base_due_raw
    if first.acknowledge_by and second.acknowledge_by:
        assert first.acknowledge_by <= second.acknowledge_by


@given(days, places, st.integers(0, 120), st.booleans())
def test_days_that_do_not_count_never_make_it_due_earlier(
    day: date, place: tuple[Profile, str], waiting: int, extended: bool
) -> None:
    law, calendar = place
    found = deadlines(day, profile=law, calendar=calendar)
    due = found.extension_due if extended else found.base_due
    known = {"profile": law, "calendar": calendar, "extended": extended}
    assert due_without(day, days=0, **known) == due  # type: ignore[arg-type]
    later = due_without(day, days=waiting, **known)  # type: ignore[arg-type]
    assert due <= later <= due + timedelta(days=waiting + 14)


@given(days, st.integers(1, 120), st.integers(1, 99))
def test_a_share_of_the_period_lies_within_it(day: date, length: int, percent: int) -> None:
    due = day + timedelta(days=length)
    reached = day_of_share(day, due, percent)
    assert day < reached <= due
    assert (reached - day).days * 100 >= length * percent > ((reached - day).days - 1) * 100


@given(days, st.integers(1, 15), holiday_sets)
def test_working_days_are_counted_without_the_first(
    day: date, count: int, closed: frozenset[date]
) -> None:
    end = add_working_days(day, count, closed.__contains__)
    between = [day + timedelta(days=i) for i in range(1, (end - day).days + 1)]
    assert sum(d.weekday() < 5 and d not in closed for d in between) == count


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
    wide = count_deadlines(
        day, profile=EU, is_holiday=is_common_holiday, internal_buffer_days=buffer
    )
    none = count_deadlines(day, profile=EU, is_holiday=is_common_holiday, internal_buffer_days=0)
    assert wide.internal_due <= none.internal_due == none.base_due_raw
    assert wide.base_due == none.base_due
