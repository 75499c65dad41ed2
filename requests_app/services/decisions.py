"""Four eyes: one person proposes what is erased, another approves it (GDPR Art. 5(2), 17)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Decision, ScopeItem, StaffMember
from requests_app.models.people import Role
from requests_app.models.record import Abuse, Exemption, Ground, Outcome
from requests_app.services.clock import require_answered
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.services.holds import refuse_while_held
from requests_app.services.locking import advance, clean_text, lock_case, require_role
from requests_app.services.recipients import queue_notices
from requests_app.services.run_rows import next_run, run_queued
from requests_app.services.suppression import sync_tags

ERASE, KEEP, OPEN = ScopeItem.Result.ERASE, ScopeItem.Result.KEEP, ScopeItem.Result.OPEN
REASONING_LENGTH = 10_000
LONGEST_KEPT = timedelta(days=366)  # an exemption is looked at again at least once a year

# What each outcome asks of the scope items: the results that must all occur, and no others.
RESULTS: dict[str, frozenset[str]] = {
    Outcome.GRANTED: frozenset({ERASE}),
    Outcome.PARTLY_GRANTED: frozenset({ERASE, KEEP}),
    Outcome.REFUSED: frozenset({KEEP}),
    Outcome.CANNOT_IDENTIFY: frozenset({OPEN}),
    Outcome.EXCESSIVE: frozenset({OPEN}),
}


@dataclass(frozen=True)
class ScopeResult:
    """What is to happen to one scope item; what is kept needs all four."""

    result: str
    exemption: str = ""
    necessity: str = ""  # why the exemption applies to this item; goes into the vault
    review_on: date | None = None


@transaction.atomic
def propose_decision(
    *,
    case_id: UUID,
    outcome: str,
    grounds: Sequence[str],
    reasoning: str,
    scope_results: Mapping[int, ScopeResult],
    actor_member: StaffMember,
    abuse: str = "",
    proof: str = "",
) -> Decision:
    """Propose a decision; `scope_results` maps scope items by id.

    Granting needs a ground of Art. 17(1); keeping anything needs an exemption of Art. 17(3) for
    that item, why it applies, and when that is looked at again; refusing the request as such needs
    to say whether it is unfounded or excessive, with proof (Art. 12(5)); reasoning is needed
    always. The entry names the controller's position on models as personal data
    (RTBF_MODELS_ARE_PERSONAL_DATA). Raises Invalid, NotAllowed, WrongState.
    """
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    require_answered(case)
    advance(case, CaseStatus.AWAITING_APPROVAL)
    reasoning = clean_text(reasoning, what=_("The reasoning"), longest=REASONING_LENGTH)
    grounds = _checked_grounds(outcome, grounds)
    proof = _checked_proof(outcome, abuse, proof)
    items = _settle_scope(case, outcome, scope_results)
    case.save()
    decision = Decision.objects.create(
        case=case,
        outcome=outcome,
        abuse=abuse,
        grounds=list(grounds),
        proposed_by=actor_member,
        proposed_at=timezone.now(),
    )
    necessity = {str(item.pk): scope_results[item.pk].necessity for item in _kept(items)}
    for item_id, text in necessity.items():
        vault.put(case, f"scope/{item_id}/reasoning", text)
    vault.put(case, f"decision/{decision.pk}/reasoning", reasoning)
    if proof:
        vault.put(case, f"decision/{decision.pk}/proof", proof)
    audit.append_entry(
        type="decision.proposed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={
            "decision": decision.pk,
            "outcome": outcome,
            "abuse": abuse,
            "grounds": list(grounds),
            "scope": [_as_data(item) for item in items],
            "models_are_personal_data": settings.RTBF_MODELS_ARE_PERSONAL_DATA,
        },
        commitments={
            "reasoning": reasoning,
            **({"necessity": necessity} if necessity else {}),
            **({"proof": proof} if proof else {}),
        },
    )
    return decision


@transaction.atomic
def return_decision(*, case_id: UUID, reason: str, actor_member: StaffMember) -> Decision:
    """Send the open proposal back for review; any officer or approver may, also its author."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    reason = clean_text(reason, what=_("The reason"), longest=REASONING_LENGTH)
    advance(case, CaseStatus.IN_REVIEW)
    case.save()
    decision = _open_proposal(case)
    decision.state = Decision.State.RETURNED
    decision.save(update_fields=["state"])
    case.scope_items.update(result=OPEN, exemption="", review_on=None)
    vault.put(case, f"decision/{decision.pk}/returned", reason)
    audit.append_entry(
        type="decision.returned",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"decision": decision.pk},
        commitments={"reason": reason},
    )
    return decision


