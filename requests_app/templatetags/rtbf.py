"""How pages spell things: error summary, status tags, deadlines in days, digests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from html import escape
from typing import Any, cast

from django import forms, template
from django.conf import settings
from django.template import Context, RequestContext
from django.template.base import FilterExpression, NodeList, Parser, Token
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import get_language, gettext, ngettext
from django.utils.translation import gettext_lazy as _

from requests_app.lifecycle import CLOSED, CaseStatus, ExportState, RunState
from requests_app.models import Case, Reminder
from requests_app.models.runs import Verdict
from requests_app.permissions import revealed_until
from requests_app.services import letter_texts
from requests_app.services.serving import differing

register = template.Library()

CHOSEN = " selected"

# Glyph and tone beside the word: never the colour alone (WCAG 1.4.1).
LOOKS: dict[str, tuple[str, str]] = {
    CaseStatus.AWAITING_CONFIRMATION: ("○", ""),
    CaseStatus.IDENTITY_CHECK: ("◐", "info"),
    CaseStatus.IN_REVIEW: ("●", "warn"),
    CaseStatus.AWAITING_APPROVAL: ("▲", "warn"),
    CaseStatus.EXECUTING: ("▶", "info"),
    CaseStatus.EVIDENCE_REVIEW: ("◆", "warn"),
    CaseStatus.RESPONDING: ("✉", "info"),
    CaseStatus.COMPLETED: ("✔", "ok"),
    CaseStatus.WITHDRAWN: ("↩", ""),
    CaseStatus.SEALED: ("■", ""),
    RunState.QUEUED: ("○", ""),
    RunState.RUNNING: ("▶", "info"),
    RunState.SUCCEEDED: ("✔", "ok"),
    RunState.FAILED: ("✖", "danger"),
    RunState.CANCELLED: ("∅", ""),
    ExportState.DONE: ("✔", "ok"),
    Verdict.NONE: ("○", ""),
    Verdict.WITHIN: ("✔", "ok"),
    Verdict.NOT_MET: ("✖", "danger"),
    Verdict.INCONCLUSIVE: ("?", "warn"),
}


@register.simple_tag
def tag(value: str, word: str) -> SafeString:
    """A status as glyph and word."""
    glyph, tone = LOOKS.get(value, ("○", ""))
    return _tag(tone, glyph, word)


def _tag(tone: str, glyph: str, word: str) -> SafeString:
    return format_html(
        '<span class="tag {}"><span aria-hidden="true">{}</span>{}</span>', tone, glyph, word
    )


@register.simple_tag
def case_tag(case: Case) -> SafeString:
    return state_tag(CaseStatus(case.status))


def state_tag(state: CaseStatus | RunState) -> SafeString:
    return _state_tag(state, get_language())


@lru_cache(typed=True)  # a status and a state may be the same text
def _state_tag(state: CaseStatus | RunState, language: str | None) -> SafeString:
    return tag(state, str(state.label))


@register.simple_tag
def due_tag(case: Case) -> SafeString:
    """`12 days left` or `3 days overdue`; nothing for a case that needs no answer any more."""
    if case.status in CLOSED or case.completed_at is not None:  # a reopened case was answered
        return SafeString("")
    return _due_tag(days_left(case.due), get_language())


@lru_cache(maxsize=1024)
def _due_tag(days: int, language: str | None) -> SafeString:
    if days < 0:
        words = ngettext("%(count)d day overdue", "%(count)d days overdue", -days)
        tone, glyph = "danger", "!"
    elif days == 0:
        words, tone, glyph = gettext("Due today"), "danger", "!"
    else:
        tone, glyph = ("warn", "◷") if days <= 7 else ("", "◷")
        words = ngettext("%(count)d day left", "%(count)d days left", days)
    return _tag(tone, glyph, words % {"count": abs(days)})


FIELD = re.compile(r"\{(\w+)\}")


class Repeat(template.Node):
    """The body, rendered once and filled in for each row."""

    def __init__(self, rows: FilterExpression, body: NodeList) -> None:
        self.rows, self.body = rows, body

    def render(self, context: Context) -> SafeString:
        parts = FIELD.split(self.body.render(context))  # text, name, text, name, text
        rows: Iterable[Mapping[str, object]] = self.rows.resolve(context)
        return SafeString("".join(_filled(parts, row) for row in rows))


def _filled(parts: Sequence[str], row: Mapping[str, object]) -> str:
    filled = list(parts)
    filled[1::2] = [_escaped(row[name]) for name in parts[1::2]]
    return "".join(filled)


def _escaped(value: object) -> str:
    """As Django's `conditional_escape`, which asks each value anew whether it is lazy."""
    text = str(value)
    return text if isinstance(text, SafeString) else escape(text)


