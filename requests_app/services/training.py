"""Training sets: registering them, and finding a person's records in them.

A search finds candidates; only a person says which are the subject's. What was found is personal
data: ids and excerpts lie in the vault, the log holds counts and commitments.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import SYSTEM, staff_actor
from requests_app.identifiers import KINDS
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, RecordMatch, RecordSearch, StaffMember, TrainingSet
from requests_app.models.people import Role
from requests_app.services import wake
from requests_app.services.errors import Invalid, LeaseLost, NotFound, WrongState
from requests_app.services.leases import (
    drop_lease,
    is_leased,
    is_to_wake,
    lease_time,
    take_lease,
    used_up,
)
from requests_app.services.locking import lock_case, one_line, require_role
from requests_app.services.suppression import NOT_YET, identifiers_of, sync_tags
from requests_app.training_data import Source, kind_of
from requests_app.verifier import canonical

SEARCH_TASK = "requests_app.locate_records"
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]{2,79}")
ACTIVE = (RecordSearch.State.QUEUED, RecordSearch.State.RUNNING)
MATCHES = 10_000  # of one search; more would be a wrong identifier, not a person


@dataclass(frozen=True)
class FoundRecord:
    """A record that may be the person's: why, how often, and a look at it."""

    record_id: str
    matched: tuple[str, ...]
    count: int
    excerpt: str


@dataclass(frozen=True)
class SearchInput:
    """What a worker needs for one search, decrypted: in memory only."""

    search_id: UUID
    fence: int
    source: Source
    fields: Mapping[str, str]
    identifiers: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    attributes: tuple[str, ...]


# --- Sets ---------------------------------------------------------------------------------------
@transaction.atomic
def register_training_set(
    *,
    name: str,
    location: str,
    query: str = "",
    id_field: str = "",
    fields: Mapping[str, str] | None = None,
    actor_member: StaffMember,
) -> TrainingSet:
    """Register data that models are trained on, or describe a set of that name anew.

    With a query `location` names the environment variable that holds a read-only DSN; else it is
    the path of a .jsonl, .csv or .parquet file. `fields` maps a field to the kind of identifier it
    holds. Raises Invalid.
    """
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,59}", name):
        raise Invalid(_("A set's name has small letters, digits, hyphens; at most 60."))
    if unknown := sorted(set((fields or {}).values()) - set(KINDS)):
        raise Invalid(
            _("No kind of identifier: %(unknown)s. Known: %(kinds)s.")
            % {"unknown": ", ".join(unknown), "kinds": ", ".join(KINDS)}
        )
    if query and not VARIABLE.fullmatch(location):
        raise Invalid(_("Name the environment variable that holds the DSN, not the DSN itself."))
    location = one_line(location, what=_("The location"), longest=400)
    kind = TrainingSet.Kind.SQL if query else TrainingSet.Kind(kind_of(Path(location)))
    described = {
        "kind": str(kind),
        "location": location,
        "query": query,
        "id_field": id_field,
        "fields": dict(fields or {}),
    }
    if TrainingSet.objects.filter(name=name, **described).exists():
        return TrainingSet.objects.get(name=name)
    found, created = TrainingSet.objects.update_or_create(
        name=name, defaults=described, create_defaults={**described, "created_at": timezone.now()}
    )
    audit.append_entry(
        type="training_set.registered",
        actor=staff_actor(actor_member).name,
        data={
            "set": name,
            "kind": str(kind),
            "anew": not created,
            "sha256": hashlib.sha256(canonical.dumps(described)).hexdigest(),
        },
    )
    return found


def source_of(name: str) -> tuple[Source, dict[str, str]]:
    """How to read a registered set, and which of its fields hold identifiers. Raises NotFound, and
    Invalid where the variable of its DSN is not set: in English, since a search keeps it."""
    row = TrainingSet.objects.filter(name=name).first()
    if row is None:
        raise NotFound(f"There is no training set “{name}”.")
    location = row.location
    if row.kind == TrainingSet.Kind.SQL:
        location = os.environ.get(row.location, "")
        if not location:
            raise Invalid(f"Set {row.location}: it holds the DSN of the training set {name}.")
    return Source(row.kind, location, row.query, row.id_field), dict(row.fields)


