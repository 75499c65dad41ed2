"""Letters that staff decide to write while a case goes on: the question about the identity, and
the notice to a recipient of the data."""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Decision, Letter, StaffMember
from requests_app.models.people import Role
from requests_app.models.record import Outcome
from requests_app.services.errors import Invalid
from requests_app.services.letter_texts import Fill, Wording, spell_date
from requests_app.services.letters import RECIPIENT_NOTICE, word_letter, write_letter
from requests_app.services.locking import (
    clean_text,
    lock_case,
    one_line,
    require_role,
    require_status,
)

TEXT_LENGTH = 2000
AFTER_APPROVAL = (
    CaseStatus.EXECUTING,
    CaseStatus.EVIDENCE_REVIEW,
    CaseStatus.RESPONDING,
    CaseStatus.COMPLETED,
)
# Why a recipient is told, and what is asked of it.
ARTICLES = {
    "19": (
        gettext_noop("You received such data from us (Art. 19 GDPR)."),
        gettext_noop("Erase these data as well, also where you passed them on."),
    ),
    "17-2": (
        gettext_noop("We had made such data public (Art. 17(2) GDPR)."),
        gettext_noop(
            "The person asks that you erase links to these data, and copies or replications of"
            " them."
        ),
    ),
}


# --- Identity, Art. 12(6) -----------------------------------------------------------------------
def question_slots(case: Case, *, doubt: str, sufficient: str) -> Fill:
    """What fills the question; Invalid for a text that is missing or too long."""
    doubt = clean_text(doubt, what="Why there is doubt", longest=TEXT_LENGTH)
    sufficient = clean_text(sufficient, what="What is enough", longest=TEXT_LENGTH)
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


# --- Recipients, Art. 19 and 17(2) --------------------------------------------------------------
def notice_slots(
    case: Case, *, article: str, recipient: str, concerned: str, matched_by: str
) -> Fill:
    """What fills a notice: no more than the recipient needs to find the data."""
    if article not in ARTICLES:
        raise Invalid(f"There is no such notice. Known: {', '.join(ARTICLES)}.")
    recipient = clean_text(recipient, what="The recipient", longest=TEXT_LENGTH)
    concerned = clean_text(concerned, what="The data concerned", longest=TEXT_LENGTH)
    matched_by = one_line(matched_by, what="What finds the records", longest=TEXT_LENGTH)
    cause, request = ARTICLES[article]

    def fill() -> dict[str, object]:
        return {
            "decided_on": spell_date(timezone.localdate(_granting(case).approved_at)),
            "cause": _(cause),
            "request": _(request),
            "recipient": recipient,
            "concerned": concerned,
            "matched_by": matched_by,
        }

    return fill


def preview_notice(case: Case, *, language: str, **texts: str) -> Wording:
    """The notice as it would be written; `texts` as in `notice_slots`."""
    return word_letter(case, RECIPIENT_NOTICE, notice_slots(case, **texts), language=language)


@transaction.atomic
def notify_recipient(
    *, case_id: UUID, language: str, actor_member: StaffMember, article: str, **texts: str
) -> Letter:
    """Write the notice to one recipient of the data; staff send it, in a way that fits what it
    holds, and record that. Only for a request that was granted, at least in part."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    if language not in dict(settings.LANGUAGES):
        raise Invalid("There are no letters in this language.")
    case = lock_case(case_id)
    require_status(case, *AFTER_APPROVAL)
    _granting(case)
    fill = notice_slots(case, article=article, **texts)
    letter = write_letter(case, RECIPIENT_NOTICE, fill, language=language)
    audit.append_entry(
        type="recipient.notified",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"letter": letter.pk, "article": article},
        commitments={"recipient": texts["recipient"].strip()},
    )
    return letter


def _granting(case: Case) -> Decision:
    granting = (Outcome.GRANTED, Outcome.PARTLY_GRANTED)
    decision = Decision.objects.filter(
        case=case, state=Decision.State.APPROVED, outcome__in=granting
    ).first()
    if decision is None:
        raise Invalid("Nothing was granted in this case, so there is nothing to tell a recipient.")
    return decision
