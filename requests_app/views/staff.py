"""Staff: today, the queue, a new request that did not come by form, and the letters of a case."""

from __future__ import annotations

from datetime import datetime, time, timedelta

import django_filters
from django import forms
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import selectors
from requests_app.actors import staff_actor
from requests_app.forms import scope_of
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import Case, ErasureRun, Letter
from requests_app.models.people import Role
from requests_app.permissions import member, staff_page
from requests_app.services import intake
from requests_app.services.errors import Invalid
from requests_app.views.common import find_case, posted, refusals_in_words
from requests_app.views.public import letter_download
from requests_app.views.reveals import ask_first
from requests_app.views.step_forms import NewCaseForm

PAGE = 25


class CaseFilter(django_filters.FilterSet):  # type: ignore[misc]
    """The queue's filters; the URL is their only state."""

    reference = django_filters.CharFilter(label="Reference")
    status = django_filters.ChoiceFilter(
        label="State", choices=CaseStatus.choices, empty_label="All open"
    )
    overdue = django_filters.BooleanFilter(label="Overdue only", widget=forms.CheckboxInput)
    waiting = django_filters.ChoiceFilter(
        choices=[("bounced", "A letter came back")],
        empty_label=None,
    )

    class Meta:
        model = Case
        fields: list[str] = []

    def filter_queryset(self, queryset: QuerySet[Case]) -> QuerySet[Case]:
        chosen = self.form.cleaned_data  # an address with a state that does not exist has none
        if chosen.get("reference"):  # a reference finds closed cases too
            found = chosen["reference"].strip().upper()
            return Case.objects.filter(reference__contains=found).order_by("due", "id")
        if chosen.get("waiting") == "bounced":
            cases = Case.objects.filter(letters__in=selectors.bounced_letters())
            return cases.order_by("due", "id").distinct()
        return selectors.queue(chosen.get("status") or None, overdue=bool(chosen.get("overdue")))


@staff_page("today")
@require_GET
def today(request: HttpRequest) -> HttpResponse:
    """What needs somebody now; an administrator, who sees no case, goes to the accounts."""
    if member(request).role == Role.ADMINISTRATOR:
        return redirect("staff")
    day = timezone.localdate()
    context = {
        "counts": selectors.counts(),
        "soon": selectors.queue().filter(due__range=(day, day + timedelta(days=7))).count(),
        "failed": ErasureRun.objects.filter(
            state=RunState.FAILED, case__status=CaseStatus.EVIDENCE_REVIEW
        ).count(),
        "fell_back": selectors.reopened_cases().count(),
        "bounced": selectors.bounced_letters().count(),
        "next": selectors.queue()[:5],
        "today": day,
    }
    return render(request, "staff/today.html", context)


@staff_page("queue")
@require_GET
def queue(request: HttpRequest) -> HttpResponse:
    """Open cases by due date; filters and page in the URL, the subject masked."""
    found = CaseFilter(request.GET, queryset=selectors.queue())
    page = Paginator(found.qs, PAGE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "filter": found,
        "page": page,
        "rows": [(case, selectors.masked_email(case)) for case in page],
        "counts": selectors.counts(),
        "query": query.urlencode(),
        "status": request.GET.get("status", ""),
    }
    return render(request, "staff/queue.html", context)


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
