"""Staff: what is kept is looked at again, and the exemption renewed or ended."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext, gettext_lazy
from django.views.decorators.http import require_http_methods

from requests_app import vault
from requests_app.forms import PlainForm
from requests_app.models import Case, ScopeItem
from requests_app.permissions import member, revealed_until, staff_page
from requests_app.services import exemptions
from requests_app.services.decisions import REASONING_LENGTH
from requests_app.services.errors import Invalid, WrongState
from requests_app.views.common import find_case, posted, refusals_in_words


class ExemptionForm(PlainForm):
    reason = forms.ChoiceField(
        label=gettext_lazy("Does the exemption still apply?"),
        choices=[
            (gettext_lazy("Yes, it is kept"), [(r, r.label) for r in exemptions.RENEWING]),
            (gettext_lazy("No, it is to be erased"), [(r, r.label) for r in exemptions.ENDING]),
        ],
        widget=forms.RadioSelect,
        error_messages={"required": gettext_lazy("Say whether it still applies, and why")},
    )
    renew_until = forms.DateField(
        label=gettext_lazy("If it is kept: look at it again on"),
        required=False,
        help_text=gettext_lazy("At most a year from now."),
        widget=forms.DateInput(attrs={"type": "date"}),
        error_messages={"invalid": gettext_lazy("Enter a real date, for example 2027-03-31")},
    )
    text = forms.CharField(
        label=gettext_lazy("Why, for this item"),
        max_length=REASONING_LENGTH,
        help_text=gettext_lazy("Kept in the vault, destroyed when the case is sealed."),
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": gettext_lazy("Say why, for this item")},
    )

    def __init__(self, *args: Any, sealed: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if sealed:
            del self.fields["text"]

    def clean(self) -> dict[str, Any]:
        found: dict[str, Any] = super().clean() or self.cleaned_data
        if found.get("reason") in exemptions.ENDING:
            found["renew_until"] = None
        elif (
            "reason" in found and not found.get("renew_until") and "renew_until" not in self.errors
        ):
            self.add_error("renew_until", gettext("Enter the day to look at it again"))
        return found


@staff_page("case_exemption")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def exemption(request: HttpRequest, reference: str, item_id: int) -> HttpResponse:
    """Renew the exemption of one scope item, or end it, with the reason."""
    case = find_case(reference)
    item = exemptions.kept_items().filter(case=case, pk=item_id).first()
    if item is None:
        raise Http404
    form = ExemptionForm(posted(request), sealed=case.sealed_at is not None)
    if request.method == "POST" and form.is_valid():
        values = {"text": "", **form.cleaned_data}
        try:
            exemptions.review_exemption(
                case_id=case.id, item_id=item.pk, actor_member=member(request), **values
            )
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("renew_until", str(refused))
        else:
            ended = values["reason"] in exemptions.ENDING
            messages.success(
                request,
                gettext("The exemption has ended. Erase it: enter a new request for that.")
                if ended
                else gettext("The exemption goes on."),
            )
            return redirect("case", reference=case.reference)
    context = {
        "case": case,
        "item": item,
        "form": form,
        "necessity": _necessity(request, case, item),
    }
    status = 422 if form.errors else 200
    return render(request, "staff/exemption.html", context, status=status)


def _necessity(request: HttpRequest, case: Case, item: ScopeItem) -> str:
    """Why it was kept at first, while the person is shown."""
    if case.sealed_at is not None or not revealed_until(request, case):
        return ""
    text: str = vault.get(case, f"scope/{item.pk}/reasoning", default="")
    return text
