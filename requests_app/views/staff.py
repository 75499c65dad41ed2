"""Staff: a new request that did not come by form, and the case page."""

from __future__ import annotations

from datetime import datetime, time
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import selectors, vault
from requests_app.actors import staff_actor
from requests_app.forms import scope_of
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, LegalHold, Letter, Mandate
from requests_app.permissions import (
    DECIDE,
    EXPORT,
    member,
    revealed_until,
    sees_personal_data,
    staff_page,
)
from requests_app.services import intake
from requests_app.services.duplicates import same_contact
from requests_app.services.errors import Invalid
from requests_app.services.exemptions import kept_items
from requests_app.services.holds import hold_of
from requests_app.services.run_rows import fell_back
from requests_app.views.checklist import checklist
from requests_app.views.clock import clock_box
from requests_app.views.common import actor_names, find_case, posted, refusals_in_words
from requests_app.views.public import letter_download
from requests_app.views.reveals import ask_first, person_of
from requests_app.views.step_forms import NewCaseForm
from requests_app.views.training import standing


@staff_page("new_case")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def new_case(request: HttpRequest) -> HttpResponse:
    """Enter a request that came by post, by phone or in person, with its true date of receipt."""
    form = NewCaseForm(posted(request))
    if request.method == "POST" and form.is_valid():
        data = form.cleaned_data
        received = timezone.make_aware(datetime.combine(data["received_on"], time(0, 0)))
        try:
            opened = intake.open_case(
                intake=intake.Intake(
                    name=data["name"],
                    email=data["email"],
                    aliases=data["aliases"],
                    message=data["message"],
                    language=data["language"],
                    scope=scope_of(data["systems"]),
                    on_behalf=data["on_behalf"],
                ),
                received_at=received,
                channel=data["channel"],
                region=data["region"],
                actor=staff_actor(member(request)),
            )
        except Invalid as refused:
            form.add_error(None, str(refused))
        else:
            context = {"case": opened.case, "access_code": opened.access_code}
            return render(request, "staff/new_case_done.html", context, status=201)
    status = 422 if form.errors else 200
    return render(request, "staff/new_case.html", {"form": form}, status=status)


@staff_page("case")
@require_GET
def case_page(request: HttpRequest, reference: str) -> HttpResponse:
    """One case: what is to be done next, by whom, and what was done; the person is masked."""
    case = find_case(reference)
    staff = member(request)
    items = selectors.timeline(case)
    hold = hold_of(case)
    names = actor_names(item.actor for item in items)
    revealed = revealed_until(request, case) is not None
    context = {
        "case": case,
        "tasks": checklist(case, staff),
        "person": _person(request, case),
        "sees_personal_data": sees_personal_data(staff),
        "masked": selectors.masked_email(case),
        "scope_items": case.scope_items.order_by("id"),
        "may_review": kept_items().filter(case=case) if staff.role in DECIDE else (),
        "decision": case.decisions.order_by("-proposed_at").first(),
        "runs": case.runs.order_by("-created_at"),
        "rechecks": selectors.last_rechecks(case),
        "fell_back": [run.model_name for run in case.runs.order_by("model_name") if fell_back(run)],
        "letters": case.letters.order_by("-created_at"),
        "timeline": [(item, names[item.actor]) for item in reversed(items)],
        "clock": clock_box(case, staff),
        "same_contact": same_contact(case),
        "mandate": Mandate.objects.filter(case=case).first(),
        "hold": hold,
        "hold_reason": _hold_reason(case, hold) if revealed else "",
        "may_hold": staff.role in DECIDE and case.status != CaseStatus.SEALED,
        **standing(case),
        "may_restrict": staff.role in DECIDE,
        "notices": case.notices.select_related("recipient").order_by("id"),
        "may_tell": staff.role in DECIDE and case.status != CaseStatus.SEALED,
        "may_export": staff.role in EXPORT,
    }
    return render(request, "staff/case.html", context)


@staff_page("case_letter")
@require_GET
def case_letter(request: HttpRequest, reference: str, letter_id: int) -> HttpResponse:
    """One letter as its frozen text."""
    case = find_case(reference)
    if way := ask_first(request, case):
        return way
    letter = Letter.objects.filter(case=case, pk=letter_id).exclude(sha256="").first()
    if letter is None:
        raise Http404
    return letter_download(letter)


def _person(request: HttpRequest, case: Case) -> dict[str, Any] | None:
    """What the vault holds about the person; None while it is masked or once the case is sealed."""
    person = person_of(request, case)
    return person and {
        **person,
        "facts": vault.get(case, "facts", default=[]),
        "reasoning": _latest_reasoning(case),
        "returned": _latest_return(case),
    }


def _latest_reasoning(case: Case) -> str:
    decision = case.decisions.order_by("-proposed_at").first()
    if decision is None:
        return ""
    text: str = vault.get(case, f"decision/{decision.pk}/reasoning", default="")
    return text


def _hold_reason(case: Case, hold: LegalHold | None) -> str:
    if hold is None:
        return ""
    text: str = vault.get(case, f"hold/{hold.pk}/reason", default="")
    return text


def _latest_return(case: Case) -> str:
    decision = case.decisions.order_by("-proposed_at").first()
    if decision is None:
        return ""
    text: str = vault.get(case, f"decision/{decision.pk}/returned", default="")
    return text
