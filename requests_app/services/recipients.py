"""Telling recipients of an erasure, and the person who they are (Art. 19 and 17(2) GDPR).

The row is the truth: it is written with the approval, and beat sends it until it went out. A mail
holds the reference and a keyed id where the recipient can match that; otherwise the least that
identifies the person. An OpenDSR call repeats the same id, so that a second one does nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.mail import EmailMessage
from django.core.validators import validate_email
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from requests_app import audit, opendsr, outgoing, vault
from requests_app.actors import SYSTEM, Actor, staff_actor
from requests_app.audit import Entry
from requests_app.jurisdictions import profile
from requests_app.lifecycle import CaseStatus, MoveNotAllowed, NoticeState, move_notice
from requests_app.models import Case, Letter, Recipient, RecipientNotice, ScopeItem, StaffMember
from requests_app.models.people import Role
from requests_app.services import tries, wake
from requests_app.services.errors import Invalid, NotFound, WrongState
from requests_app.services.letter_texts import SOURCE, complete
from requests_app.services.letters import MAIL_ERRORS, word_letter, write_letter
from requests_app.services.locking import (
    clean_text,
    lock_case,
    one_line,
    require_role,
    require_status,
)

logger = logging.getLogger(__name__)

How, State = Recipient.How, NoticeState
TASK = "requests_app.tell_recipients"
NAME_LENGTH, REASON_LENGTH = 120, 2000
SEND_ERRORS = (*MAIL_ERRORS, outgoing.OutgoingError, opendsr.OpenDsrError, Invalid)


@dataclass(frozen=True)
class RecipientData:
    """What the register says of a recipient; `systems` like `model:demo`, none means all."""

    name: str
    kind: str
    how: str
    email: str = ""
    endpoint: str = ""
    matches_keyed_id: bool = False
    systems: tuple[str, ...] = ()


# --- The register -------------------------------------------------------------------------------
@transaction.atomic
def save_recipient(
    *, data: RecipientData, actor_member: StaffMember, recipient_id: int | None = None
) -> Recipient:
    """Enter a recipient, or change one. Raises Invalid, NotAllowed, NotFound."""
    require_role(actor_member, Role.OFFICER)
    if recipient_id is None:
        row = Recipient(created_at=timezone.now())
    else:
        row = _lock_recipient(recipient_id)
    _fill(row, data)
    if Recipient.objects.filter(name=row.name).exclude(pk=row.pk).exists():
        raise Invalid(_("A recipient of this name is in the register already."))
    row.save()
    audit.append_entry(
        type="recipient.added" if recipient_id is None else "recipient.changed",
        actor=staff_actor(actor_member).name,
        data={
            "recipient": row.pk,
            "kind": row.kind,
            "how": row.how,
            "systems": list(row.systems),
            "keyed": row.matches_keyed_id,
        },
    )
    return row


@transaction.atomic
def retire_recipient(*, recipient_id: int, actor_member: StaffMember) -> Recipient:
    """It gets no data any more, so later erasures do not concern it; open notices stay."""
    require_role(actor_member, Role.OFFICER)
    row = _lock_recipient(recipient_id)
    if row.retired_at is not None:
        raise WrongState(_("This recipient was taken out of the register before."))
    row.retired_at = timezone.now()
    row.save()
    audit.append_entry(
        type="recipient.retired",
        actor=staff_actor(actor_member).name,
        data={"recipient": row.pk},
    )
    return row


def match_key(recipient: Recipient) -> str:
    """Hex key under which this recipient makes keyed ids of the addresses it holds."""
    return salted_hmac("rtbf.recipient", str(recipient.pk), algorithm="sha256").hexdigest()


def keyed_id(recipient: Recipient, address: str) -> str:
    """Hex HMAC-SHA256 of an address (trimmed, lower case) under the recipient's own key."""
    text = address.strip().casefold().encode()
    return hmac.new(bytes.fromhex(match_key(recipient)), text, hashlib.sha256).hexdigest()


