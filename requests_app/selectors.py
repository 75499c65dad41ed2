"""Reads for views, exports and commands. Nothing here writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from statistics import fmean
from typing import Any, cast
from uuid import UUID

from django.core.cache import cache
from django.db.models import Count, Min, Q, QuerySet
from django.db.models.functions import TruncMonth
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from redis.exceptions import RedisError

from requests_app import audit, vault
from requests_app.lifecycle import CLOSED, CaseStatus
from requests_app.models import (
    AuditEntry,
    Case,
    ErasureRun,
    Letter,
    ModelNode,
    Recheck,
    Release,
    RunEvent,
    StaffMember,
    SuppressionTag,
    TrainingSet,
)
from requests_app.models.runs import Verdict
from requests_app.services import evidence_tables
from requests_app.services.codes import code_matches
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.manifests import read_manifest
from requests_app.services.rechecks import SUPERSEDED, next_due
from requests_app.services.run_rows import fell_back
from requests_app.suppression import record_kind
from requests_app.verifier import canonical

NO_CASE = UUID(int=0)
REVIEW_AHEAD = timedelta(days=30)  # entries of the suppression list are shown so long before
LISTED = 200
FEWEST = 5  # smaller counts are not made public
COUNTED = ("received_at", "completed_at", "sealed_at")  # in public, by month
COUNTED_FOR = 600  # seconds
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
    text: str  # the canonical JSON that the leaf hash covers


@dataclass(frozen=True)
class RunProgress:
    """A run and its events after a given one; `last_seq` is what to ask with next (-1: none)."""

    run: ErasureRun
    events: tuple[RunEvent, ...]
    last_seq: int


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


@dataclass(frozen=True)
class Month:
    """What happened in a month, in words that tell small counts apart from nothing."""

    first: date
    received: str
    answered: str
    sealed: str


def queue(status: str | None = None) -> QuerySet[Case]:
    """Cases by legal due date, then id; without a status all that are not closed."""
    cases = Case.objects.order_by("due", "id")
    return cases.filter(status=status) if status else cases.exclude(status__in=CLOSED)


def months_in_round_numbers() -> list[Month]:
    """The last twelve months that have ended, latest first; fewer than 5 are not told apart.

    Ended ones only: whoever looks every day would see a running month change with one person.
    Anybody may ask, so they are counted at most every `COUNTED_FOR` seconds.
    """
    ends = [timezone.localdate().replace(day=1)]
    while len(ends) <= 12:
        ends.append((ends[-1] - timedelta(days=1)).replace(day=1))
    counts = _counts_by_month(ends[-1], ends[0])
    return [
        Month(first, *(_rounded(counts[at].get(f"{first}", 0)) for at in COUNTED))
        for first in ends[1:]
    ]


def _counts_by_month(first: date, end: date) -> dict[str, dict[str, int]]:
    """By column and first day of a month: how many cases have their time in it."""
    key = f"months:{first}:{end}"
    try:
        known: dict[str, dict[str, int]] | None = cache.get(key)
    except RedisError:
        known = None
    if known is not None:
        return known
    zone = timezone.get_default_timezone()
    span = [datetime.combine(day, time.min, tzinfo=zone) for day in (first, end)]
    counts = {}
    for at in COUNTED:
        cases = Case.objects.filter(**{f"{at}__gte": span[0], f"{at}__lt": span[1]})
        months = cases.annotate(month=TruncMonth(at, tzinfo=zone)).values_list("month")
        found = months.annotate(Count("pk")).order_by()
        counts[at] = {f"{month:%Y-%m-%d}": count for month, count in found}
    with suppress(RedisError):
        cache.set(key, counts, COUNTED_FOR)
    return counts


@dataclass(frozen=True)
class LoggedRelease:
    """A release as anybody may know it: no place in the log, no day, no case."""

    until: datetime  # of the last of its five; shown as a month
    release: str
    leaf: str  # hex, of its entry


def releases_in_fives(longest: int = 20) -> list[LoggedRelease]:
    """The last releases that the log names, latest first, in whole groups of FEWEST.

    A release comes of a case: one that is shown alone, or with its day, would tell when somebody
    was erased (so would its place in the log, beside the checkpoints' times).
    """
    entries = AuditEntry.objects.filter(type="release.registered")
    whole = entries.count() // FEWEST * FEWEST
    rows = list(entries.order_by("seq")[max(0, whole - longest) : whole])
    found = []
    for first in range(0, len(rows), FEWEST):
        group = rows[first : first + FEWEST]
        bodies = [canonical.loads(bytes(row.body), file=f"entry {row.seq}") for row in group]
        until = datetime.fromisoformat(cast(Any, bodies[-1])["at"])
        found += sorted(  # not in the order of the log
            (
                LoggedRelease(until, cast(Any, body)["data"]["release"], bytes(row.leaf_hash).hex())
                for row, body in zip(group, bodies, strict=True)
            ),
            key=lambda each: each.release,
        )
    return found[::-1]


def _rounded(count: int) -> str:
    if count < FEWEST:
        return _("fewer than %(count)d") % {"count": FEWEST}
    return _("about %(count)d") % {"count": 5 * round(count / 5)}


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
    return mask(address)


def mask(address: str) -> str:
    """`a***@e***.org`; empty for what is no address."""
    local, at, domain = address.rpartition("@")
    host, dot, ending = domain.rpartition(".")
    return f"{local[:1]}***@{host[:1]}***{dot}{ending}" if at else ""


def timeline(case: Case) -> list[TimelineItem]:
    """The case's audit entries, oldest first, read from the stored bytes."""
    return [_item(entry) for entry in audit.case_entries(case.id)]


def _item(entry: AuditEntry) -> TimelineItem:
    body = cast(dict[str, Any], canonical.loads(bytes(entry.body), file=f"entry {entry.seq}"))
    return TimelineItem(
        seq=entry.seq,
        case_seq=body["case_seq"],
        type=entry.type,
        at=cast(datetime, parse_datetime(body["at"])),
        actor=body["actor"],
        data=body["data"],
        leaf_hash=bytes(entry.leaf_hash).hex(),
        text=bytes(entry.body).decode(),
    )


PUT_LIVE = ("release.registered", "release.consolidated", "release.rolled_back", "case.revoked")


def entries_of_release(release: Release) -> list[TimelineItem]:
    """The log's entries that put a release in force, last first."""
    found = []
    for entry in AuditEntry.objects.filter(type__in=PUT_LIVE).order_by("-seq"):
        item = _item(entry)
        named = {item.data.get("release"), *item.data.get("releases", {}).values()}
        if release.pk in named and item.data.get("live", True):
            found.append(item)
    return found


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


@dataclass(frozen=True)
class RecheckState:
    """How far the last occasion is, on which the cases of a release were drawn."""

    at: datetime | None
    reason: str
    cases: int
    measured: int
    within: int
    not_met: int
    inconclusive: int


@dataclass(frozen=True)
class UtilityStep:
    """What one release of a model costs everybody else, against the original model: decimal
    strings, empty where it was not measured (`why` says so)."""

    number: int  # 1 is the model's first release
    digest: str
    kept: str
    kept_bound: str  # the lower 95% bound of what is still answered
    perplexity_ratio: str
    why: str


def recheck_state(release: Release) -> RecheckState:
    """The last occasion of a release, by the verdicts of its cases."""
    last = release.rechecks.order_by("occasion").last()
    rows = release.rechecks.filter(occasion=last.occasion if last else 0, case__isnull=False)
    found = rows.aggregate(
        cases=Count("pk"),
        measured=Count("pk", filter=Q(finished_at__isnull=False)),
        within=Count("pk", filter=Q(verdict=Verdict.WITHIN)),
        not_met=Count("pk", filter=Q(verdict=Verdict.NOT_MET)),
        inconclusive=Count("pk", filter=Q(verdict=Verdict.INCONCLUSIVE)),
    )
    at, reason = (last.created_at, last.get_reason_display()) if last else (None, "")
    return RecheckState(at=at, reason=reason, **found)


def last_recheck(run: ErasureRun) -> Recheck | None:
    """The last recheck of a run's erasure that has a verdict."""
    return run.rechecks.exclude(verdict="").order_by("finished_at", "id").last()


def fell_back_runs(case: Case) -> set[UUID]:
    """The runs of a case whose erasure, measured again, no longer held when that last decided: as
    `run_rows.fell_back` tells it of one, in one query for all."""
    decided = case.rechecks.filter(verdict__in=(Verdict.WITHIN, Verdict.NOT_MET))
    rows = decided.exclude(run=None).order_by("finished_at", "id").values_list("run", "verdict")
    return {run for run, verdict in dict(rows).items() if verdict == Verdict.NOT_MET}


def last_rechecks(case: Case) -> list[tuple[Recheck, datetime | None]]:
    """The last recheck of the case on each model, and when the next one is due there."""
    rows = case.rechecks.exclude(verdict="").select_related("release")
    last = {row.release.model_name: row for row in rows.order_by("finished_at", "id")}
    if not last:
        return []
    live = {
        each.model_name: each
        for each in Release.objects.filter(is_live=True, model_name__in=last)
        if case.id in read_manifest(bytes(each.manifest)).cases
    }
    return [
        (row, next_due(live[name]) if name in live else None) for name, row in sorted(last.items())
    ]


def reopened_cases() -> QuerySet[Case]:
    """Cases in evidence review of which a run, measured again, no longer holds."""
    waiting = ErasureRun.objects.filter(case__status=CaseStatus.EVIDENCE_REVIEW)
    runs = waiting.filter(rechecks__verdict=Verdict.NOT_MET).distinct()
    return Case.objects.filter(pk__in=[run.case_id for run in runs if fell_back(run)])


def bounced_letters() -> QuerySet[Letter]:
    """Letters whose announcement came back and that nobody has sent in another way since."""
    return Letter.objects.filter(bounced_at__isnull=False)


def utility_trend(model_name: str) -> list[UtilityStep]:
    """The measured releases of a model in their order, each by its last measurement."""
    order = Release.objects.filter(model_name=model_name).order_by("created_at", "digest")
    numbers = {digest: i for i, digest in enumerate(order.values_list("digest", flat=True), 1)}
    rows = Recheck.objects.filter(release__model_name=model_name, case=None)
    rows = rows.filter(finished_at__isnull=False).exclude(why=SUPERSEDED)
    last = {row.release_id: row for row in rows.order_by("finished_at", "id")}
    steps = [
        UtilityStep(
            number=numbers[digest],
            digest=digest,
            kept=row.figures.get("kept", ""),
            kept_bound=row.figures.get("kept_bound", ""),
            perplexity_ratio=row.figures.get("perplexity_ratio", ""),
            why=row.why,
        )
        for digest, row in last.items()
    ]
    return sorted(steps, key=lambda step: step.number)


@dataclass(frozen=True)
class LineageNode:
    """Weights as a page shows them; `is_blocked`: they or an ancestor are in quarantine."""

    row: ModelNode
    parents: tuple[str, ...]
    by: str
    is_blocked: bool
    is_live: bool


def model_lineage() -> list[LineageNode]:
    """All weights, oldest first."""
    live = Release.objects.filter(is_live=True)
    bases = {read_manifest(bytes(release.manifest)).base_sha256 for release in live}
    rows = list(ModelNode.objects.prefetch_related("parents").order_by("created_at", "pk"))
    blocked: dict[str, bool] = {}
    found = []
    for row in rows:  # a parent was registered before its children
        parents = tuple(sorted(each.pk for each in row.parents.all()))
        is_held = row.quarantined_from is not None
        blocked[row.pk] = is_held or any(blocked.get(parent, False) for parent in parents)
        by = row.quarantined_by.partition(":")[0]
        found.append(LineageNode(row, parents, by, blocked[row.pk], row.pk in bases))
    return found


def suppression_overview() -> dict[str, Any]:
    """Training sets with what is left out of them, and the suppression list in figures."""
    tags = SuppressionTag.objects.all()
    kinds = dict(tags.values_list("kind").annotate(Count("pk")).order_by("kind"))
    per_case = tags.values("case_id").annotate(on=Min("review_on"), n=Count("pk")).order_by("on")
    soon = timezone.localdate() + REVIEW_AHEAD
    rows = list(per_case.filter(on__lte=soon)[:LISTED])
    cases = Case.objects.in_bulk([row["case_id"] for row in rows])
    return {
        "sets": [
            (each, kinds.get(record_kind(each.name), 0))
            for each in TrainingSet.objects.order_by("name")
        ],
        "tags": sum(kinds.values()),
        "people": per_case.count(),
        "kinds": list(kinds.items()),
        "due": [(cases[row["case_id"]], row["on"], row["n"]) for row in rows],
    }


def item_losses(run: ErasureRun) -> dict[str, list[float]]:
    """The loss of each fact's true answer in nats a token, before, after and on the control, from
    the sealed rows; empty where there are none, or none any more."""
    try:
        table = evidence_tables.tables_of(run).get("answer_loss")
    except (Invalid, WrongState, vault.VaultError):
        return {}
    sides = json.loads(table)["sides"] if table else {}
    found: dict[str, list[float]] = {}
    for side, rows in sides.items():
        losses: dict[int, list[float]] = {}
        for row in rows:
            if row["role"] == "true" and row.get("logp"):
                losses.setdefault(row["item"], []).append(-fmean(row["logp"]))
        found[side] = [fmean(losses[item]) for item in sorted(losses)]
    return found


@dataclass(frozen=True)
class ToldAgain:
    """Cases of a model in the order of their requests, each with its limit, the numbers of the
    releases they were measured on again, and by release and case the share of unseen wordings told
    (None: not measured)."""

    cases: tuple[Case, ...]
    limits: tuple[float, ...]
    releases: tuple[int, ...]
    told: tuple[tuple[float | None, ...], ...]


def told_by_release(model_name: str) -> ToldAgain:
    """What the rechecks of a model found, for a figure."""
    rows = Recheck.objects.filter(release__model_name=model_name, case__isnull=False)
    rows = rows.exclude(verdict="").select_related("release", "case").order_by("finished_at", "id")
    order = Release.objects.filter(model_name=model_name).order_by("created_at", "digest")
    numbers = {digest: i for i, digest in enumerate(order.values_list("digest", flat=True), 1)}
    told: dict[tuple[int, UUID], float | None] = {}
    cases: dict[UUID, Case] = {}
    limits: dict[UUID, float] = {}
    for row in rows:
        if row.case is None:
            continue
        cases[row.case.pk] = row.case
        found = row.figures.get("probes", {}).get("recall_unseen", {})
        after = found.get("after")
        told[numbers[row.release_id], row.case.pk] = None if after is None else float(after)
        limits[row.case.pk] = float(found.get("control_upper95") or 0.0)
    people = sorted(cases.values(), key=lambda case: (case.received_on, case.reference))
    releases = sorted({number for number, _ in told})
    return ToldAgain(
        cases=tuple(people),
        limits=tuple(limits[case.pk] for case in people),
        releases=tuple(releases),
        told=tuple(tuple(told.get((n, case.pk)) for case in people) for n in releases),
    )
