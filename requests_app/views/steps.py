"""The steps of a case: one page and one service each."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.datastructures import MultiValueDict
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods

from requests_app import selectors, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, Decision, ErasureRun, ScopeItem
from requests_app.models.record import Abuse, Exemption, Ground, Outcome
from requests_app.permissions import fresh_log_in, is_post, member, revealed_until, staff_page
from requests_app.services import cases
from requests_app.services.decisions import ScopeResult
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.letter_texts import letter_name
from requests_app.services.run_rows import fell_back
from requests_app.views.common import find_case, posted, refusals_in_words, why_not_approve
from requests_app.views.reveals import ask_first, person_of, to_reveal
from requests_app.views.step_forms import DecisionForm, FactsForm, IdentityForm, ReturnForm

GET_POST = require_http_methods(["GET", "POST"])


def _back(case: Case) -> HttpResponse:
    return redirect("case", reference=case.reference)


def _expect(case: Case, *statuses: CaseStatus) -> None:
    """WrongState (the 409 page) when the page of a step is opened before or after its time."""
    if case.status not in statuses:
        raise WrongState(
            _("%(reference)s is at “%(status)s”: this step is not possible there.")
            % {"reference": case.reference, "status": CaseStatus(case.status).label}
        )


@staff_page("case_identity")
@GET_POST
@refusals_in_words
def identity(request: HttpRequest, reference: str) -> HttpResponse:
    """Record how the identity was established; the document itself is not kept."""
    case = find_case(reference)
    _expect(case, CaseStatus.IDENTITY_CHECK)
    if way := ask_first(request, case):
        return way
    form = IdentityForm(posted(request))
    if request.method == "POST" and form.is_valid():
        cases.record_identity(
            case_id=case.id, actor=staff_actor(member(request)), **form.cleaned_data
        )
        messages.success(request, _("Identity check recorded."))
        return _back(case)
    return _step(request, "staff/identity.html", case, form=form, person=person_of(request, case))


@staff_page("case_facts")
@GET_POST
@refusals_in_words
def facts(request: HttpRequest, reference: str) -> HttpResponse:
    """What the controller holds: question and answer pairs, and other names."""
    case = find_case(reference)
    _expect(case, CaseStatus.IDENTITY_CHECK, CaseStatus.IN_REVIEW)
    if way := ask_first(request, case):
        return way
    shown = revealed_until(request, case) is not None
    held = vault.get(case, "facts", default=[]) if shown else []
    initial = {"facts": "\n".join(f"{fact['question']} | {fact['answer']}" for fact in held)}
    form = FactsForm(posted(request), initial=initial)
    if request.method == "POST" and form.is_valid():
        try:
            cases.attach_facts(
                case_id=case.id, actor=staff_actor(member(request)), **form.cleaned_data
            )
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("facts", str(refused))
        else:
            messages.success(request, _("Facts stored in the vault of this case."))
            return _back(case)
    known = vault.get(case, "aliases") if shown else []
    return _step(request, "staff/facts.html", case, form=form, known=known)


@staff_page("case_decision")
@GET_POST
@refusals_in_words
def decision(request: HttpRequest, reference: str) -> HttpResponse:
    """Fill in (`step=check`), see the effects, then propose (`step=propose`)."""
    case = find_case(reference)
    _expect(case, CaseStatus.IN_REVIEW)
    items = list(case.scope_items.order_by("id"))
    form = DecisionForm(posted(request), items=items)
    step = request.POST.get("step", "")
    if step == "check" and form.is_valid():
        return _step(request, "staff/decision_check.html", case, form=form, **_effects(form))
    if step == "propose" and form.is_valid():
        data = form.cleaned_data
        try:
            cases.propose_decision(
                case_id=case.id,
                outcome=data["outcome"],
                grounds=data["grounds"],
                reasoning=data["reasoning"],
                scope_results=form.scope_results(),
                abuse=data["abuse"],
                proof=data["proof"],
                actor_member=member(request),
            )
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error(None, str(refused))
        else:
            messages.success(request, _("Decision proposed. A second person has to approve it."))
            return _back(case)
    no_facts = not vault.has(case, "facts")
    return _step(request, "staff/decision.html", case, form=form, no_facts=no_facts)


def _approves(request: HttpRequest) -> bool:
    return request.POST.get("action") == "approve"


@staff_page("case_approval")
@fresh_log_in(when=_approves)
@GET_POST
@refusals_in_words
def approval(request: HttpRequest, reference: str) -> HttpResponse:
    """The second person: `action=approve`, or `action=return` with a `reason`."""
    case = find_case(reference)
    _expect(case, CaseStatus.AWAITING_APPROVAL)
    if way := ask_first(request, case):
        return way
    staff = member(request)
    form = ReturnForm(request.POST if request.POST.get("action") == "return" else None)
    if _approves(request):
        read = request.POST.get("proposal", "")
        cases.approve_decision(
            case_id=case.id, actor_member=staff, proposal=int(read) if read.isdecimal() else None
        )
        messages.success(request, _("Decision approved."))
        return _back(case)
    if request.method == "POST" and form.is_valid():
        cases.return_decision(
            case_id=case.id, reason=form.cleaned_data["reason"], actor_member=staff
        )
        messages.success(request, _("Decision returned for review."))
        return _back(case)
    if not revealed_until(request, case):  # the time ended before a form that has to be shown again
        return to_reveal(request, case)
    proposal = Decision.objects.get(case=case, state=Decision.State.PROPOSED)
    erased = case.scope_items.filter(kind=ScopeItem.Kind.MODEL, result=ScopeItem.Result.ERASE)
    models = list(erased.values_list("target", flat=True))
    return _step(
        request,
        "staff/approval.html",
        case,
        form=form,
        proposal=proposal,
        grounds=[Ground(code).label for code in proposal.grounds],
        reasoning=vault.get(case, f"decision/{proposal.pk}/reasoning"),
        proof=vault.get(case, f"decision/{proposal.pk}/proof", default=""),
        scope_items=[
            (item, vault.get(case, f"scope/{item.pk}/reasoning", default=""))
            for item in case.scope_items.order_by("id")
        ],
        models=models,
        refusal=why_not_approve(proposal, staff),
        wording=None if models else cases.preview_proposal(case, proposal),
    )


@staff_page("case_evidence_review")
@GET_POST
@refusals_in_words
def evidence_review(request: HttpRequest, reference: str) -> HttpResponse:
    """Thresholds not met or inconclusive: `action=accept`, or `action=repeat` with `run`."""
    case = find_case(reference)
    _expect(case, CaseStatus.EVIDENCE_REVIEW)
    action = request.POST.get("action", "")
    if action == "accept":
        cases.accept_evidence(case_id=case.id, actor_member=member(request))
        messages.success(request, _("Evidence accepted as it is. The answer will say so."))
        return _back(case)
    if action == "repeat":
        run = _chosen_run(case, request.POST.get("run", ""))
        cases.repeat_run(case_id=case.id, run_id=run.pk, actor_member=member(request))
        messages.success(request, _("A further run is queued."))
        return _back(case)
    return _step(
        request,
        "staff/evidence_review.html",
        case,
        runs=[
            (run, cases.why_not_repeat(run), selectors.last_recheck(run), fell_back(run))
            for run in cases.latest_runs(case)
        ],
        status=422 if request.method == "POST" else 200,
    )


@staff_page("case_answer")
@fresh_log_in(when=is_post)
@GET_POST
@refusals_in_words
def answer(request: HttpRequest, reference: str) -> HttpResponse:
    """Send the answer of Art. 12(3) or 12(4); it states exactly the recorded figures."""
    case = find_case(reference)
    _expect(case, CaseStatus.RESPONDING)
    if way := ask_first(request, case):
        return way
    if request.method == "POST":
        letter = cases.send_answer(case_id=case.id, actor_member=member(request))
        messages.success(
            request,
            _("The letter “%(name)s” is written. The case is complete.")
            % {"name": letter_name(letter.kind)},
        )
        return _back(case)
    return _step(
        request,
        "staff/answer.html",
        case,
        decision=Decision.objects.get(case=case, state=Decision.State.APPROVED),
        scope_items=case.scope_items.order_by("id"),
        runs=cases.latest_runs(case),
        wording=cases.preview_answer(case),
    )


def _step(request: HttpRequest, template: str, case: Case, **context: Any) -> HttpResponse:
    form = context.get("form")
    status = context.pop("status", 422 if form is not None and form.errors else 200)
    return render(request, template, {"case": case, **context}, status=status)


def _chosen_run(case: Case, text: str) -> ErasureRun:
    """The run of this case with that id; Invalid if there is none."""
    run = next((run for run in cases.latest_runs(case) if str(run.pk) == text), None)
    if run is None:
        raise Invalid(_("Choose one of the latest runs of this case."))
    return run


def _effects(form: DecisionForm) -> dict[str, Any]:
    """What the check page says before a decision is proposed, and its answers as hidden fields."""
    data = form.cleaned_data
    results = form.scope_results()
    lines = []
    for item in form.items:
        given = results.get(item.pk, ScopeResult(ScopeItem.Result.OPEN.value))
        lines.append(
            {
                "item": item,
                "result": ScopeItem.Result(given.result).label,
                "exemption": Exemption(given.exemption).label if given.exemption else "",
                "necessity": given.necessity,
                "review_on": given.review_on,
            }
        )
    sent = MultiValueDict(form.data)  # a QueryDict keeps every value of a field
    hidden = [(name, value) for name in form.fields for value in sent.getlist(name)]
    return {
        "outcome": Outcome(data["outcome"]).label,
        "grounds": [Ground(code).label for code in data["grounds"]],
        "reasoning": data["reasoning"],
        "abuse": Abuse(data["abuse"]).label if data["abuse"] else "",
        "proof": data["proof"],
        "lines": lines,
        "hidden": hidden,
        "models": [
            item.target
            for item in form.items
            if item.kind == ScopeItem.Kind.MODEL
            and item.pk in results
            and results[item.pk].result == ScopeItem.Result.ERASE
        ],
    }
