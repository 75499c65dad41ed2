"""Data Rights Protocol 1.0: what agents sign is checked in its order, and a mandate comes first."""

import base64
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.test import Client
from django.utils import timezone
from hypothesis import HealthCheck, given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import audit, drp, drp_api, selectors, vault
from requests_app.actors import SYSTEM, staff_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import ApiClient, ApiRequest, AuditEntry, Case, StaffMember
from requests_app.models.record import Channel
from requests_app.services import (
    agent_requests,
    api_requests,
    cases,
    clock,
    duplicates,
    intake,
    letters,
    mandates,
)
from requests_app.services.callbacks import send_callbacks
from requests_app.services.errors import Invalid, WrongState
from tests import factories
from tests.json_values import json_values
from tests.threads import run_together
from tests.tls_server import Reply, Seen, certificate, served

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("entries_last")]

BASE = "/api/drp/v1"
REQUESTS = f"{BASE}/data-rights-request"
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
Headers = dict[str, Any]


@pytest.fixture(autouse=True)
def set_up(settings: Settings) -> None:
    settings.RTBF_DRP_BUSINESS_ID = "CONTROLLER"


def make_agent(
    agent_id: str = "AGENT", *, key: Ed25519PrivateKey = KEY, **changes: Any
) -> tuple[ApiClient, Headers]:
    """An agent with the token that it fetched, as headers."""
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    values = {"role": "agent", "scopes": ["write:requests"], "verify_key": public, **changes}
    agent, _ = api_requests.create_client(name=agent_id.title(), controller_id=agent_id, **values)
    raw = signed(claims(agent_id), key=key)
    token = agent_requests.make_token(agent_id, raw)
    agent.refresh_from_db()
    return agent, {"HTTP_AUTHORIZATION": f"Bearer {token}"}


def claims(agent_id: str = "AGENT", **changes: Any) -> dict[str, Any]:
    now = timezone.now()
    values = {
        "agent-id": agent_id,
        "business-id": "CONTROLLER",
        "issued-at": now.isoformat(),
        "expires-at": (now + timedelta(minutes=10)).isoformat(),
        "drp.version": "1.0",
    }
    return {**values, **changes}


def order(**changes: Any) -> dict[str, Any]:
    values = {
        "exercise": "deletion",
        "regime": "ccpa",
        "agent-request-id": str(uuid4()),
        "name": factories.NAME,
        "email": factories.EMAIL,
        "email_verified": True,
        "phone_number": "+14155550100",
        "address": {"formatted": "9 Canary Street"},
        "power_of_attorney": "canary-document-7",
    }
    return claims(**{**values, **changes})


def signed(message: object, *, key: Ed25519PrivateKey = KEY) -> bytes:
    """libsodium's combined mode, as PyNaCl's SigningKey.sign(…, encoder=Base64Encoder) makes it."""
    content = message if isinstance(message, bytes) else json.dumps(message).encode()
    return base64.b64encode(key.sign(content) + content)


def post(client: Client, raw: bytes, headers: Headers, url: str = REQUESTS) -> Any:
    return client.post(url, raw, content_type="text/plain", **headers)


def opened(client: Client, headers: Headers, **changes: Any) -> tuple[Case, dict[str, Any]]:
    answer = post(client, signed(order(**changes)), headers)
    assert answer.status_code == 200, answer.content
    told: dict[str, Any] = answer.json()
    return Case.objects.get(reference=told["reference"]), told


def status_of(client: Client, told: dict[str, Any], headers: Headers) -> dict[str, Any]:
    answer = client.get(f"{REQUESTS}/{told['request_id']}", **headers)
    assert answer.status_code == 200
    content: dict[str, Any] = answer.json()
    return content


def record_mandate(case: Case, member: StaffMember, *, covers_answers: bool) -> str:
    return mandates.record_mandate(
        case_id=case.id,
        kind="agent",
        sender="The agent",
        note="The signed power of attorney",
        covers_answers=covers_answers,
        actor=staff_actor(member),
    )


