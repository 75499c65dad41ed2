"""Personal data is masked until a member of staff reveals it, with a reason, for one case."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods, require_POST

from requests_app import permissions, vault
from requests_app.forms import PlainForm
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case
from requests_app.models.people import RevealReason
from requests_app.permissions import member, staff_page
from requests_app.services import reveals
from requests_app.services.errors import Invalid, WrongState
from requests_app.views.common import find_case, posted, refusals_in_words


class RevealForm(PlainForm):
    reason = forms.ChoiceField(
        label=_("Why do you need to see it?"),
        choices=RevealReason.choices,
        widget=forms.RadioSelect,
        error_messages={"required": _("Select why you need to see it")},
    )
    text = forms.CharField(
        label=_("In your words"),
        required=False,
        max_length=reveals.TEXT_LENGTH,
        help_text=_("Needed for another reason. Kept in the vault of this case."),
        widget=forms.Textarea(attrs={"rows": 2}),
    )


def ask_first(request: HttpRequest, case: Case) -> HttpResponse | None:
    """The way to the reveal page and back, where a step works on masked data; else None.

    A form that was opened in time may be sent after it: what was typed is not lost.
    """
    if permissions.revealed_until(request, case):
        return None
    if request.method == "POST" and permissions.was_revealed(request, case):
        return None
    return to_reveal(request, case)


def to_reveal(request: HttpRequest, case: Case) -> HttpResponse:
    query = urlencode({"next": request.get_full_path()})
    return redirect(f"{reverse('case_reveal', args=[case.reference])}?{query}")


def person_of(request: HttpRequest, case: Case) -> dict[str, Any] | None:
    """Who asks, from the vault; None while it is masked or once the case is sealed."""
    if not permissions.revealed_until(request, case) or case.status == CaseStatus.SEALED:
        return None
    return {
        "name": vault.get(case, "name"),
        "email": vault.get(case, "email", default=""),
        "aliases": vault.get(case, "aliases"),
        "message": vault.get(case, "message", default=""),
    }


@staff_page("case_reveal")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def reveal(request: HttpRequest, reference: str) -> HttpResponse:
    """Say why, then go on to `next`, a page of this site; each time is an entry of the log."""
    case = find_case(reference)
    form = RevealForm(posted(request))
    follow = _own_page(request, case)
    if request.method == "GET" and permissions.revealed_until(request, case):
        return redirect(follow)
    if request.method == "POST" and form.is_valid():
        try:
            reveals.reveal_person(
                case_id=case.id, actor_member=member(request), **form.cleaned_data
            )
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("text", str(refused))
        else:
            permissions.note_reveal(request, case)
            return redirect(follow)
    context = {"case": case, "form": form, "next": follow, "minutes": _minutes()}
    return render(request, "staff/reveal.html", context, status=422 if form.errors else 200)


@staff_page("case_hide")
@require_POST
def hide(request: HttpRequest, reference: str) -> HttpResponse:
    """Mask it again before the time is over."""
    case = find_case(reference)
    permissions.forget_reveal(request, case)
    return redirect("case", reference=case.reference)


def _own_page(request: HttpRequest, case: Case) -> str:
    wanted = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        wanted, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return wanted if safe else reverse("case", args=[case.reference])


def _minutes() -> int:
    return int(permissions.REVEAL_TIME.total_seconds()) // 60