@transaction.atomic
def record_gate(*, envelope: bytes, training_set: str, clear: bool, build: str) -> None:
    """Log that a build was looked through, by its digest and that of the signed report."""
    sha256 = hashlib.sha256(envelope).hexdigest()
    audit.append_entry(
        type="training.gated",
        actor=SYSTEM.name,
        data={
            "set": training_set,
            "report": sha256,
            "build": build,
            "verdict": "clear" if clear else "found",
        },
        idem_key=f"training.gated/{sha256}",
    )


# --- Searching ----------------------------------------------------------------------------------
@transaction.atomic
def queue_searches(*, case_id: UUID, actor_member: StaffMember) -> list[RecordSearch]:
    """Queue a search of every registered set for the person's records; one at a time a set."""
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    if case.status in NOT_YET:
        raise WrongState(
            _("%(reference)s cannot be searched for now.") % {"reference": case.reference}
        )
    active = RecordSearch.objects.filter(case=case, state__in=ACTIVE)
    sets = TrainingSet.objects.exclude(pk__in=active.values("training_set")).order_by("name")
    found = [
        RecordSearch.objects.create(case=case, training_set=each, created_at=timezone.now())
        for each in sets
    ]
    if not found:
        raise WrongState(_("No training set is registered, or all are being searched already."))
    audit.append_entry(
        type="records.search_queued",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"searches": {str(each.id): each.training_set_id for each in found}},
    )
    for each in found:
        wake.send_after_commit(SEARCH_TASK, each.id)
    return found


@transaction.atomic
def lease_search(*, search_id: UUID, owner: str) -> SearchInput | None:
    """Take up a search that nobody holds; None if somebody does or it ended.

    It begins again at the first record: what it found before is known and not found twice.
    """
    case_id = RecordSearch.objects.filter(pk=search_id).values_list("case_id", flat=True).first()
    if case_id is None:
        return None
    case = lock_case(case_id)
    search = RecordSearch.objects.select_for_update().get(pk=search_id)
    if search.state not in ACTIVE or is_leased(search):
        return None
    if case.status in NOT_YET or used_up(search):
        sealed = case.status in NOT_YET
        _end(case, search, "The case was closed." if sealed else "Its worker died too often.")
        return None
    take_lease(search, owner=owner)
    search.state = RecordSearch.State.RUNNING
    search.records = 0
    search.save()
    try:
        source, fields = source_of(search.training_set_id)
    except Invalid as problem:
        _end(case, search, str(problem))
        return None
    names = (vault.get(case, "name"), *vault.get(case, "aliases"))
    facts = tuple(fact["answer"] for fact in vault.get(case, "facts", default=[]))
    identifiers = tuple(identifiers_of(case))
    return SearchInput(search.id, search.fence, source, fields, identifiers, names, facts)


def searches_to_wake() -> list[UUID]:
    """Searches that somebody should take up: queued for over five seconds, or that nobody holds."""
    rows = RecordSearch.objects.filter(is_to_wake(*ACTIVE)).order_by("created_at")
    return list(rows.values_list("id", flat=True))


@transaction.atomic
def save_matches(given: SearchInput, *, records: int, found: Sequence[FoundRecord]) -> None:
    """Store candidates and how far the search is, and hold the lease. Raises LeaseLost, and
    Invalid when there are more matches than one person can have."""
    case, search = _held(given)
    new = 0
    for each in found:
        match, created = RecordMatch.objects.get_or_create(
            case=case,
            training_set=search.training_set,
            record=_record_digest(case, each.record_id),
            defaults={"matched": list(each.matched), "count": each.count},
        )
        if created:
            new += 1
            content = {"record_id": each.record_id, "excerpt": each.excerpt}
            vault.put(case, f"match/{match.pk}", content)
    search.records, search.found = records, search.found + new
    search.lease_expires_at = timezone.now() + lease_time()
    search.save()
    if search.found > MATCHES:
        raise Invalid(
            _("More than %(matches)s records match: check the identifiers of the case.")
            % {"matches": MATCHES}
        )


