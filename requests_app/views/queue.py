"""Staff: today, and the queue with its filters, its notice of changes and its owners."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from urllib.parse import urlencode
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_GET, require_POST

from requests_app import queue_selectors
from requests_app.forms import PlainForm
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import Case, StaffMember
from requests_app.models.people import Role
from requests_app.permissions import member, sees_personal_data, staff_page
from requests_app.queue_selectors import VIEWS, Row, Wanted
from requests_app.services import owners
from requests_app.services.errors import Invalid, ServiceError
from requests_app.templatetags.rtbf import address, case_cells, day_words, state_tag
from requests_app.views.common import find_case

NOBODY = "none"
FILTERS = ("status", "reference", "owner", "due_from", "due_to", "language", "model")
STATE = ("view", *FILTERS, "sort")  # all that an address of the queue says, but for the page
DECIDES = {Role.INTAKE: "verifying", Role.APPROVER: "second", Role.ENGINEER: "erasing"}
NEXT = 5
NO_RUN = str(UUID(int=0))
NOTHING = SafeString("\N{EN DASH}")
CURRENT = SafeString(' aria-current="page"')


class QueueForm(PlainForm):
    """The filters; the address is their only state. A field with an error filters nothing."""

    reference = forms.CharField(label=gettext_lazy("Reference"), max_length=24, required=False)
    status = forms.ChoiceField(label=gettext_lazy("State"), required=False)
    owner = forms.ChoiceField(label=gettext_lazy("Owner"), required=False)
    due_from = forms.DateField(label=gettext_lazy("Due from"), required=False)
    due_to = forms.DateField(label=gettext_lazy("Due until"), required=False)
    language = forms.ChoiceField(label=gettext_lazy("Language"), required=False)
    model = forms.ChoiceField(label=gettext_lazy("Model"), required=False)

    def __init__(self, data: QueryDict, *, staff: list[StaffMember]) -> None:
        super().__init__(data)
        choices: dict[str, list[tuple[str, Any]]] = {
            "status": list(CaseStatus.choices),
            "owner": [(NOBODY, _("Nobody")), *((str(each.pk), _name(each)) for each in staff)],
            "language": list(settings.EU_LANGUAGES.items()),
            "model": [(name, name) for name in settings.RTBF_MODELS],
        }
        for name, each in choices.items():
            field = cast(forms.ChoiceField, self.fields[name])
            field.choices = [("", _("Any")), *each]
        for name in ("due_from", "due_to"):
            self.fields[name].widget = forms.DateInput({"type": "date"}, format="%Y-%m-%d")

    def clean_reference(self) -> str:
        text: str = self.cleaned_data["reference"]
        try:
            queue_selectors.of_reference(text or "1")
        except Invalid as problem:
            raise forms.ValidationError(str(problem)) from None
        return text

    def clean(self) -> None:
        first, last = self.cleaned_data.get("due_from"), self.cleaned_data.get("due_to")
        if first and last and first > last:
            self.add_error("due_to", _("The last day is before the first."))
            del self.cleaned_data["due_from"]


@staff_page("today")
@require_GET
def today(request: HttpRequest) -> HttpResponse:
    """What needs somebody now; an administrator, who sees no case, goes to the accounts."""
    staff = member(request)
    if staff.role == Role.ADMINISTRATOR:
        return redirect("staff")
    decides = DECIDES.get(Role(staff.role), "decision")
    found = queue_selectors.counts(
        staff,
        ["overdue", "soon", decides, "failed", "fell_back", "bounced", "review", "mine", "open"],
    )
    tiles = [
        ("overdue", "overdue", _("Overdue"), "danger"),
        ("soon", "soon", _("Due within 7 days"), "warn"),
        ("decide", decides, _("Need me: %(view)s") % {"view": VIEWS[decides].label}, ""),
        ("failed", "failed", _("Runs failed"), "danger"),
        ("fell-back", "fell_back", _("No longer hold when measured again"), "danger"),
        ("bounced", "bounced", _("Letters came back"), "danger"),
        ("review", "review", _("Kept, to be looked at again"), "warn"),
    ]
    mine = Wanted(staff, view="mine")
    context = {
        "tiles": [
            (
                name,
                view,
                queue_selectors.spell_count(found[view]),
                words,
                tone if found[view] else "",
            )
            for name, view, words, tone in tiles
            if found[view] or name not in ("fell-back", "bounced", "review")
        ],
        "nothing": not any(found[view] for _name, view, _words, _tone in tiles)
        and not found["mine"],
        "mine": [case_cells(case) for case in _first(mine)] if found["mine"] else [],
        "mine_count": queue_selectors.spell_count(found["mine"]),
        "next": [case_cells(case) for case in _first(Wanted(staff))],
        "open_count": queue_selectors.spell_count(found["open"]),
        "today": timezone.localdate(),
        "health": queue_selectors.health(),
    }
    return render(request, "staff/today.html", context)


def _first(wanted: Wanted) -> tuple[Case, ...]:
    found = queue_selectors.wanted_cases(wanted)
    return queue_selectors.page(found, order=wanted.order, size=NEXT).cases


@staff_page("queue")
@require_GET
def queue(request: HttpRequest) -> HttpResponse:
    """Cases of a saved view, with filters, order and page in the address, the subjects masked."""
    now = timezone.now()  # before anything is read: what changes meanwhile is told
    staff = list(queue_selectors.possible_owners())
    form = QueueForm(request.GET, staff=staff)
    wanted = _wanted(request, form)
    found = queue_selectors.wanted_cases(wanted)
    gone = ""
    try:
        page = queue_selectors.page(found, order=wanted.order, at=request.GET.get("at", ""))
    except Invalid as problem:
        gone, page = str(problem), queue_selectors.page(found, order=wanted.order)
    rows = queue_selectors.rows(page.cases)
    nobody = format_html('<span class="muted">{}</span>', _("Nobody"))
    context = {
        "form": form,
        "gone": gone,
        "page": page,
        "rows": [_cells(row, nobody) for row in rows],
        "tabs": _tabs(wanted),
        "view": VIEWS[wanted.view],
        "chips": _chips(request, form),
        "kept": {name: request.GET[name] for name in ("view", "sort") if request.GET.get(name)},
        "clear": _query(request, **dict.fromkeys(FILTERS, "")),
        "is_default": not any(request.GET.get(name) for name in STATE),
        "query": _query(request),
        "here": _query(request, at=request.GET.get("at", "")),
        "sorts": {name: _sort(request, wanted, name) for name in ("due", "received")},
        "owners": _owners(staff, member(request)),
        "changes": _changes_address(request, now, [row.case.reference for row in rows]),
    }
    return render(request, "staff/queue.html", context)


@staff_page("queue_changes")
@require_GET
def changes(request: HttpRequest) -> HttpResponse:
    """The notice "3 cases changed"; 204 while it would say what it says already."""
    try:
        since = datetime.fromtimestamp(int(request.GET.get("since", "")) / 1e6, tz=UTC)
        seen = int(request.GET.get("seen", "0"))
    except (ValueError, OverflowError, OSError):
        raise Http404 from None
    form = QueueForm(request.GET, staff=list(queue_selectors.possible_owners()))
    shown = [each for each in request.GET.get("shown", "").split(",") if each]
    where = queue_selectors.condition(_wanted(request, form))
    count = queue_selectors.changed(where, since=since, shown=shown)
    if count == seen:
        return HttpResponse(status=204)
    context = {
        "count": count,
        "many": count > queue_selectors.CHANGES,
        "most": queue_selectors.CHANGES,
        "query": _query(request, at=request.GET.get("at", "")),
        "changes": _changes_address(request, since, shown, seen=count),
    }
    return render(request, "staff/queue_changes.html", context)


@staff_page("queue_assign")
@require_POST
def assign(request: HttpRequest) -> HttpResponse:
    """Give the chosen cases to somebody, or the one case of a page `of` it. Nothing else is done to
    several cases at once."""
    back = redirect(f"{reverse('queue')}?{request.POST.get('query', '')}")
    chosen = request.POST.getlist("case")[: queue_selectors.PAGE]
    if request.POST.get("of"):
        chosen = [find_case(request.POST["of"]).reference]
        back = redirect("case", reference=chosen[0])
    who = request.POST.get("owner", "")
    owner = next((each for each in queue_selectors.possible_owners() if str(each.pk) == who), None)
    if owner is None and who != NOBODY:
        messages.error(request, _("Choose who is to see to the cases."))
        return back
    if not chosen:
        messages.error(request, _("Choose at least one case."))
        return back
    done = 0
    for case in Case.objects.filter(reference__in=chosen).order_by("id"):
        try:
            owners.assign_case(case_id=case.id, owner=owner, actor_member=member(request))
            done += 1
        except ServiceError as refused:
            messages.error(request, str(refused))
    given = ngettext(
        "%(count)d case was given to %(name)s.", "%(count)d cases were given to %(name)s.", done
    )
    freed = ngettext("%(count)d case has no owner now.", "%(count)d cases have no owner now.", done)
    if done:
        words = given if owner else freed
        messages.success(request, words % {"count": done, "name": owner and _name(owner)})
    return back


# --- Parts of the page ----------------------------------------------------------------------------
def _wanted(request: HttpRequest, form: QueueForm) -> Wanted:
    """What the address asks for; what it asks for wrongly is left out (the form says so)."""
    form.is_valid()
    data = form.cleaned_data
    view = request.GET.get("view", "")
    owner = data.get("owner", "")
    return Wanted(
        member=member(request),
        view=view if view in VIEWS else "open",
        status=data.get("status", ""),
        reference=data.get("reference", ""),
        owner=int(owner) if owner not in ("", NOBODY) else None,
        unowned=owner == NOBODY,
        due_from=data.get("due_from"),
        due_to=data.get("due_to"),
        language=data.get("language", ""),
        model=data.get("model", ""),
        sort=request.GET.get("sort", ""),
    )


def _query(request: HttpRequest, **changes: str) -> str:
    """The address of this list as a query, with some of it changed; a change to "" removes it."""
    kept = {name: request.GET.get(name, "") for name in STATE} | changes
    return urlencode({name: value for name, value in kept.items() if value})


def _tabs(wanted: Wanted) -> list[dict[str, Any]]:
    current = "" if wanted.status or wanted.reference else wanted.view
    names = [name for name, view in VIEWS.items() if view.is_tab or name == current]
    found = queue_selectors.counts(wanted.member, names)
    return [
        {
            "query": "" if name == "open" else f"?view={name}",
            "current": CURRENT if name == current else "",
            "label": VIEWS[name].label,
            "count": queue_selectors.spell_count(found[name]),
        }
        for name in names
    ]


def _cells(row: Row, nobody: SafeString) -> dict[str, str]:
    """A row of the queue, for `repeat`; `nobody`: what stands for an owner where there is none."""
    case, changed, run = row.case, timezone.localtime(row.case.updated_at), NOTHING
    if row.run:
        way = address("run", str(row.run.pk), like=NO_RUN)
        run = SafeString(f'<a href="{way}">{state_tag(RunState(row.run.state))}</a>')
    return {
        **case_cells(case),
        "subject": row.masked or NOTHING,
        "scope": ", ".join(row.scope) or NOTHING,
        "owner": _name(case.owner) if case.owner else nobody,
        "run": run,
        "received": case.received_on.isoformat(),
        "received_words": day_words(case.received_on),
        "changed": changed.isoformat(),
        "changed_words": f"{day_words(changed.date())}, {changed:%H:%M}",
    }


def _owners(staff: list[StaffMember], me: StaffMember) -> list[dict[str, str]]:
    """Who may be given cases; for who may give them."""
    if not sees_personal_data(me):
        return []
    names = {each.pk: _name(each) for each in staff}
    if me.pk in names:
        myself = _("me")
        names[me.pk] += f" ({myself})"
    return [{"value": str(pk), "name": name} for pk, name in names.items()]


def _chips(request: HttpRequest, form: QueueForm) -> list[dict[str, str]]:
    """The filters in force, each with the address of the list without it."""
    chips = []
    for name in FILTERS:
        value = form.cleaned_data.get(name)
        if not value:
            continue
        field = form.fields[name]
        if isinstance(field, forms.ChoiceField):
            words = str(dict(field.choices)[value])  # type: ignore[arg-type]
        else:
            words = date_format(value, "j M Y") if isinstance(field, forms.DateField) else value
        chips.append(
            {"label": str(field.label), "value": words, "query": _query(request, **{name: ""})}
        )
    return chips


def _sort(request: HttpRequest, wanted: Wanted, name: str) -> dict[str, str]:
    """What a column header says and leads to; `query` is empty where that order is not offered."""
    state = {name: "ascending", f"-{name}": "descending"}.get(wanted.order, "")
    turned = f"-{name}" if state == "ascending" else name
    offered = turned if turned in wanted.orders else f"-{name}"
    if offered not in wanted.orders or offered == wanted.order:
        return {"aria": state, "query": ""}
    return {"aria": state, "query": _query(request, sort=offered)}


def _changes_address(
    request: HttpRequest, since: datetime, shown: list[str], *, seen: int = 0
) -> str:
    stamp = str(int(since.timestamp() * 1e6))
    query = _query(
        request,
        at=request.GET.get("at", ""),
        since=stamp,
        shown=",".join(shown),
        seen=str(seen) if seen else "",
    )
    return f"{reverse('queue_changes')}?{query}"


def _name(staff: StaffMember) -> str:
    return staff.get_full_name() or staff.username
