"""Confirmation codes, and a limit on their mails: nobody's mailbox is flooded through our form.

An address gets at most RTBF_CODE_MAILS_PER_DAY confirmation mails in 24 hours over all cases. What
is beyond waits and gets a fresh code when its turn comes, since every request has to be answered;
pages say the same in both cases. Tags (`name+tag@`) and capitals do not make another address.
"""

from __future__ import annotations

from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from requests_app import vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, CodeMail
from requests_app.services import wake
from requests_app.services.codes import CONFIRMATION_LENGTH, code_digest, new_code
from requests_app.services.locking import lock_case

CODE_LIFE = timedelta(minutes=15)
WINDOW = timedelta(hours=24)
AT_ONCE = 100  # how many that waited one sweep takes


def ask_code(case: Case) -> None:
    """A code for a locked case now, or once its address may be written to again."""
    digest = _address_digest(case)
    if _made_lately(digest) >= settings.RTBF_CODE_MAILS_PER_DAY:
        CodeMail.objects.get_or_create(
            case=case,
            made_at=None,
            defaults={"address_digest": digest, "asked_at": timezone.now()},
        )
    else:
        _issue_code(case, digest)


def release_codes() -> int:
    """Make the codes that waited, oldest first, and forget mails of more than a day ago."""
    CodeMail.objects.filter(made_at__lt=timezone.now() - WINDOW).delete()
    made = 0
    for row in CodeMail.objects.filter(made_at=None).order_by("asked_at", "id")[:AT_ONCE]:
        if _made_lately(row.address_digest) < settings.RTBF_CODE_MAILS_PER_DAY:
            made += _release(row)
    return made


@transaction.atomic
def _release(row: CodeMail) -> bool:
    case = lock_case(row.case_id)
    deleted, _ = CodeMail.objects.filter(pk=row.pk, made_at=None).delete()
    if not deleted or case.status != CaseStatus.AWAITING_CONFIRMATION:
        return False  # another sweep took it, or it was withdrawn or sealed meanwhile
    _issue_code(case, row.address_digest)
    return True


def _issue_code(case: Case, digest: str) -> None:
    """A new code, five new tries; it waits encrypted in the vault until the mail task takes it."""
    code = new_code(CONFIRMATION_LENGTH)
    now = timezone.now()
    case.code_digest = code_digest("confirm", case.id, code)
    case.code_attempts = 0
    case.code_sent_at = now
    case.code_expires_at = now + CODE_LIFE
    case.save()
    vault.put(case, "code", code)
    CodeMail.objects.create(case=case, address_digest=digest, asked_at=now, made_at=now)
    wake.send_after_commit("requests_app.send_letters")


def _made_lately(digest: str) -> int:
    since = timezone.now() - WINDOW
    return CodeMail.objects.filter(address_digest=digest, made_at__gte=since).count()


def _address_digest(case: Case) -> str:
    local, _, domain = str(vault.get(case, "email")).strip().casefold().rpartition("@")
    mailbox = f"{local.partition('+')[0]}@{domain.encode('idna').decode()}"
    return salted_hmac("rtbf.code_mail", mailbox, algorithm="sha256").hexdigest()
