"""The API: OpenDSR as a processor, the record read-only; the same request twice is one case."""

import base64
import io
import json
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core import mail
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import api as api_module
from requests_app import audit, opendsr, vault
from requests_app.lifecycle import CaseStatus
from requests_app.models import ApiClient, ApiRequest, AuditEntry, Case, StaffMember
from requests_app.models.record import Channel
from requests_app.services import api_requests, cases, letters
from requests_app.services.api_requests import create_client
from requests_app.services.callbacks import send_callbacks
from requests_app.services.errors import Invalid
from requests_app.verifier import canonical
from tests import factories
from tests.threads import run_together
from tests.tls_server import Reply, Seen, certificate, served

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]

REQUESTS = "/api/opendsr/requests"
LEAF = x509.load_pem_x509_certificate(certificate().pem)


@pytest.fixture(autouse=True)
def certified(settings: Settings, tmp_path: Path) -> Path:
    """OpenDSR is set up, for the domain localhost."""
    for name, content in (
        ("key.pem", certificate().key_pem),
        ("cert.pem", certificate().pem),
        ("ca.pem", certificate().ca_pem),
    ):
        (tmp_path / name).write_bytes(content)
    settings.RTBF_OPENDSR_KEY = str(tmp_path / "key.pem")
    settings.RTBF_OPENDSR_CERTIFICATE = str(tmp_path / "cert.pem")
    settings.RTBF_OUTGOING_CA = str(tmp_path / "ca.pem")
    settings.RTBF_PUBLIC_URL = "https://localhost"
    return tmp_path


def make_client(**changes: Any) -> tuple[ApiClient, dict[str, Any]]:
    """A client and the headers of its calls."""
    values: dict[str, Any] = {
        "name": f"client-{ApiClient.objects.count()}",
        "controller_id": "controller-1",
        "role": "controller",
        "scopes": api_requests.SCOPES,
    }
    client, key = create_client(**{**values, **changes})
    return client, {"HTTP_AUTHORIZATION": f"Bearer {key}"}


def content(**changes: Any) -> dict[str, Any]:
    values = {
        "regulation": "gdpr",
        "subject_request_id": str(uuid4()),
        "subject_request_type": "erasure",
        "submitted_time": (timezone.now() - timedelta(days=3)).isoformat(),
        "subject_identities": [
            {
                "identity_type": "email",
                "identity_value": factories.EMAIL,
                "identity_format": "raw",
            }
        ],
        "api_version": "2.0",
        "extensions": {"localhost": {"name": factories.NAME}},
    }
    return {**values, **changes}


def post(client: Client, body: object, headers: dict[str, Any]) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(REQUESTS, raw, content_type="application/json", **headers)


def logged(case: Case, kind: str) -> dict[str, Any]:
    (entry,) = [e for e in audit.case_entries(case.id) if e.type == kind]
    body: Any = canonical.loads(bytes(entry.body), file="entry")
    data: dict[str, Any] = body["data"]
    return data


# --- Opening a case -------------------------------------------------------------------------------
def test_a_request_opens_a_case_and_is_answered_signed(client: Client) -> None:
    _, headers = make_client()
    body = content()
    answer = post(client, body, headers)
    assert answer.status_code == 201
    opendsr.check_signature(answer.content, answer.headers[opendsr.SIGNATURE], LEAF)
    assert answer.headers[opendsr.DOMAIN] == "localhost"
    told = answer.json()
    assert told["subject_request_id"] == body["subject_request_id"]
    assert json.loads(base64.b64decode(told["encoded_request"])) == body
    opendsr.check_signature(told["encoded_request"].encode(), told["processor_signature"], LEAF)
    case = Case.objects.get()
    assert (case.channel, case.status) == (Channel.API, CaseStatus.IDENTITY_CHECK)
    assert vault.get(case, "name") == factories.NAME
    assert vault.get(case, "email") == factories.EMAIL
    assert told["extensions"]["localhost"]["reference"] == case.reference


def test_the_access_code_that_the_client_hands_on_opens_the_status_page(client: Client) -> None:
    _, headers = make_client()
    ours = post(client, content(), headers).json()["extensions"]["localhost"]
    form = {"reference": ours["reference"], "access_code": ours["access_code"]}
    assert client.post("/status", form).status_code == 302


def test_as_controller_our_clock_runs_from_our_own_receipt(client: Client) -> None:
    _, headers = make_client()
    post(client, content(), headers)
    case = Case.objects.get()
    assert case.received_on == timezone.localdate()
    assert logged(case, "api.requested")["clock_from"] == "received_time"


