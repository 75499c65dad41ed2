"""What the law of a place asks of the clock: one frozen entry a place and version.

A case keeps the id of the profile that it was opened under (`EU/2026-1`), and so do the log entries
of its clock: a changed law is a further entry in PROFILES, and what is in it never changes again.
Not legal advice; `record_months` and `ask_within` are policy and counsel's to set.
"""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop, ngettext

MONTHS = {
    1: gettext_noop("one month"),
    2: gettext_noop("two months"),
    3: gettext_noop("three months"),
}


class UnknownProfile(ValueError):
    """There is no such profile; the text lists those there are."""


@dataclass(frozen=True)
class Span:
    """A period in calendar months or in calendar days."""

    months: int = 0
    days: int = 0

    def __str__(self) -> str:
        """In the language in force."""
        if self.months in MONTHS:
            return _(MONTHS[self.months])
        if self.months:
            text = ngettext("%(count)d month", "%(count)d months", self.months)
        else:
            text = ngettext("%(count)d day", "%(count)d days", self.days)
        return text % {"count": self.months or self.days}


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
    complaint: str  # of a letter; the authority's name and address follow; English, as all texts
    remedy: str  # of a letter, after them

    @property
    def region(self) -> str:
        return self.id.partition("/")[0]


REGULATION = gettext_noop(
    "After Regulation 1182/71, Art. 3: the day of receipt does not count; the period ends with the"
    " last hour of the same date of the month it ends in, or of that month's last day; a last day"
    " on a weekend or public holiday moves to the next working day. It is never 30 days."
)

PROFILES = (
    Profile(
        id="EU/2026-1",
        title=gettext_noop("European Union"),
        law=gettext_noop("Art. 12(3) GDPR"),
        counting=REGULATION,
        period=Span(months=1),
        extended=Span(months=3),
        moves=True,
        calendar="",
        suspends=frozenset({"identity", "clarification"}),  # EDPB Guidelines 01/2022, 5.3
        ask_within=14,
        acknowledge_days=0,
        record_months=36,
        complaint=gettext_noop(
            "You may lodge a complaint with a supervisory authority, in particular where you live"
            " or work or where you think that the law was broken (Art. 77 GDPR). Ours is"
        ),
        remedy=gettext_noop("You may also go to court (Art. 79 GDPR)."),
    ),
    Profile(
        id="UK/2026-1",
        title=gettext_noop("United Kingdom"),
        law=gettext_noop("Art. 12(3) and 12A UK GDPR"),
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
        complaint=gettext_noop(
            "You may complain to us at the contact below, and to the supervisory authority (Art. 77"
            " UK GDPR):"
        ),
        remedy=gettext_noop("You may also go to court (Art. 79 UK GDPR)."),
    ),
    Profile(
        id="CA/2026-1",
        title=gettext_noop("California"),
        law=gettext_noop("11 CCR § 7021"),
        counting=gettext_noop(
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
        complaint=gettext_noop(
            "You may file a complaint (California Civil Code § 1798.199.45) with"
        ),
        remedy=gettext_noop(
            "You may also turn to the Attorney General of California (§ 1798.199.90)."
        ),
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


def spell_period(law: Profile) -> str:
    """How long an answer may take and by which law, in the language in force."""
    count = _count(law.period)
    named = {"count": count, "law": _(law.law)}
    if law.period == Span(months=1):
        return _("one month from receipt, %(law)s") % named
    if law.period.months:
        text = ngettext(
            "%(count)d month from receipt, %(law)s",
            "%(count)d months from receipt, %(law)s",
            count,
        )
    else:
        text = ngettext(
            "%(count)d day from receipt, %(law)s",
            "%(count)d days from receipt, %(law)s",
            count,
        )
    return text % named


def promise_answer(period: Span) -> str:
    """A sentence that says within what time we answer, in the language in force."""
    count = _count(period)
    if period == Span(months=1):
        return _("We answer within one month.")
    if period.months:
        text = ngettext(
            "We answer within %(count)d month.", "We answer within %(count)d months.", count
        )
    else:
        text = ngettext(
            "We answer within %(count)d day.", "We answer within %(count)d days.", count
        )
    return text % {"count": count}


def _count(period: Span) -> int:
    return period.months or period.days


def _last(found: list[Profile], name: str, known: list[str]) -> Profile:
    if not found:
        raise UnknownProfile(
            f"There is no jurisdiction “{name}” (RTBF_JURISDICTION). Known: {', '.join(known)}."
        )
    return found[-1]
