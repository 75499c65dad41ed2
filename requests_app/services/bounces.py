"""Announcements that came back: read from a delivery status notification (RFC 3464), and noted.

A notification quotes the mail that failed; of it only the Message-ID is read, which names the
letter and carries a keyed check, so that nobody else can have a letter marked.
"""

from __future__ import annotations

import email
import re
from dataclasses import dataclass
from email.errors import MessageError
from email.message import Message
from email.policy import compat32

from django.db import transaction
from django.utils import timezone

from requests_app import audit
from requests_app.actors import SYSTEM
from requests_app.lifecycle import CaseStatus
from requests_app.models import AuditEntry, Letter
from requests_app.services.errors import Invalid, NotFound
from requests_app.services.letters import message_id
from requests_app.services.locking import lock_case

LARGEST = 10 * 2**20  # bytes of a notification; larger ones are not read
STATUS = re.compile(r"\b([245]\.\d{1,3}\.\d{1,3})\b")  # RFC 3463
NAMED = re.compile(r"<[A-Z0-9-]{1,24}\.(\d{1,18})\.[0-9a-f]{16}@[^<>\s]{1,255}>")
HEADERS = ("message/rfc822", "text/rfc822-headers", "message/global", "message/global-headers")


@dataclass(frozen=True)
class Bounce:
    """What a notification says: which mail failed for good, and its status code (RFC 3463)."""

    message_id: str
    status: str


def read_notification(raw: bytes) -> Bounce | None:
    """The failure in a notification; None for one that only tells of a delay or of delivery.

    Raises Invalid, without any text of the mail, for what is no notification about a letter.
    """
    if len(raw) > LARGEST:
        raise Invalid("This mail is too large to be a delivery status notification.")
    try:
        parts = list(email.message_from_bytes(raw, policy=compat32).walk())
        states = [block for part in parts for block in _recipients(part)]
        quoted = [found for part in parts for found in _quoted_ids(part)]
    except (MessageError, ValueError, LookupError):
        raise Invalid("This mail could not be read.") from None
    if not states:
        raise Invalid("This mail is not a delivery status notification (RFC 3464).")
    failed = [block for block in states if _field(block, "Action").lower() == "failed"]
    if not failed:
        return None
    if not quoted:
        raise Invalid("This notification is not about a letter of this installation.")
    status = STATUS.search(_field(failed[0], "Status"))
    return Bounce(quoted[0], status[1] if status else "")


@transaction.atomic
def record_bounce(bounce: Bounce) -> bool:
    """Note that a letter's announcement came back; False if that was noted before, or too late.

    Raises NotFound for a Message-ID that is not one of ours.
    """
    found = NAMED.fullmatch(bounce.message_id)
    letter = Letter.objects.select_related("case").filter(pk=found[1]).first() if found else None
    if letter is None or message_id(letter) != bounce.message_id:
        raise NotFound("There is no letter with this Message-ID.")
    case = lock_case(letter.case_id)
    letter.refresh_from_db()
    key = f"letter.bounced:{letter.pk}"
    if case.status == CaseStatus.SEALED or AuditEntry.objects.filter(idem_key=key).exists():
        return False
    letter.bounced_at = timezone.now()
    letter.save(update_fields=["bounced_at"])
    audit.append_entry(
        type="letter.bounced",
        actor=SYSTEM.name,
        case=case,
        data={"letter": letter.pk, "kind": letter.kind, "status": bounce.status},
        idem_key=key,
    )
    return True


def _recipients(part: Message) -> list[Message]:
    """The blocks about a recipient in a delivery-status part (RFC 3464, section 2.3)."""
    blocks = part.get_payload()
    if part.get_content_type() != "message/delivery-status" or not isinstance(blocks, list):
        return []
    return [block for block in blocks if isinstance(block, Message) and block.get("Action")]


def _quoted_ids(part: Message) -> list[str]:
    """The Message-ID of ours that the part quotes, if it quotes a mail or its headers."""
    if part.get_content_type() not in HEADERS:
        return []
    payload = part.get_payload()
    if isinstance(payload, list):  # a whole mail
        texts = [_field(each, "Message-ID") for each in payload if isinstance(each, Message)]
    else:
        body = part.get_payload(decode=True)
        head = email.message_from_bytes(body if isinstance(body, bytes) else b"")
        texts = [_field(head, "Message-ID")]
    return [text for text in texts if NAMED.fullmatch(text)]


def _field(part: Message, name: str) -> str:
    return "".join(str(part.get(name, "")).split())
