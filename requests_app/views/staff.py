"""Staff: a new request that did not come by form, and the letters of a case."""

from __future__ import annotations

from datetime import datetime, time

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods

from requests_app.actors import staff_actor
from requests_app.forms import scope_of
from requests_app.models import Letter
from requests_app.permissions import member, staff_page
from requests_app.services import intake
from requests_app.services.errors import Invalid
from requests_app.views.common import find_case, posted, refusals_in_words
from requests_app.views.letter_files import letter_download
from requests_app.views.reveals import ask_first
from requests_app.views.step_forms import NewCaseForm


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
    """One letter as its frozen text, or as PDF for the post."""
    case = find_case(reference)
    if way := ask_first(request, case):
        return way
    letter = Letter.objects.filter(case=case, pk=letter_id).exclude(sha256="").first()
    if letter is None:
        raise Http404
    return letter_download(request, letter)
