"""The public form: one question a page over an encrypted draft; the session holds its id only.

So it is with the access code, while the confirmation page shows it (`views.sent`).
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.core.exceptions import BadRequest
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from requests_app import vault
from requests_app.actors import SUBJECT
from requests_app.forms import SYSTEMS, WHO, WIZARD_FORMS, scope_of
from requests_app.models import Draft
from requests_app.models.record import Channel
from requests_app.ratelimit import limit_posts
from requests_app.services.errors import Invalid
from requests_app.services.intake import Intake, OpenedCase, open_case
from requests_app.views.common import posted

STEPS = (*WIZARD_FORMS, "check")
DRAFT, SENT, ACCESS_CODES = "draft_id", "sent", "access_code"
OPENED = "opened"  # references whose access code this session gave
FORM_SECONDS = int(vault.DRAFT_LIFE.total_seconds())  # WCAG 2.2.1: nobody has to hurry
STATUS_SECONDS = 3600  # idle, once a case was opened: letters can be read
FOR_SOMEBODY_ELSE = "[The sender files this for somebody else.]"
SENDER_NOT_SURE = "[The sender did not know whether this is for themselves or somebody else.]"
SENDER_NOTE = {"someone_else": FOR_SOMEBODY_ELSE, "not_sure": SENDER_NOT_SURE}


@require_GET
def start(request: HttpRequest) -> HttpResponse:
    """What this is, what it can and cannot do, what one needs."""
    return render(request, "public/start.html")


@require_http_methods(["GET", "POST"])
@limit_posts("wizard", tries=120, seconds=600)
def step(request: HttpRequest, step: str) -> HttpResponse:
    """One question; answers go into the draft, then on to the first question without an answer."""
    if step == "check":
        return check(request)
    if step not in WIZARD_FORMS:
        raise Http404
    kept = vault.load_draft(_draft_id(request))
    if kept is None and (
        DRAFT in request.session or (step != STEPS[0] and SENT in request.session)
    ):
        return _gone(request)
    answers = kept or {}
    form = WIZARD_FORMS[step](posted(request), initial=_initial(step, answers))
    if request.method == "POST" and form.is_valid():
        answers[step] = form.cleaned_data
        draft = str(vault.save_draft(_draft_id(request), answers).id)
        if draft != request.session.get(DRAFT):
            request.session[DRAFT] = draft
            limit_session(request)
        return redirect("erasure_step", step=_next_step(answers))
    number = STEPS.index(step)
    changing = _next_step(answers) == "check"
    context = {
        "form": form,
        "step": step,
        "number": number + 1,
        "total": len(STEPS),
        "previous": "check" if changing else STEPS[number - 1] if number else None,
        "changing": changing,
    }
    status = 422 if form.errors else 200
    return render(request, f"public/step_{step}.html", context, status=status)


@limit_posts("send", tries=20, seconds=3600)
def check(request: HttpRequest) -> HttpResponse:
    """All answers with Change links; the POST sends the request, once."""
    answers = vault.load_draft(_draft_id(request))
    if answers is None and request.method == "POST" and request.session.get(SENT):
        return redirect("erasure_sent", reference=request.session[SENT][-1])  # sent twice: once
    if answers is None:
        return _gone(request)
    if (missing := _next_step(answers)) != "check":
        return redirect("erasure_step", step=missing)
    problem = ""
    if request.method == "POST":
        try:
            return redirect("erasure_sent", reference=_send(request, answers))
        except Invalid as refused:
            problem = str(refused)
    context = {
        "who": WHO[answers["who"]["who"]],
        "names": answers["name"],
        "email": answers["email"]["email"],
        "systems": [SYSTEMS[name] for name in answers["what"]["systems"]],
        "message": answers["message"]["message"],
        "step": "check",
        "number": len(STEPS),
        "total": len(STEPS),
        "problem": problem,
    }
    return render(request, "public/check.html", context, status=422 if problem else 200)


def _gone(request: HttpRequest) -> HttpResponse:
    """No answers to go on with: too old, sent already (Back leads here), or never begun."""
    expired = request.session.pop(DRAFT, None) is not None
    sent = [] if expired else request.session.get(SENT, [])
    context = {"expired": expired, "reference": sent[-1] if sent else ""}
    return render(request, "public/draft_gone.html", context, status=410 if expired else 200)


def _send(request: HttpRequest, answers: dict[str, Any]) -> str:
    """Open the case and use up the draft, and note it in the session; returns the reference.

    In one transaction: two clicks make one case, and somebody whose answer got lost on the way is
    shown reference and access code when they send again.
    """
    who, names = answers["who"]["who"], answers["name"]
    note = SENDER_NOTE.get(who, "")
    message = "\n".join(filter(None, [note, answers["message"]["message"]]))
    draft_id = _draft_id(request)
    with transaction.atomic():
        draft = Draft.objects.select_for_update().filter(pk=draft_id) if draft_id else None
        if draft is None or not draft.exists():
            return _sent_meanwhile(request)
        vault.delete_draft(draft_id)
        opened = open_case(
            intake=Intake(
                name=names["name"],
                email=answers["email"]["email"],
                aliases=tuple(names["aliases"]),
                message=message,
                language=get_language() or "en",
                scope=scope_of(answers["what"]["systems"]),
                on_behalf=who == "someone_else",
            ),
            received_at=timezone.now(),
            channel=Channel.FORM,
            actor=SUBJECT,
        )
        _remember_sent(request, opened)
    return opened.case.reference


def _sent_meanwhile(request: HttpRequest) -> str:
    """The reference of the request that another click sent while this one waited; Invalid if that
    was somewhere else."""
    now = type(request.session)(request.session.session_key)
    if not (sent := now.get(SENT, [])):
        raise Invalid(_("This request was sent already."))
    return str(sent[-1])


def _remember_sent(request: HttpRequest, opened: OpenedCase) -> None:
    session, reference = request.session, opened.case.reference
    session.pop(DRAFT, None)
    session[SENT] = [*session.get(SENT, []), reference]
    # encrypted: the session lies in the database, its back-ups and its log
    draft = vault.save_draft(None, {"code": opened.access_code})
    session[ACCESS_CODES] = {**session.get(ACCESS_CODES, {}), reference: str(draft.id)}
    session.save()


def _draft_id(request: HttpRequest) -> UUID | None:
    text = request.session.get(DRAFT)
    try:
        return UUID(text) if text else None
    except ValueError:
        raise BadRequest("The session holds no valid draft.") from None


def _initial(step: str, answers: dict[str, Any]) -> dict[str, Any]:
    """Earlier answers of this step, as its form shows them; nothing is ever asked twice."""
    initial = dict(answers.get(step, {}))
    if "aliases" in initial:
        initial["aliases"] = "\n".join(initial["aliases"])
    return initial


def _next_step(answers: dict[str, Any]) -> str:
    return next((name for name in WIZARD_FORMS if name not in answers), "check")


def limit_session(request: HttpRequest) -> None:
    """A visitor's session ends with its draft, and sooner once it opened a case; a member of staff
    keeps their own."""
    if not request.user.is_authenticated:
        request.session.set_expiry(STATUS_SECONDS if OPENED in request.session else FORM_SECONDS)
