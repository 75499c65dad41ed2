"""The clock of a case in words, and its two pages: extend the period, record a suspension."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from requests_app.deadlines import add_span, skipped_days
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


class ExtensionForm(PlainForm):
    cause = forms.ChoiceField(
        label="Why is more time needed?",
        choices=[(c.value, str(c.label).capitalize()) for c in ExtensionCause],
        widget=forms.RadioSelect,
        help_text="Art. 12(3) GDPR allows these reasons only. A lack of staff is none.",
        error_messages={"required": "Select why more time is needed"},
    )
    reasons = forms.CharField(
        label="The reasons, as the person will read them",
        help_text=(
            "At least a whole sentence about this request, for example which models an erasure has"
            " to be trained and measured on, and how long that takes."
        ),
        widget=forms.Textarea(attrs={"rows": 5}),
        error_messages={"required": "Enter the reasons"},
    )
    done = forms.CharField(
        label="What is already done",
        help_text="For example that the source records are erased or blocked. The person reads it.",
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": "Enter what is already done"},
    )


class SuspendForm(PlainForm):
    """The person was asked for something; only the reasons that the law of the case knows."""

    reason = forms.ChoiceField(
        label="What was asked for?",
        choices=Suspension.Reason.choices,
        widget=forms.RadioSelect,
        error_messages={"required": "Select what was asked for"},
    )
    asked_on = forms.DateField(
        label="Day of the question",
        help_text="For example 2026-11-22.",
        widget=forms.DateInput(attrs={"class": "short"}),
        error_messages={
            "required": "Enter the day of the question",
            "invalid": "Enter the date as year-month-day, for example 2026-11-22",
        },
    )
    text = forms.CharField(
        label="Why it was necessary to ask",
        help_text="At least a whole sentence. It is destroyed when the case is sealed.",
        widget=forms.Textarea(attrs={"rows": 3}),
        error_messages={"required": "Enter why it was necessary to ask"},
    )


class ResumeForm(PlainForm):
    answered_on = forms.DateField(
        label="Day of the answer",
        help_text="If no answer came, the day from which you went on. For example 2026-11-22.",
        widget=forms.DateInput(attrs={"class": "short"}),
        error_messages={
            "required": "Enter the day of the answer",
            "invalid": "Enter the date as year-month-day, for example 2026-11-22",
        },
    )


@dataclass(frozen=True)
class ClockBox:
    """What the case page shows of the clock; empty texts and None are not shown."""

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


def clock_box(case: Case, staff: StaffMember) -> ClockBox:
    law = profile(case.jurisdiction)
    today = timezone.localdate()
    running = clock.is_running(case)
    why_not = clock.why_not_extend(case, today)
    notice = case.letters.filter(kind="extension").first()
    suspensions = tuple(case.suspensions.order_by("asked_on", "id"))
    waiting = any(row.answered_on is None for row in suspensions)
    may_record = running and staff.role in SEE_PERSONAL_DATA
    return ClockBox(
        law=law,
        calendar=", ".join(filter(None, (case.calendar, case.calendar_version))),
        counted=_counted(case, law.period, case.base_due),
        extended=_counted(case, law.extended, case.extension_due),
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
        acknowledged=case.letters.filter(kind="acknowledgement").first(),
    )


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
                messages.success(request, "The period is extended, and the letter is written.")
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
            messages.success(request, "Recorded. The due date itself stays as it is.")
            return redirect("case", reference=case.reference)
    last_day = case.received_on + timedelta(days=profile(case.jurisdiction).ask_within)
    context = {"case": case, "form": form, "waiting": waiting, "last_day": last_day}
    status = 422 if form.errors else 200
    return render(request, "staff/suspension.html", context, status=status)


def _counted(case: Case, span: Span, due: date) -> str:
    """`One month from 5 March 2026 ends on 5 April 2026, a Sunday (Easter Sunday). 6 April 2026 is
    Easter Monday. The next working day is 7 April 2026.`"""
    raw = add_span(case.received_on, span)
    verb = "ends" if span.months == 1 else "end"
    words = f"{str(span).capitalize()} from {spell_date(case.received_on)} {verb} on"
    skipped = skipped_days(raw, due, case.calendar)
    if not skipped:
        return f"{words} {raw:%A}, {spell_date(raw)}."
    (_, first), *others = skipped
    named = [f" {spell_date(day)} is {why}." for day, why in others]
    return (
        f"{words} {spell_date(raw)}, {first}.{''.join(named)}"
        f" The next working day is {due:%A}, {spell_date(due)}."
    )


def _is_late(notice: Letter, base_due: date, today: date) -> bool:
    sent = timezone.localdate(notice.sent_at) if notice.sent_at else today
    return sent > base_due
