"""Legal holds: placing one with its reason, and releasing it."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from requests_app.forms import HoldForm
from requests_app.permissions import member, staff_page
from requests_app.services import holds
from requests_app.services.errors import Invalid, WrongState
from requests_app.views.common import find_case, posted, refusals_in_words


@staff_page("case_hold")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def hold(request: HttpRequest, reference: str) -> HttpResponse:
    """Place a hold: nothing of the case is erased or destroyed until its day has passed."""
    case = find_case(reference)
    form = HoldForm(posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            holds.place_hold(case_id=case.id, actor_member=member(request), **form.cleaned_data)
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("until", str(refused))
        else:
            messages.success(request, "Legal hold placed.")
            return redirect("case", reference=case.reference)
    status = 422 if form.errors else 200
    return render(request, "staff/hold.html", {"case": case, "form": form}, status=status)


@staff_page("case_hold_release")
@require_POST
@refusals_in_words
def release(request: HttpRequest, reference: str) -> HttpResponse:
    """Release the hold in force."""
    case = find_case(reference)
    holds.release_hold(case_id=case.id, actor_member=member(request))
    messages.success(request, "Legal hold released.")
    return redirect("case", reference=case.reference)
