"""Recipients are told of an erasure, and no case is complete before (Art. 19 and 17(2) GDPR)."""

import base64
import hashlib
import hmac
import io
import json
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from django.core import mail
from django.core.management import call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import audit, opendsr, vault
from requests_app.lifecycle import CaseStatus, NoticeState
from requests_app.models import Case, Recipient, RecipientNotice, StaffMember
from requests_app.models.people import Role
from requests_app.services import cases, recipients, tries
from requests_app.services.errors import Invalid, NotAllowed, WrongState
from requests_app.services.recipients import RecipientData
from tests import factories
from tests.factories import make_staff, responding_case
from tests.staff import as_staff
from tests.tls_server import Reply, Seen, certificate, served

pytestmark = pytest.mark.django_db


def make_recipient(**changes: Any) -> Recipient:
    values = {"name": "Vendor", "kind": "processor", "how": "mail", "email": "dsr@vendor.example"}
    data = RecipientData(**{**values, **changes})
    return recipients.save_recipient(data=data, actor_member=make_staff(Role.OFFICER))


def text_of(notice: RecipientNotice) -> str:
    words = vault.get(notice.case, f"notice/{notice.pk}/text")
    assert isinstance(words, str)
    return words


def types(case: Case) -> list[str]:
    return [entry.type for entry in audit.case_entries(case.id)]


def test_approval_queues_a_notice_for_each_recipient_of_what_is_erased() -> None:
    concerned = make_recipient(systems=("model:demo", "data_store:other"))
    everything = make_recipient(name="Everything")
    make_recipient(name="Elsewhere", systems=("model:another",))
    gone = make_recipient(name="Gone")
    recipients.retire_recipient(recipient_id=gone.pk, actor_member=make_staff(Role.OFFICER))
    case = factories.executing_case()
    assert {n.recipient for n in case.notices.all()} == {concerned, everything}
    assert types(case).count("notice.queued") == 2


def test_a_refusal_concerns_nobody_else(officer: StaffMember, approver: StaffMember) -> None:
    make_recipient()
    case = factories.propose(factories.case_in_review(), outcome="refused")
    cases.approve_decision(case_id=case.id, actor_member=approver)
    assert not case.notices.exists()
    cases.send_answer(case_id=case.id, actor_member=officer)


def test_no_case_is_complete_before_every_recipient_was_told(officer: StaffMember) -> None:
    make_recipient()
    make_recipient(name="By hand", how="hand", email="")
    case = responding_case()
    with pytest.raises(WrongState, match=r"2 recipients of the data were not told"):
        cases.send_answer(case_id=case.id, actor_member=officer)
    recipients.send_pending_notices()
    with pytest.raises(WrongState, match=r"1 recipient of the data was not told"):
        cases.send_answer(case_id=case.id, actor_member=officer)
    assert Case.objects.get(pk=case.pk).status == CaseStatus.RESPONDING
    left = case.notices.get(state=NoticeState.TO_SEND)
    recipients.waive_notice(
        notice_id=left.pk, cause="impossible", reason="Wound up in 2025.", actor_member=officer
    )
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    words = vault.get(case, f"letter/{letter.pk}")
    assert "We told 1 recipient of the erasure" in words
    assert "For 1 more that was impossible or a disproportionate effort." in words
    assert "If you ask us, we name the recipients" in words
    assert Case.objects.get(pk=case.pk).status == CaseStatus.COMPLETED


@given(st.lists(st.sampled_from(NoticeState.values), max_size=4))
def test_completion_asks_for_every_notice_whatever_the_others_are(states: list[str]) -> None:
    with transaction.atomic():
        case = factories.open_case().case
        for state in states:
            row = Recipient.objects.create(
                name=str(uuid4()), kind="processor", how="hand", created_at=timezone.now()
            )
            RecipientNotice.objects.create(
                case=case,
                recipient=row,
                state=state,
                cause="impossible" if state == NoticeState.IMPOSSIBLE else "",
                created_at=timezone.now(),
            )
        if NoticeState.TO_SEND in states:
            with pytest.raises(WrongState):
                recipients.require_recipients_told(case)
        else:
            recipients.require_recipients_told(case)
        transaction.set_rollback(True)