# --- Pairwise key set-up --------------------------------------------------------------------------
def test_an_agent_fetches_its_token_by_a_signed_message(client: Client) -> None:
    agent, first = make_agent()
    raw = signed(claims())
    answer = post(client, raw, {}, f"{BASE}/agent/AGENT")
    assert answer.status_code == 200
    assert answer.json()["agent-id"] == "AGENT"
    headers: Headers = {"HTTP_AUTHORIZATION": f"Bearer {answer.json()['token']}"}
    assert client.get(f"{BASE}/agent/AGENT", **headers).json() == {}
    assert client.get(f"{BASE}/agent/OTHER", **headers).status_code == 403
    assert client.get(f"{BASE}/agent/AGENT", **first).status_code == 401  # a new one ends it
    replayed = post(client, raw, {}, f"{BASE}/agent/AGENT")
    assert (replayed.status_code, replayed.content) == (403, b"")
    assert client.get(f"{BASE}/agent/AGENT", **headers).status_code == 200
    assert answer.json()["token"] not in str(vars(ApiClient.objects.get(pk=agent.pk)))


@pytest.mark.parametrize(
    ("agent_id", "changes", "key"),
    [
        ("AGENT", {}, OTHER_KEY),
        ("AGENT", {"agent-id": "OTHER"}, KEY),
        ("AGENT", {"business-id": "ELSEWHERE"}, KEY),
        ("AGENT", {"expires-at": "2026-01-01T00:00:00Z"}, KEY),
        ("NOBODY", {"agent-id": "NOBODY"}, KEY),
        ("agent%00", {}, KEY),
    ],
)
def test_a_set_up_that_does_not_hold_is_refused_without_a_word(
    client: Client, agent_id: str, changes: dict[str, Any], key: Ed25519PrivateKey
) -> None:
    _, headers = make_agent()
    answer = post(client, signed(claims(**changes), key=key), {}, f"{BASE}/agent/{agent_id}")
    assert (answer.status_code, answer.content) == (403, b"")
    assert client.get(f"{BASE}/agent/AGENT", **headers).status_code == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"verify_key": ""},
        {"scopes": ["write:requests", "read:cases"]},
        {"agent_id": "no capitals"},
        {"agent_id": "AGENT"},
    ],
)
def test_an_agent_is_entered_with_its_key_and_no_more_rights_than_to_ask(
    changes: dict[str, Any],
) -> None:
    if changes.get("agent_id") == "AGENT":
        make_agent()
    with pytest.raises(Invalid):
        make_agent(**changes)


def test_an_agents_token_opens_no_call_that_asks_for_no_mandate(client: Client) -> None:
    _, agent = make_agent()
    _, key = api_requests.create_client(
        name="tool", controller_id="c", role="controller", scopes=api_requests.SCOPES
    )
    assert client.get("/api/cases", **agent).status_code == 401
    assert (
        client.post("/api/opendsr/requests", b"{}", "application/json", **agent).status_code == 401
    )
    raw = signed(order())
    assert post(client, raw, {"HTTP_AUTHORIZATION": f"Bearer {key}"}).status_code == 401
    assert not Case.objects.exists()


# --- Exercising -----------------------------------------------------------------------------------
def test_a_deletion_opens_a_case_on_behalf_of_the_person(client: Client) -> None:
    agent, headers = make_agent()
    case, told = opened(client, headers)
    assert (case.channel, case.status) == (Channel.API, CaseStatus.IDENTITY_CHECK)
    assert case.on_behalf
    assert case.jurisdiction.startswith("CA/")
    assert vault.get(case, "email") == factories.EMAIL
    assert vault.get(case, "aliases") == ["+14155550100"]
    message = vault.get(case, "message")
    assert "9 Canary Street" in message
    assert "canary-document-7" in message
    assert "Verified, as the agent says: email" in message
    assert told["status"] == "in_progress"
    assert told["agent_request_id"] == vault.get(case, "api/agent_request_id")
    assert datetime.fromisoformat(told["expected_by"]) > timezone.now()
    assert selectors.access_ok(case.reference, told["access_code"]) == case
    entries = b"".join(bytes(row.body) for row in AuditEntry.objects.all()).decode()
    assert not any(canary in entries for canary in factories.CANARIES)
    assert f'"client:{agent.pk}"' in entries


