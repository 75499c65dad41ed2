"""Staff accounts: invited by an administrator, who fixes the role; each change is on the record.

The log names members by pseudonym alone. Lock order: staff rows, then the head of the audit log.
"""

from __future__ import annotations

from uuid import UUID

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.signing import BadSignature, TimestampSigner
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from requests_app import audit
from requests_app.actors import staff_actor
from requests_app.models import Invitation, StaffMember
from requests_app.models.people import Role
from requests_app.services.errors import CodeWrong, Invalid, NotAllowed, NotFound
from requests_app.services.intake import check_email
from requests_app.services.letter_texts import render
from requests_app.services.locking import one_line

NAME_LENGTH = 150
SIGNER = TimestampSigner(salt="rtbf.invitation")


@transaction.atomic
def invite_member(*, email: str, role: str, actor_member: StaffMember) -> Invitation:
    """Offer a place; an earlier invitation of the same address ends. `mail_invitation` sends it.

    Somebody whose account was deactivated comes back under the same pseudonym.
    """
    actor = _administrator(actor_member)
    if role not in Role.values:
        raise Invalid(_("Select a role."))
    address = email.strip().lower()
    try:
        check_email(address)
    except ValidationError:
        raise Invalid(_("Enter an e-mail address that mail can be sent to.")) from None
    known = StaffMember.objects.filter(email__iexact=address).first()
    if known is not None and known.is_active:
        raise Invalid(_("Somebody with this address has an account already."))
    Invitation.objects.filter(email=address).delete()
    invitation = Invitation(
        email=address, role=role, invited_at=timezone.now(), invited_by=actor_member
    )
    if known is not None:
        invitation.pseudonym = known.pseudonym
    invitation.save(force_insert=True)
    audit.append_entry(
        type="staff.invited",
        actor=staff_actor(actor).name,
        data={"member": str(invitation.pseudonym), "role": role},
    )
    return invitation


def mail_invitation(invitation: Invitation) -> None:
    """Send the signed code; the link is the same for everybody. Raises what the mail server does.

    The code is made anew for each mail and stored nowhere.
    """
    slots = {
        "controller": settings.RTBF_CONTROLLER_NAME,
        "role": invitation.get_role_display(),
        "page_url": f"{settings.RTBF_PUBLIC_URL}/accounts/invitation",
        "code": SIGNER.sign(str(invitation.pk)),
        "hours": int(Invitation.LIFE.total_seconds()) // 3600,
    }
    EmailMessage(
        subject=f"Invitation to the erasure cases of {settings.RTBF_CONTROLLER_NAME}",
        body=render("mail_invitation", lambda: slots),
        to=[invitation.email],
    ).send()


@transaction.atomic
def withdraw_invitation(*, pseudonym: UUID, actor_member: StaffMember) -> None:
    """Take an offer back before it is taken up; its code opens nothing any more."""
    actor = _administrator(actor_member)
    if not Invitation.objects.filter(pseudonym=pseudonym).delete()[0]:
        raise NotFound(_("There is no such invitation."))
    audit.append_entry(
        type="staff.invitation_withdrawn",
        actor=staff_actor(actor).name,
        data={"member": str(pseudonym)},
    )


@transaction.atomic
def join_staff(*, code: str, name: str, password: str) -> StaffMember:
    """Take up an invitation, once: the account, with the role that the inviter fixed.

    CodeWrong for a code that is mistyped, used, withdrawn or older than 72 hours; Invalid for a
    weak password.
    """
    try:
        key = SIGNER.unsign("".join(code.split()), max_age=Invitation.LIFE)
    except BadSignature:
        raise CodeWrong(_("This invitation does not hold.")) from None
    invitation = Invitation.objects.select_for_update().filter(pk=key).first()
    if invitation is None or invitation.invited_at <= timezone.now() - Invitation.LIFE:
        raise CodeWrong(_("This invitation does not hold."))
    member = StaffMember.objects.filter(pseudonym=invitation.pseudonym).first() or StaffMember(
        username=invitation.email, pseudonym=invitation.pseudonym
    )
    member.email, member.role, member.is_active = invitation.email, invitation.role, True
    member.first_name = one_line(name, what=_("Your name"), longest=NAME_LENGTH)
    try:
        validate_password(password, member)
    except ValidationError as weak:
        raise Invalid(" ".join(weak.messages)) from None
    member.set_password(password)
    member.save()
    invitation.delete()
    audit.append_entry(
        type="staff.joined",
        actor=staff_actor(member).name,
        data={"member": str(member.pseudonym), "role": member.role},
    )
    return member


@transaction.atomic
def change_role(*, pseudonym: UUID, role: str, actor_member: StaffMember) -> StaffMember:
    """Give somebody else another role; nobody changes their own, so one administrator stays."""
    actor = _administrator(actor_member)
    if role not in Role.values:
        raise Invalid(_("Select a role."))
    if actor.pseudonym == pseudonym:
        raise NotAllowed(_("Nobody changes their own role."))
    member = _active(pseudonym)
    if member.role == role:
        return member
    before, member.role = member.role, role
    member.save(update_fields=["role"])
    audit.append_entry(
        type="staff.role_changed",
        actor=staff_actor(actor).name,
        data={"member": str(pseudonym), "before": before, "role": role},
    )
    return member


@transaction.atomic
def deactivate_member(*, pseudonym: UUID, actor_member: StaffMember) -> StaffMember:
    """Close an account; its sessions end with its password. The last administrator stays."""
    actor = _administrator(actor_member)
    member = _active(pseudonym)
    others = StaffMember.objects.filter(role=Role.ADMINISTRATOR, is_active=True)
    if member.role == Role.ADMINISTRATOR and not others.exclude(pk=member.pk).exists():
        raise NotAllowed(_("The last administrator cannot be deactivated."))
    member.is_active = False
    member.set_unusable_password()  # the sessions hang on it: none comes back with the account
    member.save(update_fields=["is_active", "password"])
    audit.append_entry(
        type="staff.deactivated",
        actor=staff_actor(actor).name,
        data={"member": str(pseudonym), "role": member.role},
    )
    return member


def purge_invitations() -> int:
    """Forget the addresses of invitations that lapsed; returns how many."""
    lapsed = Invitation.objects.filter(invited_at__lte=timezone.now() - Invitation.LIFE)
    return lapsed.delete()[0]


def _administrator(member: StaffMember) -> StaffMember:
    """The acting administrator as stored now, all administrators locked; NotAllowed for others."""
    rows = StaffMember.objects.select_for_update(no_key=True).order_by("pk")
    for row in rows.filter(role=Role.ADMINISTRATOR, is_active=True):
        if row.pk == member.pk:
            return row
    raise NotAllowed(_("This step needs the role %(roles)s.") % {"roles": Role.ADMINISTRATOR.label})


def _active(pseudonym: UUID) -> StaffMember:
    rows = StaffMember.objects.select_for_update(no_key=True)
    member = rows.filter(pseudonym=pseudonym, is_active=True).first()
    if member is None:
        raise NotFound(_("There is no such member of staff."))
    return member
