"""Showing personal data to a member of staff: for one case, with a reason, on the record."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import StaffMember
from requests_app.models.people import RevealReason, Role
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.locking import clean_text, lock_case, require_role

TEXT_LENGTH = 500


@transaction.atomic
def reveal_person(*, case_id: UUID, reason: str, text: str, actor_member: StaffMember) -> None:
    """Record that this member looks at the person, and why; `text` is needed for another reason.

    The log holds the reason's code and a commitment of the text, which lies in the vault as
    `reveal/<entry>`. WrongState for a sealed case: there is nothing left to show.
    """
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    if reason not in RevealReason.values:
        raise Invalid(_("Select why you need to see it."))
    text = clean_text(
        text, what=_("The reason"), longest=TEXT_LENGTH, required=reason == RevealReason.OTHER
    )
    case = lock_case(case_id)
    if case.status == CaseStatus.SEALED:
        raise WrongState(
            _("%(reference)s is sealed: its personal data cannot be read any more.")
            % {"reference": case.reference}
        )
    entry = audit.append_entry(
        type="person.revealed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"reason": reason},
        commitments={"text": text} if text else None,
    )
    if text:
        vault.put(case, f"reveal/{entry.seq}", text)
