"""Who asks, and for whom: the mandate of a sender, and several requests of one person."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_POST

from requests_app.actors import staff_actor
from requests_app.forms import PlainForm
from requests_app.models import Mandate
from requests_app.permissions import member, staff_page
from requests_app.services import duplicates, mandates
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.intake import NAME_LENGTH, check_email
from requests_app.views.common import find_case, posted, refusals_in_words
from requests_app.views.reveals import ask_first, person_of


class MandateForm(PlainForm):
    kind = forms.ChoiceField(
        label=_("Who is the sender?"),
        choices=Mandate.Kind.choices,
        widget=forms.RadioSelect,
        error_messages={"required": _("Select who the sender is")},
    )
    sender = forms.CharField(
        label=_("Name of the sender"),
        max_length=NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": _("Enter the sender's name")},
    )
    note = forms.CharField(
        label=_("What was seen"),
        max_length=2000,
        help_text=_("Which document, of which date. No copy is kept; this note goes with sealing."),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": _("Say what was seen")},
    )
    valid_until = forms.DateField(
        label=_("Valid until"),
        required=False,
        help_text=_("If the mandate names an end. For example 2027-05-31."),
        widget=forms.DateInput(attrs={"class": "short", "placeholder": ""}),
        error_messages={"invalid": _("Enter the date as year-month-day")},
    )
    covers_answers = forms.BooleanField(
        label=_("The mandate covers receiving the answer"),
        required=False,
        help_text=_("If not, the sender can no longer follow the request, and the person can."),
    )
    person_email = forms.EmailField(
        label=_("The person's own e-mail address"),
        required=False,
        max_length=254,
        validators=[check_email],
        help_text=_(
            "Only if the mandate does not cover the answer; without it letters go by post."
        ),
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
    )


@staff_page("case_mandate")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def mandate(request: HttpRequest, reference: str) -> HttpResponse:
    """What shows that the sender may ask for the person; a new access code is shown once."""
    case = find_case(reference)
    if way := ask_first(request, case):
        return way
    form = MandateForm(posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            code = mandates.record_mandate(
                case_id=case.id, actor=staff_actor(member(request)), **form.cleaned_data
            )
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error(None, str(refused))
        else:
            if code:
                shown = {"case": case, "access_code": code}
                return render(request, "staff/mandate_done.html", shown)
            messages.success(request, _("Mandate recorded."))
            return redirect("case", reference=case.reference)
    status = 422 if form.errors else 200
    context = {"case": case, "form": form, "person": person_of(request, case)}
    return render(request, "staff/mandate.html", context, status=status)


@staff_page("case_join")
@require_POST
@refusals_in_words
def join(request: HttpRequest, reference: str) -> HttpResponse:
    """Record that another verified request from the same address is of the same person."""
    case = find_case(reference)
    other = request.POST.get("other", "")
    duplicates.join_cases(case_id=case.id, reference=other, actor=staff_actor(member(request)))
    messages.success(request, _("Recorded: both requests are of the same person."))
    return redirect("case", reference=case.reference)
