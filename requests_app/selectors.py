"""Reads for views, exports and commands. Nothing here writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from requests_app import audit, vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, ErasureRun, RunEvent, StaffMember
from requests_app.services.codes import code_matches
from requests_app.verifier import canonical

CLOSED = (CaseStatus.COMPLETED, CaseStatus.WITHDRAWN, CaseStatus.SEALED)
NO_CASE = UUID(int=0)
SHOWN = ("question", "n", "before", "after", "control", "bound", "threshold", "holds")


@dataclass(frozen=True)
class TimelineItem:
    """One audit entry of a case, as a page tells it."""

    seq: int
    case_seq: int
    type: str
    at: datetime
    actor: str
    data: Mapping[str, Any]
    leaf_hash: str


@dataclass(frozen=True)
class RunProgress:
    """A run and its events after a given one; `last_seq` is what to ask with next (-1: none)."""

    run: ErasureRun
    events: tuple[RunEvent, ...]
    last_seq: int


@dataclass(frozen=True)
class Counts:
    """How many cases wait for what."""

    open: int
    needs_decision: int  # identity check and review
    needs_second_person: int
    erasing: int
    evidence_review: int
    to_answer: int
    overdue: int


@dataclass(frozen=True)
class MeasuredRun:
    """A run with evidence, and what the record says of its figures in other places."""

    row: ErasureRun
    protocol: Mapping[str, Any]
    evidence: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]  # by probe, as the pages show them
    logged_estimates: Mapping[str, Any]  # as the audit log holds them
    evidence_is_logged: bool  # the log names the digest of exactly this evidence

    @property
    def verdict(self) -> str:
        return self.row.verdict


def queue(status: str | None = None, *, overdue: bool = False) -> QuerySet[Case]:
    """Cases by legal due date, then id; without a status all that are not closed."""
    cases = Case.objects.order_by("due", "id")
    cases = cases.filter(status=status) if status else cases.exclude(status__in=CLOSED)
    return cases.filter(_is_overdue()) if overdue else cases


def counts() -> Counts:
    """The figures of the start page, in one query."""
    s = CaseStatus
    found = Case.objects.aggregate(
        open=Count("pk", filter=~Q(status__in=CLOSED)),
        needs_decision=Count("pk", filter=Q(status__in=(s.IDENTITY_CHECK, s.IN_REVIEW))),
        needs_second_person=Count("pk", filter=Q(status=s.AWAITING_APPROVAL)),
        erasing=Count("pk", filter=Q(status=s.EXECUTING)),
        evidence_review=Count("pk", filter=Q(status=s.EVIDENCE_REVIEW)),
        to_answer=Count("pk", filter=Q(status=s.RESPONDING)),
        overdue=Count("pk", filter=_is_overdue()),
    )
    return Counts(**found)


def case_by_reference(reference: str) -> Case | None:
    """The case of that reference, in any spelling of capitals; None if there is none."""
    return Case.objects.filter(reference=reference.strip().upper()).first()


def active_staff(username: str) -> StaffMember | None:
    """The member of staff of that log-in name, if the account is active."""
    return StaffMember.objects.filter(username=username, is_active=True).first()


def access_ok(reference: str, access_code: str) -> Case | None:
    """The case if the access code opens it; the same work is done for an unknown reference."""
    case = case_by_reference(reference)
    digest = case.access_digest if case else ""
    matches = code_matches("access", case.id if case else NO_CASE, access_code, digest=digest)
    return case if matches else None


def masked_email(case: Case) -> str:
    """`a***@e***.org`, or an empty string once sealed or if no address was given."""
    try:
        address: str = vault.get(case, "email", default="")
    except vault.VaultSealed:
        return ""
    local, at, domain = address.rpartition("@")
    host, dot, ending = domain.rpartition(".")
    return f"{local[:1]}***@{host[:1]}***{dot}{ending}" if at else ""


def timeline(case: Case) -> list[TimelineItem]:
    """The case's audit entries, oldest first, read from the stored bytes."""
    items = []
    for entry in audit.case_entries(case.id):
        body = cast(dict[str, Any], canonical.loads(bytes(entry.body), file=f"entry {entry.seq}"))
        items.append(
            TimelineItem(
                seq=entry.seq,
                case_seq=body["case_seq"],
                type=entry.type,
                at=cast(datetime, parse_datetime(body["at"])),
                actor=body["actor"],
                data=body["data"],
                leaf_hash=bytes(entry.leaf_hash).hex(),
            )
        )
    return items


def run_progress(run_id: UUID, after_seq: int = -1) -> RunProgress | None:
    """A run with its events after `after_seq`; None if there is no such run."""
    run = ErasureRun.objects.select_related("case", "release").filter(pk=run_id).first()
    if run is None:
        return None
    events = tuple(run.events.filter(seq__gt=after_seq).order_by("seq"))
    return RunProgress(run, events, events[-1].seq if events else after_seq)


def measured_runs(reference: str) -> list[MeasuredRun]:
    """The runs of a case that have evidence, oldest first; none for an unknown reference."""
    case = case_by_reference(reference)
    if case is None:
        return []
    logged = {item.data["run"]: item.data for item in timeline(case) if item.type == "run.verified"}
    found = []
    for row in case.runs.exclude(evidence=None).order_by("created_at", "id"):
        entry = logged.get(str(row.id), {})
        evidence = row.evidence or {}
        digest = hashlib.sha256(canonical.dumps(dict(evidence))).hexdigest()
        found.append(
            MeasuredRun(
                row=row,
                protocol=json.loads(bytes(row.protocol)) if row.protocol else {},
                evidence=evidence,
                rows={
                    each.probe: {name: getattr(each, name) for name in SHOWN}
                    for each in row.probe_results.all()
                },
                logged_estimates=entry.get("estimates", {}),
                evidence_is_logged=entry.get("figures_sha256") == digest,
            )
        )
    return found


def _is_overdue() -> Q:
    return Q(due__lt=timezone.localdate()) & ~Q(status__in=CLOSED)
