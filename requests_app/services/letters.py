"""Letters to the data subject: written once, frozen, announced by mail and read with the code.

Mail holds no details of the request: a letter is announced, and read on the status page. A notice
to a recipient is sent by staff, in a way that fits what it holds. Texts lie in `letter_texts`.
"""

from __future__ import annotations

import hashlib
import logging
import smtplib
from collections.abc import Mapping
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.utils import timezone, translation
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from requests_app import audit, vault
from requests_app.actors import SYSTEM, Actor
from requests_app.jurisdictions import profile
from requests_app.models import Adapter, Case, Letter, SuppressionTag, VaultItem
from requests_app.services import tries, wake
from requests_app.services.errors import NotFound, WrongState
from requests_app.services.letter_texts import (
    Fill,
    Wording,
    complete,
    language_of,
    load_template,
    render,
    spell_date,
    word,
)
from requests_app.services.locking import lock_case, require_actor

logger = logging.getLogger(__name__)

SENDING_SECONDS = 300  # how long one process may take over one mail
FIRST_PAUSE = timedelta(seconds=SENDING_SECONDS)
# ValueError (UnicodeError is one): an address or a text that no mail can carry
MAIL_ERRORS = (smtplib.SMTPException, OSError, ValueError, vault.VaultError)
AWAY_TRIES = 3  # then a sweep leaves the rest to the next: each costs EMAIL_TIMEOUT


def write_letter(case: Case, kind: str, fill: Fill, *, language: str = "") -> Letter:
    """Write, freeze and store a letter of a locked case; its mail goes out after commit.

    In the language of the case unless another is named. The exact text lies in the vault;
    `Letter.sha256` is the digest of its UTF-8 bytes. Invalid names every slot that is empty.
    """
    return store_letter(case, word_letter(case, kind, fill, language=language))


def store_letter(case: Case, wording: Wording) -> Letter:
    """As `write_letter`, of a letter that was worded before."""
    text = complete(wording)
    letter = Letter.objects.create(
        case=case,
        kind=wording.template.kind,
        language=wording.template.language,
        template_version=wording.template.version,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        created_at=timezone.now(),
    )
    vault.put(case, f"letter/{letter.id}", text)
    wake.send_after_commit("requests_app.send_letters")
    return letter


def word_letter(case: Case, kind: str, fill: Fill, *, language: str = "") -> Wording:
    """The letter as it would be written, for a preview; nothing is stored."""

    def slots() -> dict[str, object]:
        own = load_template(kind).slots
        common = common_slots(case)
        return {name: value for name, value in common.items() if name in own} | dict(fill())

    return word(kind, language or case.language, slots)


def common_slots(case: Case) -> dict[str, object]:
    """What letters say: whose, which, whom to turn to under the law of the case, what is kept."""
    law = profile(case.jurisdiction)
    return {
        "reference": case.reference,
        "today": spell_date(timezone.localdate()),
        "name": vault.get(case, "name"),
        "received_on": spell_date(case.received_on),
        "controller_name": settings.RTBF_CONTROLLER_NAME,
        "controller_address": settings.RTBF_CONTROLLER_ADDRESS,
        "controller_email": settings.RTBF_CONTROLLER_EMAIL,
        "controller_phone": settings.RTBF_CONTROLLER_PHONE,
        "dpo_contact": settings.RTBF_DPO_CONTACT,
        "authority_name": settings.RTBF_AUTHORITY_NAME,
        "authority_url": settings.RTBF_AUTHORITY_URL,
        "complaint": _(law.complaint),
        "remedy": _(law.remedy),
        "court": settings.RTBF_COURT_NAME
        or _("the courts of the country where we are established, or where you live"),
        "kept_data": kept_data(case),
    }


def kept_data(case: Case) -> list[str]:
    """What stays after the answer: which data, how long, on which legal basis."""
    days, years = settings.RTBF_KEEP_CLOSED_DAYS, profile(case.jurisdiction).record_months // 12
    file = _(
        "The file of your request: your details and our letters, encrypted under a key of their"
        " own. Legal basis: Art. 6(1)(c) and 12 GDPR."
    )
    until = ngettext(
        "The key is destroyed %(days)d day after the case is closed, or later only while a"
        " complaint or a court case is open.",
        "The key is destroyed %(days)d days after the case is closed, or later only while a"
        " complaint or a court case is open.",
        days,
    )
    record = _(
        "A record of what was done and measured, without your name, your address or your facts, so"
        " that we can show it. Legal basis: Art. 5(2) and 6(1)(c) GDPR."
    )
    least = ngettext(
        "It is kept for at least %(years)d year.",
        "It is kept for at least %(years)d years.",
        years,
    )
    receipt = _(
        "Until then the page of your request offers a receipt. Keep it: afterwards it alone shows"
        " that this request was yours."
    )
    lines = [f"{file} {until % {'days': days}} {receipt}", f"{record} {least % {'years': years}}"]
    if Adapter.objects.filter(run__case=case).exists():
        lines.append(
            _(
                "The adapter made for your request, and keyed digests of your names by which the"
                " gate recognises questions about you; without our key no name can be looked up in"
                " them. They stay as long as a release that needs them is in service. Legal basis:"
                " Art. 6(1)(f) GDPR, our interest in keeping answers about you suppressed."
            )
        )
    if SuppressionTag.objects.filter(case_id=case.pk).exists():
        lines.append(
            _(
                "So that your data do not come back when a model is trained again: fingerprints of"
                " the identifiers that you or we hold for this request, such as your e-mail"
                " address, made with a secret key (a suppression list). It holds no name, is looked"
                " at every year, and lasts as long as we train models. Legal basis: Art. 6(1)(c)"
                " and 17 GDPR."
            )
        )
    return lines