@register.tag
def repeat(parser: Parser, token: Token) -> Repeat:
    """`{% repeat rows %}<td>{due}</td>{% endrepeat %}`: a loop over mappings for long lists.

    What is the same in every row is rendered once; `{name}` stands for a row's value, escaped. A
    loop of Django's looks up and renders each variable, label and address of each row anew.
    """
    _repeat, rows = token.split_contents()
    body = parser.parse(("endrepeat",))
    parser.delete_first_token()
    return Repeat(parser.compile_filter(rows), body)


@register.simple_tag
def options(field: forms.BoundField) -> SafeString:
    """The options of a choice field."""
    chosen, choices = field.value(), cast(Any, field.field).choices
    return SafeString(
        "".join(
            f'<option value="{_escaped(value)}"{CHOSEN if value == chosen else ""}>'
            f"{_escaped(words)}</option>"
            for value, words in choices
        )
    )


def case_cells(case: Case) -> dict[str, str]:
    """What each list of cases shows of one, for `repeat`."""
    return {
        "reference": case.reference,
        "address": address("case", case.reference, like="0"),
        "status": case.status,
        "state": case_tag(case),
        "left": due_tag(case),
        "due": case.due.isoformat(),
        "due_words": day_words(case.due),
    }


def address(name: str, of: str, *, like: str) -> str:
    """The address of a page whose one argument, of a form `like` that, ends it."""
    return _up_to(name, like) + of


@lru_cache
def _up_to(name: str, argument: str) -> str:
    return reverse(name, args=[argument]).removesuffix(argument)


def day_words(day: date) -> str:
    """`22 Nov 2026`, in the language of the page."""
    return _day_words(day, get_language())


@lru_cache(maxsize=4096)
def _day_words(day: date, language: str | None) -> str:
    return date_format(day, "j M Y")


def days_left(due: date) -> int:
    return (due - timezone.localdate()).days


@register.inclusion_tag("staff/serving_banner.html")
def serving_banner() -> dict[str, Any]:
    """On every staff page: processes that serve something else than what is in force."""
    return {"differing": differing()}


@register.filter
def weekday_date(day: date) -> str:
    """`Sunday, 22 November 2026`, in the language of the page."""
    return f"{date_format(day, 'l')}, {date_format(day, 'DATE_FORMAT')}"


@register.filter
def short(digest: str) -> str:
    """The first twelve characters of a digest, enough to compare by eye."""
    return digest[:12] + "…" if len(digest) > 12 else digest


@register.filter
def figure(value: str) -> str:
    """A recorded decimal string to at most four decimals; empty means it was not measured."""
    if value == "":
        return gettext("not measured")
    try:
        number = Decimal(value)
    except InvalidOperation:
        return value
    if not number.is_finite() or 0 < abs(number) < Decimal("0.0001"):
        return value  # rounding would turn it into nothing
    return f"{number:.4f}".rstrip("0").rstrip(".")


@register.filter
def percent(value: str) -> str:
    """A recorded share between 0 and 1 as a percentage; anything else as `figure` spells it."""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return figure(value)
    if not number.is_finite() or not 0 <= number <= 1:
        return figure(value)
    if 0 < number < Decimal("0.001"):
        return gettext("below %(share)s") % {"share": "0.1\u00a0%"}
    if Decimal("0.999") < number < 1:
        return gettext("above %(share)s") % {"share": "99.9\u00a0%"}
    return f"{number * 100:.1f}".rstrip("0").rstrip(".") + "\u00a0%"


@register.inclusion_tag("parts/reveal_notice.html", takes_context=True)
def reveal_notice(context: RequestContext, case: Case) -> dict[str, Any]:
    """Until when this session sees the person's data, with a button that hides it."""
    return {
        "until": revealed_until(context["request"], case),
        "case": case,
        "csrf_token": context.get("csrf_token"),
    }


@register.inclusion_tag("parts/error_summary.html")
def error_summary(form: object) -> dict[str, Any]:
    """Every error of a form, each linked to the first control of its field."""
    problems: list[tuple[str, str]] = []
    if isinstance(form, forms.Form) and form.is_bound:  # a page without a form passes ""
        for name, errors in form.errors.items():
            target = ""
            if name in form.fields:
                field = form[name]
                target = field.id_for_label or field.auto_id
                if isinstance(field.field.widget, forms.RadioSelect | forms.CheckboxSelectMultiple):
                    target = f"{field.auto_id}_0"
            problems += [(target, str(error)) for error in errors]
    return {"problems": problems}


