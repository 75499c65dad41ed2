"""The register of recipients, and the steps of a case's notices to them."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import messages
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext_lazy as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from requests_app import vault
from requests_app.forms import PlainForm, text_lines
from requests_app.lifecycle import CaseStatus, NoticeState
from requests_app.models import Case, Recipient, RecipientNotice
from requests_app.models.people import Role
from requests_app.permissions import member, staff_page
from requests_app.services import recipients
from requests_app.services.errors import Invalid, WrongState
from requests_app.views.common import find_case, posted, refusals_in_words
from requests_app.views.reveals import ask_first


class WaiveForm(PlainForm):
    cause = forms.ChoiceField(
        label=_("Why it cannot be told"),
        choices=RecipientNotice.Cause.choices,
        widget=forms.RadioSelect,
        error_messages={"required": _("Say which of the two it is")},
    )
    reason = forms.CharField(
        label=_("What shows that"),
        max_length=recipients.REASON_LENGTH,
        help_text=_("Kept in the vault, destroyed when the case is sealed."),
        widget=forms.Textarea(attrs={"rows": 4}),
        error_messages={"required": _("Say what shows that it cannot be told")},
    )


class RecipientForm(PlainForm):
    """A line of the register of recipients; its fields are those of `RecipientData`."""

    name = forms.CharField(
        label=_("Name"),
        max_length=recipients.NAME_LENGTH,
        error_messages={"required": _("Enter the name of the recipient")},
    )
    kind = forms.ChoiceField(label=_("What it is for us"), choices=Recipient.Kind.choices)
    how = forms.ChoiceField(label=_("How it is told"), choices=Recipient.How.choices)
    email = forms.EmailField(label=_("E-mail address"), required=False, max_length=254)
    endpoint = forms.CharField(
        label=_("OpenDSR address"),
        required=False,
        max_length=200,
        help_text=_("For example https://dsr.vendor.example/opendsr. Nothing else is called."),
    )
    matches_keyed_id = forms.BooleanField(
        label=_("It can match keyed ids"),
        required=False,
        help_text=_("It holds the key that manage.py recipient_key prints: it is told no names."),
    )
    systems = forms.CharField(
        label=_("It got data of"),
        required=False,
        help_text=_(
            "One on each line, like model:demo or data_store:customer-records. None: of all."
        ),
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false"}),
    )

    @staticmethod
    def initial_of(row: Recipient) -> dict[str, Any]:
        values = {name: getattr(row, name) for name in RecipientForm.base_fields}
        return {**values, "systems": "\n".join(row.systems)}

    def clean_systems(self) -> tuple[str, ...]:
        return text_lines(self.cleaned_data["systems"])


@staff_page("recipients")
@require_GET
def register(request: HttpRequest) -> HttpResponse:
    """All recipients, those that get no data any more last."""
    waiting = Count("notices", filter=Q(notices__state=NoticeState.TO_SEND))
    rows = Recipient.objects.annotate(waiting=waiting).order_by("retired_at", "name")
    context = {"recipients": rows, "may_change": member(request).role == Role.OFFICER}
    return render(request, "staff/recipients.html", context)


@staff_page("recipient")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def recipient(request: HttpRequest, recipient_id: int | None = None) -> HttpResponse:
    """Enter a recipient, or change one."""
    row = None
    if recipient_id is not None:
        row = Recipient.objects.filter(pk=recipient_id, retired_at=None).first()
        if row is None:
            raise Http404
    form = RecipientForm(posted(request), initial=RecipientForm.initial_of(row) if row else None)
    if request.method == "POST" and form.is_valid():
        try:
            recipients.save_recipient(
                data=recipients.RecipientData(**form.cleaned_data),
                actor_member=member(request),
                recipient_id=recipient_id,
            )
        except Invalid as refused:
            form.add_error(None, str(refused))
        else:
            messages.success(request, _("The register is saved."))
            return redirect("recipients")
    status = 422 if form.errors else 200
    return render(request, "staff/recipient.html", {"form": form, "recipient": row}, status=status)


@staff_page("recipient_retire")
@require_POST
@refusals_in_words
def retire(request: HttpRequest, recipient_id: int) -> HttpResponse:
    """It gets no data any more."""
    recipients.retire_recipient(recipient_id=recipient_id, actor_member=member(request))
    messages.success(request, _("This recipient is not told of later erasures."))
    return redirect("recipients")


@staff_page("notice_step")
@require_POST
@refusals_in_words
def step(request: HttpRequest, reference: str, notice_id: int) -> HttpResponse:
    """`action=sent`: told by hand; `action=acknowledged`: the recipient answered."""
    case, notice = _notice(reference, notice_id)
    action = request.POST.get("action", "")
    steps = {
        "sent": recipients.record_notice_sent,
        "acknowledged": recipients.acknowledge_notice,
    }
    if action not in steps:
        raise Invalid(_("Choose one of the steps that the page offers."))
    steps[action](notice_id=notice.pk, actor_member=member(request))
    messages.success(request, _("Recorded."))
    return redirect("case", reference=case.reference)


@staff_page("notice_waive")
@require_http_methods(["GET", "POST"])
@refusals_in_words
def waive(request: HttpRequest, reference: str, notice_id: int) -> HttpResponse:
    """Why a recipient cannot be told."""
    case, notice = _notice(reference, notice_id)
    form = WaiveForm(posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            recipients.waive_notice(
                notice_id=notice.pk, actor_member=member(request), **form.cleaned_data
            )
        except WrongState:
            raise
        except Invalid as refused:
            form.add_error("reason", str(refused))
        else:
            messages.success(request, _("Recorded."))
            return redirect("case", reference=case.reference)
    context = {"case": case, "notice": notice, "form": form}
    status = 422 if form.errors else 200
    return render(request, "staff/notice_waive.html", context, status=status)


@staff_page("notice_text")
@require_GET
def text(request: HttpRequest, reference: str, notice_id: int) -> HttpResponse:
    """The notice as its frozen text, to be sent by hand."""
    case, notice = _notice(reference, notice_id)
    if case.status == CaseStatus.SEALED:
        raise Http404
    if asking := ask_first(request, case):
        return asking
    words = vault.get(case, f"notice/{notice.pk}/text")
    response = HttpResponse(words, content_type="text/plain; charset=utf-8")
    name = f"{case.reference}-notice-{notice.pk}.txt"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


@staff_page("case_disclose")
@require_POST
@refusals_in_words
def disclose(request: HttpRequest, reference: str) -> HttpResponse:
    """The person asked who the recipients are."""
    case = find_case(reference)
    recipients.disclose_recipients(case_id=case.id, actor_member=member(request))
    messages.success(request, _("The letter that names the recipients is written."))
    return redirect("case", reference=case.reference)


def _notice(reference: str, notice_id: int) -> tuple[Case, RecipientNotice]:
    case = find_case(reference)
    notice = case.notices.select_related("recipient").filter(pk=notice_id).first()
    if notice is None:
        raise Http404
    return case, notice
