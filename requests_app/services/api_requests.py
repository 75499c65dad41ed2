"""Requests that come through the API: clients and their keys, one case a request, callbacks.

A client names each request by an id of its own. The same id with the same bytes finds the case and
gets the same answer; with others it is a conflict. Replays therefore do nothing, and those of a
client that signs its requests are refused after REPLAY_SECONDS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.db import IntegrityError, transaction
from django.utils import timezone

from requests_app import audit, drp, opendsr, outgoing, vault
from requests_app.actors import SYSTEM, client_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import ApiClient, ApiRequest, Case
from requests_app.models.record import Channel
from requests_app.services.errors import Conflict, Invalid, NotFound, WrongState
from requests_app.services.intake import Intake, OpenedCase, open_case, withdraw_case
from requests_app.services.locking import one_line

SCOPES = ("write:requests", "read:cases", "read:evidence", "gateway", "playground")
KEY_BYTES = 32
REPLAY_SECONDS = 300
LONGEST_AGO = timedelta(days=366)  # since the person asked the client
CALLBACKS = 5
IDENTITY_TYPES = ("email", "controller_customer_id")  # raw: a digest finds nobody here

PENDING, IN_PROGRESS, COMPLETED, CANCELLED = "pending", "in_progress", "completed", "cancelled"
STATUS = {
    CaseStatus.AWAITING_CONFIRMATION: PENDING,
    CaseStatus.IDENTITY_CHECK: PENDING,
    CaseStatus.IN_REVIEW: PENDING,
    CaseStatus.AWAITING_APPROVAL: PENDING,
    CaseStatus.EXECUTING: IN_PROGRESS,
    CaseStatus.EVIDENCE_REVIEW: IN_PROGRESS,
    CaseStatus.RESPONDING: IN_PROGRESS,
    CaseStatus.COMPLETED: COMPLETED,
    CaseStatus.WITHDRAWN: CANCELLED,
    CaseStatus.SEALED: COMPLETED,
}


@dataclass(frozen=True)
class Order:
    """An erasure request as a client puts it; `raw` are the bytes of its body."""

    raw: bytes
    subject_request_id: UUID
    regulation: str  # gdpr or ccpa
    submitted_time: datetime
    identities: Sequence[tuple[str, str]]  # type and raw value
    callbacks: Sequence[str] = ()
    name: str = ""
    scope: Sequence[str] = ()


# --- Clients ------------------------------------------------------------------------------------
@transaction.atomic
def create_client(
    *,
    name: str,
    controller_id: str,
    role: str,
    scopes: Sequence[str],
    callback_hosts: Sequence[str] = (),
    verify_key: str = "",
) -> tuple[ApiClient, str]:
    """Enter a client; returns it with its key, which is not stored. Raises Invalid."""
    name = one_line(name, what="The name", longest=80)
    controller_id = one_line(controller_id, what="The controller's id", longest=80)
    if role not in ApiClient.Role.values:
        raise Invalid(f"The role is one of {', '.join(ApiClient.Role.values)}.")
    if not scopes or set(scopes) - set(SCOPES):
        raise Invalid(f"The scopes are of {', '.join(SCOPES)}.")
    if ApiClient.objects.filter(name=name).exists():
        raise Invalid("There is an API client of this name already.")
    if verify_key:
        public_key(verify_key)
    if role == ApiClient.Role.AGENT:
        _check_agent(controller_id, scopes=scopes, verify_key=verify_key)
    key, digest = new_key()
    client = ApiClient.objects.create(
        name=name,
        controller_id=controller_id,
        role=role,
        key_digest=digest,
        verify_key=verify_key,
        scopes=sorted(set(scopes)),
        callback_hosts=sorted(set(callback_hosts)),
        created_at=timezone.now(),
    )
    audit.append_entry(
        type="api.client_added",
        actor=SYSTEM.name,
        data={"client": client.pk, "role": role, "scopes": list(client.scopes)},
    )
    return client, key


@transaction.atomic
def revoke_client(*, name: str) -> ApiClient:
    """The client's key opens nothing any more. Raises NotFound, WrongState."""
    client = ApiClient.objects.select_for_update().filter(name=name).first()
    if client is None:
        raise NotFound("There is no such API client.")
    if client.revoked_at is not None:
        raise WrongState("This API client was revoked before.")
    client.revoked_at = timezone.now()
    client.save(update_fields=["revoked_at"])
    audit.append_entry(type="api.client_revoked", actor=SYSTEM.name, data={"client": client.pk})
    return client