EVENT_WORDS = {
    "log.started": _("Log started"),
    "key.added": _("Public key made known"),
    "case.received": _("Request received"),
    "case.email_confirmed": _("E-mail address confirmed"),
    "case.identity_recorded": _("Identity check recorded"),
    "case.mandate_recorded": _("Mandate recorded"),
    "case.joined": _("Recorded as of the same person as another case"),
    "case.facts_attached": _("Facts attached"),
    "case.evidence_accepted": _("Evidence accepted as it is"),
    "case.rechecked": _("Measured again"),
    "case.reopened": _("Reopened: the erasure no longer holds"),
    "case.completed": _("Answered, case complete"),
    "case.extended": _("Period extended, with reasons"),
    "case.suspended": _("Clock suspended: the person was asked"),
    "case.resumed": _("Clock runs again: the person answered"),
    "case.assigned": _("Owner named"),
    "case.withdrawn": _("Request withdrawn"),
    "case.sealed": _("Case sealed"),
    "annex.asked": _("Sealed annex asked for"),
    "annex.approved": _("Sealed annex approved"),
    "person.revealed": _("Personal data shown to staff"),
    "staff.invited": _("Member of staff invited"),
    "staff.invitation_withdrawn": _("Invitation withdrawn"),
    "staff.joined": _("Member of staff joined"),
    "staff.role_changed": _("Role changed"),
    "staff.deactivated": _("Account deactivated"),
    "exemption.renewed": _("What is kept was looked at again: the exemption goes on"),
    "exemption.ended": _("What was kept is to be erased: the exemption ended"),
    "note.added": _("Note written"),
    "hold.placed": _("Legal hold placed"),
    "hold.released": _("Legal hold released"),
    "decision.proposed": _("Decision proposed"),
    "decision.returned": _("Decision returned"),
    "decision.approved": _("Decision approved"),
    "run.queued": _("Erasure run queued"),
    "run.protocol_fixed": _("Test plan fixed"),
    "adapter.created": _("Adapter created"),
    "run.verified": _("Adapter verified"),
    "release.registered": _("Release registered"),
    "run.finished": _("Erasure run finished"),
    "run.failed": _("Erasure run failed"),
    "run.cancel_requested": _("Cancelling asked for"),
    "run.cancelled": _("Erasure run cancelled"),
    "recipient.added": _("Recipient entered"),
    "recipient.changed": _("Recipient changed"),
    "recipient.retired": _("Recipient gets no data any more"),
    "recipients.disclosed": _("The person was told who the recipients are"),
    "notice.queued": _("A recipient is to be told"),
    "notice.sent": _("A recipient was told"),
    "notice.acknowledged": _("A recipient acknowledged the erasure"),
    "notice.impossible": _("A recipient cannot be told"),
    "api.client_added": _("API client entered"),
    "release.exported": _("Release exported for another server"),
    "playground.asked": _("Playground asked"),
    "api.client_revoked": _("API client revoked"),
    "api.token_made": _("An agent was given a new token"),
    "api.requested": _("Request of an API client"),
    "deadline.reminded": _("Staff reminded"),
    "case.identifiers_recorded": _("Identifiers recorded"),
    "records.search_queued": _("Search of training sets asked for"),
    "records.searched": _("Training set searched"),
    "records.decided": _("Records found were looked at"),
    "suppression.changed": _("Suppression list changed"),
    "suppression.reviewed": _("Suppression list: kept for another year"),
    "suppression.removed": _("Taken off the suppression list"),
    "case.restricted": _("Processing restricted"),
    "restriction.lifting_announced": _("End of the restriction announced"),
    "restriction.lifted": _("Restriction lifted"),
    "case.identity_asked": _("Question about the identity written"),
    "recipient.notified": _("Notice to a recipient written"),
    "letter.sent": _("Letter sent"),
    "letter.bounced": _("Announcement of a letter came back"),
    "bundle.exported": _("Bundle exported"),
    "export.requested": _("Export asked for"),
    "export.made": _("Export made"),
    "export.failed": _("Export failed"),
    "export.retried": _("Export to be tried again"),
    "recheck.retried": _("To be measured again after it failed"),
    "letter.retried": _("Letter to be mailed again"),
    "notice.retried": _("A recipient is to be tried again"),
    "api.callback_retried": _("An API client is to be called again"),
    "export.downloaded": _("Export downloaded"),
    "export.removed": _("File of an export removed"),
}


@register.filter
def letter_name(kind: str) -> str:
    """What a letter is called, in the language of the page."""
    return letter_texts.letter_name(kind)


@register.filter
def autonym(code: str) -> str:
    """A language by its own name."""
    return str(settings.EU_LANGUAGES.get(code, code))


@register.filter
def event_words(kind: str) -> str:
    """An event type as a sentence; a type without words as it stands in the log."""
    return str(EVENT_WORDS.get(kind, kind))


@register.filter
def stage_words(stage: str) -> str:
    """What staff were reminded of."""
    return str(Reminder.Stage(stage).label)
