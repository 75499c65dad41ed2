"""Row locks and checks that every service begins with.

Lock order, everywhere: case, then run, then release, then model node, then recheck or export, then
the head of the audit log.
Cases are locked without their key (PostgreSQL's FOR NO KEY UPDATE): a new row that only refers to a
case then waits for nobody, whatever its transaction has locked.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from uuid import UUID

from django.utils.translation import gettext as _

from requests_app.actors import Actor
from requests_app.lifecycle import CaseStatus, MoveNotAllowed, move_case
from requests_app.models import Case, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState


def lock_case(case_id: UUID) -> Case:
    """The case with its row locked until the transaction ends; NotFound if there is none."""
    case = Case.objects.select_for_update(no_key=True).filter(pk=case_id).first()
    if case is None:
        raise NotFound(_("There is no such case."))
    return case


def advance(case: Case, to: CaseStatus) -> None:
    """Move the case in memory; WrongState if the lifecycle has no such move from where it is."""
    try:
        move_case(case, to)
    except MoveNotAllowed:
        raise WrongState(
            _(
                "%(reference)s is at “%(status)s”: this step is not possible there. Open the case"
                " again to see what changed."
            )
            % {"reference": case.reference, "status": CaseStatus(case.status).label}
        ) from None


def require_status(case: Case, *allowed: CaseStatus) -> None:
    """WrongState unless the case is at one of `allowed` (for steps that do not move it)."""
    if case.status not in allowed:
        raise WrongState(
            _(
                "%(reference)s is at “%(status)s”: this step is not possible there. Open the case"
                " again to see what changed."
            )
            % {"reference": case.reference, "status": CaseStatus(case.status).label}
        )


def spell_roles(roles: Iterable[str]) -> str:
    """Their names, in the language of who reads them."""
    return reduce(
        lambda said, role: _("%(roles)s or %(role)s") % {"roles": said, "role": role},
        (str(Role(role).label) for role in roles),
    )


def require_role(member: StaffMember, *roles: str) -> None:
    """NotAllowed unless the staff member is active and has one of `roles`."""
    if not member.is_active or member.role not in roles:
        raise NotAllowed(_("This step needs the role %(roles)s.") % {"roles": spell_roles(roles)})


def require_actor(actor: Actor, *roles: str) -> None:
    """NotAllowed unless the actor is staff with one of `roles`."""
    if actor.role not in roles:
        raise NotAllowed(_("This step needs the role %(roles)s.") % {"roles": spell_roles(roles)})


def clean_text(value: str, *, what: str, longest: int, required: bool = True) -> str:
    """Strip and check a text from outside; Invalid names the field, never the value."""
    text = value.strip()
    if required and not text:
        raise Invalid(_("%(what)s is missing.") % {"what": what})
    if len(text) > longest:
        raise Invalid(
            _("%(what)s is longer than %(count)d characters.") % {"what": what, "count": longest}
        )
    if any((ord(c) < 32 and c not in "\r\n\t") or 0xD800 <= ord(c) <= 0xDFFF for c in text):
        raise Invalid(_("%(what)s holds control characters; type it again.") % {"what": what})
    return text


def one_line(value: str, *, what: str, longest: int, required: bool = True) -> str:
    """Like `clean_text`, for a value that must stay on one line."""
    return clean_text(" ".join(value.split()), what=what, longest=longest, required=required)
