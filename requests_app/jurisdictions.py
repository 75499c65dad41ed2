"""What the law of a place asks of the clock: one frozen entry a place and version.

A case keeps the id of the profile that it was opened under (`EU/2026-1`), and so do the log entries
of its clock: a changed law is a further entry in PROFILES, and what is in it never changes again.
Not legal advice; `record_months` and `ask_within` are policy and counsel's to set.
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBERS = {1: "one", 2: "two", 3: "three"}


class UnknownProfile(ValueError):
    """There is no such profile; the text lists those there are."""


@dataclass(frozen=True)
class Span:
    """A period in calendar months or in calendar days."""

    months: int = 0
    days: int = 0

    def __str__(self) -> str:
        count, unit = (self.months, "month") if self.months else (self.days, "day")
        return f"{NUMBERS.get(count, count)} {unit}{'s' * (count != 1)}"


@dataclass(frozen=True)
class Profile:
    """The rules of one place. Every period runs from receipt; none is added to another."""

    id: str  # region/version
    title: str
    law: str  # what sets the period, as pages and letters cite it
    counting: str  # how it is counted, in words
    period: Span
    extended: Span
    moves: bool  # a last day on a weekend or public holiday moves to the next working day
    calendar: str  # ISO 3166 code of the public holidays; empty: RTBF_HOLIDAY_COUNTRY
    suspends: frozenset[str]  # reasons that may stop the clock; the date without them stays
    ask_within: int  # days from receipt within which asking still is “without undue delay”
    acknowledge_days: int  # working days for the acknowledgement; 0: no such rule
    record_months: int  # how long at least the record without personal data is kept
    complaint: str  # of a letter; the authority's name and address follow
    remedy: str  # of a letter, after them

    @property
    def region(self) -> str:
        return self.id.partition("/")[0]


REGULATION = (
    "After Regulation 1182/71, Art. 3: the day of receipt does not count; the period ends with the"
    " last hour of the same date of the month it ends in, or of that month's last day; a last day"
    " on a weekend or public holiday moves to the next working day. It is never 30 days."
)

PROFILES = (
    Profile(
        id="EU/2026-1",
        title="European Union",
        law="Art. 12(3) GDPR",
        counting=REGULATION,
        period=Span(months=1),
        extended=Span(months=3),
        moves=True,
        calendar="",
        suspends=frozenset({"identity", "clarification"}),  # EDPB Guidelines 01/2022, 5.3
        ask_within=14,
        acknowledge_days=0,
        record_months=36,
        complaint=(
            "You may lodge a complaint with a supervisory authority, in particular where you live"
            " or work or\nwhere you think that the law was broken (Art. 77 GDPR). Ours is"
        ),
        remedy="You may also go to court (Art. 79 GDPR).",
    ),
    Profile(
        id="UK/2026-1",
        title="United Kingdom",
        law="Art. 12(3) and 12A UK GDPR",
        counting=REGULATION,
        period=Span(months=1),
        extended=Span(months=3),
        moves=True,
        calendar="GB-ENG",
        # Data (Use and Access) Act 2025. Its clause on clarification speaks of access requests.
        suspends=frozenset({"identity", "clarification"}),
        ask_within=14,
        acknowledge_days=0,
        record_months=72,
        complaint=(
            "You may complain to us at the contact below, and to the supervisory authority (Art. 77"
            " UK GDPR):"
        ),
        remedy="You may also go to court (Art. 79 UK GDPR).",
    ),
    Profile(
        id="CA/2026-1",
        title="California",
        law="11 CCR § 7021",
        counting=(
            "After 11 CCR § 7021(b): calendar days after receipt, however long it takes to verify"
            " the person. Weekends and holidays move no date."
        ),
        period=Span(days=45),
        extended=Span(days=90),
        moves=False,
        calendar="US-CA",
        suspends=frozenset(),
        ask_within=0,
        acknowledge_days=10,
        record_months=24,  # 11 CCR § 7101
        complaint="You may file a complaint (California Civil Code § 1798.199.45) with",
        remedy="You may also turn to the Attorney General of California (§ 1798.199.90).",
    ),
)


def profile(id: str) -> Profile:
    """The profile of that id; UnknownProfile if there is none."""
    found = [each for each in PROFILES if each.id == id]
    return _last(found, id, [each.id for each in PROFILES])


def current(region: str) -> Profile:
    """The last profile of a region (`EU`): what a new case is opened under."""
    found = [each for each in PROFILES if each.region == region]
    return _last(found, region, regions())


def regions() -> list[str]:
    """The regions there are, in the order of their first profile."""
    return list(dict.fromkeys(each.region for each in PROFILES))


def _last(found: list[Profile], name: str, known: list[str]) -> Profile:
    if not found:
        raise UnknownProfile(
            f"There is no jurisdiction “{name}” (RTBF_JURISDICTION). Known: {', '.join(known)}."
        )
    return found[-1]
