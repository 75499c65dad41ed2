"""The queue: saved views, filters, pages by key, counts that stop counting, and what changed.

Made for a million cases: a page starts at a key, not at an offset; no count goes beyond `COUNTED`;
what is read for a page is read for all its rows at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.core import signing
from django.db import connection
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from requests_app import selectors, vault
from requests_app.lifecycle import CLOSED, CaseStatus, RunState
from requests_app.models import (
    Case,
    Checkpoint,
    ErasureRun,
    Letter,
    Release,
    ScopeItem,
    StaffMember,
)
from requests_app.models.record import IS_OPEN
from requests_app.services import wake
from requests_app.services.errors import Invalid
from requests_app.services.exemptions import due_reviews
from requests_app.services.owners import OWNERS

PAGE = 25
COUNTED = 1000  # a larger count is told as "1,000+"
CHANGES = 99  # the same for the notice of what changed
CHANGES_SINCE = timedelta(days=1)  # an older page has them counted from then on
SOON = timedelta(days=7)
FIRST_YEAR = 2018  # of references that are looked up by their number alone
SORTS = ("due", "-due", "received", "-received")
SALT = "rtbf.queue.page"
FIELDS = {"due": "due", "received": "received_on", "reference": "reference"}
"""What the queue is sorted by, and its column; a minus in front turns it round."""
SHOWN = (
    *("reference", "status", "due", "received_on", "completed_at", "updated_at"),
    *("owner__username", "owner__first_name", "owner__last_name"),
)

S = CaseStatus
Where = Callable[[StaffMember, date], Q]


@dataclass(frozen=True)
class View:
    """A saved view: which cases, in which order. `is_tab`: it is always among the tabs; `reads`:
    which cases it means has to be read first."""

    label: str | Promise
    where: Where
    sort: str = "due"
    is_tab: bool = True
    reads: bool = False


def _at(*statuses: CaseStatus) -> Where:
    if len(statuses) == 1:
        return lambda member, today: Q(status=statuses[0])
    return lambda member, today: Q(status__in=statuses)


def _overdue(member: StaffMember, today: date) -> Q:
    """Open after its last day, and never answered (a reopened case was)."""
    return IS_OPEN & Q(due__lt=today, completed_at__isnull=True)


def _soon(member: StaffMember, today: date) -> Q:
    return IS_OPEN & Q(due__range=(today, today + SOON), completed_at__isnull=True)


def _failed(member: StaffMember, today: date) -> Q:
    runs = ErasureRun.objects.filter(case=OuterRef("pk"), state=RunState.FAILED)
    return Q(Exists(runs), status=S.EVIDENCE_REVIEW)


def _fell_back(member: StaffMember, today: date) -> Q:
    return Q(pk__in=list(selectors.reopened_cases().values_list("pk", flat=True)))


def _bounced(member: StaffMember, today: date) -> Q:
    return Q(pk__in=Letter.objects.filter(bounced_at__isnull=False).values("case"))


def _review(member: StaffMember, today: date) -> Q:
    return Q(pk__in=due_reviews().values("case"))


VIEWS: dict[str, View] = {
    "open": View(gettext_lazy("Open"), lambda member, today: IS_OPEN),
    "mine": View(gettext_lazy("Mine"), lambda member, today: IS_OPEN & Q(owner=member)),
    "decision": View(gettext_lazy("Needs decision"), _at(S.IN_REVIEW)),
    "second": View(gettext_lazy("Needs second person"), _at(S.AWAITING_APPROVAL)),
    "verifying": View(gettext_lazy("Verifying"), _at(S.AWAITING_CONFIRMATION, S.IDENTITY_CHECK)),
    "erasing": View(gettext_lazy("Erasing"), _at(S.EXECUTING)),
    "evidence": View(gettext_lazy("Evidence review"), _at(S.EVIDENCE_REVIEW)),
    "answer": View(gettext_lazy("Answer to be sent"), _at(S.RESPONDING)),
    "overdue": View(gettext_lazy("Overdue"), _overdue),
    "closed": View(gettext_lazy("Closed"), lambda member, today: ~IS_OPEN, sort="-due"),
    "all": View(gettext_lazy("All"), lambda member, today: Q(), sort="-due"),
    # reached from the start page
    "soon": View(gettext_lazy("Due within 7 days"), _soon, is_tab=False),
    "failed": View(gettext_lazy("Run failed"), _failed, is_tab=False),
    "fell_back": View(gettext_lazy("No longer hold"), _fell_back, is_tab=False, reads=True),
    "bounced": View(gettext_lazy("A letter came back"), _bounced, is_tab=False),
    "review": View(gettext_lazy("Kept, to be looked at again"), _review, is_tab=False),
}


@dataclass(frozen=True)
class Wanted:
    """What somebody wants to see; a status or a reference takes the place of the view."""

    member: StaffMember
    view: str = "open"
    status: str = ""
    reference: str = ""  # whole, its beginning, or its number alone
    owner: int | None = None
    unowned: bool = False
    due_from: date | None = None
    due_to: date | None = None
    language: str = ""
    model: str = ""
    sort: str = ""

    @property
    def is_of_closed(self) -> bool:
        """Closed cases are among them: many, of which a page may find few that match."""
        return self.status in CLOSED or (not self.status and self.view in ("closed", "all"))

    @property
    def order(self) -> str:
        """By what it is sorted. Some wishes are met in some orders alone: in another, a page would
        be looked for all through the table. A reference: by reference. A range of due dates: by due
        date. A model, closed cases included: latest first, since models in service are new."""
        if self.reference:
            return "reference"
        usual = "-due" if self.is_of_closed else "due" if self.status else VIEWS[self.view].sort
        return self.sort if self.sort in self.orders else usual

    @property
    def orders(self) -> tuple[str, ...]:
        """The orders that are offered."""
        if self.reference:
            return ()
        if self.due_from or self.due_to:
            return ("due", "-due")
        return ("-due", "-received") if self.model and self.is_of_closed else SORTS


def condition(wanted: Wanted) -> Q:
    """Which cases; Invalid for what can be no reference. A reference finds closed cases too."""
    if wanted.reference:
        return of_reference(wanted.reference)
    today = timezone.localdate()
    if wanted.status:
        found = Q(status=wanted.status)
    else:
        found = VIEWS[wanted.view].where(wanted.member, today)
    if wanted.unowned:
        found &= Q(owner__isnull=True)
    elif wanted.owner is not None:
        found &= Q(owner=wanted.owner)
    if wanted.due_from:
        found &= Q(due__gte=wanted.due_from)
    if wanted.due_to:
        found &= Q(due__lte=wanted.due_to)
    if wanted.language:
        found &= Q(language=wanted.language)
    if wanted.model:
        scope = ScopeItem.objects.filter(
            case=OuterRef("pk"), kind=ScopeItem.Kind.MODEL, target=wanted.model
        )
        found &= Q(Exists(scope))
    return found


def wanted_cases(wanted: Wanted) -> QuerySet[Case]:
    """Those cases, with what lists show of them."""
    return Case.objects.filter(condition(wanted)).select_related("owner").only(*SHOWN)


def of_reference(text: str) -> Q:
    """Cases of a reference, of its beginning or of its number in any year; Invalid for others."""
    text = text.strip().upper()
    if re.fullmatch(r"\d{1,9}", text):
        years = range(FIRST_YEAR, timezone.localdate().year + 1)
        return Q(reference__in=[f"ERQ-{year}-{int(text):06d}" for year in years])
    if not re.fullmatch(r"ERQ-?\d{0,4}|ERQ-\d{4}-\d{0,9}", text):
        raise Invalid(
            _("A reference looks like ERQ-2026-000123. Its beginning or its number will do.")
        )
    return Q(reference__range=(text, text + "Z"))  # letters come after digits in every collation


# --- Pages by key ---------------------------------------------------------------------------------
@dataclass(frozen=True)
class Page:
    """Cases in their order, and the signed keys of the pages before and after; empty: none."""

    cases: tuple[Case, ...]
    before: str = ""
    after: str = ""


def page(found: QuerySet[Case], *, order: str, at: str = "", size: int = PAGE) -> Page:
    """The page of `found` at a key that an earlier page gave (empty: the first).

    Cases of one date are told apart by their id, so that none is shown twice or left out. Invalid
    for a key that we did not make, or made for another order.
    """
    name = order.lstrip("-")
    field = FIELDS[name]
    back = False
    if at:
        back, value, pk = _opened(at, order)
    down = order.startswith("-") != back
    way = "lt" if down else "gt"
    if at:
        beyond = Q(**{f"{field}__{way}": value}) | Q(**{field: value, f"pk__{way}": pk})
        found = found.filter(beyond, **{f"{field}__{way}e": value})  # the bound that the index has
    sign = "-" if down else ""
    rows = list(found.order_by(f"{sign}{field}", f"{sign}pk")[: size + 1])
    more, rows = len(rows) > size, rows[:size]
    if back:
        rows.reverse()
    if not rows:
        return Page(())
    return Page(
        tuple(rows),
        before=_key(rows[0], order, back=True) if (more if back else at) else "",
        after=_key(rows[-1], order, back=False) if (back or more) else "",
    )


def _key(case: Case, order: str, *, back: bool) -> str:
    value = getattr(case, FIELDS[order.lstrip("-")])
    return signing.dumps([order, back, str(value), case.pk.hex], salt=SALT)


def _opened(key: str, order: str) -> tuple[bool, str, UUID]:
    try:
        made_for, back, value, pk = signing.loads(key, salt=SALT)
    except signing.BadSignature:
        made_for = None
    if made_for != order:
        raise Invalid(_("That page is not there any more. This is the first one."))
    return back, value, UUID(pk)


# --- Rows -----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Row:
    """A case as the queue shows it."""

    case: Case
    masked: str
    scope: tuple[str, ...]
    run: ErasureRun | None  # the latest


def rows(cases: Sequence[Case]) -> list[Row]:
    """What else a page shows of its cases, one query for each kind."""
    emails = vault.get_each(cases, "email")
    scope: dict[UUID, list[str]] = {}
    items = ScopeItem.objects.filter(case__in=cases).order_by("id")
    for pk, target in items.values_list("case", "target"):
        scope.setdefault(pk, []).append(target)
    found = ErasureRun.objects.filter(case__in=cases).only("case_id", "state", "phase")
    runs = {run.case_id: run for run in found.order_by("created_at", "id")}
    return [
        Row(
            case=case,
            masked=selectors.mask(emails.get(case.pk, "")),
            scope=tuple(scope.get(case.pk, ())),
            run=runs.get(case.pk),
        )
        for case in cases
    ]


def counts(member: StaffMember, names: Sequence[str]) -> dict[str, int]:
    """How many cases each view has, up to `COUNTED` + 1, in one query.

    Each count stops there, so that none reads more than so many entries of an index.
    """
    today = timezone.localdate()
    counted = [
        (_count if VIEWS[name].reads else _fixed_count)(name, member, today, COUNTED + 1)
        for name in names
    ]
    parts, values = [sql for sql, _params in counted], [each for _sql, ps in counted for each in ps]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {', '.join(parts)}", values)
        return dict(zip(names, cursor.fetchone(), strict=True))


def _count(name: str, member: StaffMember, today: date, most: int) -> tuple[str, tuple[Any, ...]]:
    """A count up to `most` in SQL, with its parameters."""
    found = Case.objects.filter(VIEWS[name].where(member, today)).order_by().values("pk")
    sql, values = found[:most].query.get_compiler(connection=connection, elide_empty=False).as_sql()
    return f"(SELECT COUNT(*) FROM ({sql}) AS found)", values  # noqa: S608 (Django's own SQL)


_fixed_count = lru_cache(maxsize=1024)(_count)  # making the SQL takes longer than counting


def spell_count(count: int) -> str:
    """A count of `counts` in figures."""
    return f"{COUNTED:,}+" if count > COUNTED else str(count)


def changed(where: Q, *, since: datetime, shown: Sequence[str]) -> int:
    """How many cases changed since then that are wanted now or were shown; stops at `CHANGES` + 1.

    `shown`: references of a page, so that a case that left the view counts too.
    """
    since = max(since, timezone.now() - CHANGES_SINCE)
    found = Case.objects.filter(where | Q(reference__in=shown[:PAGE]), updated_at__gt=since)
    return found.order_by()[: CHANGES + 1].count()


def possible_owners() -> QuerySet[StaffMember]:
    """Who may be given a case."""
    return StaffMember.objects.filter(is_active=True, role__in=OWNERS).order_by(
        "first_name", "username"
    )


# --- Search ---------------------------------------------------------------------------------------
def runs_of_id(text: str) -> list[ErasureRun]:
    """Runs whose id begins so (at least eight hex digits), at most ten."""
    digits = text.replace("-", "").lower()
    if not re.fullmatch(r"[0-9a-f]{8,32}", digits):
        return []
    span = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
    return list(
        ErasureRun.objects.filter(pk__range=span).select_related("case").order_by("pk")[:10]
    )


def releases_of_digest(text: str) -> list[Release]:
    """Releases whose digest begins so (at least eight hex digits), at most ten."""
    digits = text.lower()
    if not re.fullmatch(r"[0-9a-f]{8,64}", digits):
        return []
    return list(Release.objects.filter(digest__startswith=digits).order_by("digest")[:10])


# --- Health ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Health:
    """What works in the background; None where it is not known."""

    worker_seen: datetime | None
    runs_waiting: int
    letters_waiting: int
    oldest_letter: datetime | None
    signed_at: datetime | None
    signed_size: int


def health() -> Health:
    """When the worker was last seen, what waits for it, and what was signed last."""
    letters = Letter.objects.filter(sent_at=None).order_by("created_at")
    waiting = letters.values_list("created_at", flat=True)[: COUNTED + 1]
    signed = Checkpoint.objects.order_by("-size").first()
    return Health(
        worker_seen=_worker_seen(),
        runs_waiting=ErasureRun.objects.filter(state=RunState.QUEUED)[: COUNTED + 1].count(),
        letters_waiting=len(waiting),
        oldest_letter=waiting[0] if waiting else None,
        signed_at=signed.created_at if signed else None,
        signed_size=signed.size if signed else 0,
    )


def _worker_seen() -> datetime | None:
    seen = wake.last_seen("legal")
    return None if seen is None else datetime.fromtimestamp(seen, tz=UTC)
