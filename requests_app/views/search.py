"""Staff: one search for cases, runs, releases and pages; how this browser wants its pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_http_methods

from requests_app import queue_selectors
from requests_app.context import OFF, SHORTCUTS, THEME, THEMES
from requests_app.forms import PlainForm
from requests_app.models import Case, StaffMember
from requests_app.permissions import PAGES, member, sees_personal_data, staff_page
from requests_app.services.duplicates import cases_of_contact
from requests_app.services.errors import Invalid
from requests_app.views.common import posted

LISTED = 10
YEAR = 365 * 24 * 3600
TITLES = {
    "today": gettext_lazy("Today"),
    "queue": gettext_lazy("Cases"),
    "new_case": gettext_lazy("Enter a request by post or phone"),
    "releases": gettext_lazy("Releases"),
    "models": gettext_lazy("Models"),
    "training": gettext_lazy("Training data"),
    "recipients": gettext_lazy("Recipients"),
    "audit": gettext_lazy("Audit log"),
    "reports": gettext_lazy("Reports"),
    "preferences": gettext_lazy("Preferences and keyboard"),
}


class SearchForm(PlainForm):
    """Posted, so that an e-mail address never stands in an address of ours."""

    q = forms.CharField(label=gettext_lazy("Search"), max_length=254, strip=True)


class PreferencesForm(PlainForm):
    says_when_needed = True  # none has to be filled in
    theme = forms.ChoiceField(
        label=gettext_lazy("Colours"),
        choices=[
            ("", gettext_lazy("As the system has them")),
            ("light", gettext_lazy("Light")),
            ("dark", gettext_lazy("Dark")),
        ],
        required=False,
        widget=forms.RadioSelect,
    )
    shortcuts = forms.BooleanField(label=gettext_lazy("Keyboard shortcuts"), required=False)


@dataclass(frozen=True)
class Hits:
    """What was found. `by_address`: it was looked for by e-mail address."""

    cases: list[Case]
    runs: list[Any]
    releases: list[Any]
    pages: list[tuple[str, str]]
    by_address: bool = False
    why_not: str = ""

    @property
    def is_empty(self) -> bool:
        return not (self.cases or self.runs or self.releases or self.pages)


@staff_page("search")
@require_http_methods(["GET", "POST"])
def search(request: HttpRequest) -> HttpResponse:
    """By reference, id, digest, name of a page, or e-mail address of a verified request.

    A single case that was named in full opens at once; the palette gets the hits alone.
    """
    form = SearchForm(posted(request))
    hits = _hits(form.cleaned_data["q"], member(request)) if form.is_valid() else None
    if "HX-Request" in request.headers:
        return render(request, "staff/search_hits.html", {"hits": hits})
    if hits and len(hits.cases) == 1 and not hits.by_address:
        case = hits.cases[0]
        if case.reference == form.cleaned_data["q"].upper():
            return redirect("case", case.reference)
    status = 422 if form.errors else 200
    return render(request, "staff/search.html", {"form": form, "hits": hits}, status=status)


def _hits(text: str, staff: StaffMember) -> Hits:
    if "@" in text:
        if not sees_personal_data(staff):
            return Hits([], [], [], [], why_not=_("Your role does not search by address."))
        return Hits(list(cases_of_contact(text)[:LISTED]), [], [], [], by_address=True)
    try:
        where = queue_selectors.of_reference(text)
        cases = list(Case.objects.filter(where).order_by("reference")[:LISTED])
    except Invalid:
        cases = []
    return Hits(
        cases=cases,
        runs=queue_selectors.runs_of_id(text),
        releases=queue_selectors.releases_of_digest(text),
        pages=[
            (name, str(title))
            for name, title in TITLES.items()
            if text.casefold() in str(title).casefold() and staff.role in PAGES[name]
        ],
    )


@staff_page("preferences")
@require_http_methods(["GET", "POST"])
def preferences(request: HttpRequest) -> HttpResponse:
    """Colours and keyboard shortcuts, kept in cookies that hold nothing else; the shortcuts."""
    theme = request.COOKIES.get(THEME, "")
    now = {
        "theme": theme if theme in THEMES else "",
        "shortcuts": request.COOKIES.get(SHORTCUTS) != OFF,
    }
    form = PreferencesForm(posted(request), initial=now)
    if request.method == "POST" and form.is_valid():
        response = redirect("preferences")
        for cookie, value in (
            (THEME, form.cleaned_data["theme"]),
            (SHORTCUTS, "" if form.cleaned_data["shortcuts"] else OFF),
        ):
            response.set_cookie(
                cookie,
                value,
                max_age=YEAR if value else 0,
                secure=settings.SESSION_COOKIE_SECURE,
                httponly=True,
                samesite="Lax",
            )
        messages.success(request, _("Saved for this browser."))
        return response
    status = 422 if form.errors else 200
    return render(request, "staff/preferences.html", {"form": form}, status=status)