def test_a_case_without_recipients_is_answered_as_before(officer: StaffMember) -> None:
    case = responding_case()
    letter = cases.send_answer(case_id=case.id, actor_member=officer)
    assert "So far no recipient of your data was recorded" in vault.get(case, f"letter/{letter.pk}")


# --- What they are told ---------------------------------------------------------------------------
def test_a_recipient_that_matches_keyed_ids_reads_no_name() -> None:
    row = make_recipient(matches_keyed_id=True)
    case = factories.executing_case()
    text = text_of(case.notices.get())
    assert not any(canary in text for canary in factories.CANARIES)
    out = io.StringIO()
    call_command("recipient_key", row.name, stdout=out)
    key = bytes.fromhex(out.getvalue().strip())
    told = hmac.new(key, factories.EMAIL.encode(), hashlib.sha256).hexdigest()
    assert told in text  # the recipient finds the person by its own key


def test_two_recipients_cannot_join_what_they_are_told() -> None:
    first, second = make_recipient(), make_recipient(name="Second")
    assert recipients.keyed_id(first, "A@b.example") == recipients.keyed_id(first, " a@b.example ")
    assert recipients.keyed_id(first, "a@b.example") != recipients.keyed_id(second, "a@b.example")


def test_another_recipient_reads_the_least_that_names_the_person() -> None:
    make_recipient(systems=("model:demo",))
    case = factories.executing_case(scope=("data_store:crm", "model:demo"))
    text = text_of(case.notices.get())
    assert factories.NAME in text
    assert factories.EMAIL in text
    assert "model:demo" in text
    assert "crm" not in text  # not its system
    assert not any(each in text for each in (factories.ALIAS, factories.MESSAGE, factories.ANSWER))


def test_the_mail_goes_out_once_with_the_reference_as_its_subject() -> None:
    make_recipient()
    case = factories.executing_case()
    mail.outbox.clear()
    assert recipients.send_pending_notices() == 1
    assert recipients.send_pending_notices() == 0
    (sent,) = mail.outbox
    assert sent.subject == f"Notice of erasure {case.reference}"
    assert sent.to == ["dsr@vendor.example"]
    assert case.notices.get().state == NoticeState.SENT
    assert types(case).count("notice.sent") == 1


def test_a_mail_that_fails_is_tried_again_after_a_pause_that_doubles(settings: Settings) -> None:
    make_recipient()
    case = factories.executing_case()
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    pauses = []
    for _ in range(3):
        RecipientNotice.objects.update(next_try_at=timezone.now() - timedelta(seconds=1))
        assert recipients.send_pending_notices() == 0
        assert recipients.send_pending_notices() == 0  # not before its time
        notice = case.notices.get()
        assert notice.next_try_at is not None
        pauses.append(round((notice.next_try_at - timezone.now()).total_seconds() / 60))
    assert pauses == [1, 2, 4]
    assert notice.tries == 3
    assert notice.problem
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    RecipientNotice.objects.update(next_try_at=timezone.now() - timedelta(seconds=1))
    assert recipients.send_pending_notices() == 1
    assert case.notices.get().problem == ""


def test_the_pause_never_grows_beyond_hours(settings: Settings) -> None:
    make_recipient()
    factories.executing_case()
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    settings.RTBF_SEND_TRIES = 3_000_000
    RecipientNotice.objects.update(tries=2_000_000)
    recipients.send_pending_notices()
    notice = RecipientNotice.objects.get()
    assert notice.next_try_at is not None
    assert notice.next_try_at <= timezone.now() + tries.LONGEST_PAUSE


