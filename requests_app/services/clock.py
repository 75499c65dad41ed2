"""What may move the clock of a case: one extension with reasons, days of waiting for the person.

`Case.due`, by which the queue sorts, never counts a suspension; the date with it stands beside.
"""

from __future__ import annotations

from datetime import date, timedelta
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.deadlines import deadlines, due_without
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CLOSED, CaseStatus
from requests_app.models import Case, Letter, StaffMember, Suspension
from requests_app.models.people import Role
from requests_app.models.record import ExtensionCause
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.letter_texts import Fill, Wording, spell_date
from requests_app.services.letters import word_letter, write_letter
from requests_app.services.locking import clean_text, lock_case, require_role, require_status

TEXT_LENGTH = 4000
SENTENCE_WORDS = 6  # fewer are no reasons
ASKED_IN = {
    Suspension.Reason.IDENTITY: (CaseStatus.IDENTITY_CHECK,),
    Suspension.Reason.CLARIFICATION: (CaseStatus.IDENTITY_CHECK, CaseStatus.IN_REVIEW),
}


# --- Extension ----------------------------------------------------------------------------------
@transaction.atomic
def extend_case(
    *, case_id: UUID, cause: str, reasons: str, done: str, actor_member: StaffMember
) -> Letter:
    """Extend the period, once and before its end, and write to the person why (Art. 12(3) GDPR).

    The answer is then due three months from receipt, not two months after the date that was moved.
    Raises WrongState after the end of `base_due` or a second time, Invalid for a reason that is
    none.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    cause, reasons, done = _checked(cause, reasons, done)
    case = lock_case(case_id)
    today = timezone.localdate()
    if refusal := why_not_extend(case, today):
        raise WrongState(refusal)
    letter = write_letter(case, "extension", _letter_slots(case, cause, reasons, done))
    law = profile(case.jurisdiction)
    counted = deadlines(case.received_on, profile=law, calendar=case.calendar)
    case.extended_on, case.extension_cause = today, cause
    case.due = case.extension_due
    case.internal_due = min(counted.extension_internal_due, case.extension_due)
    case.save()
    vault.put(case, "extension/reasons", reasons)
    audit.append_entry(
        type="case.extended",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "jurisdiction": case.jurisdiction,
            "cause": cause,
            "extended_on": today.isoformat(),
            "base_due": case.base_due.isoformat(),
            "due": case.due.isoformat(),
            "letter": letter.pk,
        },
        commitments={"reasons": reasons, "done": done},
    )
    return letter


def extension_letter(case: Case, *, cause: str, reasons: str, done: str) -> Wording:
    """The letter as it would be written, for a preview; raises as `extend_case` does."""
    return word_letter(case, "extension", _letter_slots(case, *_checked(cause, reasons, done)))


def why_not_extend(case: Case, on: date) -> str:
    """Why the period cannot be extended on that day, for staff; empty if it can be."""
    if case.extended_on is not None:
        return _("The period was extended on %(day)s; it can be only once.") % {
            "day": spell_date(case.extended_on)
        }
    if not is_running(case):
        return _("%(reference)s waits for no answer any more.") % {"reference": case.reference}
    if case.status == CaseStatus.AWAITING_CONFIRMATION:
        return _("The mailbox was never confirmed, so no letter can give the reasons.")
    if on > case.base_due:
        return _(
            "The period ended on %(day)s: the extension can no longer be used. Send the answer now,"
            " and say in it what is still to be done and by when."
        ) % {"day": spell_date(case.base_due)}
    return ""


def is_running(case: Case) -> bool:
    """Whether the person still waits for an answer; a reopened case was answered."""
    return case.completed_at is None and case.status not in CLOSED


# --- Suspension ---------------------------------------------------------------------------------
@transaction.atomic
def suspend_case(
    *, case_id: UUID, reason: str, asked_on: date, text: str, actor_member: StaffMember
) -> Suspension:
    """Record that the person was asked for what only they can give, on which day and why.

    Only where the law of the case has such a reason, and the question was put without undue delay.
    """
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    text = _sentence(text, what=_("Why it was asked"))
    _check_asked(case, reason, asked_on)
    suspension = Suspension.objects.create(case=case, reason=reason, asked_on=asked_on)
    vault.put(case, f"suspension/{suspension.pk}/reason", text)
    audit.append_entry(
        type="case.suspended",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "jurisdiction": case.jurisdiction,
            "reason": reason,
            "asked_on": asked_on.isoformat(),
            "due": case.due.isoformat(),
        },
        commitments={"text": text},
    )
    return suspension


@transaction.atomic
def resume_case(*, case_id: UUID, answered_on: date, actor_member: StaffMember) -> Suspension:
    """Record on which day the person answered: from then on the days count again."""
    require_role(actor_member, Role.INTAKE, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    suspension = open_suspension(case)
    if suspension is None:
        raise WrongState(
            _("The clock of %(reference)s is not suspended.") % {"reference": case.reference}
        )
    if not suspension.asked_on <= answered_on <= timezone.localdate():
        raise Invalid(_("The day of the answer lies between the question and today."))
    suspension.answered_on = answered_on
    suspension.save()
    audit.append_entry(
        type="case.resumed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "jurisdiction": case.jurisdiction,
            "asked_on": suspension.asked_on.isoformat(),
            "answered_on": answered_on.isoformat(),
            "days": (answered_on - suspension.asked_on).days,
            "due_with_suspension": str(due_with_suspension(case, answered_on)),
        },
    )
    return suspension


def open_suspension(case: Case) -> Suspension | None:
    return Suspension.objects.filter(case=case, answered_on=None).first()


def require_answered(case: Case) -> None:
    """WrongState while a question to the person is recorded as open (for steps that need it)."""
    if open_suspension(case) is not None:
        raise WrongState(
            _(
                "The clock is suspended, since the person was asked something: first record on"
                " the case page on which day they answered, or that they did not."
            )
        )


def suspended_days(case: Case, today: date) -> int:
    """The days of waiting up to today; the day of the answer counts again."""
    rows = Suspension.objects.filter(case=case)
    return sum(((row.answered_on or today) - row.asked_on).days for row in rows)


def due_with_suspension(case: Case, today: date) -> date | None:
    """When the answer is due if the days of waiting do not count; None if nobody ever waited."""
    if not Suspension.objects.filter(case=case).exists():
        return None
    return due_without(
        case.received_on,
        profile=profile(case.jurisdiction),
        calendar=case.calendar,
        days=suspended_days(case, today),
        extended=case.extended_on is not None,
    )


# --- Checks -------------------------------------------------------------------------------------
def why_not_suspend(case: Case, on: date) -> str:
    """Why the clock cannot be suspended on that day, for staff; empty if it can be."""
    law = profile(case.jurisdiction)
    if not law.suspends:
        return _("Under %(law)s nothing suspends the clock.") % {"law": _(law.law)}
    if case.status not in ASKED_IN[Suspension.Reason.CLARIFICATION]:
        return _("The clock can be suspended during the identity check and the review only.")
    if open_suspension(case) is not None:
        return _("The clock is suspended already.")
    return ""


def _check_asked(case: Case, reason: str, asked_on: date) -> None:
    law = profile(case.jurisdiction)
    today = timezone.localdate()
    if reason not in Suspension.Reason.values:
        raise Invalid(
            _("There is no reason “%(reason)s” to suspend the clock.") % {"reason": reason}
        )
    if refusal := why_not_suspend(case, today):
        raise WrongState(refusal)
    if reason not in law.suspends:
        raise Invalid(
            _("Under %(law)s this is no reason to suspend the clock.") % {"law": _(law.law)}
        )
    require_status(case, *ASKED_IN[Suspension.Reason(reason)])
    if not case.received_on <= asked_on <= today:
        raise Invalid(_("The day of the question lies between receipt and today."))
    last = case.received_on + timedelta(days=law.ask_within)
    if asked_on > last:
        raise Invalid(
            _(
                "The clock can be suspended only if the question was put without undue delay,"
                " here by %(day)s. The due date stays as it is."
            )
            % {"day": spell_date(last)}
        )
    if Suspension.objects.filter(case=case, answered_on__gt=asked_on).exists():
        raise Invalid(_("On that day the person was still being waited for."))


def _checked(cause: str, reasons: str, done: str) -> tuple[str, str, str]:
    if cause not in ExtensionCause.values:
        raise Invalid(_("A period is extended for the complexity or the number of requests only."))
    return (
        cause,
        _sentence(reasons, what=_("The reasons")),
        _sentence(done, what=_("What is already done")),
    )


def _sentence(text: str, *, what: str) -> str:
    """A text of at least a sentence; Invalid names the field, never the text."""
    text = clean_text(text, what=what, longest=TEXT_LENGTH)
    if len(text.split()) < SENTENCE_WORDS:
        raise Invalid(
            _("%(what)s: write at least one whole sentence that fits this case.") % {"what": what}
        )
    return text


def _letter_slots(case: Case, cause: str, reasons: str, done: str) -> Fill:
    return lambda: {
        "original_due": spell_date(case.base_due),
        "new_due": spell_date(case.extension_due),
        "law": _(profile(case.jurisdiction).law),
        "cause": str(ExtensionCause(cause).label),
        "reasons": reasons,
        "done": done,
    }