# --- What a decision asks for -------------------------------------------------------------------
def queue_notices(case: Case, *, actor: Actor) -> list[Entry]:
    """A notice for each recipient of what a locked case erases; returns what is to be logged of
    those that are new."""
    erased = {
        f"{kind}:{name}"
        for kind, name in case.scope_items.filter(result=ScopeItem.Result.ERASE).values_list(
            "kind", "target"
        )
    }
    if not erased:
        return []
    made = []
    for recipient in Recipient.objects.filter(retired_at=None).order_by("id"):
        if recipient.systems and not erased & set(recipient.systems):
            continue
        notice, new = RecipientNotice.objects.get_or_create(
            case=case, recipient=recipient, defaults={"created_at": timezone.now()}
        )
        if new:
            vault.put(case, f"notice/{notice.pk}/text", _text(notice, sorted(erased)))
            about = {"how": recipient.how, "kind": recipient.kind}
            made.append(_entry(notice, "notice.queued", actor.name, **about))
    if made:
        wake.send_after_commit(TASK)
    return made


def require_recipients_told(case: Case) -> None:
    """WrongState while a recipient of the case was not told, with what to do about it."""
    left = case.notices.filter(state=State.TO_SEND).count()
    if left:
        raise WrongState(
            ngettext(
                "%(reference)s cannot be completed: %(count)d recipient of the data was not told"
                " yet (Art. 19 GDPR). Tell them, or record why that is impossible or out of"
                " proportion.",
                "%(reference)s cannot be completed: %(count)d recipients of the data were not told"
                " yet (Art. 19 GDPR). Tell them, or record why that is impossible or out of"
                " proportion.",
                left,
            )
            % {"reference": case.reference, "count": left}
        )


def told_words(case: Case) -> str:
    """What the answer says of the recipients; it claims only what the notices show."""
    notices = list(case.notices.all())
    told = sum(each.state in (State.SENT, State.ACKNOWLEDGED) for each in notices)
    left_out = sum(each.state == State.IMPOSSIBLE for each in notices)
    ask = _("If you ask us, we name the recipients of your data (Art. 19 GDPR).")
    if not notices:
        none = _("So far no recipient of your data was recorded that had to be told.")
        return f"{none} {ask}"
    words = ngettext(
        "We told %(count)d recipient of the erasure (Art. 19 and 17(2) GDPR).",
        "We told %(count)d recipients of the erasure (Art. 19 and 17(2) GDPR).",
        told,
    ) % {"count": told}
    if left_out:
        more = ngettext(
            "For %(count)d more that was impossible or a disproportionate effort.",
            "For %(count)d more that was impossible or a disproportionate effort.",
            left_out,
        ) % {"count": left_out}
        words = f"{words} {more}"
    return f"{words} {ask}"


# --- Steps of staff -----------------------------------------------------------------------------
@transaction.atomic
def record_notice_sent(*, notice_id: int, actor_member: StaffMember) -> RecipientNotice:
    """Staff told the recipient themselves."""
    notice = _lock_notice(notice_id, actor_member)
    _settle(notice, State.SENT)
    _log(notice, "notice.sent", staff_actor(actor_member).name, by="hand")
    return notice


@transaction.atomic
def acknowledge_notice(*, notice_id: int, actor_member: StaffMember) -> RecipientNotice:
    """The recipient answered that it knows."""
    notice = _lock_notice(notice_id, actor_member)
    _settle(notice, State.ACKNOWLEDGED)
    _log(notice, "notice.acknowledged", staff_actor(actor_member).name, by="hand")
    return notice


@transaction.atomic
def waive_notice(
    *, notice_id: int, cause: str, reason: str, actor_member: StaffMember
) -> RecipientNotice:
    """Record that telling the recipient is impossible or disproportionate, and why."""
    if cause not in RecipientNotice.Cause.values:
        raise Invalid(_("Say whether it is impossible or a disproportionate effort."))
    reason = clean_text(reason, what=_("The reason"), longest=REASON_LENGTH)
    notice = _lock_notice(notice_id, actor_member)
    notice.cause = cause
    _settle(notice, State.IMPOSSIBLE)
    vault.put(notice.case, f"notice/{notice.pk}/reason", reason)
    audit.append_entry(
        type="notice.impossible",
        actor=staff_actor(actor_member).name,
        case=notice.case,
        data={"notice": notice.pk, "recipient": notice.recipient_id, "cause": cause},
        commitments={"reason": reason},
    )
    return notice