def test_nothing_goes_on_before_the_agents_mandate_was_looked_at(
    client: Client, officer: StaffMember
) -> None:
    """Whatever the agent says it verified; and its request finds and touches no other."""
    earlier = factories.case_in_review()
    before = audit.case_entries(earlier.id)
    _, headers = make_agent()
    case, _ = opened(client, headers)
    assert not duplicates.same_contact(case).exists()
    assert audit.case_entries(earlier.id) == before
    with pytest.raises(WrongState, match="record the mandate first"):
        cases.record_identity(
            case_id=case.id, method="held_attributes", note="", actor=staff_actor(officer)
        )
    record_mandate(case, officer, covers_answers=True)
    cases.record_identity(
        case_id=case.id, method="held_attributes", note="", actor=staff_actor(officer)
    )
    assert list(duplicates.same_contact(Case.objects.get(pk=case.pk))) == [earlier]


@pytest.mark.parametrize(
    ("changes", "key", "code", "message"),
    [
        ({}, OTHER_KEY, 403, "signature"),
        ({"agent-id": "OTHER", "business-id": "ELSEWHERE"}, KEY, 403, "agent-id"),
        (
            {"business-id": "ELSEWHERE", "expires-at": "2026-01-01T00:00:00Z"},
            KEY,
            403,
            "business-id",
        ),
        ({"issued-at": "2999-01-01T00:00:00Z"}, KEY, 400, "issued-at"),
        ({"issued-at": "2026-01-01T00:00:00"}, KEY, 400, "with a zone"),
        ({"issued-at": "canary"}, KEY, 400, "issued-at"),
        ({"expires-at": "2026-01-01T00:00:00Z"}, KEY, 400, "expires-at"),
        ({"expires-at": "9999-12-31T23:59:59-12:00"}, KEY, 400, "an hour at most"),
        ({"exercise": "sale:opt_out"}, KEY, 400, "only deletion is"),
        ({"exercise": "access", "email": 7}, KEY, 400, "only deletion is"),
        ({"drp.version": "0.5"}, KEY, 400, "drp.version"),
        ({"regime": "canary"}, KEY, 400, "regime"),
        ({"email": "canary"}, KEY, 400, "e-mail address"),
        ({"name": "", "email": "", "phone_number": ""}, KEY, 400, "who is meant"),
        ({"name": "canary\u0000"}, KEY, 400, "control characters"),
        ({"name": "\ud800"}, KEY, 400, "name"),
        ({"agent-request-id": "\ud800"}, KEY, 400, "agent-request-id"),
        ({"status_callback": "https://canary.example/"}, KEY, 400, "call back"),
        ({"status_callback": "http://169.254.169.254/canary"}, KEY, 400, "call back"),
    ],
)
def test_what_does_not_hold_is_refused_in_the_protocols_order(
    client: Client, changes: dict[str, Any], key: Ed25519PrivateKey, code: int, message: str
) -> None:
    _, headers = make_agent()
    answer = post(client, signed(order(**changes), key=key), headers)
    assert answer.status_code == code
    told = answer.json()
    assert set(told) == {"code", "message", "fatal"}
    assert told["code"] == str(code)
    assert message in told["message"]
    assert "canary" not in answer.content.decode()
    assert not Case.objects.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"!",
        b"\xff",
        b"A" * 87,
        signed(b"[]"),
        signed(b"["),
        signed(b"\xff"),
        signed(b"[" * 9999),
    ],
)
def test_what_is_no_signed_object_is_refused(client: Client, raw: bytes) -> None:
    _, headers = make_agent()
    for answer in (
        post(client, raw, headers),
        client.delete(f"{REQUESTS}/{uuid4()}", raw, content_type="text/plain", **headers),
    ):
        assert answer.status_code in (400, 403)
        assert answer.json()["fatal"] is True


any_json = json_values(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    st.text(max_size=9),
    longest=3,
    most_keys=3,
    max_leaves=5,
)


