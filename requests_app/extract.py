"""An extract of the whole record, or of a release: what exports that are no case's are made from.

Rows are plain values, read a page at a time, so that memory stays flat however long the record is.
What a level leaves out is left out here already: no export can put it back in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, TypeVar, cast

from django.db.models import Model, OuterRef, Prefetch, QuerySet, Subquery
from django.utils import timezone

from requests_app.actors import staff_actor
from requests_app.models import Adapter, AuditEntry, Case, Decision, LogHead, Release, ScopeItem
from requests_app.models.exports import ExportJob, Level
from requests_app.models.people import Role, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services.manifests import level_of_weights, read_manifest

PAGE = 500
STAFF = re.compile(rf"\b({'|'.join(Role.values)}):[0-9a-f-]{{36}}")

Row = TypeVar("Row", bound=Model)
Watch = Callable[[int, int], None]  # called with rows read, and rows there are


@dataclass(frozen=True)
class ScopeRow:
    """One thing a decision spoke of: `model` `demo`, its result, its exemption of Art. 17(3)."""

    kind: str
    target: str
    result: str
    exemption: str
    review_on: str  # ISO day on which what is kept is looked at again, or empty


@dataclass(frozen=True)
class CaseRow:
    """One case. Staff are named as the level allows: by role, by role and pseudonym, or not."""

    reference: str  # empty at the public level
    status: str
    channel: str
    jurisdiction: str
    received_on: date
    due: date
    is_extended: bool
    is_on_behalf: bool  # asked by somebody else for the person
    identity_method: str
    outcome: str  # empty until a decision is approved
    grounds: tuple[str, ...]
    scope: tuple[ScopeRow, ...]
    decided_on: date | None
    proposed_by: str
    approved_by: str
    verdicts: Mapping[str, str]  # of the last run on each model
    answered_on: date | None  # the first answer: a case reopened later was answered in time or not
    withdrawn_on: date | None
    sealed_on: date | None

    @property
    def days(self) -> int | None:
        """Days from receipt to the first answer."""
        return (self.answered_on - self.received_on).days if self.answered_on else None

    @property
    def exemptions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(item.exemption for item in self.scope if item.exemption))

    @property
    def was_never_confirmed(self) -> bool:
        """Tell whether the mailbox was never confirmed, and the request sealed as it was."""
        return bool(self.sealed_on) and not (self.answered_on or self.withdrawn_on)

    def is_late(self, on: date) -> bool:
        """Tell whether it was answered after its last day, or is unanswered then (Art. 12(3))."""
        ended = self.answered_on or self.withdrawn_on or self.sealed_on
        return (ended or on) > self.due


@dataclass(frozen=True)
class EntryRow:
    """One entry of the audit log; `body` is its exact text at the internal level alone.

    For an authority staff stand in it by role, so the leaf hash is that of the exact text and not
    of this one; the public sees the leaf hash only.
    """

    seq: int
    leaf: str
    body: str | None


@dataclass(frozen=True)
class AdapterPart:
    """One adapter in force, by digests."""

    sha256: str
    config_sha256: str  # empty for an adapter that several cases share
    gate_sha256: str


@dataclass(frozen=True)
class ReleaseParts:
    """What a release is made of, without saying for whom."""

    digest: str
    model_name: str
    registered_at: datetime
    parent: str | None
    base: Mapping[str, str]  # name, sha256, tokenizer_sha256, settings
    adapters: tuple[AdapterPart, ...]
    weights: str  # merged or exact where the weights themselves stand for cases, else empty


def _nobody_watches(done: int, total: int) -> None:
    """No progress is kept."""


@dataclass(frozen=True)
class Extract:
    """The record from `first` to `last`, both included, as it stands on `made_on`."""

    level: Level
    first: date
    last: date
    made_on: date
    release: ReleaseParts | None = None
    watch: Watch = field(default=_nobody_watches, repr=False)

    def spell(self, day: date) -> str:
        """A day as the level allows: the public learns no more than the month."""
        return f"{day:%Y-%m}" if self.level == Level.PUBLIC else day.isoformat()

    def cases(self) -> Iterator[CaseRow]:
        """Cases received in the period, by reference."""
        answered = AuditEntry.objects.filter(case_id=OuterRef("pk"), type="case.completed")
        approved = Decision.objects.filter(state=Decision.State.APPROVED)
        rows = (
            Case.objects.filter(received_on__range=(self.first, self.last))
            .annotate(answer=Subquery(answered.order_by("case_seq").values("body")[:1]))
            .prefetch_related(
                Prefetch("scope_items", ScopeItem.objects.order_by("id")),
                Prefetch("decisions", approved.select_related("proposed_by", "approved_by")),
                "runs",
            )
        )
        total, done = rows.count(), 0
        for page in _pages(rows, key="reference"):
            for row in page:
                yield self._case(row)
            done += len(page)
            self.watch(done, max(total, done))

    def entries(self) -> Iterator[EntryRow]:
        """Entries of the audit log made in the period (days in UTC), in the order of the log."""
        head = LogHead.objects.first()
        size = head.size if head else 0
        rows = AuditEntry.objects.filter(seq__lt=size).only("seq", "body", "leaf_hash")
        first, last = self.first.isoformat(), self.last.isoformat()
        for page in _pages(rows, key="seq"):
            for row in page:
                text = bytes(row.body).decode()
                if first <= json.loads(text)["at"][:10] <= last:
                    yield EntryRow(row.seq, bytes(row.leaf_hash).hex(), self._body(text))
            if page:
                self.watch(page[-1].seq + 1, size)

    def _body(self, text: str) -> str | None:
        if self.level == Level.PUBLIC:
            return None
        return text if self.level == Level.INTERNAL else STAFF.sub(r"\1", text)

    def _staff(self, member: StaffMember | None) -> str:
        if member is None or self.level == Level.PUBLIC:
            return ""
        actor = staff_actor(member)
        return actor.name if self.level == Level.INTERNAL else actor.role

    def _case(self, row: Case) -> CaseRow:
        decision = next(iter(row.decisions.all()), None)
        runs = sorted(row.runs.all(), key=lambda run: run.number)
        answer: bytes | memoryview | None = row.answer  # type: ignore[attr-defined]
        answered_at = json.loads(bytes(answer))["at"] if answer is not None else None
        return CaseRow(
            reference="" if self.level == Level.PUBLIC else row.reference,
            status=row.status,
            channel=row.channel,
            jurisdiction=row.jurisdiction,
            received_on=row.received_on,
            due=row.due,
            is_extended=row.extended_on is not None,
            is_on_behalf=row.on_behalf,
            identity_method=row.identity_method,
            outcome=decision.outcome if decision else "",
            grounds=tuple(decision.grounds) if decision else (),
            scope=tuple(
                ScopeRow(
                    kind=item.kind,
                    target=item.target,
                    result=item.result,
                    exemption=item.exemption,
                    review_on=item.review_on.isoformat() if item.review_on else "",
                )
                for item in row.scope_items.all()
            ),
            decided_on=_day(decision.approved_at) if decision else None,
            proposed_by=self._staff(decision.proposed_by) if decision else "",
            approved_by=self._staff(decision.approved_by) if decision else "",
            verdicts={run.model_name: run.verdict for run in runs if run.verdict != Verdict.NONE},
            answered_on=_day(datetime.fromisoformat(answered_at)) if answered_at else None,
            withdrawn_on=_day(row.withdrawn_at),
            sealed_on=_day(row.sealed_at),
        )


def gather(job: ExportJob, *, watch: Watch = _nobody_watches) -> Extract:
    """The extract that a job asks for, as of now; `watch` hears how many rows were read."""
    return Extract(
        level=Level(job.level),
        first=job.first,
        last=job.last,
        made_on=timezone.localdate(),
        release=release_parts(job.release) if job.release else None,
        watch=watch,
    )


def release_parts(release: Release) -> ReleaseParts:
    """The parts of a release, from the exact bytes of its manifest. Invalid if they are not one."""
    raw = bytes(release.manifest)
    manifest = read_manifest(raw)
    own = Adapter.objects.filter(sha256__in=[each.sha256 for each in manifest.adapters])
    configs = dict(own.values_list("sha256", "config_sha256"))
    return ReleaseParts(
        digest=manifest.digest,
        model_name=release.model_name,
        registered_at=release.created_at.astimezone(UTC),
        parent=manifest.parent,
        base=cast(dict[str, Any], json.loads(raw))["base"],
        adapters=tuple(
            AdapterPart(sha256, configs.get(sha256, ""), gate)
            for sha256, gate in dict.fromkeys((a.sha256, a.gate_sha256) for a in manifest.adapters)
        ),
        weights=level_of_weights(manifest) if manifest.merged else "",
    )


def _pages(rows: QuerySet[Row], *, key: str) -> Iterator[list[Row]]:
    """Pages of rows by a unique key, each a query of its own: between two of them no cursor is
    open, so that progress can be written meanwhile on SQLite too."""
    page = list(rows.order_by(key)[:PAGE])
    while page:
        yield page
        after = {f"{key}__gt": getattr(page[-1], key)}
        page = list(rows.filter(**after).order_by(key)[:PAGE]) if len(page) == PAGE else []


def _day(at: datetime | None) -> date | None:
    return timezone.localdate(at) if at else None