@transaction.atomic
def disclose_recipients(*, case_id: UUID, actor_member: StaffMember) -> Letter:
    """The person asked who the recipients are: a letter names them (Art. 19, second sentence)."""
    require_role(actor_member, Role.OFFICER, Role.APPROVER)
    case = lock_case(case_id)
    if case.status == CaseStatus.SEALED:
        raise WrongState(
            _("%(reference)s is sealed: no letter can be written any more.")
            % {"reference": case.reference}
        )
    notices = list(case.notices.select_related("recipient").order_by("recipient__name"))
    if not notices:
        raise Invalid(_("%(reference)s has no recipients.") % {"reference": case.reference})
    letter = write_letter(case, "recipients", lambda: {"recipients": _told(notices)})
    case.notices.filter(disclosed_at=None).update(disclosed_at=timezone.now())
    audit.append_entry(
        type="recipients.disclosed",
        actor=staff_actor(actor_member).name,
        case=case,
        data={"letter": letter.pk, "recipients": [each.recipient_id for each in notices]},
    )
    return letter


# --- Sending ------------------------------------------------------------------------------------
def send_pending_notices() -> int:
    """Send every notice whose time has come; returns how many. One hinders no other.

    Tries are claimed (`tries`): pauses double from a minute up to six hours.
    """
    sent = 0
    waiting = RecipientNotice.objects.filter(tries.due(), state=State.TO_SEND)
    waiting = waiting.exclude(recipient__how=How.HAND)
    for notice in waiting.select_related("recipient", "case").order_by("created_at", "id"):
        unsent = RecipientNotice.objects.filter(pk=notice.pk, state=State.TO_SEND)
        if not tries.claim(unsent, tries=notice.tries):
            continue
        try:
            by_call = notice.recipient.how == How.OPENDSR
            answered = _call(notice) if by_call else _mail(notice)
        except SEND_ERRORS as problem:  # its text may quote an address: the type alone is kept
            kind = type(problem).__name__
            RecipientNotice.objects.filter(pk=notice.pk).update(problem=kind[:40])
            logger.warning("Notice %s not sent (%s).", notice.pk, kind)
        else:
            sent += _record_sent(notice.pk, expected=answered)
    return sent


def _mail(notice: RecipientNotice) -> str:
    text = vault.get(notice.case, f"notice/{notice.pk}/text")
    mail = EmailMessage(
        subject=f"Notice of erasure {notice.case.reference}",
        body=text,
        to=[notice.recipient.email],
    )
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2]
    mail.extra_headers["Message-ID"] = f"<{notice.case.reference}.notice-{notice.pk}@{domain}>"
    mail.send()
    return ""


def _call(notice: RecipientNotice) -> str:
    """The date the processor promised, in an answer that it signed."""
    recipient, case = notice.recipient, notice.case
    address: str = vault.get(case, "email", default="")
    extension: dict[str, object] = {"reference": case.reference}
    identities: list[dict[str, str]] = []
    if recipient.matches_keyed_id and address:
        extension["keyed_id"] = keyed_id(recipient, address)
    elif address:
        identities = [
            {"identity_type": "email", "identity_value": address, "identity_format": "raw"}
        ]
    else:
        extension["name"] = vault.get(case, "name")
    body = opendsr.erasure_request(
        regulation="ccpa" if profile(case.jurisdiction).region == "CA" else "gdpr",
        subject_request_id=str(notice.request_id),
        submitted_time=case.received_at,
        identities=identities,
        extension=extension,
    )
    receipt = opendsr.request_erasure(opendsr.processor(recipient.endpoint), body)
    return receipt.expected_completion_time


@transaction.atomic
def _record_sent(notice_id: int, *, expected: str) -> bool:
    """Sent by mail, or acknowledged by a signed answer; False if it was settled meanwhile."""
    case_id = RecipientNotice.objects.values_list("case_id", flat=True).get(pk=notice_id)
    lock_case(case_id)
    notice = RecipientNotice.objects.select_related("case", "recipient").get(pk=notice_id)
    if notice.state != State.TO_SEND:
        return False
    _settle(notice, State.ACKNOWLEDGED if expected else State.SENT)
    if expected:
        _log(notice, "notice.acknowledged", SYSTEM.name, by="opendsr")
    else:
        _log(notice, "notice.sent", SYSTEM.name, by="mail")
    return True


