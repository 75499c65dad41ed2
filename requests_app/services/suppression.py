"""The suppression list: keyed digests that keep a person out of the next training set.

A case's tags follow from its record alone: erasure decided, or processing restricted. They stay
when the case is sealed, are looked at every year, and go upon an objection. A name is never on the
list: other people have it too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, suppression, vault
from requests_app.actors import Actor, staff_actor
from requests_app.audit import Entry
from requests_app.identifiers import KINDS, NotAnIdentifier, normal_form
from requests_app.lifecycle import CaseStatus
from requests_app.models import (
    Case,
    Decision,
    RecordMatch,
    Restriction,
    Revocation,
    ScopeItem,
    StaffMember,
    SuppressionKey,
    SuppressionTag,
)
from requests_app.models.people import Role
from requests_app.models.record import Outcome
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.locking import lock_case, one_line, require_role
from requests_app.suppression import SuppressionKeyError, SuppressionList, record_kind

REVIEW = timedelta(days=365)
IDENTIFIERS = 50
IDENTIFIER_LENGTH = 254
NOT_YET = (CaseStatus.AWAITING_CONFIRMATION, CaseStatus.WITHDRAWN, CaseStatus.SEALED)


@transaction.atomic
def record_identifiers(
    *, case_id: UUID, identifiers: Sequence[tuple[str, str]], actor_member: StaffMember
) -> Case:
    """Store which identifiers are the person's, (kind, value) each, in the place of earlier ones.

    The e-mail address of the request counts by itself. Raises Invalid, naming the line and no
    value.
    """
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    if case.status in NOT_YET:
        raise WrongState(
            _("%(reference)s takes no identifiers now.") % {"reference": case.reference}
        )
    if len(identifiers) > IDENTIFIERS:
        raise Invalid(_("At most %(count)d identifiers can be stored.") % {"count": IDENTIFIERS})
    found = []
    for line, (kind, value) in enumerate(identifiers, start=1):
        value = one_line(
            value, what=_("Identifier %(line)d") % {"line": line}, longest=IDENTIFIER_LENGTH
        )
        try:
            normal_form(kind, value, phone_prefix=settings.RTBF_PHONE_PREFIX)
        except NotAnIdentifier as problem:
            raise Invalid(
                _("Identifier %(line)d: %(problem)s") % {"line": line, "problem": problem}
            ) from None
        found.append({"kind": kind, "value": value})
    vault.put(case, "identifiers", found)
    actor = staff_actor(actor_member)
    tags = sync_tags(case, actor=actor)
    audit.append_entry(
        type="case.identifiers_recorded",
        actor=actor.name,
        case=case,
        data={"kinds": dict(Counter(each["kind"] for each in found))},
        commitments={"content": found},
    )
    audit.append_entries(tags)
    return case


def identifiers_of(case: Case) -> list[tuple[str, str]]:
    """(kind, normal form) of the identifiers that the case holds; in memory only."""
    stored = [(each["kind"], each["value"]) for each in vault.get(case, "identifiers", default=[])]
    if email := vault.get(case, "email", default=""):
        stored.append(("email", email))
    prefix = settings.RTBF_PHONE_PREFIX
    found = []
    for kind, value in stored:
        try:
            found.append((kind, normal_form(kind, value, phone_prefix=prefix)))
        except NotAnIdentifier:  # an address that mail accepts and that has no normal form
            continue
    return list(dict.fromkeys(found))


def sync_tags(case: Case, *, actor: Actor, source: str | None = None) -> list[Entry]:
    """Make the tags of a locked case what its record says; returns the entry if that changes any.

    Call it in the transaction of the change that may matter, and log what is returned. `source`
    says why there are tags where the record has forgotten it, after a restore. Raises Invalid
    without the key.
    """
    source = _source(case) if source is None else source
    has_rows = SuppressionTag.objects.filter(case_id=case.id).exists()
    if not source and not has_rows:
        return []
    keys = checked_keys()
    wanted = _wanted(case, keys) if source else set()
    held = {}
    for row in SuppressionTag.objects.select_for_update().filter(case_id=case.id).order_by("id"):
        newest = suppression.carried_on(keys, bytes(row.tag), version=row.key_version)
        held[row.kind, newest] = row
    gone = [row for at, row in held.items() if at not in wanted]
    turned = [row for at, row in held.items() if at in wanted and row.source != source]
    new = sorted(wanted - held.keys())
    if not (gone or turned or new):
        return []
    SuppressionTag.objects.filter(pk__in=[row.pk for row in gone]).delete()
    SuppressionTag.objects.filter(pk__in=[row.pk for row in turned]).update(source=source)
    review_on = timezone.localdate() + REVIEW
    SuppressionTag.objects.bulk_create(
        SuppressionTag(
            case_id=case.id,
            kind=kind,
            key_version=len(keys),
            tag=value,
            source=source,
            created_at=timezone.now(),
            review_on=review_on,
        )
        for kind, value in new
    )
    data: dict[str, Any] = {
        "source": source,
        "added": dict(Counter(kind for kind, _ in new)),
        "removed": dict(Counter(row.kind for row in gone)),
        "key_version": len(keys),
        "review_on": review_on.isoformat(),
    }
    return [Entry("suppression.changed", actor.name, data, case)]


@transaction.atomic
def remove_tags(*, case_id: UUID, actor_member: StaffMember) -> int:
    """Take a case off the list upon the person's objection (Art. 21); returns how many tags went.

    From then on a new training set may hold the person again, as they wished.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    count = SuppressionTag.objects.filter(case_id=case.id).delete()[0]
    if not count:
        raise WrongState(
            _("Nothing of %(reference)s is on the suppression list.")
            % {"reference": case.reference}
        )
    audit.append_entry(
        type="suppression.removed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"tags": count, "cause": "objection"},
    )
    return count