def test_as_processor_we_act_on_instruction_and_the_clock_is_the_controllers(
    client: Client,
) -> None:
    _, headers = make_client(role="processor")
    answer = post(client, content(), headers)
    case = Case.objects.get()
    assert case.received_on == timezone.localdate() - timedelta(days=3)
    entry = logged(case, "api.requested")
    assert entry["on_instruction"] is True
    assert "access_code" not in answer.json()["extensions"]["localhost"]
    assert not vault.has(case, "email")  # the controller speaks with the person, not we
    assert vault.get(case, "aliases") == [factories.EMAIL]
    letters.send_pending_letters()
    assert mail.outbox == []


def test_the_log_holds_no_word_of_the_person(client: Client) -> None:
    _, headers = make_client()
    post(client, content(), headers)
    bodies = b"".join(bytes(row.body) for row in AuditEntry.objects.all()).decode()
    assert not any(canary in bodies for canary in factories.CANARIES)


# --- The same request twice -----------------------------------------------------------------------
@pytest.mark.parametrize("role", ["controller", "processor"])
def test_the_same_request_again_is_one_case_and_the_same_answer(client: Client, role: str) -> None:
    _, headers = make_client(role=role)
    raw = json.dumps(content()).encode()
    first = post(client, raw, headers)
    later = post(client, raw, headers)
    assert (first.status_code, later.status_code) == (201, 201)
    assert {**first.json(), "processor_signature": ""} == {
        **later.json(),
        "processor_signature": "",
    }
    assert Case.objects.count() == 1


def test_another_body_under_the_same_id_is_a_conflict(client: Client) -> None:
    _, headers = make_client()
    body = content()
    post(client, body, headers)
    answer = post(client, {**body, "regulation": "ccpa"}, headers)
    assert answer.status_code == 409
    assert answer.json()["code"] == 409
    assert Case.objects.count() == 1


def test_an_id_belongs_to_its_client(client: Client) -> None:
    _, first = make_client()
    _, second = make_client()
    body = content()
    post(client, body, first)
    url = f"{REQUESTS}/{body['subject_request_id']}"
    assert client.get(url, **second).status_code == 404
    assert client.delete(url, **second).status_code == 404
    assert post(client, body, second).status_code == 201
    assert Case.objects.count() == 2


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_the_same_request_at_the_same_moment_is_one_case() -> None:
    _, headers = make_client()
    raw = json.dumps(content()).encode()

    answers: list[int] = []

    def send() -> None:
        answers.append(post(Client(), raw, headers).status_code)

    run_together(send, 3)
    assert answers == [201, 201, 201]
    assert Case.objects.count() == ApiRequest.objects.count() == 1


# --- Following and cancelling ---------------------------------------------------------------------
def test_the_status_follows_the_case(client: Client) -> None:
    _, headers = make_client()
    body = content()
    post(client, body, headers)
    url = f"{REQUESTS}/{body['subject_request_id']}"
    answer = client.get(url, **headers)
    opendsr.check_signature(answer.content, answer.headers[opendsr.SIGNATURE], LEAF)
    assert answer.json()["request_status"] == "pending"
    case = Case.objects.get()
    for status, word in (
        (CaseStatus.EXECUTING, "in_progress"),
        (CaseStatus.RESPONDING, "in_progress"),
        (CaseStatus.COMPLETED, "completed"),
    ):
        Case.objects.filter(pk=case.pk).update(status=status)
        assert client.get(url, **headers).json()["request_status"] == word


def test_every_state_of_a_case_has_a_word() -> None:
    assert set(api_requests.STATUS) == set(CaseStatus)


def test_a_pending_request_is_cancelled_once_and_again(client: Client) -> None:
    _, headers = make_client()
    body = content()
    post(client, body, headers)
    url = f"{REQUESTS}/{body['subject_request_id']}"
    for _ in range(2):
        answer = client.delete(url, **headers)
        assert answer.status_code == 202
        assert answer.json()["request_status"] == "cancelled"
    case = Case.objects.get()
    assert case.status == CaseStatus.WITHDRAWN
    assert logged(case, "case.withdrawn") == {"by": "client"}


def test_what_is_carried_out_cannot_be_cancelled(client: Client) -> None:
    _, headers = make_client()
    body = content()
    post(client, body, headers)
    Case.objects.update(status=CaseStatus.EXECUTING)
    answer = client.delete(f"{REQUESTS}/{body['subject_request_id']}", **headers)
    assert answer.status_code == 409


