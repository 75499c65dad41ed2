"""Legal holds: placing one with its reason, and releasing it."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_POST

from requests_app.forms import PlainForm
from requests_app.permissions import member, staff_page
from requests_app.services import holds
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.holds import REASON_LENGTH
from requests_app.views.common import find_case, posted, refusals_in_words


class HoldForm(PlainForm):
    reason = forms.CharField(
        label=_("Which legal claim needs it"),
        max_length=REASON_LENGTH,
        help_text=_("Kept in the vault, destroyed when the case is sealed."),
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": _("Say which legal claim needs the data")},
    )
    until = forms.DateField(
        label=_("Until the end of"),
        help_text=_("At most a year from now; then it must be looked at again."),
        widget=forms.DateInput(attrs={"type": "date"}),
        error_messages={
            "required": _("Enter the last day of the hold"),
            "invalid": _("Enter a real date, for example 2027-03-31"),
        },
    )


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
            messages.success(request, _("Legal hold placed."))
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
    messages.success(request, _("Legal hold released."))
    return redirect("case", reference=case.reference)