# --- By OpenDSR -----------------------------------------------------------------------------------
def vendor(seen: Seen) -> Reply:
    if seen.path == "/discovery":
        address = f"https://{seen.headers['host']}/cert.pem"
        return 200, {}, json.dumps({"processor_certificate": address}).encode()
    if seen.path == "/cert.pem":
        return 200, {}, certificate().pem
    answer = json.dumps(
        {
            "expected_completion_time": "2026-12-01T00:00:00Z",
            "encoded_request": base64.b64encode(seen.body).decode(),
            "subject_request_id": json.loads(seen.body)["subject_request_id"],
        }
    ).encode()
    signature = certificate().key.sign(answer, ec.ECDSA(SHA256()))
    headers = {
        opendsr.DOMAIN: "localhost",
        opendsr.SIGNATURE: base64.b64encode(signature).decode(),
    }
    return 201, headers, answer


@pytest.mark.parametrize("keyed", [True, False])
def test_a_signed_answer_to_a_call_settles_the_notice(
    keyed: bool, settings: Settings, tmp_path: Path
) -> None:
    settings.RTBF_OUTGOING_CA = str(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_bytes(certificate().ca_pem)
    with served(vendor, tmp_path) as (port, seen):
        make_recipient(how="opendsr", endpoint=f"https://localhost:{port}", matches_keyed_id=keyed)
        case = factories.executing_case()
        assert recipients.send_pending_notices() == 1
    notice = case.notices.get()
    assert notice.state == NoticeState.ACKNOWLEDGED
    sent = json.loads(seen[-1].body)
    assert sent["subject_request_id"] == str(notice.request_id)
    assert sent["subject_request_type"] == "erasure"
    assert (factories.EMAIL in seen[-1].body.decode()) is not keyed
    kept = json.dumps([vault.get(case, each.name) for each in case.vault_items.all()])
    assert base64.b64encode(seen[-1].body).decode() not in kept  # encoded_request is never stored


def test_an_answer_without_a_signature_settles_nothing(settings: Settings, tmp_path: Path) -> None:
    settings.RTBF_OUTGOING_CA = str(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_bytes(certificate().ca_pem)

    def unsigned(seen: Seen) -> Reply:
        status, headers, body = vendor(seen)
        return (status, {}, body) if seen.method == "POST" else (status, headers, body)

    with served(unsigned, tmp_path) as (port, seen):
        make_recipient(how="opendsr", endpoint=f"https://localhost:{port}")
        case = factories.executing_case()
        assert recipients.send_pending_notices() == 0
        first = json.loads(seen[-1].body)["subject_request_id"]
        RecipientNotice.objects.update(next_try_at=None)
        assert recipients.send_pending_notices() == 0
        assert json.loads(seen[-1].body)["subject_request_id"] == first  # the same request again
    notice = case.notices.get()
    assert (notice.state, notice.problem) == (NoticeState.TO_SEND, "OpenDsrError")


# --- Rules ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"how": "mail", "email": ""},
        {"how": "mail", "email": "no address"},
        {"how": "opendsr", "endpoint": ""},
        {"how": "opendsr", "endpoint": "http://vendor.example/"},
        {"how": "opendsr", "endpoint": "https://user@vendor.example/"},
        {"how": "pigeon"},
        {"kind": "friend"},
        {"name": " "},
        {"systems": ("demo",)},
        {"systems": ("person:demo",)},
    ],
)
def test_a_recipient_that_cannot_be_told_is_not_entered(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        make_recipient(**changes)
    assert not Recipient.objects.exists()


def test_the_database_refuses_a_recipient_that_cannot_be_reached() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Recipient.objects.create(
            name="x", kind="processor", how="mail", email="", created_at=timezone.now()
        )


def test_only_case_officers_keep_the_register(approver: StaffMember) -> None:
    data = RecipientData(name="V", kind="processor", how="hand")
    with pytest.raises(NotAllowed):
        recipients.save_recipient(data=data, actor_member=approver)


def test_a_waiver_needs_cause_and_reason_and_the_log_keeps_no_words(officer: StaffMember) -> None:
    make_recipient()
    notice = factories.executing_case().notices.get()
    for cause, reason in (("", "words"), ("lazy", "words"), ("impossible", " ")):
        with pytest.raises(Invalid):
            recipients.waive_notice(
                notice_id=notice.pk, cause=cause, reason=reason, actor_member=officer
            )
    recipients.waive_notice(
        notice_id=notice.pk, cause="disproportionate", reason="canary", actor_member=officer
    )
    assert recipients.send_pending_notices() == 0
    bodies = b"".join(bytes(e.body) for e in audit.case_entries(notice.case_id))
    assert b"canary" not in bodies
    recipients.record_notice_sent(notice_id=notice.pk, actor_member=officer)  # possible after all
    assert RecipientNotice.objects.get().cause == ""


def test_who_asks_is_told_who_they_are(officer: StaffMember) -> None:
    make_recipient()
    case = factories.executing_case()
    recipients.send_pending_notices()
    letter = recipients.disclose_recipients(case_id=case.id, actor_member=officer)
    words = vault.get(case, f"letter/{letter.pk}")
    assert "- Vendor (Processor): Told" in words
    assert case.notices.get().disclosed_at is not None
    assert types(case).count("recipients.disclosed") == 1


# --- Pages ----------------------------------------------------------------------------------------
def test_an_officer_keeps_the_register_on_its_page(client: Client, officer: StaffMember) -> None:
    client.force_login(officer)
    form = {"name": "Vendor", "kind": "model_host", "how": "mail", "email": "d@vendor.example"}
    refused = client.post("/app/recipients/new", {**form, "email": ""})
    assert refused.status_code == 422
    assert "missing or not a valid address" in refused.content.decode()
    assert client.post("/app/recipients/new", {**form, "systems": "model:demo"}).status_code == 302
    row = Recipient.objects.get()
    assert row.systems == ["model:demo"]
    page = client.get(f"/app/recipients/{row.pk}").content.decode()
    assert "model:demo" in page
    client.post(f"/app/recipients/{row.pk}", {**form, "name": "Renamed"})
    assert "Renamed" in client.get("/app/recipients").content.decode()
    assert client.post(f"/app/recipients/{row.pk}/retire").status_code == 302
    assert client.get(f"/app/recipients/{row.pk}").status_code == 404


def test_others_read_the_register_and_change_nothing(client: Client, auditor: StaffMember) -> None:
    make_recipient()
    client.force_login(auditor)
    page = client.get("/app/recipients").content.decode()
    assert "Vendor" in page
    assert "Add a recipient" not in page
    assert client.get("/app/recipients/new").status_code == 403


def test_the_case_page_leads_through_its_recipients(officer: StaffMember) -> None:
    make_recipient(how="hand")
    case = responding_case()
    notice = case.notices.get()
    asked = as_staff(officer).get(f"/app/cases/{case.reference}/notices/{notice.pk}/text")
    assert asked.status_code == 302
    assert "/reveal" in asked["Location"]
    client = as_staff(officer, case)
    base = f"/app/cases/{case.reference}"
    assert f'data-notice="{notice.pk}" data-state="to_send"' in client.get(base).content.decode()
    blocked = client.post(f"{base}/answer")
    assert blocked.status_code == 409
    assert "not told yet" in blocked.content.decode()
    text = client.get(f"{base}/notices/{notice.pk}/text")
    assert "NOTICE OF ERASURE" in text.content.decode()
    assert client.post(f"{base}/notices/{notice.pk}", {"action": "nonsense"}).status_code == 409
    assert client.post(f"{base}/notices/{notice.pk}", {"action": "sent"}).status_code == 302
    assert client.post(f"{base}/notices/{notice.pk}", {"action": "acknowledged"}).status_code == 302
    assert client.post(f"{base}/notices/{notice.pk}", {"action": "sent"}).status_code == 409
    assert client.post(f"{base}/recipients").status_code == 302
    assert client.post(f"{base}/answer").status_code == 302


def test_a_notice_is_waived_on_its_page(client: Client, officer: StaffMember) -> None:
    make_recipient()
    case = factories.executing_case()
    client.force_login(officer)
    url = f"/app/cases/{case.reference}/notices/{case.notices.get().pk}/impossible"
    assert client.post(url, {"cause": "impossible"}).status_code == 422
    assert client.post(url, {"cause": "impossible", "reason": "Gone."}).status_code == 302
    assert case.notices.get().state == NoticeState.IMPOSSIBLE
