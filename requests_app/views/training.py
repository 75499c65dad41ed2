"""Around the model: a person's records in training sets, restriction, suppression list."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext, ngettext
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_http_methods

from requests_app import selectors, vault
from requests_app.forms import PlainForm, text_lines
from requests_app.identifiers import KINDS, candidates
from requests_app.models import Case, RecordMatch
from requests_app.models.restrictions import RestrictionGround
from requests_app.permissions import DECIDE, member, revealed_until, staff_page
from requests_app.services import restrictions, suppression, training
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.views.common import find_case, posted, refusals_in_words
from requests_app.views.reveals import ask_first, to_reveal

GET_POST = require_http_methods(["GET", "POST"])
SHOWN = 100  # matches on one page; the next ones come once these are answered


class IdentifiersForm(PlainForm):
    """One identifier a line, `kind: value`."""

    identifiers = forms.CharField(
        label=_("Identifiers"),
        required=False,
        help_text=format_lazy(
            "{} {} {}",
            _("One on each line, for example “phone: 02 555 01 00”. Kinds:"),
            f"{', '.join(KINDS)}.",
            _("The e-mail address of the request counts by itself. A name is no identifier."),
        ),
        widget=forms.Textarea(attrs={"rows": 5, "spellcheck": "false", "autocomplete": "off"}),
    )

    def clean_identifiers(self) -> list[tuple[str, str]]:
        found = []
        for number, line in enumerate(text_lines(self.cleaned_data["identifiers"]), start=1):
            kind, colon, value = line.partition(":")
            if not colon or kind.strip() not in KINDS:
                raise forms.ValidationError(
                    _("Line %(number)s is not “kind: value”.") % {"number": number}
                )
            found.append((kind.strip(), value.strip()))
        return found


class RestrictForm(PlainForm):
    ground = forms.ChoiceField(
        label=_("Ground, Art. 18(1) GDPR"),
        choices=RestrictionGround.choices,
        widget=forms.RadioSelect,
    )


class LiftForm(PlainForm):
    reason = forms.CharField(
        label=_("Why it ends"),
        help_text=_("The person reads this in the letter."),
        widget=forms.Textarea(attrs={"rows": 4}),
    )


@staff_page("case_records")
@GET_POST
@refusals_in_words
def records(request: HttpRequest, reference: str) -> HttpResponse:
    """Identifiers, searches and matches: `action` is identifiers, search or decide."""
    case = find_case(reference)
    if case.status in suppression.NOT_YET:
        raise WrongState(
            _("%(reference)s is closed, or its mailbox is not confirmed yet.")
            % {"reference": case.reference}
        )
    if way := ask_first(request, case):
        return way
    staff, action = member(request), request.POST.get("action", "")
    shown = revealed_until(request, case) is not None
    form = IdentifiersForm(
        posted(request) if action == "identifiers" else None,
        initial={"identifiers": "\n".join(_held_or_suggested(case)) if shown else ""},
    )
    refused = ""
    try:
        if action == "identifiers" and form.is_valid():
            suppression.record_identifiers(
                case_id=case.id, identifiers=form.cleaned_data["identifiers"], actor_member=staff
            )
            messages.success(request, _("Identifiers stored in the vault of this case."))
            return redirect("case_records", reference=case.reference)
        if action == "search":
            training.queue_searches(case_id=case.id, actor_member=staff)
            messages.success(request, _("The training sets are being searched."))
            return redirect("case_records", reference=case.reference)
        if action == "decide":
            count = training.decide_matches(
                case_id=case.id,
                confirmed=_answered(request, "yes"),
                rejected=_answered(request, "no"),
                actor_member=staff,
            )
            told = ngettext("%(count)s record decided.", "%(count)s records decided.", count)
            messages.success(request, told % {"count": count})
            return redirect("case_records", reference=case.reference)
    except NotAllowed:
        raise
    except Invalid as problem:
        refused = str(problem)
        if action == "identifiers":
            form.add_error("identifiers", refused)
    if not shown:  # the time ended before a form that has to be shown again
        return to_reveal(request, case)
    found = RecordMatch.objects.filter(case=case).order_by("training_set", "pk")
    waiting = found.filter(state=RecordMatch.State.OPEN)
    context = {
        "case": case,
        "form": form,
        "refused": "" if action == "identifiers" else refused,
        "searches": case.searches.order_by("-created_at")[:20],
        "matches": [(match, vault.get(case, f"match/{match.pk}")) for match in waiting[:SHOWN]],
        "waiting": waiting.count(),
        "confirmed": found.filter(state=RecordMatch.State.CONFIRMED).count(),
        "rejected": found.filter(state=RecordMatch.State.REJECTED).count(),
        "may_decide": staff.role in DECIDE,
    }
    status = 422 if form.errors or refused else 200
    return render(request, "staff/records.html", context, status=status)


@staff_page("case_restriction")
@GET_POST
@refusals_in_words
def restriction(request: HttpRequest, reference: str) -> HttpResponse:
    """Restrict, announce the end, lift: `action` is restrict, announce or lift."""
    case = find_case(reference)
    now = restrictions.in_force(case)
    if case.status in suppression.NOT_YET and now is None:
        raise WrongState(
            _("%(reference)s is closed, or its mailbox is not confirmed yet.")
            % {"reference": case.reference}
        )
    staff, action = member(request), request.POST.get("action", "")
    restrict_form = RestrictForm(posted(request) if action == "restrict" else None)
    lift_form = LiftForm(posted(request) if action == "announce" else None)
    said = ""
    if action == "restrict" and restrict_form.is_valid():
        restrictions.restrict_case(
            case_id=case.id, ground=restrict_form.cleaned_data["ground"], actor_member=staff
        )
        said = gettext("Restricted. The gate refuses within a minute.")
    elif action == "announce" and lift_form.is_valid():
        restrictions.announce_lifting(
            case_id=case.id, reason=lift_form.cleaned_data["reason"], actor_member=staff
        )
        said = gettext(
            "The notice is written. The restriction can be lifted once it has been sent."
        )
    elif action == "lift":
        restrictions.lift_restriction(case_id=case.id, actor_member=staff)
        said = gettext("The restriction is lifted.")
    if said:
        messages.success(request, said)
        return redirect("case_restriction", reference=case.reference)
    context = {
        "case": case,
        "now": now,
        "earlier": case.restrictions.exclude(lifted_at=None).order_by("-restricted_at"),
        "restrict_form": restrict_form,
        "lift_form": lift_form,
        "form": lift_form if action == "announce" else restrict_form,
    }
    failed = restrict_form.errors or lift_form.errors
    return render(request, "staff/restriction.html", context, status=422 if failed else 200)


@staff_page("training")
@GET_POST
@refusals_in_words
def training_page(request: HttpRequest) -> HttpResponse:
    """Training sets and the suppression list; `action` is keep or remove, with a `case`."""
    staff = member(request)
    if request.method == "POST":
        case = find_case(request.POST.get("case", ""))
        named = {"reference": case.reference}
        if request.POST.get("action") == "keep":
            suppression.review_tags(case_id=case.id, actor_member=staff)
            messages.success(
                request, _("%(reference)s stays on the list for another year.") % named
            )
        elif request.POST.get("action") == "remove":
            suppression.remove_tags(case_id=case.id, actor_member=staff)
            messages.success(request, _("%(reference)s is off the list.") % named)
        return redirect("training")
    context = {
        **selectors.suppression_overview(),
        "today": timezone.localdate(),
        "may_decide": staff.role in DECIDE,
    }
    return render(request, "staff/training.html", context)


def _answered(request: HttpRequest, answer: str) -> list[int]:
    """The matches to which the form answers so."""
    return [
        int(name.removeprefix("match_"))
        for name, value in request.POST.items()
        if value == answer and name.removeprefix("match_").isdecimal()
    ]


def _held_or_suggested(case: Case) -> list[str]:
    """The stored identifiers; before any are, addresses found among the facts, to be looked at: a
    fact may quote somebody else's."""
    if vault.has(case, "identifiers"):
        return [f"{each['kind']}: {each['value']}" for each in vault.get(case, "identifiers")]
    texts = [fact["answer"] for fact in vault.get(case, "facts", default=[])]
    found = {
        form for text in texts for _, form in candidates(text, phone_prefix="", kinds={"email"})
    }
    return [f"email: {form}" for form in sorted(found)]


def standing(case: Case) -> dict[str, Any]:
    """What the case page says of training data and restriction."""
    restriction = restrictions.in_force(case)
    state = RecordMatch.State
    return {
        "restriction": restriction,
        **case.matches.aggregate(
            open_matches=Count("pk", filter=Q(state=state.OPEN)),
            confirmed_matches=Count("pk", filter=Q(state=state.CONFIRMED)),
        ),
        "around_is_open": restriction is not None or case.status not in suppression.NOT_YET,
    }
