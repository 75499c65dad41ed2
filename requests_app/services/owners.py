"""Who sees to a case. Naming an owner decides nothing: everybody of a role may still act on it."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.lifecycle import CLOSED
from requests_app.models import Case, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.locking import lock_case, require_role

OWNERS = (Role.INTAKE, Role.OFFICER, Role.APPROVER)


@transaction.atomic
def assign_case(*, case_id: UUID, owner: StaffMember | None, actor_member: StaffMember) -> Case:
    """Name the owner of an open case, or nobody; naming the same again changes nothing.

    The log names the owner by pseudonym. Invalid for somebody who cannot work on cases, WrongState
    for a closed case.
    """
    require_role(actor_member, *OWNERS)
    if owner is not None and not (owner.is_active and owner.role in OWNERS):
        raise Invalid(_("A case is given to an active member of intake, officers or approvers."))
    case = lock_case(case_id)
    if case.status in CLOSED:
        raise WrongState(
            _("%(case)s is closed: nobody has to see to it any more.") % {"case": case.reference}
        )
    if case.owner_id == (owner.pk if owner else None):
        return case
    case.owner = owner
    case.save()
    audit.append_entry(
        type="case.assigned",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"owner": str(owner.pseudonym) if owner else None},
    )
    return case
