"""The question about the identity, letters as staff see them first, and bounces."""

import contextlib
import io
import re
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.core import mail
from django.core.management import CommandError, call_command
from django.test import Client
from hypothesis import given
from hypothesis import strategies as st

from requests_app import audit, selectors, vault
from requests_app.actors import staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import Letter, StaffMember
from requests_app.services import bounces, identity, letters
from requests_app.services.errors import Invalid, NotAllowed, NotFound, WrongState
from tests import factories
from tests.staff import as_staff

DOUBT = {"doubt": "Two of our customers have this name.", "sufficient": "Your customer number."}


def text(letter: Letter) -> str:
    return str(vault.get(letter.case, f"letter/{letter.pk}"))


# --- Identity -----------------------------------------------------------------------------------
@pytest.mark.django_db
def test_the_question_gives_doubt_and_what_is_enough_and_is_logged(
    intake_clerk: StaffMember,
) -> None:
    case = factories.confirmed_case(language="de")
    letter = identity.ask_identity(case_id=case.id, actor_member=intake_clerk, **DOUBT)
    assert all(value in text(letter) for value in DOUBT.values())
    assert "Art. 12 Abs. 6 DSGVO" in text(letter)
    entry = audit.case_entries(case.id)[-1]
    assert entry.type == "case.identity_asked"
    assert DOUBT["doubt"].encode() not in bytes(entry.body)
    case.refresh_from_db()
    assert case.status == CaseStatus.IDENTITY_CHECK


@pytest.mark.django_db
def test_no_question_without_doubt_or_after_the_check(
    intake_clerk: StaffMember, auditor: StaffMember
) -> None:
    case = factories.confirmed_case()
    with pytest.raises(Invalid, match="Why there is doubt is missing"):
        identity.ask_identity(
            case_id=case.id, actor_member=intake_clerk, doubt=" ", sufficient="A number."
        )
    with pytest.raises(NotAllowed):
        identity.ask_identity(case_id=case.id, actor_member=auditor, **DOUBT)
    reviewed = factories.case_in_review()
    with pytest.raises(WrongState):
        identity.ask_identity(case_id=reviewed.id, actor_member=intake_clerk, **DOUBT)
    assert not Letter.objects.filter(kind="identity_question").exists()


# --- Pages --------------------------------------------------------------------------------------
def in_german(client: Client) -> Client:
    client.defaults["HTTP_ACCEPT_LANGUAGE"] = "de"
    return client


@pytest.mark.django_db
def test_the_question_is_shown_before_it_is_written(officer: StaffMember) -> None:
    case = factories.confirmed_case()
    path = f"/app/cases/{case.reference}/identity-question"
    client = in_german(as_staff(officer, case))
    before = case.letters.count()
    page = client.post(path, {**DOUBT, "step": "preview"}).content.decode()
    assert 'id="preview"' in page
    assert all(value in page for value in DOUBT.values())
    assert case.letters.count() == before
    assert client.post(path, {**DOUBT, "step": "write"}).status_code == 302
    assert case.letters.count() == before + 1
    assert client.post(path, {"step": "write"}).status_code == 422


@pytest.mark.django_db
def test_the_answer_page_shows_the_letter_or_what_is_missing(
    officer: StaffMember, settings: Any
) -> None:
    case = factories.responding_case(language="pl")
    client, path = as_staff(officer, case), f"/app/cases/{case.reference}/answer"
    page = client.get(path).content.decode()
    assert "NASZA ODPOWIEDŹ: WNIOSEK ZOSTAŁ UWZGLĘDNIONY" in page
    assert 'lang="pl"' in page
    assert "Send the answer and complete the case" in page
    settings.RTBF_REVIEWED_LETTERS_ONLY = True
    assert "asked for another language" in client.get(path).content.decode()
    settings.RTBF_AUTHORITY_NAME = ""
    page = client.get(path).content.decode()
    assert "<code>authority_name</code>" in page
    assert "Send the answer and complete the case" not in page


@pytest.mark.django_db
def test_staff_record_what_they_sent_themselves(
    intake_clerk: StaffMember, auditor: StaffMember
) -> None:
    case = factories.open_case(channel="post", email="").case
    letter = case.letters.get()
    path = f"/app/cases/{case.reference}/letters/{letter.pk}/sent"
    page = as_staff(intake_clerk, case).get(f"/app/cases/{case.reference}").content.decode()
    assert path in page
    assert as_staff(auditor).post(path).status_code == 403
    assert as_staff(intake_clerk).post(path).status_code == 302
    assert as_staff(intake_clerk).post(path).status_code == 409
    other = factories.confirmed_case()
    wrong = f"/app/cases/{other.reference}/letters/{letter.pk}/sent"
    assert as_staff(intake_clerk).post(wrong).status_code == 404


# --- Bounces ------------------------------------------------------------------------------------
POSTFIX = """\
Subject: Undelivered Mail Returned to Sender
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="edge"

--edge
Content-Type: text/plain; charset=us-ascii

The mail to zelda.canary@mailbox.example could not be delivered.

--edge
Content-Type: message/delivery-status

Reporting-MTA: dns; mx.controller.example

Final-Recipient: rfc822; zelda.canary@mailbox.example
Action: {action}
Status: 5.1.1
Diagnostic-Code: smtp; 550 5.1.1 <zelda.canary@mailbox.example> unknown

--edge
Content-Type: {quoted}

Message-ID: {message_id}
To: zelda.canary@mailbox.example

--edge--
"""


