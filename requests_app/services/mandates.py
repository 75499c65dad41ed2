"""Requests for somebody else (GDPR Art. 80, Rec. 38 and 58; EDPB Guidelines 01/2022, 3.4).

The mandate is looked at and not kept. Nothing goes on without one, and the answer goes to the
sender only where the mandate covers that.
"""

from __future__ import annotations

from datetime import date
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import Actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Mandate, StaffMember
from requests_app.models.people import Role
from requests_app.services.codes import ACCESS_LENGTH, code_digest, new_code
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.intake import NAME_LENGTH, check_email
from requests_app.services.locking import (
    clean_text,
    lock_case,
    one_line,
    require_actor,
    require_status,
)

NOTE_LENGTH = 2000


@transaction.atomic
def record_mandate(
    *,
    case_id: UUID,
    kind: str,
    sender: str,
    note: str,
    covers_answers: bool,
    actor: Actor,
    valid_until: date | None = None,
    person_email: str = "",
) -> str:
    """Record what shows that the sender may ask; again before the identity is settled replaces it.

    Where the mandate does not cover the answers, the sender's access ends: letters go to the
    person's own address, and the new access code, for the person alone, is returned; else "".
    Raises Invalid, NotAllowed, WrongState.
    """
    require_actor(actor, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    if kind not in Mandate.Kind.values:
        raise Invalid(
            _("There is no mandate “%(kind)s”. Known: %(known)s.")
            % {"kind": kind, "known": ", ".join(Mandate.Kind.values)}
        )
    sender = one_line(sender, what=_("The sender's name"), longest=NAME_LENGTH)
    note = clean_text(note, what=_("What was seen"), longest=NOTE_LENGTH)
    if valid_until is not None and valid_until < timezone.localdate():
        raise Invalid(_("This mandate has run out: ask for a new one."))
    person_email = _checked_address(person_email.strip(), covers_answers=covers_answers)
    case = lock_case(case_id)
    require_status(case, CaseStatus.IDENTITY_CHECK)
    if not case.on_behalf:
        raise WrongState(
            _("%(reference)s was filed by the person; it needs no mandate.")
            % {"reference": case.reference}
        )
    Mandate.objects.update_or_create(
        case=case,
        defaults={
            "kind": kind,
            "covers_answers": covers_answers,
            "valid_until": valid_until,
            "checked_at": timezone.now(),
            "checked_by": StaffMember.objects.get(pseudonym=actor.pseudonym),
        },
    )
    vault.put(case, "mandate/note", note)
    known: dict[str, str] | None = vault.get(case, "mandate/sender", default=None)
    address = known["email"] if known else vault.get(case, "email", default="")
    vault.put(case, "mandate/sender", {"name": sender, "email": address})
    access_code = ""
    if not covers_answers:
        access_code = new_code(ACCESS_LENGTH)
        case.access_digest = code_digest("access", case.id, access_code)
        case.save()
        if person_email:
            vault.put(case, "email", person_email)
        elif address:
            vault.remove(case, "email")  # it is the sender's: the answer goes by post
        vault.remove(case, "api/access_code")
    audit.append_entry(
        type="case.mandate_recorded",
        actor=actor.name,
        case=case,
        data={
            "kind": kind,
            "covers_answers": covers_answers,
            "valid_until": valid_until.isoformat() if valid_until else "",
        },
        commitments={"sender": sender, "note": note},
    )
    return access_code


def require_mandate(case: Case) -> None:
    """WrongState for a case filed for somebody else without a mandate that is valid today."""
    if not case.on_behalf:
        return
    mandate = Mandate.objects.filter(case=case).first()
    if mandate is None:
        raise WrongState(
            _("%(reference)s was filed for somebody else: record the mandate first.")
            % {"reference": case.reference}
        )
    if mandate.valid_until is not None and mandate.valid_until < timezone.localdate():
        raise WrongState(
            _("The mandate of %(reference)s has run out: record a new one.")
            % {"reference": case.reference}
        )


def _checked_address(address: str, *, covers_answers: bool) -> str:
    if covers_answers and address:
        raise Invalid(_("The answer goes to the sender: leave the person's own address empty."))
    if address:
        try:
            check_email(address)
        except ValidationError:
            raise Invalid(_("The person's own address is not a valid e-mail address.")) from None
    return address