@property_settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    changes=st.dictionaries(
        st.sampled_from([name for name in order() if name not in ("agent-id", "business-id")])
        | st.sampled_from(["relationships", "status_callback", "phone_number_verified"]),
        any_json,
        max_size=4,
    )
)
def test_whatever_an_agent_signs_is_answered(
    client: Client, agents_headers: Headers, changes: dict[str, Any]
) -> None:
    assert post(client, signed(order(**changes)), agents_headers).status_code in (200, 400, 409)


@pytest.fixture
def agents_headers(monkeypatch: pytest.MonkeyPatch) -> Headers:
    monkeypatch.setattr(drp_api, "PER_MINUTE", 10_000)
    return make_agent()[1]


def test_the_same_request_again_is_one_case_and_the_same_answer(client: Client) -> None:
    _, headers = make_agent()
    message = order()
    first = post(client, signed(message), headers).json()
    again = post(client, signed(message), headers).json()
    anew = post(client, signed({**message, **times()}), headers).json()  # signed once more
    assert first == again == anew
    assert Case.objects.count() == 1
    other = post(client, signed({**message, "name": "Somebody Else"}), headers)
    assert (other.status_code, other.json()["code"]) == (409, "409")
    without = order(**{"agent-request-id": ""})
    codes = [post(client, signed(without), headers).json()["request_id"] for _ in range(2)]
    assert codes[0] == codes[1] != first["request_id"]
    assert Case.objects.count() == 2


def times() -> dict[str, str]:
    return {name: claims()[name] for name in agent_requests.TIMES}


@pytest.mark.database
@pytest.mark.django_db(transaction=True)
def test_the_same_request_at_the_same_moment_is_one_case() -> None:
    _, headers = make_agent()
    raw = signed(order())
    answers: list[int] = []
    run_together(lambda: answers.append(post(Client(), raw, headers).status_code), 3)
    assert answers == [200, 200, 200]
    assert Case.objects.count() == ApiRequest.objects.count() == 1


# --- Following and revoking -----------------------------------------------------------------------
def test_a_request_is_its_agents_alone(client: Client) -> None:
    _, headers = make_agent()
    _, others = make_agent("OTHER", key=OTHER_KEY)
    _, told = opened(client, headers)
    for request_id in (told["request_id"], uuid4()):
        url = f"{REQUESTS}/{request_id}"
        assert client.get(url, **others).status_code == 403
        raw = signed({}, key=OTHER_KEY)
        assert client.delete(url, raw, content_type="text/plain", **others).status_code == 403
    assert status_of(client, told, headers)["status"] == "in_progress"


def test_an_agent_revokes_once_and_again_and_not_what_is_carried_out(
    client: Client, officer: StaffMember
) -> None:
    _, headers = make_agent()
    case, told = opened(client, headers)
    url = f"{REQUESTS}/{told['request_id']}"

    def revoke(raw: bytes) -> Any:
        return client.delete(url, raw, content_type="text/plain", **headers)

    assert revoke(signed({"reason": "x"}, key=OTHER_KEY)).status_code == 403
    assert revoke(signed({"reason": 7})).status_code == 400
    Case.objects.filter(pk=case.pk).update(status=CaseStatus.EXECUTING)
    assert revoke(signed({})).status_code == 409
    Case.objects.filter(pk=case.pk).update(status=CaseStatus.IDENTITY_CHECK)
    for _ in range(2):
        answer = revoke(signed({"reason": "canary changed her mind"}))
        assert (answer.status_code, answer.json()["status"]) == (200, "revoked")
    assert Case.objects.get(pk=case.pk).status == CaseStatus.WITHDRAWN
    entries = b"".join(bytes(row.body) for row in AuditEntry.objects.all())
    assert b"changed her mind" not in entries


