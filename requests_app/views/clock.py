"""The clock of a case in words, and its two pages: extend the period, record a suspension."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from django import forms
from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import get_language, gettext_lazy, ngettext
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from requests_app.deadlines import add_span, names_for, skipped_days
from requests_app.forms import PlainForm
from requests_app.jurisdictions import Profile, Span, profile
from requests_app.models import Case, Letter, StaffMember, Suspension
from requests_app.models.record import ExtensionCause
from requests_app.permissions import (
    DECIDE,
    SEE_PERSONAL_DATA,
    member,
    revealed_until,
    staff_page,
)
from requests_app.services import clock, reminders
from requests_app.services.errors import Invalid, WrongState
from requests_app.services.letter_texts import spell_date
from requests_app.views.common import find_case, posted, refusals_in_words
from requests_app.views.reveals import ask_first, to_reveal

SOON = 7  # days before the due date from which it is shown as a warning


class ExtensionForm(PlainForm):
    cause = forms.ChoiceField(
        label=gettext_lazy("Why is more time needed?"),
        choices=[(c.value, str(c.label).capitalize()) for c in ExtensionCause],
        widget=forms.RadioSelect,
        help_text=gettext_lazy(
            "Art. 12(3) GDPR allows these reasons only. A lack of staff is none."
        ),
        error_messages={"required": gettext_lazy("Select why more time is needed")},
    )
    reasons = forms.CharField(
        label=gettext_lazy("The reasons, as the person will read them"),
        help_text=gettext_lazy(
            "At least a whole sentence about this request, for example which models an erasure has"
            " to be trained and measured on, and how long that takes."
        ),
        widget=forms.Textarea(attrs={"rows": 5}),
        error_messages={"required": gettext_lazy("Enter the reasons")},
    )
    done = forms.CharField(
        label=gettext_lazy("What is already done"),
        help_text=gettext_lazy(
            "For example that the source records are erased or blocked. The person reads it."
        ),
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": gettext_lazy("Enter what is already done")},
    )


class SuspendForm(PlainForm):
    """The person was asked for something; only the reasons that the law of the case knows."""

    reason = forms.ChoiceField(
        label=gettext_lazy("What was asked for?"),
        choices=Suspension.Reason.choices,
        widget=forms.RadioSelect,
        error_messages={"required": gettext_lazy("Select what was asked for")},
    )
    asked_on = forms.DateField(
        label=gettext_lazy("Day of the question"),
        help_text=gettext_lazy("For example 2026-11-22."),
        widget=forms.DateInput(attrs={"class": "short"}),
        error_messages={
            "required": gettext_lazy("Enter the day of the question"),
            "invalid": gettext_lazy("Enter the date as year-month-day, for example 2026-11-22"),
        },
    )
    text = forms.CharField(
        label=gettext_lazy("Why it was necessary to ask"),
        help_text=gettext_lazy(
            "At least a whole sentence. It is destroyed when the case is sealed."
        ),
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": gettext_lazy("Enter why it was necessary to ask")},
    )


class ResumeForm(PlainForm):
    answered_on = forms.DateField(
        label=gettext_lazy("Day of the answer"),
        help_text=gettext_lazy(
            "If no answer came, the day from which you went on. For example 2026-11-22."
        ),
        widget=forms.DateInput(attrs={"class": "short"}),
        error_messages={
            "required": gettext_lazy("Enter the day of the answer"),
            "invalid": gettext_lazy("Enter the date as year-month-day, for example 2026-11-22"),
        },
    )


@dataclass(frozen=True)
class ClockState:
    """How the clock stands today, in words: `name` is running, paused, extended, overdue or
    stopped; `glyph` and `tone` go beside the words."""

    name: str
    label: str
    words: str
    glyph: str
    tone: str


@dataclass(frozen=True)
class ClockBox:
    """What the case page shows of the clock; empty texts and None are not shown."""

    state: ClockState
    zone: str
    law: Profile
    calendar: str
    counted: str  # from receipt to the legal date, in words
    extended: str  # the same for the extended period, which it would have or has
    running: bool
    why_not_extend: str
    may_extend: bool
    may_suspend: bool
    notice: Letter | None  # the extension letter
    notice_late: bool  # it was not sent within the first period
    suspensions: tuple[Suspension, ...]
    waiting: bool  # the last of them is not answered
    due_with_suspension: date | None
    acknowledge_by: date | None
    acknowledged: Letter | None  # the acknowledgement


def clock_box(case: Case, staff: StaffMember, letters: Sequence[Letter]) -> ClockBox:
    """The clock of a case; `letters` are all of the case, newest first."""
    law = profile(case.jurisdiction)
    today = timezone.localdate()
    running = clock.is_running(case)
    why_not = clock.why_not_extend(case, today)
    first = {letter.kind: letter for letter in letters}
    notice = first.get("extension")
    suspensions = tuple(case.suspensions.order_by("asked_on", "id"))
    waiting = any(row.answered_on is None for row in suspensions)
    may_record = running and staff.role in SEE_PERSONAL_DATA
    return ClockBox(
        state=_state(case, today, suspensions),
        zone=settings.TIME_ZONE,
        law=law,
        calendar=", ".join(filter(None, (case.calendar, case.calendar_version))),
        counted=counted_in_words(case.received_on, law.period, case.base_due, case.calendar),
        extended=counted_in_words(
            case.received_on, law.extended, case.extension_due, case.calendar
        ),
        running=running,
        why_not_extend=why_not,
        may_extend=not why_not and staff.role in DECIDE,
        may_suspend=may_record and (waiting or not clock.why_not_suspend(case, today)),
        notice=notice,
        notice_late=notice is not None and _is_late(notice, case.base_due, today),
        suspensions=suspensions,
        waiting=waiting,
        due_with_suspension=clock.due_with_suspension(case, today),
        acknowledge_by=reminders.acknowledge_by(case),
        acknowledged=first.get("acknowledgement"),
    )


def _state(case: Case, today: date, suspensions: Sequence[Suspension]) -> ClockState:
    """A clock that is paused or extended and overdue is overdue: that decides what to do."""
    left = (case.due - today).days
    named = {
        "left": ngettext("%(count)d day left", "%(count)d days left", left) % {"count": left},
        "day": (today - case.received_on).days,
        "days": (case.due - case.received_on).days,
    }
    words = _("%(left)s, today is day %(day)s of %(days)s.") % named
    if not clock.is_running(case):
        return ClockState("stopped", _("Stopped"), _why_stopped(case), "■", "")
    if left < 0:
        late = ngettext("%(count)d day", "%(count)d days", -left) % {"count": -left}
        words = _("The answer was due on %(day)s and is %(late)s late. Send it now.") % {
            "day": spell_date(case.due),
            "late": late,
        }
        return ClockState("overdue", _("Overdue"), words, "!", "danger")
    if waiting := [row for row in suspensions if row.answered_on is None]:
        paused = _("The person was asked on %(day)s. For the date to keep the days go on: ") % {
            "day": spell_date(waiting[-1].asked_on)
        }
        return ClockState("paused", _("Paused"), paused + words, "‖", "warn")
    if case.extended_on:
        return ClockState("extended", _("Extended"), words, "↦", "info")
    return ClockState("running", _("Running"), words, "▶", "warn" if left <= SOON else "info")


def _why_stopped(case: Case) -> str:
    if case.withdrawn_at:
        day = spell_date(timezone.localdate(case.withdrawn_at))
        return _("The request was withdrawn on %(day)s.") % {"day": day}
    if case.completed_at is None:
        return _("The case was closed without an answer: the request was never confirmed.")
    answered = timezone.localdate(case.completed_at)
    late = (answered - case.due).days
    if late <= 0:
        return _("Answered in time, on %(day)s.") % {"day": spell_date(answered)}
    return ngettext(
        "Answered on %(day)s, %(late)d day late.", "Answered on %(day)s, %(late)d days late.", late
    ) % {"day": spell_date(answered), "late": late}


@staff_page("case_extension")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def extension(request: HttpRequest, reference: str) -> HttpResponse:
    """Fill in (`step=check`), read the letter, then extend and send it (`step=send`)."""
    case = find_case(reference)
    if refusal := clock.why_not_extend(case, timezone.localdate()):
        raise WrongState(refusal)
    if way := ask_first(request, case):
        return way
    form = ExtensionForm(posted(request))
    context = {"case": case, "form": form, "law": profile(case.jurisdiction)}
    if request.method == "POST" and form.is_valid():
        try:
            if request.POST.get("step") == "send":
                clock.extend_case(
                    case_id=case.id, actor_member=member(request), **form.cleaned_data
                )
                messages.success(request, _("The period is extended, and the letter is written."))
                return redirect("case", reference=case.reference)
            if request.POST.get("step") == "check":
                if not revealed_until(request, case):  # the letter names the person
                    return to_reveal(request, case)
                context["wording"] = clock.extension_letter(case, **form.cleaned_data)
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error(None, str(refused))
    status = 422 if form.errors else 200
    return render(request, "staff/extension.html", context, status=status)


@staff_page("case_suspension")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def suspension(request: HttpRequest, reference: str) -> HttpResponse:
    """Record that the person was asked something, or, once that is recorded, their answer."""
    case = find_case(reference)
    waiting = clock.open_suspension(case)
    refusal = clock.why_not_suspend(case, timezone.localdate())
    if waiting is None and refusal:
        raise WrongState(refusal)
    form = ResumeForm(posted(request)) if waiting else SuspendForm(posted(request))
    if request.method == "POST" and form.is_valid():
        save = clock.resume_case if waiting else clock.suspend_case
        try:
            save(case_id=case.id, actor_member=member(request), **form.cleaned_data)
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error(None, str(refused))
        else:
            messages.success(request, _("Recorded. The due date itself stays as it is."))
            return redirect("case", reference=case.reference)
    last_day = case.received_on + timedelta(days=profile(case.jurisdiction).ask_within)
    context = {"case": case, "form": form, "waiting": waiting, "last_day": last_day}
    status = 422 if form.errors else 200
    return render(request, "staff/suspension.html", context, status=status)


def counted_in_words(received_on: date, span: Span, due: date, calendar: str) -> SafeString:
    """`One month from 5 March 2026 ends on 5 April 2026, a Sunday (Easter Sunday). 6 April 2026 is
    Easter Monday. The next working day is 7 April 2026.` A name in another language says which."""
    raw = add_span(received_on, span)
    names_in = names_for(calendar, get_language() or "en")
    skipped = [
        (day, _why_not_last(day, holiday_name(name, names_in) if name else ""))
        for day, name in skipped_days(raw, due, calendar, names_in)
    ]
    last = format_html("{}, {}", spell_date(raw), skipped[0][1]) if skipped else _with_weekday(raw)
    ends = ngettext(
        "%(span)s from %(start)s ends on %(last)s.",
        "%(span)s from %(start)s end on %(last)s.",
        1 if span.months == 1 else 2,
    )
    sentences = [
        _filled(ends, span=str(span).capitalize(), start=spell_date(received_on), last=last)
    ]
    sentences += [
        _filled(_("%(day)s is %(why)s."), day=spell_date(day), why=why) for day, why in skipped[1:]
    ]
    if skipped:
        sentences.append(_filled(_("The next working day is %(day)s."), day=_with_weekday(due)))
    return format_html_join(" ", "{}", ([each] for each in sentences))


def holiday_name(name: str, names_in: str) -> SafeString:
    """The name as HTML, with its language where that is not the page's."""
    language = names_in.partition("_")[0]
    if language in ("", get_language()):
        return format_html("{}", name)
    return format_html('<span lang="{}">{}</span>', language, name)


def _why_not_last(day: date, holiday: str) -> str:
    weekend = {5: _("a Saturday"), 6: _("a Sunday")}.get(day.weekday(), "")
    if weekend and holiday:
        return format_html("{} ({})", weekend, holiday)
    return weekend or holiday or _("a public holiday")


def _filled(words: str, **values: str) -> SafeString:
    """A marked text with its values, of which some are HTML."""
    return format_html(words % {name: f"{{{name}}}" for name in values}, **values)


def _with_weekday(day: date) -> str:
    return f"{date_format(day, 'l')}, {spell_date(day)}"


def _is_late(notice: Letter, base_due: date, today: date) -> bool:
    sent = timezone.localdate(notice.sent_at) if notice.sent_at else today
    return sent > base_due