# --- Refusals -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"regulation": "lgpd"},
        {"subject_request_type": "access"},
        {"subject_request_id": "not-a-uuid canary"},
        {"submitted_time": "yesterday canary"},
        {"submitted_time": "2026-01-01T00:00:00"},
        {"submitted_time": "0001-01-01T00:00:00+14:00"},
        {"submitted_time": "9999-12-31T23:59:59Z"},
        {"subject_identities": []},
        {"subject_identities": [{"identity_type": "canary", "identity_value": "canary"}]},
        {"subject_identities": [{"identity_type": "email", "identity_value": "canary"}]},
        {
            "subject_identities": [
                {"identity_type": "email", "identity_value": "x", "identity_format": "sha256"}
            ]
        },
        {"subject_identities": [{"identity_type": "email", "identity_value": "canary\u0000@x.y"}]},
        {"extensions": {"canary": {"name": 7}}},
        {"extensions": {"localhost": {"name": "x" * 201}}},
        {"extensions": {"localhost": {"scope": ["Model:../canary"]}}},
        {"status_callback_urls": ["https://canary.example/"]},
        {"status_callback_urls": ["http://169.254.169.254/canary"]},
        {"canary": "missing fields", "regulation": None},
    ],
)
def test_a_bad_request_is_refused_without_repeating_it(
    client: Client, changes: dict[str, Any]
) -> None:
    _, headers = make_client()
    answer = post(client, content(**changes), headers)
    assert answer.status_code == 400
    assert set(answer.json()) == {"code", "message", "errors"}
    text = answer.content.decode()
    assert not any(canary in text for canary in factories.CANARIES)
    assert not Case.objects.exists()


def test_it_speaks_english_whatever_languages_a_client_accepts(client: Client) -> None:
    _, headers = make_client()
    body = content(extensions={"localhost": {"name": "x\u0007"}})
    answer = post(client, body, {**headers, "HTTP_ACCEPT_LANGUAGE": "de"})
    assert answer.status_code == 400
    assert answer.json()["message"] == "The name holds control characters; type it again."
    assert answer.headers["Content-Language"] == "en"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"[]", b"null", b'"canary"', b"\xff\xfe", b'{"a": NaN}', b"[" * 50_000]
)
def test_what_is_no_json_object_is_refused(client: Client, raw: bytes) -> None:
    _, headers = make_client()
    answer = post(client, raw, headers)
    assert answer.status_code == 400
    assert b"canary" not in answer.content


def test_a_lone_surrogate_is_refused_and_not_a_fault(client: Client) -> None:
    _, headers = make_client()
    raw = json.dumps(content(extensions={"localhost": {"name": "\ud800"}})).encode()
    assert post(client, raw, headers).status_code == 400


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer x", "Basic eDp5", "Bearer \u00e9"])
def test_without_a_known_key_nothing_opens(client: Client, value: str) -> None:
    make_client()
    answer = client.get("/api/cases", HTTP_AUTHORIZATION=value)
    assert answer.status_code == 401
    assert answer.json()["code"] == 401


def test_a_revoked_key_opens_nothing(client: Client) -> None:
    row, headers = make_client()
    assert client.get("/api/cases", **headers).status_code == 200
    call_command("revoke_api_client", row.name, stdout=io.StringIO())
    assert client.get("/api/cases", **headers).status_code == 401
    with pytest.raises(CommandError, match="before"):
        call_command("revoke_api_client", row.name)


@pytest.mark.parametrize("scope", api_requests.SCOPES)
def test_a_key_does_what_its_scopes_say_and_no_more(client: Client, scope: str) -> None:
    _, headers = make_client(scopes=[scope])
    calls: dict[str, Callable[[], int]] = {
        "write:requests": lambda: post(client, content(), headers).status_code,
        "read:cases": lambda: client.get("/api/cases", **headers).status_code,
        "read:evidence": lambda: client.get("/api/cases/ERQ-1/evidence", **headers).status_code,
    }
    refused = {name for name, call in calls.items() if call() == 403}
    assert refused == calls.keys() - {scope}


