"""Staff are reminded of deadlines by mail, once a case, stage and date.

The row is the claim: it is written with its audit entry before anything is mailed, and a mail that
did not go out is tried again. A mail holds the reference and a link, nothing of the request.
"""

from __future__ import annotations

import logging
import smtplib
from datetime import date, timedelta
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from requests_app import audit
from requests_app.actors import SYSTEM
from requests_app.deadlines import BUFFER_DAYS, day_of_share, deadlines
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CLOSED
from requests_app.models import Case, Letter, Reminder, StaffMember
from requests_app.models.people import Role
from requests_app.services.clock import is_running, why_not_extend
from requests_app.services.exemptions import due_reviews
from requests_app.services.letter_texts import render
from requests_app.services.letters import SENDING_SECONDS
from requests_app.services.locking import lock_case

logger = logging.getLogger(__name__)

Stage = Reminder.Stage
SHARES = ((90, Stage.NINE_TENTHS), (75, Stage.THREE_QUARTERS), (50, Stage.HALF))
ESCALATED = frozenset({Stage.NINE_TENTHS, Stage.OVERDUE, Stage.NOTICE_UNSENT})
ACKNOWLEDGE_DAYS = 3  # before the acknowledgement is due


def stages_now(case: Case, today: date) -> dict[Stage, date]:
    """What staff are to be reminded of on that day, and which date it is about.

    Of the shares of the period only the furthest, so that a case entered late brings one mail.
    """
    if not is_running(case):
        return {}
    found: dict[Stage, date] = {}
    if today > case.due:
        found[Stage.OVERDUE] = case.due
    else:
        for percent, stage in SHARES:
            if today >= day_of_share(case.received_on, case.due, percent):
                found[stage] = case.due
                break
    nears = today >= case.base_due - timedelta(days=BUFFER_DAYS)
    if nears and not why_not_extend(case, today):
        found[Stage.EXTENSION_ENDS] = case.base_due
    if nears and case.extended_on is not None and not _was_sent(case, "extension"):
        found[Stage.NOTICE_UNSENT] = case.base_due
    by = acknowledge_by(case)
    nears = by is not None and today >= by - timedelta(days=ACKNOWLEDGE_DAYS)
    if by is not None and nears and not _was_sent(case, "acknowledgement"):
        found[Stage.ACKNOWLEDGE] = by
    return found


def acknowledge_by(case: Case) -> date | None:
    """The last day for the acknowledgement; None where the law of the case sets none."""
    law = profile(case.jurisdiction)
    if not law.acknowledge_days:
        return None
    return deadlines(case.received_on, profile=law, calendar=case.calendar).acknowledge_by


def queue_reminders() -> int:
    """Write the reminders of today that were not written yet; returns how many."""
    today = timezone.localdate()
    known = set(Reminder.objects.filter(case__in=_running()).values_list("case", "stage", "due"))
    written = 0
    for case in _running().order_by("due", "id"):
        for stage, due in stages_now(case, today).items():
            if (case.pk, stage.value, due) not in known:
                written += _write(case.pk, stage, due, today)
    for case_id, due in _reviews(today).items():
        if not Reminder.objects.filter(
            case=case_id, stage=Stage.EXEMPTION_REVIEW, due=due
        ).exists():
            written += _write(case_id, Stage.EXEMPTION_REVIEW, due, today)
    return written


def send_reminders() -> int:
    """Mail the reminders that wait and that there still is something to do about; returns how many.

    A mail the server refuses is tried again by a later sweep. What hinders one hinders no other.
    """
    sent = 0
    stands = Q(case__in=_running()) | Q(stage=Stage.EXEMPTION_REVIEW, case__in=_to_review())
    waiting = Reminder.objects.filter(stands, sent_at=None).select_related("case")
    for reminder in waiting.order_by("created_at", "id"):
        addresses = recipients(Stage(reminder.stage))
        if not addresses:
            logger.warning("Nobody to remind of %s: set RTBF_ESCALATION_MAIL.", reminder.case)
            continue
        if not _claim(reminder):
            continue  # another process is at it, or was a moment ago
        try:
            _mail(reminder.case, addresses).send()
        except (smtplib.SMTPException, OSError, ValueError) as problem:
            logger.warning("%s: reminder not mailed (%s).", reminder.case, type(problem).__name__)
        else:
            Reminder.objects.filter(pk=reminder.pk).update(sent_at=timezone.now())
            sent += 1
    return sent


def recipients(stage: Stage) -> list[str]:
    """The role mailbox, or else every case officer; approvers too once it is late."""
    if settings.RTBF_ESCALATION_MAIL:
        return [settings.RTBF_ESCALATION_MAIL]
    roles = [Role.OFFICER, *([Role.APPROVER] if stage in ESCALATED else [])]
    staff = StaffMember.objects.filter(is_active=True, role__in=roles).exclude(email="")
    return sorted(set(staff.values_list("email", flat=True)))


@transaction.atomic
def _write(case_id: UUID, stage: Stage, due: date, today: date) -> bool:
    case = lock_case(case_id)
    stands = {Stage.EXEMPTION_REVIEW: _reviews(today, case).get(case_id), **stages_now(case, today)}
    if stands.get(stage) != due:
        return False  # it was answered, extended or looked at meanwhile
    now = timezone.now()
    _, new = Reminder.objects.get_or_create(
        case=case, stage=stage, due=due, defaults={"created_at": now}
    )
    if new:
        audit.append_entry(
            type="deadline.reminded",
            actor=SYSTEM.name,
            case=case,
            data={"jurisdiction": case.jurisdiction, "stage": stage, "due": due.isoformat()},
        )
    return new


def _claim(reminder: Reminder) -> bool:
    """Take the row for this attempt; False if another took it within the last minutes."""
    now = timezone.now()
    free = Q(tried_at=None) | Q(tried_at__lt=now - timedelta(seconds=SENDING_SECONDS))
    rows = Reminder.objects.filter(free, pk=reminder.pk, sent_at=None)
    return bool(rows.update(tried_at=now))


def _mail(case: Case, addresses: list[str]) -> EmailMessage:
    slots = {
        "reference": case.reference,
        "case_url": f"{settings.RTBF_PUBLIC_URL}/app/cases/{case.reference}",
    }
    body = render("mail_reminder", lambda: slots)
    return EmailMessage(subject=f"Deadline of {case.reference}", body=body, to=addresses)


def _running() -> QuerySet[Case]:
    return Case.objects.filter(completed_at=None).exclude(status__in=CLOSED)


def _reviews(today: date, *cases: Case) -> dict[UUID, date]:
    """Cases of which something kept is to be looked at again (of these, or of all), since when."""
    items = due_reviews(today).filter(case__in=cases) if cases else due_reviews(today)
    found: dict[UUID, date] = {}
    for item in items:
        if item.review_on is not None:  # the constraint of its table says so
            found.setdefault(item.case_id, item.review_on)
    return found


def _to_review() -> QuerySet[Case]:
    return Case.objects.filter(pk__in=due_reviews().values("case"))


def _was_sent(case: Case, kind: str) -> bool:
    return Letter.objects.filter(case=case, kind=kind).exclude(sent_at=None).exists()
