"""Notes that staff write for one another on a case.

A note is personal data of the person it speaks of: it lies in the vault as `note/<entry>` and goes
with the case's key. The log says who wrote one and when, and holds a commitment of the text.
"""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import WrongState
from requests_app.services.locking import clean_text, lock_case, require_role

NOTE_LENGTH = 4000


@transaction.atomic
def add_note(*, case_id: UUID, text: str, actor_member: StaffMember) -> int:
    """Keep a note; returns the number of its entry. It is never changed: a correction is another.

    Raises Invalid for an empty or too long text, WrongState for a sealed case.
    """
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    text = clean_text(text, what=_("The note"), longest=NOTE_LENGTH)
    case = lock_case(case_id)
    if case.status == CaseStatus.SEALED:
        raise WrongState(
            _("%(reference)s is sealed: nothing can be noted on it any more.")
            % {"reference": case.reference}
        )
    entry = audit.append_entry(
        type="note.added",
        actor=staff_actor(actor_member).name,
        case=case,
        data={},
        commitments={"text": text},
    )
    vault.put(case, f"note/{entry.seq}", text)
    number: int = entry.seq
    return number