def test_too_many_calls_of_one_client_are_refused_and_hinder_no_other(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "PER_MINUTE", 3)
    _, busy = make_client()
    _, other = make_client()
    codes = [client.get("/api/cases", **busy).status_code for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert client.get("/api/cases", **other).status_code == 200


def test_without_a_certificate_opendsr_is_not_offered(client: Client, settings: Settings) -> None:
    _, headers = make_client()
    settings.RTBF_OPENDSR_CERTIFICATE = ""
    assert client.get("/api/opendsr/discovery").status_code == 404
    assert post(client, content(), headers).status_code == 404
    assert not Case.objects.exists()


# --- Signed requests ------------------------------------------------------------------------------
def signed(
    key: Ed25519PrivateKey, method: str, path: str, raw: bytes, *, at: float | None = None
) -> dict[str, str]:
    timestamp = str(int(at or time.time()))
    text = api_requests.signed_text(method=method, path=path, body=raw, timestamp=timestamp)
    return {
        "HTTP_X_RTBF_TIMESTAMP": timestamp,
        "HTTP_X_RTBF_SIGNATURE": base64.b64encode(key.sign(text)).decode(),
    }


def test_a_client_with_a_verify_key_signs_every_change(client: Client) -> None:
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    _, headers = make_client(verify_key=public)
    raw = json.dumps(content()).encode()
    other = Ed25519PrivateKey.generate()
    bad = [
        {},
        signed(other, "POST", REQUESTS, raw),
        signed(key, "DELETE", REQUESTS, raw),
        signed(key, "POST", f"{REQUESTS}/x", raw),
        signed(key, "POST", REQUESTS, raw + b" "),
        signed(key, "POST", REQUESTS, raw, at=time.time() - api_requests.REPLAY_SECONDS - 5),
        signed(key, "POST", REQUESTS, raw, at=time.time() + api_requests.REPLAY_SECONDS + 5),
        {**signed(key, "POST", REQUESTS, raw), "HTTP_X_RTBF_TIMESTAMP": "\u0663"},
        {**signed(key, "POST", REQUESTS, raw), "HTTP_X_RTBF_SIGNATURE": "!"},
    ]
    for each in bad:
        assert post(client, raw, {**headers, **each}).status_code == 401
    assert not Case.objects.exists()
    assert post(client, raw, {**headers, **signed(key, "POST", REQUESTS, raw)}).status_code == 201
    assert client.get("/api/cases", **headers).status_code == 200  # reading needs none


# --- Callbacks ------------------------------------------------------------------------------------
def test_each_new_status_is_called_back_once_and_signed(client: Client, certified: Path) -> None:
    status = 503

    def reply(seen: Seen) -> Reply:
        return status, {}, b""

    with served(reply, certified) as (port, seen):
        host = f"localhost:{port}"
        _, headers = make_client(callback_hosts=[host])
        url = f"https://{host}/told"
        body = content(status_callback_urls=[url])
        assert post(client, body, headers).status_code == 201
        assert send_callbacks() == 0  # pending is what the answer said
        Case.objects.update(status=CaseStatus.EXECUTING)
        assert send_callbacks() == 0
        assert send_callbacks() == 0  # not before its time
        assert len(seen) == 1
        status = 202
        ApiRequest.objects.update(next_try_at=None)
        assert send_callbacks() == 1
        assert send_callbacks() == 0
    told = json.loads(seen[-1].body)
    assert told["request_status"] == "in_progress"
    assert told["status_callback_url"] == url
    assert told["subject_request_id"] == body["subject_request_id"]
    opendsr.check_signature(seen[-1].body, seen[-1].headers[opendsr.SIGNATURE.lower()], LEAF)


# --- The record, read-only ------------------------------------------------------------------------
def test_the_list_of_cases_shows_nobody(client: Client) -> None:
    case = factories.confirmed_case()
    _, headers = make_client()
    answer = client.get("/api/cases", **headers).json()
    assert answer["total"] == 1
    assert answer["cases"][0]["reference"] == case.reference
    assert not any(canary in json.dumps(answer) for canary in factories.CANARIES)
    assert client.get("/api/cases?status=completed", **headers).json()["total"] == 0
    assert client.get("/api/cases?status=canary", **headers).status_code == 400


def test_the_evidence_of_a_case_is_the_export(client: Client, officer: StaffMember) -> None:
    case = factories.responding_case()
    cases.send_answer(case_id=case.id, actor_member=officer)
    _, headers = make_client()
    answer = client.get(f"/api/cases/{case.reference}/evidence", **headers)
    assert answer.status_code == 200
    assert answer.json()["reference"] == case.reference
    assert not any(canary in answer.content.decode() for canary in factories.CANARIES)
    assert client.get("/api/cases/ERQ-2026-999999/evidence", **headers).status_code == 404


# --- Keys -----------------------------------------------------------------------------------------
def test_a_key_is_shown_once_and_kept_as_a_digest(client: Client) -> None:
    out = io.StringIO()
    arguments = ["tool", "--controller-id", "c", "--role", "controller", "--scope", "read:cases"]
    call_command("create_api_client", *arguments, stdout=out)
    key = out.getvalue().strip()
    assert len(key) >= 43
    row = ApiClient.objects.get()
    assert key not in str(vars(row))
    assert client.get("/api/cases", HTTP_AUTHORIZATION=f"Bearer {key}").status_code == 200
    with pytest.raises(CommandError, match="already"):
        call_command("create_api_client", *arguments)


@pytest.mark.parametrize(
    "changes", [{"scopes": []}, {"scopes": ["all"]}, {"role": "x"}, {"verify_key": "AAAA"}]
)
def test_a_client_is_entered_whole(changes: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        make_client(**changes)


@given(st.text(max_size=60))
def test_no_guessed_key_is_anybodys(text: str) -> None:
    assert api_requests.client_of(text) is None