def client_of(key: str) -> ApiClient | None:
    """The client of a key, if it was not revoked; found by the key's digest."""
    return ApiClient.objects.filter(key_digest=_key_digest(key), revoked_at=None).first()


def is_signed(
    client: ApiClient, *, method: str, path: str, body: bytes, timestamp: str, signature: str
) -> bool:
    """Whether a client that signs did so just now: Ed25519 over `signed_text`, base64."""
    if not timestamp.isascii() or not timestamp.isdecimal() or len(timestamp) > 12:
        return False
    if abs(time.time() - int(timestamp)) > REPLAY_SECONDS:
        return False
    try:
        raw = base64.b64decode(signature, validate=True)
        public_key(client.verify_key).verify(
            raw, signed_text(method=method, path=path, body=body, timestamp=timestamp)
        )
    except (binascii.Error, ValueError, InvalidSignature):
        return False
    return True


def signed_text(*, method: str, path: str, body: bytes, timestamp: str) -> bytes:
    """What a client signs: seconds since 1970, method, path, SHA-256 of the body, a line each."""
    return "\n".join([timestamp, method, path, hashlib.sha256(body).hexdigest()]).encode()


# --- Requests -----------------------------------------------------------------------------------
def open_request(client: ApiClient, order: Order) -> ApiRequest:
    """The request of that id: a new case, or the one it opened before.

    Towards a client whose processor we are, we act on the controller's instruction: the clock is
    the controller's and runs from the person's own request. Otherwise it runs from our receipt.
    Raises Invalid, Conflict where the id came with another body.
    """
    known = _known(client, order)
    if known is not None:
        return known
    try:
        with transaction.atomic():
            return _open(client, order)
    except IntegrityError:  # the same request came twice at the same moment
        known = _known(client, order)
        if known is None:
            raise
        return known


def find_request(client: ApiClient, subject_request_id: UUID) -> ApiRequest:
    """NotFound for an id of nobody's or of another client's."""
    row = client.requests.select_related("case", "client")
    found = row.filter(subject_request_id=subject_request_id).first()
    if found is None:
        raise NotFound("There is no such request.")
    return found


def cancel_request(client: ApiClient, subject_request_id: UUID) -> ApiRequest:
    """Withdraw a request while it is pending; once more is no error. NotFound, WrongState."""
    found = find_request(client, subject_request_id)
    if status_of(found.case) == CANCELLED:
        return found
    if status_of(found.case) != PENDING:
        raise WrongState("This request is not pending any more and cannot be cancelled.")
    withdraw_case(case_id=found.case_id, actor=client_actor(client))
    return find_request(client, subject_request_id)


def status_of(case: Case) -> str:
    """The case's status in OpenDSR's words; refused is completed, for want of a word of its own."""
    return CANCELLED if case.withdrawn_at is not None else STATUS[CaseStatus(case.status)]


def status_content(row: ApiRequest) -> dict[str, str]:
    """What a client may know of its request; no word of the person."""
    return {
        "controller_id": row.client.controller_id,
        "expected_completion_time": midnight_after(row.case.base_due),
        "subject_request_id": str(row.subject_request_id),
        "request_status": status_of(row.case),
    }


def first_answer(row: ApiRequest, raw: bytes) -> dict[str, object]:
    """The answer to a request, the same each time; the access code is for the client to hand on."""
    ours: dict[str, str] = {"reference": row.case.reference}
    code = "" if row.case.sealed_at else vault.get(row.case, "api/access_code", default="")
    if code:
        ours["access_code"] = code
    encoded = base64.b64encode(raw)
    return {
        "controller_id": row.client.controller_id,
        "expected_completion_time": midnight_after(row.case.base_due),
        "received_time": row.received_at.isoformat(timespec="seconds"),
        "encoded_request": encoded.decode(),
        "subject_request_id": str(row.subject_request_id),
        "processor_signature": opendsr.sign(encoded),
        "extensions": {opendsr.own_domain(): ours},
    }


