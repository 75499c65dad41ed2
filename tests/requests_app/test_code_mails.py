"""Nobody's mailbox is flooded through the form, and no request is dropped for that."""

from datetime import timedelta

import pytest
from django.core import mail
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import Case, CodeMail
from requests_app.services import code_mails, intake, letters
from tests.factories import EMAIL, mailed_code, open_case

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _two_a_day(settings: Settings) -> None:
    settings.RTBF_CODE_MAILS_PER_DAY = 2


def sweep() -> None:
    code_mails.release_codes()
    letters.send_pending_codes()


def test_an_address_gets_so_many_codes_a_day_over_all_cases() -> None:
    spellings = [EMAIL, EMAIL.upper(), EMAIL.replace("@", "+news@"), EMAIL, EMAIL]
    opened = [open_case(email=each).case for each in spellings]
    sweep()
    sweep()
    assert len(mail.outbox) == 2
    assert all(case.status == CaseStatus.AWAITING_CONFIRMATION for case in opened)
    open_case(email="somebody.else@mailbox.example")
    sweep()
    assert len(mail.outbox) == 3


def test_what_waited_gets_a_fresh_code_when_its_turn_comes() -> None:
    for _ in range(3):
        last = open_case().case
    sweep()
    assert not vault.has(last, "code")
    CodeMail.objects.exclude(made_at=None).update(made_at=timezone.now() - timedelta(hours=25))
    sweep()
    assert CodeMail.objects.filter(made_at=None).count() == 0
    case = intake.confirm_email(reference=last.reference, code=mailed_code(last.reference))
    assert case.status == CaseStatus.IDENTITY_CHECK


def test_asking_again_is_counted_too_and_waits_once() -> None:
    case = open_case().case
    sweep()
    for _ in range(5):
        Case.objects.update(code_sent_at=timezone.now() - timedelta(minutes=2))
        intake.resend_code(reference=case.reference)
        sweep()
    assert len(mail.outbox) == 2
    assert CodeMail.objects.filter(made_at=None).count() == 1


def test_a_request_withdrawn_meanwhile_gets_none() -> None:
    for _ in range(3):
        last = open_case().case
    sweep()
    Case.objects.filter(pk=last.pk).update(status=CaseStatus.WITHDRAWN)
    CodeMail.objects.exclude(made_at=None).update(made_at=timezone.now() - timedelta(hours=25))
    sweep()
    assert len(mail.outbox) == 2
    assert CodeMail.objects.count() == 0  # and nothing of the address is left


def test_the_address_itself_is_not_in_the_table() -> None:
    open_case()
    row = CodeMail.objects.get()
    assert EMAIL not in row.address_digest
    assert len(row.address_digest) == 64
