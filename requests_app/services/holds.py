"""Legal holds: what a legal claim needs is neither erased nor destroyed (Art. 17(3)(e) GDPR)."""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, LegalHold, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.locking import clean_text, lock_case, require_role

REASON_LENGTH = 2000
LONGEST = timedelta(days=366)  # to be looked at again at least once a year


@transaction.atomic
def place_hold(*, case_id: UUID, reason: str, until: date, actor_member: StaffMember) -> LegalHold:
    """Hold a case until the end of a day, at most a year ahead; a further hold needs a new reason.

    A hold whose day has passed no longer holds; it is closed when a new one is placed.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    reason = clean_text(reason, what=_("The reason"), longest=REASON_LENGTH)
    today = timezone.localdate()
    if not today <= until <= today + LONGEST:
        raise Invalid(_("The hold must end between today and a year from now."))
    case = lock_case(case_id)
    if case.status == CaseStatus.SEALED:
        raise WrongState(
            _("%(reference)s is sealed: there is nothing left to hold.")
            % {"reference": case.reference}
        )
    if hold_of(case) is not None:
        raise WrongState(
            _("%(reference)s is held already; release that hold first.")
            % {"reference": case.reference}
        )
    now = timezone.now()
    case.holds.filter(released_at=None).update(released_at=now, released_by=actor_member)
    hold = LegalHold.objects.create(case=case, until=until, placed_at=now, placed_by=actor_member)
    vault.put(case, f"hold/{hold.pk}/reason", reason)
    audit.append_entry(
        type="hold.placed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"hold": hold.pk, "until": until.isoformat()},
        commitments={"reason": reason},
    )
    return hold


@transaction.atomic
def release_hold(*, case_id: UUID, actor_member: StaffMember) -> Case:
    """End the hold in force before its day; WrongState if there is none."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    hold = hold_of(case)
    if hold is None:
        raise WrongState(_("%(reference)s is not held.") % {"reference": case.reference})
    hold.released_at, hold.released_by = timezone.now(), actor_member
    hold.save(update_fields=["released_at", "released_by"])
    audit.append_entry(
        type="hold.released",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"hold": hold.pk},
    )
    return case


def hold_of(case: Case) -> LegalHold | None:
    """The hold in force on a case today, None if there is none."""
    found: LegalHold | None = case.holds.filter(
        released_at=None, until__gte=timezone.localdate()
    ).first()
    return found


def refuse_while_held(case: Case, what: str) -> None:
    """WrongState while a legal hold is in force on the case; `what` says what it forbids."""
    hold = hold_of(case)
    if hold is not None:
        raise WrongState(
            _(
                "%(reference)s is under a legal hold until %(until)s: %(what)s. Release the hold"
                " first, or wait until it ends."
            )
            % {"reference": case.reference, "until": f"{hold.until:%d.%m.%Y}", "what": what}
        )