@transaction.atomic
def review_tags(*, case_id: UUID, actor_member: StaffMember) -> date:
    """Keep a case on the list for another year, after a look at whether it is still needed."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    review_on = timezone.localdate() + REVIEW
    count = SuppressionTag.objects.filter(case_id=case.id).update(review_on=review_on)
    if not count:
        raise WrongState(
            _("Nothing of %(reference)s is on the suppression list.")
            % {"reference": case.reference}
        )
    audit.append_entry(
        type="suppression.reviewed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"tags": count, "review_on": review_on.isoformat()},
    )
    return review_on


@transaction.atomic
def rotate_tags(*, actor_member: StaffMember) -> int:
    """Carry every tag on to the newest key; returns how many. No identifier is needed in clear."""
    require_role(actor_member, Role.ENGINEER, Role.APPROVER)
    keys = checked_keys()
    rows = SuppressionTag.objects.select_for_update().filter(key_version__lt=len(keys))
    old = list(rows.order_by("id"))
    for row in old:
        row.tag = suppression.carried_on(keys, bytes(row.tag), version=row.key_version)
        row.key_version = len(keys)
    if not old:
        return 0
    SuppressionTag.objects.bulk_update(old, ["tag", "key_version"], batch_size=500)
    audit.append_entry(
        type="suppression.rotated",
        actor=staff_actor(actor_member).name,
        data={"key_version": len(keys), "tags": len(old)},
    )
    return len(old)


def list_in_force(training_set: str = "") -> SuppressionList:
    """The list as it applies to a training set; without one, what applies to any data.

    A case that keeps the set by an exemption of Art. 17(3) does not apply to it. Raises Invalid
    without the keys under which the tags were made.
    """
    rows = SuppressionTag.objects.all()
    if training_set:
        kept = ScopeItem.objects.filter(
            kind=ScopeItem.Kind.TRAINING_SET,
            target=training_set,
            result=ScopeItem.Result.KEEP,
            case__decisions__state=Decision.State.APPROVED,
        )
        rows = rows.exclude(case_id__in=kept.values("case_id"), source="decision")
    found = rows.values_list("kind", "key_version", "tag")
    own = record_kind(training_set)
    return suppression.make_list(
        (
            (kind, version, bytes(value))
            for kind, version, value in found.iterator()
            if kind in KINDS or kind == own
        ),
        checked_keys(),
    )


def checked_keys() -> tuple[bytes, ...]:
    """The keys at hand, if they are those that the tags were made with; new ones become known.

    Raises Invalid otherwise: with another key every look-up would miss in silence.
    """
    try:
        keys = suppression.read_keys()
    except SuppressionKeyError as problem:
        raise Invalid(str(problem)) from None
    known = dict(SuppressionKey.objects.values_list("version", "check_value"))
    for version, key in enumerate(keys, start=1):
        check = suppression.key_check(key)
        if known.get(version, check) != check:
            raise Invalid(
                _(
                    "Suppression key %(version)s is another one than the tags were made with:"
                    " restore it from a backup. Nothing was looked up."
                )
                % {"version": version}
            )
    if len(known) > len(keys):
        raise Invalid(
            _("Suppression key %(version)s is missing: restore it from a backup.")
            % {"version": len(known)}
        )
    for version in range(len(known) + 1, len(keys) + 1):
        check = suppression.key_check(keys[version - 1])
        SuppressionKey.objects.get_or_create(
            version=version, defaults={"check_value": check, "created_at": timezone.now()}
        )
    return keys


def is_decided(case: Case) -> bool:
    """Whether erasure was decided by two people and not taken back since."""
    granted = (Outcome.GRANTED, Outcome.PARTLY_GRANTED)
    decided = case.decisions.filter(state=Decision.State.APPROVED, outcome__in=granted)
    revoked = Revocation.objects.filter(case=case, approved_at__isnull=False)
    return decided.exists() and not revoked.exists()


def _source(case: Case) -> str:
    if is_decided(case):
        return str(SuppressionTag.Source.DECISION)
    if Restriction.objects.filter(case=case, lifted_at=None).exists():
        return str(SuppressionTag.Source.RESTRICTION)
    return ""


def _wanted(case: Case, keys: Sequence[bytes]) -> set[tuple[str, bytes]]:
    found = {(kind, suppression.tag(keys, kind, form)) for kind, form in identifiers_of(case)}
    confirmed = RecordMatch.objects.filter(case=case, state=RecordMatch.State.CONFIRMED)
    for match in confirmed:
        kind = record_kind(match.training_set_id)
        record_id = vault.get(case, f"match/{match.pk}")["record_id"]
        found.add((kind, suppression.tag(keys, kind, record_id)))
    return found
