"""Letters that staff write by hand: seen as they will be, then written; and sent by themselves."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_POST

from requests_app.actors import staff_actor
from requests_app.forms import PlainForm
from requests_app.lifecycle import CaseStatus
from requests_app.permissions import member, staff_page
from requests_app.services import identity
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.letters import record_letter_posted
from requests_app.views.common import find_case, posted, refusals_in_words

GET_POST = require_http_methods(["GET", "POST"])


class IdentityQuestionForm(PlainForm):
    doubt = forms.CharField(
        label=_("Why is there reasonable doubt?"),
        max_length=2000,
        help_text=_("About this request, not in general. The person reads it."),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": _("Enter why there is doubt")},
    )
    sufficient = forms.CharField(
        label=_("What is enough to remove it?"),
        max_length=2000,
        help_text=_(
            "The least that will do, for example two details that we hold. No copy of an"
            " identity document unless nothing else will do; then say what to black out."
        ),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": _("Enter what is enough")},
    )


@staff_page("case_identity_question")
@GET_POST
@refusals_in_words
def identity_question(request: HttpRequest, reference: str) -> HttpResponse:
    """Ask for what confirms the identity: `step=preview` shows the letter, `step=write` writes."""
    case = find_case(reference)
    if case.status != CaseStatus.IDENTITY_CHECK:
        raise WrongState(
            _("%(reference)s is not at the identity check.") % {"reference": case.reference}
        )
    form = IdentityQuestionForm(posted(request))
    wording = None
    if request.method == "POST" and form.is_valid():
        try:
            if request.POST.get("step") == "write":
                identity.ask_identity(
                    case_id=case.id, actor_member=member(request), **form.cleaned_data
                )
                messages.success(request, _("The question is written and will be announced."))
                return redirect("case", reference=case.reference)
            wording = identity.preview_question(case, **form.cleaned_data)
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error(None, str(refused))
    context = {"case": case, "form": form, "wording": wording}
    status = 422 if form.errors else 200
    return render(request, "staff/identity_question.html", context, status=status)


@staff_page("case_letter_sent")
@require_POST
@refusals_in_words
def letter_sent(request: HttpRequest, reference: str, letter_id: int) -> HttpResponse:
    """Record that staff sent the letter themselves."""
    case = find_case(reference)
    if not case.letters.filter(pk=letter_id).exists():
        raise Http404
    record_letter_posted(letter_id=letter_id, actor=staff_actor(member(request)))
    messages.success(request, _("Recorded as sent."))
    return redirect("case", reference=case.reference)
