"""The case page: what is to be done next, by whom, and what was done; the person is masked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from requests_app import selectors, vault
from requests_app.lifecycle import CLOSED, CaseStatus
from requests_app.models import Adapter, Case, Decision, Mandate, RecordMatch, ScopeItem
from requests_app.models.people import Role, StaffMember
from requests_app.models.record import Ground
from requests_app.permissions import (
    DECIDE,
    EXPORT,
    PAGES,
    member,
    revealed_until,
    sees_personal_data,
    staff_page,
)
from requests_app.queue_selectors import possible_owners
from requests_app.services import cases
from requests_app.services.duplicates import same_contact
from requests_app.services.exemptions import kept_items
from requests_app.services.holds import hold_of
from requests_app.services.letter_texts import Wording
from requests_app.services.manifests import levels_of
from requests_app.views.case_runs import evidence_cards, run_cards
from requests_app.views.checklist import checklist
from requests_app.views.clock import clock_box
from requests_app.views.common import find_case, why_not_approve
from requests_app.views.notes import ADDED, NoteForm, notes_of
from requests_app.views.reveals import person_of
from requests_app.views.timeline import timeline
from requests_app.views.training import standing


@dataclass(frozen=True)
class ScopeRow:
    """A scope item with what was found and made for it; None where that says nothing of its kind.

    `found` and `confirmed` count the records of a training set, `level` says how the case
    is in force on a model (`gated`, `merged`, `exact`, empty).
    """

    item: ScopeItem
    found: int | None = None
    confirmed: int | None = None
    adapter: Adapter | None = None
    level: str = ""


@dataclass(frozen=True)
class DecisionPanel:
    """The latest decision, and the step that is to be taken on the case now.

    `step` names its page, `label` its button; `refusal` says why this member cannot take it, though
    they may open the page if `may_open` says so.
    """

    decision: Decision | None
    grounds: tuple[str, ...]
    step: str = ""
    label: str = ""
    refusal: str = ""
    may_open: bool = False
    wording: Wording | None = None  # the answer as it would be written; for who may read it


@staff_page("case")
@require_GET
def case_page(request: HttpRequest, reference: str) -> HttpResponse:
    """One case on one page; `?print=1` opens all that is folded and shows nothing of the person."""
    case = find_case(reference)
    staff = member(request)
    printed = request.GET.get("print") == "1"
    revealed = not printed and revealed_until(request, case) is not None
    items = selectors.timeline(case)
    runs = list(case.runs.order_by("-created_at", "-number"))
    fell_back = selectors.fell_back_runs(case)
    notices = list(case.notices.select_related("recipient").order_by("id"))
    hold = hold_of(case)
    is_open = case.status != CaseStatus.SEALED
    decision = _latest_decision(case)
    letters = list(case.letters.order_by("-created_at"))
    context = {
        "case": case,
        "printed": printed,
        "printed_at": timezone.localtime(),
        "tasks": checklist(
            case, staff, decision=decision, runs=runs, fell_back=fell_back, notices=notices
        ),
        "person": _person(request, case, decision) if revealed else None,
        "sees_personal_data": sees_personal_data(staff),
        "owners": possible_owners() if _may_assign(case, staff) and not printed else (),
        "me": staff,
        "masked": selectors.masked_email(case),
        "scope": _scope(case),
        "may_review": kept_items().filter(case=case) if staff.role in DECIDE else (),
        "panel": _panel(case, staff, decision, revealed=revealed),
        **run_cards(runs, staff, fell_back=fell_back),
        "evidence": evidence_cards(runs),
        "rechecks": selectors.last_rechecks(case),
        "fell_back": sorted({run.model_name for run in runs if run.pk in fell_back}),
        "letters": letters,
        "timeline": timeline(items, request.GET, whole=printed),
        "clock": clock_box(case, staff, letters),
        "same_contact": same_contact(case),
        "mandate": Mandate.objects.filter(case=case).first() if case.on_behalf else None,
        "hold": hold,
        "hold_reason": vault.get(case, f"hold/{hold.pk}/reason", "") if hold and revealed else "",
        "may_hold": staff.role in DECIDE and is_open,
        **standing(case),
        "may_restrict": staff.role in DECIDE,
        "notices": notices,
        "may_tell": staff.role in DECIDE and is_open,
        "may_export": staff.role in EXPORT,
        "notes": notes_of(case, items) if revealed and is_open else [],
        "note_count": sum(item.type == ADDED for item in items),
        "note_form": NoteForm() if sees_personal_data(staff) and is_open else None,
    }
    return render(request, "staff/case.html", context)


def _person(request: HttpRequest, case: Case, decision: Decision | None) -> dict[str, Any] | None:
    """What the vault holds about the person; None while it is masked or once the case is sealed."""
    person = person_of(request, case)
    if person is None:
        return None
    of_decision = f"decision/{decision.pk}" if decision else ""
    return {
        **person,
        "facts": vault.get(case, "facts", default=[]),
        "reasoning": vault.get(case, f"{of_decision}/reasoning", default=""),
        "returned": vault.get(case, f"{of_decision}/returned", default=""),
    }


def _may_assign(case: Case, staff: StaffMember) -> bool:
    return case.status not in CLOSED and staff.role in PAGES["queue_assign"]


def _latest_decision(case: Case) -> Decision | None:
    found: Decision | None = (
        case.decisions.select_related("proposed_by", "approved_by").order_by("-proposed_at").first()
    )
    return found


def _panel(
    case: Case, staff: StaffMember, decision: Decision | None, *, revealed: bool
) -> DecisionPanel:
    grounds = tuple(str(Ground(code).label) for code in decision.grounds) if decision else ()
    step, label = {
        CaseStatus.IN_REVIEW: ("case_decision", _("Decide")),
        CaseStatus.AWAITING_APPROVAL: ("case_approval", _("Read and approve")),
        CaseStatus.EVIDENCE_REVIEW: ("case_evidence_review", _("Accept or repeat")),
        CaseStatus.RESPONDING: ("case_answer", _("Read and send the answer")),
    }.get(CaseStatus(case.status), ("", ""))
    refusal = ""
    if step and staff.role not in DECIDE:
        refusal = _("This step is for case officers and approvers. Your role is %(role)s.") % {
            "role": Role(staff.role).label
        }
    elif step == "case_approval" and decision:
        refusal = why_not_approve(decision, staff)
    reads = revealed and step == "case_answer" and not refusal
    wording = cases.preview_answer(case) if reads else None
    return DecisionPanel(
        decision, grounds, step, label, refusal, staff.role in DECIDE, wording=wording
    )


def _scope(case: Case) -> list[ScopeRow]:
    """The scope items, with what was found in each training set and the adapter of each model."""
    counted = case.matches.values_list("training_set").annotate(
        found=Count("pk", filter=~Q(state=RecordMatch.State.REJECTED)),
        confirmed=Count("pk", filter=Q(state=RecordMatch.State.CONFIRMED)),
    )
    matches = {name: (found, confirmed) for name, found, confirmed in counted}
    made = Adapter.objects.filter(run__case=case).select_related("run").order_by("created_at")
    adapters = {adapter.run.model_name: adapter for adapter in made}
    rows, items = [], list(case.scope_items.order_by("id"))
    models = [item.target for item in items if item.kind == ScopeItem.Kind.MODEL]
    levels = levels_of(case.id, models) if models else {}
    for item in items:
        if item.kind == ScopeItem.Kind.TRAINING_SET:
            found, confirmed = matches.get(item.target, (0, 0))
            rows.append(ScopeRow(item, found=found, confirmed=confirmed))
        elif item.kind == ScopeItem.Kind.MODEL:
            level = levels.get(item.target, "")
            rows.append(ScopeRow(item, adapter=adapters.get(item.target), level=level))
        else:
            rows.append(ScopeRow(item))
    return rows
