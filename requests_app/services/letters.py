"""Letters to the data subject: written once, frozen, then announced by mail and read with the code.

Every file of templates/letters is one letter or mail. Its first line names its version and the
slots that must be filled: `{# version: 2026-1; slots: reference, due #}`. An empty slot blocks the
letter (GDPR Art. 12(4): a refusal without reasons and remedies may not leave the house). Mail holds
no details of the request: a letter is announced, and read on the status page.
"""

from __future__ import annotations

import hashlib
import logging
import re
import smtplib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core.cache import cache
from django.core.mail import EmailMessage
from django.db import transaction
from django.template import Context, Engine
from django.utils import timezone
from django.utils.formats import date_format

from requests_app import audit, vault
from requests_app.actors import SYSTEM, Actor
from requests_app.jurisdictions import profile
from requests_app.models import Case, Letter, VaultItem
from requests_app.services import wake
from requests_app.services.errors import Invalid, NotFound, WrongState
from requests_app.services.locking import lock_case, require_actor

logger = logging.getLogger(__name__)

HEADER = re.compile(r"\{# version: (?P<version>[\w.-]+); slots: (?P<slots>[\w, ]+) #\}\n")
SENDING_SECONDS = 300  # how long one process may take over one mail
# ValueError (UnicodeError is one): an address or a text that no mail can carry
MAIL_ERRORS = (smtplib.SMTPException, OSError, ValueError, vault.VaultError)


@dataclass(frozen=True)
class LetterTemplate:
    """One file of templates/letters."""

    kind: str
    version: str
    slots: tuple[str, ...]
    text: str


def folder() -> Path:
    return Path(settings.BASE_DIR) / "templates" / "letters"


def kinds() -> list[str]:
    """The names of all letters and mails there are."""
    return sorted(path.stem for path in folder().glob("*.txt"))


@lru_cache(maxsize=32)
def load_template(kind: str) -> LetterTemplate:
    """Read one template; Invalid for an unknown name or a file without its header line."""
    if kind not in kinds():
        raise Invalid(f"There is no letter “{kind}”. Known: {', '.join(kinds())}.")
    text = (folder() / f"{kind}.txt").read_text(encoding="utf-8")
    header = HEADER.match(text)
    if header is None:
        raise Invalid(f"The letter “{kind}” does not begin with its version and slots.")
    slots = tuple(slot.strip() for slot in header["slots"].split(","))
    return LetterTemplate(kind, header["version"], slots, text[header.end() :])


def render(kind: str, slots: Mapping[str, object]) -> str:
    """Fill a template; Invalid names every slot that is missing, empty or unknown."""
    template = load_template(kind)
    empty = [slot for slot in template.slots if not _is_filled(slots.get(slot))]
    if empty:
        raise Invalid(f"The letter “{kind}” cannot be written: {', '.join(empty)} is empty.")
    if unknown := sorted(set(slots) - set(template.slots)):
        raise Invalid(f"The letter “{kind}” has no place for {', '.join(unknown)}.")
    # Plain text, hence no HTML escaping. Values are data: none is ever read as a template.
    engine = Engine(autoescape=False)
    return engine.from_string(template.text).render(Context(dict(slots), autoescape=False))


def write_letter(case: Case, kind: str, slots: Mapping[str, object]) -> Letter:
    """Write, freeze and store a letter of a locked case; its mail goes out after commit.

    The exact text lies in the vault; `Letter.sha256` is the digest of its UTF-8 bytes.
    """
    text = render(kind, slots_of(case, kind, slots))
    letter = Letter.objects.create(
        case=case,
        kind=kind,
        language=case.language,
        template_version=load_template(kind).version,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        created_at=timezone.now(),
    )
    vault.put(case, f"letter/{letter.id}", text)
    wake.send_after_commit("requests_app.send_letters")
    return letter


def slots_of(case: Case, kind: str, slots: Mapping[str, object]) -> dict[str, object]:
    """The slots of one letter: its own, and of the common ones those that it has a place for."""
    wanted = load_template(kind).slots
    common = {name: value for name, value in common_slots(case).items() if name in wanted}
    return {**common, **slots}


def common_slots(case: Case) -> dict[str, object]:
    """What letters say: whose, which, and whom to turn to under the law of the case."""
    law = profile(case.jurisdiction)
    return {
        "reference": case.reference,
        "today": spell_date(timezone.localdate()),
        "name": vault.get(case, "name"),
        "controller_name": settings.RTBF_CONTROLLER_NAME,
        "controller_address": settings.RTBF_CONTROLLER_ADDRESS,
        "controller_email": settings.RTBF_CONTROLLER_EMAIL,
        "controller_phone": settings.RTBF_CONTROLLER_PHONE,
        "authority_name": settings.RTBF_AUTHORITY_NAME,
        "authority_url": settings.RTBF_AUTHORITY_URL,
        "complaint": law.complaint,
        "remedy": law.remedy,
    }


def spell_date(day: date) -> str:
    """A date as people write it, e.g. `22 November 2026`."""
    return date_format(day, "j F Y")


