"""What the staff pages share: finding the case, and saying in words what a service refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.utils.translation import gettext as _

from requests_app import selectors
from requests_app.keys import KeyFileError
from requests_app.models import Case, Consolidation, Decision, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import NotAllowed, NotFound, ServiceError

View = Callable[..., HttpResponse]
CHANGES = 3  # entries that the 409 page shows: what happened while a page was open


def find_case(reference: str) -> Case:
    """The case of a reference; Http404 if there is none."""
    case = selectors.case_by_reference(reference)
    if case is None:
        raise Http404
    return case


def posted(request: HttpRequest) -> QueryDict | None:
    """What a form is bound to: the POST, even an empty one, and None for a GET."""
    return request.POST if request.method == "POST" else None


def refusals_in_words(view: View) -> View:
    """A refused role is a 403 page, an unknown row 404, a step that is not possible now 409.

    So is a key file that cannot be used: the page says what to do about it. The 409 page of a case
    tells what was done to it last, by whom and when.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except NotAllowed as refused:
            raise PermissionDenied(str(refused)) from None
        except NotFound:
            raise Http404 from None
        except (ServiceError, KeyFileError) as refused:
            reference = kwargs.get("reference", "")
            context = {
                "reason": str(refused),
                "reference": reference,
                "changes": _last_changes(reference) if reference else [],
            }
            return render(request, "staff/409.html", context, status=409)

    return wrapped


def _last_changes(reference: str) -> list[tuple[selectors.TimelineItem, str]]:
    items = selectors.timeline(find_case(reference))[-CHANGES:]
    names = actor_names(item.actor for item in items)
    return [(item, names[item.actor]) for item in reversed(items)]


def why_not_approve(proposal: Decision | Consolidation, staff: StaffMember) -> str:
    """Why this member cannot approve a proposal, in words; empty if they can."""
    if staff.role != Role.APPROVER:
        return _("Approving needs the role %(needed)s. Your role is %(role)s.") % {
            "needed": Role.APPROVER.label,
            "role": Role(staff.role).label,
        }
    if proposal.proposed_by_id != staff.pk:
        return ""
    if isinstance(proposal, Consolidation):
        return _("You proposed this consolidation: another person has to approve it.")
    return _("You proposed this decision, so another approver has to approve it.")


def actor_names(actors: Iterable[str]) -> dict[str, str]:
    """Audit actor to what a page shows; staff by name while their account exists."""
    wanted = set(actors)
    pseudonyms = {
        name.partition(":")[2] for name in wanted if name.partition(":")[0] in Role.values
    }
    known = {
        str(member.pseudonym): member.get_full_name() or member.username
        for member in StaffMember.objects.filter(pseudonym__in=pseudonyms)
    }
    return {name: _spell(name, known) for name in wanted}


def _spell(actor: str, known: dict[str, str]) -> str:
    kind, _colon, rest = actor.partition(":")
    if kind in Role.values:
        return f"{known.get(rest, rest[:8])} ({str(Role(kind).label).lower()})"
    parties = {"subject": _("The person"), "system": _("System"), "client": _("API client")}
    return parties.get(kind, kind) + (f" ({rest})" if rest else "")
