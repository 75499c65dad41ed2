"""Counts of a period as supervisory authorities ask for them, in one pass over its cases.

After the questions of the EDPB's coordinated action on erasure (2025): how many, on what ground,
how fast, refused by which article; and the metrics of 11 CCR § 7102. At the public level a count
below five is not told and the others are rounded down to fives, months as well as sums, so that
none can be worked out from the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from django.conf import settings

from requests_app.deadlines import add_months
from requests_app.extract import CaseRow, Extract
from requests_app.lifecycle import CaseStatus
from requests_app.models.exports import Level
from requests_app.models.record import Channel, Exemption, Ground, Outcome
from requests_app.models.runs import Verdict

LEAST = 5
"""The smallest count that the public is told, and the step of all others."""
UNDECIDED, WITHDRAWN, UNCONFIRMED = "undecided", "withdrawn", "never_confirmed"
COMPLIED = (Outcome.GRANTED, Outcome.PARTLY_GRANTED)
DENIED = (Outcome.REFUSED, Outcome.CANNOT_IDENTIFY, Outcome.EXCESSIVE)
ARTICLES = {
    **{f"Art. {code[:2]}({code[3]})({code[5]})": code for code in Exemption.values},
    "Art. 11(2)": Outcome.CANNOT_IDENTIFY,
    "Art. 12(5)": Outcome.EXCESSIVE,
}
GROUNDS = {f"Art. {code[:2]}({code[3]})({code[5]})": code for code in Ground.values}
ROUNDED = "counts are rounded down to multiples of 5; null: fewer than 5"


@dataclass
class Tally:
    """What is kept of all cases: counts, and days by how often each occurred."""

    one_by_one: Counter[str] = field(default_factory=Counter)
    months: Counter[str] = field(default_factory=Counter)
    channels: Counter[str] = field(default_factory=Counter)
    jurisdictions: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    grounds: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    days: Counter[int] = field(default_factory=Counter)

    def add(self, row: CaseRow, *, on: date) -> None:
        """Count one case as it stands on that day."""
        decided = row.outcome or _undecided(row)
        self.months[f"{row.received_on:%Y-%m}"] += 1
        self.channels[row.channel] += 1
        self.jurisdictions[row.jurisdiction] += 1
        self.statuses[row.status] += 1
        self.outcomes[decided] += 1
        self.grounds.update(dict.fromkeys(row.grounds, 1))
        self.verdicts.update(row.verdicts.values())
        if decided in (Outcome.CANNOT_IDENTIFY, Outcome.EXCESSIVE):
            self.refusals[decided] += 1
        if decided in (Outcome.REFUSED, Outcome.PARTLY_GRANTED):
            self.refusals.update(row.exemptions)
            self.one_by_one["exempt"] += bool(row.exemptions)
        self.one_by_one["extended"] += row.is_extended
        self.one_by_one["on_behalf"] += row.is_on_behalf
        if row.days is not None:
            self.days[row.days] += 1
            self.one_by_one["late" if row.is_late(on) else "in_time"] += 1
        elif decided not in (WITHDRAWN, UNCONFIRMED):
            self.one_by_one["overdue" if row.is_late(on) else "open"] += 1


def count(extract: Extract) -> dict[str, Any]:
    """The statistics as JSON values: counts, and days as decimal strings (null: not told)."""
    tally = Tally()
    for row in extract.cases():
        tally.add(row, on=extract.made_on)
    is_public = extract.level == Level.PUBLIC
    figures = _figures(tally, extract)
    return {
        "schema": "statistics.v1",
        "controller": settings.RTBF_CONTROLLER_NAME,
        "level": extract.level.value,
        "period": {
            "first": extract.spell(extract.first),
            "last": extract.spell(extract.last),
            "counted": "requests received in the period, as they stood when this was made",
        },
        "made_on": extract.spell(extract.made_on),
        "rounding": ROUNDED if is_public else "none",
        **(_coarse(figures) if is_public else figures),
    }


def _figures(tally: Tally, extract: Extract) -> dict[str, Any]:
    answered = tally.days.total()
    one = tally.one_by_one
    enough = answered >= LEAST or extract.level != Level.PUBLIC
    days = tally.days if enough else Counter[int]()
    return {
        "requests": {
            "received": tally.months.total(),
            "by_month": _each(_months(extract.first, extract.last), tally.months),
            "by_channel": _each(Channel.values, tally.channels),
            "by_jurisdiction": dict(sorted(tally.jurisdictions.items())),
            "by_status": _each(CaseStatus.values, tally.statuses),
            "by_outcome": _each(
                [*Outcome.values, WITHDRAWN, UNCONFIRMED, UNDECIDED], tally.outcomes
            ),
            "extended": one["extended"],
            "on_behalf_of_another": one["on_behalf"],
        },
        "answers": {
            "answered": answered,
            "in_time": one["in_time"],
            "late": one["late"],
            "unanswered_in_time": one["open"],
            "unanswered_overdue": one["overdue"],
            "days_median": _median(days),
            "days_90th_percentile": _percentile(days, 90),
            "days_mean": _mean(days),
        },
        "grounds": {article: tally.grounds[code] for article, code in GROUNDS.items()},
        "refusals": {article: tally.refusals[code] for article, code in ARTICLES.items()},
        "models": {
            "last_run_by_verdict": _each([v for v in Verdict.values if v], tally.verdicts),
        },
        "california": {
            "after": "11 CCR § 7102, requests to delete of all individuals",
            "received": tally.months.total(),
            "complied_with_in_whole_or_in_part": _sum(tally.outcomes, COMPLIED),
            "denied": _sum(tally.outcomes, DENIED),
            "days_median": _median(days),
            "days_mean": _mean(days),
            "denied_in_whole_or_in_part_because": {
                "not_verifiable": tally.outcomes[Outcome.CANNOT_IDENTIFY],
                "information_exempt": one["exempt"],
                "other": tally.outcomes[Outcome.EXCESSIVE],
            },
        },
    }


def _undecided(row: CaseRow) -> str:
    """How a case without a decision stands."""
    if row.withdrawn_on:
        return WITHDRAWN
    return UNCONFIRMED if row.was_never_confirmed else UNDECIDED


def _coarse(value: Any) -> Any:
    """Counts rounded down to fives, those below five left out; everything else as it is."""
    if isinstance(value, dict):
        return {key: _coarse(each) for key, each in value.items()}
    if isinstance(value, int):
        return value - value % LEAST if value >= LEAST else None
    return value


def _each(keys: Iterable[str], counts: Mapping[str, int]) -> dict[str, int]:
    """Every key with its count, those that never occurred too, and whatever else was counted."""
    known = {str(key): counts.get(key, 0) for key in keys}
    return known | {key: n for key, n in sorted(counts.items()) if key not in known}


def _sum(counts: Mapping[str, int], keys: Iterable[str]) -> int:
    return sum(counts.get(key, 0) for key in keys)


def _months(first: date, last: date) -> list[str]:
    found, month = [], first.replace(day=1)
    while month <= last:
        found.append(f"{month:%Y-%m}")
        month = add_months(month, 1)
    return found


def _median(days: Counter[int]) -> str | None:
    """The middle one, or the mean of the two in the middle."""
    if not days:
        return None
    ordered = sorted(days.elements())
    half = len(ordered) // 2
    return _spell(Decimal(ordered[half] + ordered[-half - 1]) / 2)


def _percentile(days: Counter[int], percent: int) -> str | None:
    """The smallest number of days within which so many percent were answered (nearest rank)."""
    rank = -(-days.total() * percent // 100)
    seen = 0
    for day, n in sorted(days.items()):
        seen += n
        if seen >= rank:
            return _spell(Decimal(day))
    return None


def _mean(days: Counter[int]) -> str | None:
    if not days:
        return None
    return _spell(Decimal(sum(day * n for day, n in days.items())) / days.total())


def _spell(value: Decimal) -> str:
    """One decimal, none where it is zero."""
    return f"{value.quantize(Decimal('0.1'), ROUND_HALF_UP).normalize():f}"