# --- Steps --------------------------------------------------------------------------------------
def _check_agent(agent_id: str, *, scopes: Sequence[str], verify_key: str) -> None:
    """An agent signs what it asks, under an id of its directory that no other has."""
    if not drp.AGENT_ID.fullmatch(agent_id):
        raise Invalid(
            "The id of an agent is of capital letters and low lines, as in its directory."
        )
    if not verify_key or list(scopes) != ["write:requests"]:
        raise Invalid("An agent has a verify key, and the scope write:requests alone.")
    if ApiClient.objects.filter(
        role=ApiClient.Role.AGENT, controller_id=agent_id, revoked_at=None
    ).exists():
        raise Invalid("There is an agent of this id already: revoke it first.")


def _known(client: ApiClient, order: Order) -> ApiRequest | None:
    rows = client.requests.select_related("case", "client")
    row = rows.filter(subject_request_id=order.subject_request_id).first()
    if row is None or row.case.sealed_at is not None:
        return row
    if vault.get(row.case, "api/body") != hashlib.sha256(order.raw).hexdigest():
        raise Conflict("A request of this id came before, with another content.")
    return row


def _open(client: ApiClient, order: Order) -> ApiRequest:
    now = timezone.now()
    if not now - LONGEST_AGO <= order.submitted_time <= now + timedelta(minutes=1):
        raise Invalid("submitted_time lies in the future, or more than a year back.")
    if order.regulation not in ("gdpr", "ccpa"):
        raise Invalid("The regulation is gdpr or ccpa.")
    check_callbacks(client, order.callbacks)
    as_processor = client.role == ApiClient.Role.PROCESSOR
    row = ApiRequest(
        client=client,
        subject_request_id=order.subject_request_id,
        submitted_time=order.submitted_time,
        received_at=now,
    )

    def keep(opened: OpenedCase) -> None:
        row.case = opened.case
        row.save(force_insert=True)
        items: dict[str, Any] = {"api/body": hashlib.sha256(order.raw).hexdigest()}
        if order.callbacks:
            items["api/callbacks"] = list(order.callbacks)
        if not as_processor:
            items["api/access_code"] = opened.access_code
        vault.put_each(row.case, items)

    open_case(
        intake=_intake(order, as_processor=as_processor),
        received_at=min(order.submitted_time, now) if as_processor else now,
        channel=Channel.API,
        actor=client_actor(client),
        region="CA" if order.regulation == "ccpa" else "",
        keep=keep,
    )
    audit.append_entry(
        type="api.requested",
        actor=client_actor(client).name,
        case=row.case,
        data={
            "request": str(order.subject_request_id),
            "on_instruction": as_processor,
            "submitted_time": order.submitted_time.isoformat(timespec="seconds"),
            "received_time": now.isoformat(timespec="seconds"),
            "clock_from": "submitted_time" if as_processor else "received_time",
        },
    )
    return row


def _intake(order: Order, *, as_processor: bool) -> Intake:
    """Who is meant. A person whose controller is the client hears from the client, not from us."""
    values = list(dict.fromkeys(value.strip() for _, value in order.identities))
    emails = [value for kind, value in order.identities if kind == "email"]
    if unknown := {kind for kind, _ in order.identities} - set(IDENTITY_TYPES):
        raise Invalid(f"{len(unknown)} types of identity are not supported; see discovery.")
    if not values:
        raise Invalid("The request names no identity.")
    name = order.name or values[0]
    return Intake(
        name=name,
        email="" if as_processor or not emails else emails[0],
        aliases=tuple(value for value in values if value != name),
        scope=tuple(order.scope),
    )


def check_callbacks(client: ApiClient, urls: Sequence[str]) -> None:
    if len(urls) > CALLBACKS:
        raise Invalid(f"At most {CALLBACKS} addresses can be called back.")
    for url in urls:
        try:
            outgoing.target(url, client.callback_hosts)
        except outgoing.CallRefused as refused:
            raise Invalid(f"An address to call back cannot be used. {refused}") from None


def midnight_after(last: date) -> str:
    """The end of a day, as a time with its zone."""
    day = datetime.combine(last + timedelta(days=1), datetime.min.time())
    return timezone.make_aware(day).isoformat()


def new_key() -> tuple[str, str]:
    """A random key to show once, and the digest that is kept of it."""
    key = secrets.token_urlsafe(KEY_BYTES)
    return key, _key_digest(key)


def _key_digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def public_key(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise Invalid("The verify key is the base64 of the 32 bytes of an Ed25519 key.") from None