def answered(
    client: Client,
    headers: Headers,
    *,
    outcome: str,
    officer: StaffMember,
    covers_answers: bool = True,
) -> tuple[Case, dict[str, Any]]:
    """A request of an agent, decided and answered without a run."""
    case, told = opened(client, headers)
    case.scope_items.update(kind="data_store", target="customer-records")
    record_mandate(case, officer, covers_answers=covers_answers)
    actor = staff_actor(officer)
    cases.record_identity(case_id=case.id, method="held_attributes", note="", actor=actor)
    factories.propose(case, outcome=outcome, by=officer)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    cases.send_answer(case_id=case.id, actor_member=officer)
    return Case.objects.get(pk=case.pk), told


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        ("granted", "fulfilled", None),
        ("refused", "denied", "claim_not_covered"),
        ("cannot_identify", "denied", "no_match"),
        ("excessive", "denied", "too_many_requests"),
    ],
)
def test_the_outcome_has_the_protocols_words(
    client: Client, officer: StaffMember, outcome: str, status: str, reason: str | None
) -> None:
    _, headers = make_agent()
    _, told = answered(client, headers, outcome=outcome, officer=officer)
    found = status_of(client, told, headers)
    assert (found["status"], found.get("reason")) == (status, reason)
    assert datetime.fromisoformat(found["expires_at"]) > timezone.now()


def test_an_agent_whose_mandate_does_not_cover_the_answer_does_not_learn_it(
    client: Client, officer: StaffMember
) -> None:
    _, headers = make_agent()
    case, told = answered(client, headers, outcome="refused", officer=officer, covers_answers=False)
    found = status_of(client, told, headers)
    assert found["status"] == "fulfilled"  # "has finished data rights request process"
    assert found["processing_details"] == "The request is closed; the answer went to the person."
    assert selectors.access_ok(case.reference, told["access_code"]) is None
    assert vault.get(case, "email") == factories.EMAIL  # the person's own, as it was given
    assert not vault.has(case, "api/access_code")


def test_after_sealing_the_status_stays_and_the_agents_own_id_is_gone(
    client: Client, officer: StaffMember
) -> None:
    _, headers = make_agent()
    case, told = answered(client, headers, outcome="granted", officer=officer)
    letters.send_pending_letters()
    cases.seal_case(case_id=case.id, actor=SYSTEM)
    found = status_of(client, told, headers)
    assert found["status"] == "fulfilled"
    assert "agent_request_id" not in found
    assert ApiRequest.objects.get().once == ""


def test_every_new_status_is_called_back_the_extension_too(
    client: Client, officer: StaffMember, settings: Settings, tmp_path: Path
) -> None:
    for name, content in (
        ("key.pem", certificate().key_pem),
        ("cert.pem", certificate().pem),
        ("ca.pem", certificate().ca_pem),
    ):
        (tmp_path / name).write_bytes(content)
    settings.RTBF_OUTGOING_CA = str(tmp_path / "ca.pem")
    settings.RTBF_DEMO_DATA = True

    def reply(seen: Seen) -> Reply:
        return 200, {}, b""

    with served(reply, tmp_path) as (port, seen):
        host = f"localhost:{port}"
        _, headers = make_agent(callback_hosts=[host])
        case, told = opened(client, headers, status_callback=f"https://{host}/told")
        assert send_callbacks() == 0
        clock.extend_case(
            case_id=case.id,
            cause="complexity",
            reasons="The erasure runs on two models that have to be measured anew.",
            done="The records in the customer database are erased already.",
            actor_member=officer,
        )
        assert send_callbacks() == 1
        intake.withdraw_case(case_id=case.id, actor=staff_actor(officer))
        assert send_callbacks() == 1
        assert send_callbacks() == 0
    first, last = (json.loads(each.body) for each in seen)
    assert first["status"] == "in_progress"
    assert first["expected_by"] > told["expected_by"]
    assert first["processing_details"] == "The period was extended: complexity."
    assert last["status"] == "revoked"


def test_without_a_business_id_the_protocol_is_not_offered(
    client: Client, settings: Settings
) -> None:
    _, headers = make_agent()
    settings.RTBF_DRP_BUSINESS_ID = ""
    assert post(client, signed(order()), headers).status_code == 404
    assert post(client, signed(claims()), {}, f"{BASE}/agent/AGENT").status_code == 404
    assert not drp.is_set_up()
