"""The question about the identity, where there is reasonable doubt (Art. 12(6) GDPR)."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Letter, StaffMember
from requests_app.models.people import Role
from requests_app.services.letter_texts import Fill, Wording, spell_date
from requests_app.services.letters import word_letter, write_letter
from requests_app.services.locking import (
    clean_text,
    lock_case,
    require_role,
    require_status,
)

TEXT_LENGTH = 2000


def question_slots(case: Case, *, doubt: str, sufficient: str) -> Fill:
    """What fills the question; Invalid for a text that is missing or too long."""
    doubt = clean_text(doubt, what=_("Why there is doubt"), longest=TEXT_LENGTH)
    sufficient = clean_text(sufficient, what=_("What is enough"), longest=TEXT_LENGTH)
    return lambda: {"due": spell_date(case.due), "doubt": doubt, "sufficient": sufficient}


def preview_question(case: Case, *, doubt: str, sufficient: str) -> Wording:
    """The question as it would be written."""
    return word_letter(
        case, "identity_question", question_slots(case, doubt=doubt, sufficient=sufficient)
    )


@transaction.atomic
def ask_identity(
    *, case_id: UUID, doubt: str, sufficient: str, actor_member: StaffMember
) -> Letter:
    """Ask for what confirms the identity, with the doubt and what is enough (Art. 12(6) GDPR)."""
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    require_status(case, CaseStatus.IDENTITY_CHECK)
    fill = question_slots(case, doubt=doubt, sufficient=sufficient)
    letter = write_letter(case, "identity_question", fill)
    audit.append_entry(
        type="case.identity_asked",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"letter": letter.pk},
        commitments={"doubt": doubt.strip(), "sufficient": sufficient.strip()},
    )
    return letter