# --- Sending ------------------------------------------------------------------------------------
def send_pending_codes() -> int:
    """Mail the confirmation codes that wait in the vault; returns how many went out.

    A code is taken out of the vault before it is mailed, so it is never sent twice; if the mail
    server refuses, it is put back for the next sweep, until it runs out. What hinders one code
    hinders no other.
    """
    sent = 0
    for case_id in VaultItem.objects.filter(name="code").values_list("case_id", flat=True):
        try:
            taken = _take_code(case_id)
        except vault.VaultError as problem:
            logger.warning("Code of case %s not mailed (%s).", case_id, type(problem).__name__)
            continue
        if taken is None:
            continue
        case, code, address = taken
        slots = {
            "reference": case.reference,
            "code": code,
            "minutes": "15",
            "confirm_url": f"{settings.RTBF_PUBLIC_URL}/erasure/confirm",
            "controller_name": settings.RTBF_CONTROLLER_NAME,
        }
        mail = _mail(case.reference, render("mail_code", slots), address)
        try:
            mail.send()
        except MAIL_ERRORS as problem:  # the text may quote the address: the type alone is logged
            logger.warning("Code of %s not mailed (%s).", case.reference, type(problem).__name__)
            with transaction.atomic():
                case = lock_case(case_id)
                if case.code_digest and not vault.has(case, "code"):
                    vault.put(case, "code", code)
        else:
            sent += 1
    return sent


def send_pending_letters() -> int:
    """Announce by mail every letter not yet sent whose case has an address; returns how many.

    At least once: a letter counts as sent only after the mail server took it. The same letter
    always has the same Message-ID. What hinders one letter hinders no other.
    """
    sent = 0
    waiting = Letter.objects.filter(sent_at=None, case__vault_items__name="email")
    for letter in waiting.select_related("case").order_by("created_at", "id"):
        claim = f"letter:{letter.id}"
        if not cache.add(claim, 1, timeout=SENDING_SECONDS):
            continue  # another process is at it
        try:
            _announcement(letter).send()
        except MAIL_ERRORS as problem:
            logger.warning("Letter %s not mailed (%s).", letter.pk, type(problem).__name__)
        else:
            sent += _mark_sent(letter.pk, by="mail", actor=SYSTEM)
        finally:
            cache.delete(claim)
    return sent


def record_letter_posted(*, letter_id: int, actor: Actor) -> None:
    """Record that staff sent a letter on paper (requests by post without an e-mail address)."""
    require_actor(actor, "intake", "officer", "approver")
    if not _mark_sent(letter_id, by="post", actor=actor):
        raise WrongState("This letter was sent before.")


@transaction.atomic
def _take_code(case_id: UUID) -> tuple[Case, str, str] | None:
    """Case, code and address; None if another process took the code, or it ran out and is gone."""
    case = lock_case(case_id)
    if case.code_expires_at is None or case.code_expires_at < timezone.now():
        vault.remove(case, "code")
        return None
    code: str | None = vault.get(case, "code", default=None)
    if code is None:
        return None
    vault.remove(case, "code")
    return case, code, vault.get(case, "email")


@transaction.atomic
def _mark_sent(letter_id: int, *, by: str, actor: Actor) -> bool:
    case_id = Letter.objects.filter(pk=letter_id).values_list("case_id", flat=True).first()
    if case_id is None:
        raise NotFound("There is no such letter.")
    case = lock_case(case_id)
    letter = Letter.objects.get(pk=letter_id)
    if letter.sent_at is not None:
        return False
    letter.sent_at = timezone.now()
    letter.save(update_fields=["sent_at"])
    audit.append_entry(
        type="letter.sent",
        actor=actor.name,
        case=case,
        data={
            "letter": letter.pk,
            "kind": letter.kind,
            "template_version": letter.template_version,
            "language": letter.language,
            "by": by,
        },
        commitments={"text": vault.get(case, f"letter/{letter.pk}")},
        idem_key=f"letter.sent:{letter.pk}",
    )
    return True


def _announcement(letter: Letter) -> EmailMessage:
    case = letter.case
    vault.get(case, f"letter/{letter.pk}")  # a letter that cannot be read is not announced
    slots = {
        "reference": case.reference,
        "status_url": f"{settings.RTBF_PUBLIC_URL}/status",
        "controller_name": settings.RTBF_CONTROLLER_NAME,
        "controller_email": settings.RTBF_CONTROLLER_EMAIL,
        "controller_phone": settings.RTBF_CONTROLLER_PHONE,
    }
    mail = _mail(case.reference, render("mail_notice", slots), vault.get(case, "email"))
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2]
    mail.extra_headers["Message-ID"] = f"<{case.reference}.{letter.pk}@{domain}>"
    return mail


def _mail(reference: str, body: str, address: str) -> EmailMessage:
    return EmailMessage(subject=f"Your request {reference}", body=body, to=[address])


def _is_filled(value: object) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value not in (None, [], (), {})