@transaction.atomic
def end_search(given: SearchInput, *, error: str = "") -> None:
    """Write the end of a search; `error` is a short sentence without data. Raises LeaseLost."""
    case, search = _held(given)
    _end(case, search, error)


def _held(given: SearchInput) -> tuple[Case, RecordSearch]:
    case_id = RecordSearch.objects.values_list("case_id", flat=True).get(pk=given.search_id)
    case = lock_case(case_id)
    search = RecordSearch.objects.select_for_update().get(pk=given.search_id)
    running = search.state == RecordSearch.State.RUNNING
    if search.fence != given.fence or not running or case.status in NOT_YET:
        raise LeaseLost(f"Search {search.id} is no longer held under fence {given.fence}.")
    return case, search


def _end(case: Case, search: RecordSearch, error: str) -> None:
    drop_lease(search)
    search.state = RecordSearch.State.FAILED if error else RecordSearch.State.DONE
    search.error = error[:300]
    search.finished_at = timezone.now()
    search.save()
    audit.append_entry(
        type="records.searched",
        actor=SYSTEM.name,
        case=case if case.status != CaseStatus.SEALED else None,
        data={
            "search": str(search.id),
            "set": search.training_set_id,
            "state": str(search.state),
            "records": search.records,
            "new_matches": search.found,
        },
    )


def _record_digest(case: Case, record_id: str) -> str:
    """So that a record found again is known, and cannot be guessed from the table."""
    key = hashlib.sha256(f"rtbf.match/{settings.SECRET_KEY}".encode()).digest()
    message = f"{case.id}\x1f{record_id}".encode(errors="surrogatepass")
    return hmac.new(key, message, hashlib.sha256).hexdigest()


# --- Deciding -----------------------------------------------------------------------------------
@transaction.atomic
def decide_matches(
    *, case_id: UUID, confirmed: Sequence[int], rejected: Sequence[int], actor_member: StaffMember
) -> int:
    """Say which found records are the person's and which are somebody else's; returns how many.

    Confirmed ones are excluded from their sets as long as the erasure, or a restriction, is in
    force. An earlier answer can be changed.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    if case.status in NOT_YET:
        raise WrongState(
            _("%(reference)s is closed: its matches cannot be read any more.")
            % {"reference": case.reference}
        )
    wanted = {
        **dict.fromkeys(confirmed, RecordMatch.State.CONFIRMED),
        **dict.fromkeys(rejected, RecordMatch.State.REJECTED),
    }
    rows = list(RecordMatch.objects.select_for_update().filter(case=case, pk__in=wanted))
    if set(confirmed) & set(rejected) or len(rows) != len(wanted):
        raise Invalid(_("Answer once for each match, and only for those of this case."))
    changed = [row for row in rows if row.state != wanted[row.pk]]
    if not changed:
        raise Invalid(_("Say of at least one record whether it is the person's."))
    ids: dict[str, list[str]] = {"confirmed": [], "rejected": []}
    for row in changed:
        row.state = wanted[row.pk]
        row.decided_by, row.decided_at = actor_member, timezone.now()
        row.save()
        ids[str(row.state)].append(vault.get(case, f"match/{row.pk}")["record_id"])
    actor = staff_actor(actor_member)
    sets: Counter[str] = Counter(row.training_set_id for row in changed)
    data: dict[str, Any] = {"sets": dict(sets), **{f"n_{k}": len(v) for k, v in ids.items()}}
    tags = sync_tags(case, actor=actor)
    audit.append_entry(
        type="records.decided",
        actor=actor.name,
        case=case,
        data=data,
        commitments={name: sorted(found) for name, found in ids.items() if found},
    )
    audit.append_entries(tags)
    return len(changed)