@transaction.atomic
def approve_decision(
    *, case_id: UUID, actor_member: StaffMember, proposal: int | None = None
) -> Decision:
    """Approve the open proposal: an approver, and not the person who proposed it.

    `proposal` is the one that was read: WrongState if another has taken its place since.

    Each model to be erased from gets a queued erasure run, woken after commit by task name and run
    id; without one the case goes straight to the answer. The person's identifiers go on the
    suppression list, and each recipient of what is erased gets a notice. Raises NotAllowed,
    WrongState.
    """
    require_role(actor_member, Role.APPROVER)
    case = lock_case(case_id)
    if case.status != CaseStatus.AWAITING_APPROVAL:
        raise WrongState(
            _("%(reference)s has no decision waiting for a second person.")
            % {"reference": case.reference}
        )
    decision = _open_proposal(case)
    if proposal is not None and decision.pk != proposal:
        raise WrongState(
            _("The proposal that you read was returned; another one waits. Read it first.")
        )
    if decision.proposed_by_id == actor_member.pk:
        raise NotAllowed(_("You proposed this decision: another person has to approve it."))
    if decision.outcome in (Outcome.GRANTED, Outcome.PARTLY_GRANTED):
        refuse_while_held(case, _("nothing of it can be erased"))
    decision.state = Decision.State.APPROVED
    decision.approved_by = actor_member
    decision.approved_at = timezone.now()
    decision.save()
    models = list(
        case.scope_items.filter(kind=ScopeItem.Kind.MODEL, result=ERASE)
        .order_by("id")
        .values_list("target", flat=True)
    )
    advance(case, CaseStatus.EXECUTING if models else CaseStatus.RESPONDING)
    case.save()
    actor = staff_actor(actor_member)
    tags, notices = sync_tags(case, actor=actor), queue_notices(case, actor=actor)
    queued = [run_queued(next_run(case, name), actor=actor.name) for name in models]
    audit.append_entry(
        type="decision.approved",
        actor=actor.name,
        case=case,
        data={"decision": decision.pk, "outcome": decision.outcome, "runs": len(models)},
    )
    audit.append_entries([*tags, *notices, *queued])
    return decision


def _open_proposal(case: Case) -> Decision:
    decision = Decision.objects.filter(case=case, state=Decision.State.PROPOSED).first()
    if decision is None:
        raise WrongState(
            _("%(reference)s has no decision waiting for a second person.")
            % {"reference": case.reference}
        )
    return decision


def _checked_grounds(outcome: str, grounds: Sequence[str]) -> list[str]:
    if outcome not in Outcome.values:
        raise Invalid(
            _("There is no outcome “%(outcome)s”. Known: %(known)s.")
            % {"outcome": outcome, "known": ", ".join(Outcome.values)}
        )
    unique = list(dict.fromkeys(grounds))
    if unknown := [ground for ground in unique if ground not in Ground.values]:
        raise Invalid(
            _("Not a ground of Art. 17(1) GDPR: %(unknown)s.") % {"unknown": ", ".join(unknown)}
        )
    if outcome in (Outcome.GRANTED, Outcome.PARTLY_GRANTED) and not unique:
        raise Invalid(_("Granting needs at least one ground of Art. 17(1) GDPR."))
    return unique


def _checked_proof(outcome: str, abuse: str, proof: str) -> str:
    """The proof of Art. 12(5), which that outcome needs and no other has."""
    if outcome != Outcome.EXCESSIVE:
        if abuse or proof.strip():
            raise Invalid(_("Only a request refused under Art. 12(5) GDPR has a proof of that."))
        return ""
    if abuse not in Abuse.values:
        raise Invalid(_("Say whether the request is manifestly unfounded or excessive."))
    return clean_text(proof, what=_("The proof for Art. 12(5) GDPR"), longest=REASONING_LENGTH)


def _kept(items: Sequence[ScopeItem]) -> list[ScopeItem]:
    return [item for item in items if item.result == KEEP]


def _settle_scope(case: Case, outcome: str, results: Mapping[int, ScopeResult]) -> list[ScopeItem]:
    """Write the result of every scope item, after checking that they make up the outcome."""
    items = list(case.scope_items.order_by("id"))
    if unknown := set(results) - {item.pk for item in items}:
        raise Invalid(
            _("%(count)d scope items do not belong to this case.") % {"count": len(unknown)}
        )
    for item in items:
        given = results.get(item.pk, ScopeResult(OPEN))
        item.result, item.exemption, item.review_on = given.result, given.exemption, given.review_on
        if item.result not in ScopeItem.Result.values:
            raise Invalid(
                _("There is no result “%(result)s” for a scope item.") % {"result": item.result}
            )
        if item.result == KEEP and item.exemption not in Exemption.values:
            raise Invalid(
                _("Keeping %(target)s needs an exemption of Art. 17(3) GDPR.")
                % {"target": item.target}
            )
        if item.result != KEEP and item.exemption:
            raise Invalid(
                _("%(target)s has an exemption but is not kept.") % {"target": item.target}
            )
        _check_kept(item, given)
    if {str(item.result) for item in items} != {str(result) for result in RESULTS[outcome]}:
        wanted = " / ".join(sorted(str(ScopeItem.Result(each).label) for each in RESULTS[outcome]))
        raise Invalid(
            _(
                "“%(outcome)s” needs the results “%(wanted)s” among the scope items, each item"
                " one of them."
            )
            % {"outcome": Outcome(outcome).label, "wanted": wanted}
        )
    for item in items:
        item.save(update_fields=["result", "exemption", "review_on"])
    return items


def _check_kept(item: ScopeItem, given: ScopeResult) -> None:
    """What is kept says why, and when that is looked at again; nothing else has either."""
    if item.result != KEEP:
        if given.necessity.strip() or given.review_on:
            raise Invalid(
                _("%(target)s is not kept: it needs no reason to keep it.")
                % {"target": item.target}
            )
        return
    clean_text(
        given.necessity,
        what=_("Why %(target)s is kept") % {"target": item.target},
        longest=REASONING_LENGTH,
    )
    today = timezone.localdate()
    if given.review_on is None or not today < given.review_on <= today + LONGEST_KEPT:
        raise Invalid(
            _("%(target)s is kept: name a day within a year to look at it again.")
            % {"target": item.target}
        )


def _as_data(item: ScopeItem) -> dict[str, str]:
    return {
        "kind": item.kind,
        "target": item.target,
        "result": item.result,
        "exemption": item.exemption,
        "review_on": item.review_on.isoformat() if item.review_on else "",
    }