# --- Sending ------------------------------------------------------------------------------------
def send_pending_codes() -> int:
    """Mail the confirmation codes that wait in the vault; returns how many went out.

    A code is taken out of the vault before it is mailed, so it is never sent twice; if the mail
    server refuses, it is put back for the next sweep, until it runs out. What hinders one code
    hinders no other; a mail server that does not answer ends the sweep after three.
    """
    sent = away = 0
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
        mail = _mail(case, "mail_code", slots, address)
        try:
            mail.send()
        except MAIL_ERRORS as problem:  # the text may quote the address: the type alone is logged
            logger.warning("Code of %s not mailed (%s).", case.reference, type(problem).__name__)
            with transaction.atomic():
                case = lock_case(case_id)
                if case.code_digest and not vault.has(case, "code"):
                    vault.put(case, "code", code)
            away += _is_away(problem)
            if away == AWAY_TRIES:
                break
        else:
            sent += 1
    return sent


def send_pending_letters() -> int:
    """Announce by mail every letter not yet sent whose case has an address; returns how many.

    At least once: a letter counts as sent only after the mail server took it. The same letter
    always has the same Message-ID. What hinders one letter hinders no other; after RTBF_SEND_TRIES
    tries it waits for staff. A mail server that does not answer ends the sweep after three.
    """
    sent = away = 0
    waiting = Letter.objects.filter(tries.due(), sent_at=None, case__vault_items__name="email")
    for letter in waiting.select_related("case").order_by("created_at", "id"):
        unsent = Letter.objects.filter(pk=letter.pk, sent_at=None)
        if not tries.claim(unsent, tries=letter.tries, first=FIRST_PAUSE):
            continue  # another process is at it, or was
        try:
            _announcement(letter).send()
        except MAIL_ERRORS as problem:
            logger.warning("Letter %s not mailed (%s).", letter.pk, type(problem).__name__)
            away += _is_away(problem)
            if away == AWAY_TRIES:
                break
        else:
            sent += _mark_sent(letter.pk, by="mail", actor=SYSTEM)
    return sent


def _is_away(problem: Exception) -> bool:
    """Whether it was no answer at all, and not a refusal of this mail."""
    if isinstance(problem, smtplib.SMTPException):  # smtplib says so of a time that ran out
        return isinstance(problem, smtplib.SMTPServerDisconnected)
    return isinstance(problem, OSError)


def record_letter_posted(*, letter_id: int, actor: Actor) -> None:
    """Record that staff sent a letter themselves: the person has no e-mail address, the
    announcement came back, or it goes to a recipient of the data."""
    require_actor(actor, "intake", "officer", "approver")
    if not _mark_sent(letter_id, by="post", actor=actor):
        raise WrongState(_("This letter was sent before."))


def message_id(letter: Letter) -> str:
    """The Message-ID of a letter's announcement: always the same, and nobody else can make it."""
    named = f"{letter.case.reference}.{letter.pk}"
    check = salted_hmac("rtbf.letter", named, algorithm="sha256").hexdigest()[:16]
    return f"<{named}.{check}@{settings.DEFAULT_FROM_EMAIL.rpartition('@')[2]}>"


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
        raise NotFound(_("There is no such letter."))
    case = lock_case(case_id)
    letter = Letter.objects.get(pk=letter_id)
    again = letter.bounced_at is not None and by == "post"
    if letter.sent_at is not None and not again:
        return False
    letter.sent_at, letter.bounced_at = timezone.now(), None
    letter.save(update_fields=["sent_at", "bounced_at"])
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
        idem_key=f"letter.sent:{letter.pk}" + ("/again" if again else ""),
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
    mail = _mail(case, "mail_notice", slots, vault.get(case, "email"))
    mail.extra_headers["Message-ID"] = message_id(letter)
    return mail


def _mail(case: Case, kind: str, slots: Mapping[str, object], address: str) -> EmailMessage:
    """A mail in the language of the case, fallback and note included."""
    with translation.override(language_of(kind, case.language)):
        subject = _("Your request %(reference)s") % {"reference": case.reference}
    body = render(kind, lambda: slots, language=case.language)
    return EmailMessage(subject=subject, body=body, to=[address])