def notification(
    message_id: str, *, action: str = "failed", quoted: str = "message/rfc822"
) -> bytes:
    """A delivery status notification as Postfix writes it, about a mail with that Message-ID."""
    return POSTFIX.format(message_id=message_id, action=action, quoted=quoted).encode()


def sent_letter() -> Letter:
    factories.confirmed_case()
    letters.send_pending_letters()
    return Letter.objects.get()


@pytest.mark.django_db
@pytest.mark.parametrize("quoted", ["message/rfc822", "text/rfc822-headers"])
def test_a_bounce_marks_the_letter_once_and_is_logged_without_the_address(quoted: str) -> None:
    letter = sent_letter()
    message = mail.outbox[-1]
    assert isinstance(message, mail.EmailMessage)
    found = bounces.read_notification(
        notification(message.extra_headers["Message-ID"], quoted=quoted)
    )
    assert found is not None
    assert found.status == "5.1.1"
    assert bounces.record_bounce(found)
    assert not bounces.record_bounce(found)
    letter.refresh_from_db()
    assert letter.bounced_at is not None
    entries = [e for e in audit.case_entries(letter.case_id) if e.type == "letter.bounced"]
    assert len(entries) == 1
    assert not [c for c in factories.CANARIES if c.encode() in bytes(entries[0].body)]


@pytest.mark.django_db
def test_a_letter_that_came_back_is_counted_until_it_is_sent_in_another_way(
    officer: StaffMember,
) -> None:
    letter = sent_letter()
    bounces.record_bounce(bounces.Bounce(letters.message_id(letter), "5.1.1"))
    client = as_staff(officer)
    assert "Letters came back" in client.get("/app/").content.decode()
    queue = client.get("/app/cases?view=bounced").content.decode()
    assert letter.case.reference in queue
    page = client.get(f"/app/cases/{letter.case.reference}").content.decode()
    assert "came back" in page
    letters.record_letter_posted(letter_id=letter.pk, actor=staff_actor(officer))
    assert not selectors.bounced_letters().exists()
    assert [e.type for e in audit.case_entries(letter.case_id)].count("letter.sent") == 2
    late = bounces.Bounce(letters.message_id(letter), "5.1.1")
    assert not bounces.record_bounce(late)


@pytest.mark.django_db
@pytest.mark.parametrize("action", ["delayed", "delivered", "relayed", "expanded"])
def test_only_a_failure_for_good_counts(action: str) -> None:
    raw = notification(letters.message_id(sent_letter()), action=action)
    assert bounces.read_notification(raw) is None


@pytest.mark.django_db
def test_a_forged_message_id_marks_nothing() -> None:
    letter = sent_letter()
    real = letters.message_id(letter)
    forged = re.sub(r"\.[0-9a-f]{16}@", ".0123456789abcdef@", real)
    for each in (forged, real.replace(f".{letter.pk}.", f".{letter.pk + 1}."), "<x@y>", ""):
        with pytest.raises(NotFound):
            bounces.record_bounce(bounces.Bounce(each, "5.1.1"))
    assert not selectors.bounced_letters().exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"Subject: hello\n\nno notification",
        notification("<somebody@else.example>"),
        b"Content-Type: message/delivery-status\n\nAction: failed\n",
        b"x" * (bounces.LARGEST + 1),
    ],
)
def test_other_mail_is_refused_without_a_word_of_it(raw: bytes) -> None:
    with pytest.raises(Invalid) as refused:
        bounces.read_notification(raw)
    assert "zelda" not in str(refused.value)


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for each in (raw, notification("<x@y>").replace(b"Status: 5.1.1", raw)):
        with contextlib.suppress(Invalid):
            bounces.read_notification(each)


@pytest.mark.django_db
def test_the_command_reads_one_mail_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    letter = sent_letter()

    def note(raw: bytes) -> str:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(raw)))
        out = io.StringIO()
        call_command("note_bounce", stdout=out)
        return out.getvalue().strip()

    assert note(notification(letters.message_id(letter))) == "A letter is marked."
    assert note(notification(letters.message_id(letter))).startswith("The letter was marked")
    with pytest.raises(CommandError, match="not a delivery status notification"):
        note(EmailMessage().as_bytes())


@pytest.mark.django_db
def test_the_command_works_off_a_maildir(tmp_path: Path) -> None:
    letter = sent_letter()
    for name in ("new", "cur", "tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "new" / "1.zelda").write_bytes(notification(letters.message_id(letter)))
    (tmp_path / "new" / "2.other").write_bytes(b"Subject: hello\n\nzelda")
    out = io.StringIO()
    call_command("note_bounce", maildir=tmp_path, stdout=out)
    assert "1: A letter is marked." in out.getvalue()
    assert "zelda" not in out.getvalue()
    assert not list((tmp_path / "new").iterdir())
    assert len(list((tmp_path / "cur").iterdir())) == 2
    with pytest.raises(CommandError, match="no maildir"):
        call_command("note_bounce", maildir=tmp_path / "new")
