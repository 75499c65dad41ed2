"""What is kept is looked at again on its day: does the exemption still apply (Art. 17(3) GDPR)?

The day often comes when the case is sealed. Its row still says what is kept and why in a word, so
that it can be renewed or ended then too; a text of its own has no place any more.
"""

from __future__ import annotations

from datetime import date
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.models import Case, Decision, ScopeItem, StaffMember
from requests_app.models.people import Role
from requests_app.models.record import ReviewReason
from requests_app.services.decisions import LONGEST_KEPT, REASONING_LENGTH
from requests_app.services.errors import Invalid, NotFound, WrongState
from requests_app.services.locking import clean_text, lock_case, require_role

R = ReviewReason
RENEWING = (R.OBLIGATION_RUNS, R.CLAIM_PENDING, R.STILL_OUTWEIGHS, R.STILL_NEEDED)
ENDING = (R.PERIOD_OVER, R.CLAIM_SETTLED, R.OUTWEIGHED, R.NOT_NEEDED)


def kept_items() -> QuerySet[ScopeItem]:
    """What is kept by a decision in force, and its exemption was not ended."""
    items = ScopeItem.objects.filter(result=ScopeItem.Result.KEEP, ended_on=None)
    return items.filter(case__decisions__state=Decision.State.APPROVED)


def due_reviews(today: date | None = None) -> QuerySet[ScopeItem]:
    """Of these, what is to be looked at again by that day, the longest due first."""
    day = today or timezone.localdate()
    return kept_items().filter(review_on__lte=day).order_by("review_on", "id")


@transaction.atomic
def review_exemption(
    *,
    case_id: UUID,
    item_id: int,
    reason: str,
    text: str,
    renew_until: date | None,
    actor_member: StaffMember,
) -> ScopeItem:
    """Renew the exemption of one scope item to a day within a year, or end it (`renew_until` None).

    `text` says why for this item, in the vault; of a sealed case it must be empty. What is no
    longer kept has to be erased: that is a new case, decided like any other. Raises Invalid,
    NotAllowed, NotFound, WrongState.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    item = ScopeItem.objects.filter(case=case, pk=item_id).first()
    if item is None:
        raise NotFound(_("There is no such part of this case."))
    if not kept_items().filter(pk=item.pk).exists():
        raise WrongState(
            _("%(target)s is not kept by an exemption in force.") % {"target": item.target}
        )
    if reason not in (ENDING if renew_until is None else RENEWING):
        raise Invalid(_("The reason does not fit: say why it is kept longer, or why no longer."))
    today = timezone.localdate()
    if renew_until is not None and not today < renew_until <= today + LONGEST_KEPT:
        raise Invalid(_("Name a day within a year to look at it again."))
    text = _checked_text(case, text)
    before = item.review_on
    if renew_until is None:
        item.ended_on = today
    else:
        item.review_on = renew_until
    item.save(update_fields=["ended_on", "review_on"])
    if text:
        vault.put(case, f"scope/{item.pk}/review/{today.isoformat()}", text)
    audit.append_entry(
        type="exemption.ended" if renew_until is None else "exemption.renewed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "kind": item.kind,
            "target": item.target,
            "exemption": item.exemption,
            "reason": reason,
            "was_due_on": before.isoformat() if before else "",
            "review_on": renew_until.isoformat() if renew_until else "",
        },
        commitments={"text": text} if text else None,
    )
    return item


def _checked_text(case: Case, text: str) -> str:
    if case.sealed_at is None:
        return clean_text(text, what=_("Why, for this item"), longest=REASONING_LENGTH)
    if text.strip():
        raise Invalid(
            _("%(reference)s is sealed: there is no place left for a text.")
            % {"reference": case.reference}
        )
    return ""
