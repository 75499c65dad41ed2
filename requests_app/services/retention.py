"""How long what is kept, as policy in the settings, and what goes today (Art. 5(1)(e) GDPR).

What a rule names is sealed: key, ciphertext and salts are destroyed, the log keeps its proofs. A
legal hold stops it, and so do a letter that was not sent and a restriction in force. Drafts, codes
and made exports go by rules of their own where they are made.

The record of a sealed case (rows without personal data, entries of the log) has a least time and no
last one: `record_months` of its law says how long it must stay, and nothing here removes it after.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from requests_app import vault
from requests_app.actors import SYSTEM
from requests_app.deadlines import add_months
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case
from requests_app.services.cases import seal_case
from requests_app.services.errors import WrongState
from requests_app.services.holds import hold_of

UNCONFIRMED, CLOSED = "unconfirmed", "closed"


@dataclass(frozen=True)
class Going:
    """One case whose time has come: which rule names it, since when, and what stops it if so."""

    case_id: UUID
    reference: str
    rule: str
    since: datetime
    stopped_by: str  # empty: nothing does


def keeps() -> dict[str, timedelta]:
    """How long each rule keeps a case: from receipt unconfirmed, from its end closed."""
    return {
        UNCONFIRMED: timedelta(days=settings.RTBF_KEEP_UNCONFIRMED_DAYS),
        CLOSED: timedelta(days=settings.RTBF_KEEP_CLOSED_DAYS),
    }


def going(now: datetime | None = None) -> Iterator[Going]:
    """The cases that the policy names at `now`, oldest first; nothing is changed."""
    now = now or timezone.now()
    kept = keeps()
    unconfirmed = Q(
        status=CaseStatus.AWAITING_CONFIRMATION, received_at__lte=now - kept[UNCONFIRMED]
    )
    closed = Q(status=CaseStatus.COMPLETED, completed_at__lte=now - kept[CLOSED]) | Q(
        status=CaseStatus.WITHDRAWN, withdrawn_at__lte=now - kept[CLOSED]
    )
    for case in Case.objects.filter(unconfirmed | closed).order_by("received_at").iterator():
        waits = case.status == CaseStatus.AWAITING_CONFIRMATION
        end = case.received_at if waits else case.completed_at or case.withdrawn_at
        if end is None:
            continue  # the filter has a date for each
        rule = UNCONFIRMED if waits else CLOSED
        yield Going(case.id, case.reference, rule, end + kept[rule], _stopped_by(case))


@dataclass(frozen=True)
class Record:
    """The record of a sealed case: until when at least its law has it kept."""

    reference: str
    jurisdiction: str
    keep_until: date


def records_past_their_time(today: date | None = None) -> Iterator[Record]:
    """Sealed cases whose least time is over, counted from the seal; for a human to decide on."""
    today = today or timezone.localdate()
    for case in Case.objects.filter(sealed_at__isnull=False).order_by("sealed_at").iterator():
        if case.sealed_at is None:
            continue  # the filter has a date for each
        months = profile(case.jurisdiction).record_months
        until = add_months(timezone.localdate(case.sealed_at), months)
        if until < today:
            yield Record(case.reference, case.jurisdiction, until)


def apply_retention(now: datetime | None = None) -> list[Going]:
    """Seal what the policy names, each case in a transaction of its own; returns what was met.

    What is stopped stays, and is met again the next time.
    """
    met = []
    for item in list(going(now)):
        if not item.stopped_by:
            try:
                seal_case(case_id=item.case_id, actor=SYSTEM, rule=item.rule)
            except WrongState:
                continue  # somebody moved it meanwhile
        met.append(item)
    if any(not item.stopped_by for item in met):
        transaction.on_commit(vault.overwrite_freed_pages, robust=True)
    return met


def _stopped_by(case: Case) -> str:
    if hold_of(case) is not None:
        return "legal hold"
    if case.letters.filter(sent_at=None).exists():
        return "letter not sent"
    if case.restrictions.filter(lifted_at=None).exists():
        return "restriction"
    return ""
