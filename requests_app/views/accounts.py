"""Staff accounts, for administrators; and the page on which an invitation is taken up."""

from __future__ import annotations

import smtplib
from uuid import UUID

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.reauthentication import reauthenticate_by_password
from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from requests_app.forms import PlainForm
from requests_app.models import Invitation, StaffMember
from requests_app.models.people import Role
from requests_app.permissions import fresh_log_in, is_post, member, staff_page
from requests_app.ratelimit import limit_posts
from requests_app.services import accounts
from requests_app.services.errors import CodeWrong, Invalid
from requests_app.views.common import posted, refusals_in_words

NOT_VALID = _(
    "This code does not hold. It may be mistyped, used already, withdrawn or older than 72 hours."
    " Ask an administrator for a new invitation."
)


class InviteForm(PlainForm):
    email = forms.EmailField(
        label=_("E-mail address"),
        widget=forms.EmailInput(attrs={"autocomplete": "off"}),
        error_messages={
            "required": _("Enter the e-mail address"),
            "invalid": _("Enter an e-mail address, for example name@organisation.example"),
        },
    )
    role = forms.ChoiceField(
        label=_("Role"),
        choices=Role.choices,
        widget=forms.RadioSelect,
        error_messages={"required": _("Select a role")},
    )


class JoinForm(PlainForm):
    code = forms.CharField(
        label=_("Code from the e-mail"),
        widget=forms.TextInput(attrs={"autocomplete": "one-time-code", "spellcheck": "false"}),
        error_messages={"required": _("Enter the code from the e-mail")},
    )
    name = forms.CharField(
        label=_("Your name, as colleagues see it"),
        max_length=accounts.NAME_LENGTH,
        widget=forms.TextInput(attrs={"autocomplete": "name"}),
        error_messages={"required": _("Enter your name")},
    )
    password = forms.CharField(
        label=_("Password"),
        strip=False,
        help_text=_("At least eight characters, and none of the common ones."),
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        error_messages={"required": _("Enter a password")},
    )


@staff_page("staff")
@require_GET
def accounts_page(request: HttpRequest) -> HttpResponse:
    """Who has an account and who is invited."""
    lapsed = timezone.now() - Invitation.LIFE
    everybody = StaffMember.objects.prefetch_related("authenticator_set")
    context = {
        "members": everybody.order_by("-is_active", "role", "username"),
        "invitations": Invitation.objects.filter(invited_at__gt=lapsed).order_by("invited_at"),
        "roles": Role.choices,
    }
    return render(request, "staff/accounts.html", context)


@staff_page("staff_invite")
@fresh_log_in(when=lambda request: True)
@require_http_methods(["GET", "POST"])
@refusals_in_words
def invite(request: HttpRequest) -> HttpResponse:
    """Send an invitation that lasts 72 hours."""
    form = InviteForm(posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            invitation = accounts.invite_member(actor_member=member(request), **form.cleaned_data)
        except Invalid as refused:
            form.add_error("email", str(refused))
        else:
            try:
                accounts.mail_invitation(invitation)
            except (smtplib.SMTPException, OSError, ValueError):
                messages.error(request, _("The mail could not be sent. Invite this person again."))
            else:
                messages.success(request, _("The invitation is sent. It lasts 72 hours."))
            return redirect("staff")
    status = 422 if form.errors else 200
    return render(request, "staff/invite.html", {"form": form}, status=status)


@staff_page("staff_withdraw")
@require_POST
@refusals_in_words
def withdraw(request: HttpRequest, pseudonym: UUID) -> HttpResponse:
    accounts.withdraw_invitation(pseudonym=pseudonym, actor_member=member(request))
    messages.success(request, _("The invitation is withdrawn."))
    return redirect("staff")


@staff_page("staff_role")
@fresh_log_in(when=is_post)
@require_POST
@refusals_in_words
def role(request: HttpRequest, pseudonym: UUID) -> HttpResponse:
    accounts.change_role(
        pseudonym=pseudonym, role=request.POST.get("role", ""), actor_member=member(request)
    )
    messages.success(request, _("The role is changed."))
    return redirect("staff")


@staff_page("staff_deactivate")
@fresh_log_in(when=is_post)
@require_POST
@refusals_in_words
def deactivate(request: HttpRequest, pseudonym: UUID) -> HttpResponse:
    accounts.deactivate_member(pseudonym=pseudonym, actor_member=member(request))
    messages.success(request, _("The account is deactivated, and its sessions are ended."))
    return redirect("staff")


@sensitive_post_parameters("code", "password")
@limit_posts("join", tries=20, seconds=600)
@require_http_methods(["GET", "POST"])
def join(request: HttpRequest) -> HttpResponse:
    """Take up an invitation: name and password, then the second factor."""
    form = JoinForm(posted(request))
    if request.method == "POST" and form.is_valid():
        try:
            joined = accounts.join_staff(**form.cleaned_data)
        except CodeWrong:
            form.add_error("code", NOT_VALID)
        except Invalid as refused:
            form.add_error("password", str(refused))
        else:
            get_adapter().login(request, joined)
            request.user = joined
            reauthenticate_by_password(request)
            messages.success(request, _("Your account is ready. Set up a second factor now."))
            return redirect("mfa_index")
    return render(
        request, "account/invitation.html", {"form": form}, status=422 if form.errors else 200
    )