# --- Steps --------------------------------------------------------------------------------------
def _text(notice: RecipientNotice, erased: Sequence[str]) -> str:
    """The notice as it is sent; whom it is about only as far as the recipient needs it."""
    case, recipient = notice.case, notice.recipient
    address: str = vault.get(case, "email", default="")
    if recipient.matches_keyed_id and address:
        person = [f"Keyed id (HMAC-SHA256 under your key): {keyed_id(recipient, address)}"]
    else:
        person = [f"Name: {vault.get(case, 'name')}"]
        person += [f"E-mail address: {address}"] if address else []
    got = [name for name in erased if not recipient.systems or name in recipient.systems]
    slots = {"recipient": recipient.name, "person": person, "systems": got}
    return complete(word_letter(case, "recipient_notice", lambda: slots, language=SOURCE))


def _told(notices: Sequence[RecipientNotice]) -> list[str]:
    """A line for each recipient: what it is for us, and how far it was told."""
    return [
        f"{each.recipient.name} ({each.recipient.get_kind_display()}): {each.get_state_display()}"
        for each in notices
    ]


def _fill(row: Recipient, data: RecipientData) -> None:
    row.name = one_line(data.name, what=_("The name"), longest=NAME_LENGTH)
    row.kind, row.how, row.email = data.kind, data.how, data.email.strip()
    row.endpoint, row.matches_keyed_id = data.endpoint.strip(), data.matches_keyed_id
    row.systems = list(dict.fromkeys(data.systems))
    if row.kind not in Recipient.Kind.values or row.how not in How.values:
        raise Invalid(_("Choose what the recipient is, and how it is told."))
    if row.how == How.MAIL or row.email:
        try:
            validate_email(row.email)
        except ValidationError:
            raise Invalid(_("The e-mail address is missing or not a valid address.")) from None
    if row.how == How.OPENDSR or row.endpoint:
        try:
            opendsr.processor(row.endpoint)
        except (opendsr.OpenDsrError, outgoing.CallRefused) as problem:
            raise Invalid(
                _("The OpenDSR address cannot be used. %(problem)s") % {"problem": problem}
            ) from None
    known = ScopeItem.Kind.values
    if any(each.partition(":")[0] not in known or ":" not in each for each in row.systems):
        raise Invalid(
            _("Write each system as %(forms)s.")
            % {"forms": ", ".join(f"{kind}:name" for kind in known)}
        )


def _lock_recipient(recipient_id: int) -> Recipient:
    row = Recipient.objects.select_for_update().filter(pk=recipient_id).first()
    if row is None:
        raise NotFound(_("There is no such recipient."))
    return row


def _lock_notice(notice_id: int, member: StaffMember) -> RecipientNotice:
    require_role(member, Role.OFFICER, Role.APPROVER)
    notice = RecipientNotice.objects.filter(pk=notice_id).first()
    if notice is None:
        raise NotFound(_("There is no such notice."))
    case = lock_case(notice.case_id)
    if case.status == CaseStatus.SEALED:
        require_status(case)  # says where the case is
    return RecipientNotice.objects.select_related("case", "recipient").get(pk=notice_id)


def _settle(notice: RecipientNotice, to: NoticeState) -> None:
    try:
        move_notice(notice, to)
    except MoveNotAllowed:
        raise WrongState(
            _("This recipient is at “%(state)s”: that is not possible there.")
            % {"state": notice.get_state_display()}
        ) from None
    now = timezone.now()
    if to == State.IMPOSSIBLE:
        notice.settled_at = now
    else:
        notice.cause = ""
        notice.sent_at = notice.sent_at or now
        notice.settled_at = now if to == State.ACKNOWLEDGED else None
    notice.problem = ""
    notice.save()


def _log(notice: RecipientNotice, type_: str, actor: str, **data: str) -> None:
    audit.append_entries([_entry(notice, type_, actor, **data)])


def _entry(notice: RecipientNotice, type_: str, actor: str, **data: str) -> Entry:
    about = {"notice": notice.pk, "recipient": notice.recipient_id}
    return Entry(type_, actor, {**about, **data}, notice.case)
