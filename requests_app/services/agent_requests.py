"""Requests of authorised agents (Data Rights Protocol 1.0): deletion, and what became of it.

An agent asks for somebody else, whatever it says it has verified: the case waits for a mandate and
the identity check like any other (services.mandates), and touches no other case. The agent learns
the outcome only where its mandate covers the answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from requests_app import audit, drp, vault
from requests_app.actors import client_actor
from requests_app.lifecycle import CaseStatus
from requests_app.models import ApiClient, ApiRequest, Case, Decision, Mandate
from requests_app.models.record import Abuse, Channel, Outcome
from requests_app.services.api_requests import (
    check_callbacks,
    midnight_after,
    new_key,
    public_key,
)
from requests_app.services.errors import Conflict, Invalid
from requests_app.services.intake import Intake, OpenedCase, open_case

REGIONS = {"ccpa": "CA", "gdpr": "", "": ""}  # gdpr is ours: the protocol has no word for it yet
TIMES = ("issued-at", "expires-at")
IN_PROGRESS, EXTENDED = "in_progress", "extended"
FULFILLED, DENIED, REVOKED = "fulfilled", "denied", "revoked"
DENIALS = {
    Outcome.REFUSED: "claim_not_covered",
    Outcome.CANNOT_IDENTIFY: "no_match",
    Outcome.EXCESSIVE: "other",
}


@dataclass(frozen=True)
class Exercise:
    """A deletion request as an agent signed it; `message` is the whole signed object."""

    message: Mapping[str, Any]
    issued_at: datetime
    agent_request_id: str = ""
    regime: str = ""
    name: str = ""
    email: str = ""
    phone_number: str = ""
    notes: Sequence[str] = ()  # for the case officer: address, mandate, hints
    verified: Sequence[str] = ()  # which of these the agent says it verified
    callback: str = ""


# --- Agents -------------------------------------------------------------------------------------
def agent_of(agent_id: str) -> ApiClient | None:
    """The agent of that id, if it was not revoked."""
    if not drp.AGENT_ID.fullmatch(agent_id):
        return None
    agents = ApiClient.objects.filter(role=ApiClient.Role.AGENT, revoked_at=None)
    return agents.filter(controller_id=agent_id).first()


@transaction.atomic
def make_token(agent_id: str, raw: bytes) -> str:
    """A new token for the agent whose signed message `raw` is; the former one opens nothing more.

    A message counts once: one issued no later than the last is a replay. Raises drp.Refused.
    """
    agent = agent_of(agent_id)
    if agent is None:
        raise drp.Refused(403, "There is no such agent.")
    agent = ApiClient.objects.select_for_update().get(pk=agent.pk)
    message = drp.open_message(raw, key=public_key(agent.verify_key))
    issued = drp.check_claims(message, agent_id=agent_id, now=timezone.now())
    if agent.token_asked_at is not None and issued <= agent.token_asked_at:
        raise drp.Refused(403, "This message was used before.")
    token, agent.key_digest = new_key()
    agent.token_asked_at = issued
    agent.save(update_fields=["key_digest", "token_asked_at"])
    audit.append_entry(
        type="api.token_made", actor=client_actor(agent).name, data={"client": agent.pk}
    )
    return token


# --- Requests -----------------------------------------------------------------------------------
def exercise_deletion(agent: ApiClient, order: Exercise) -> ApiRequest:
    """The case of this message: a new one, or the one that it opened before.

    The same is what has the agent's own id for it, or where it gives none, the same signed bytes.
    The clock runs from our receipt. Raises Invalid, Conflict where the id came with another
    content.
    """
    known = _known(agent, order)
    if known is not None:
        return known
    try:
        with transaction.atomic():
            return _open(agent, order)
    except IntegrityError:  # the same message came twice at the same moment
        known = _known(agent, order)
        if known is None:
            raise
        return known


def status_word(row: ApiRequest) -> str:
    """The protocol's word for where a request stands, or `extended` for one in progress that is."""
    case = row.case
    if case.withdrawn_at is not None:
        return REVOKED
    if case.status not in (CaseStatus.COMPLETED, CaseStatus.SEALED):
        return EXTENDED if case.extended_on else IN_PROGRESS
    return DENIED if _denial(case) else FULFILLED


def status_content(row: ApiRequest) -> dict[str, str]:
    """The Exercise Status object (3.03); no word of the person, and no outcome for an agent whose
    mandate does not cover the answer."""
    case, word = row.case, status_word(row)
    found = {
        "request_id": str(row.subject_request_id),
        "received_at": row.received_at.isoformat(timespec="seconds"),
        "expected_by": midnight_after(case.due),
        "status": IN_PROGRESS if word == EXTENDED else word,
    }
    if case.sealed_at is None and vault.has(case, "api/agent_request_id"):
        found["agent_request_id"] = vault.get(case, "api/agent_request_id")
    if word == DENIED:
        found["reason"] = _denial(case)
    if details := _details(case, word):
        found["processing_details"] = details
    ended = case.completed_at or case.withdrawn_at
    if ended is not None:
        kept = timedelta(days=settings.RTBF_KEEP_CLOSED_DAYS)
        found["expires_at"] = (ended + kept).isoformat(timespec="seconds")
    return found


def first_answer(row: ApiRequest) -> dict[str, str]:
    """The status, with what the person needs to follow the case; the agent hands it on."""
    found = {**status_content(row), "reference": row.case.reference}
    code = "" if row.case.sealed_at else vault.get(row.case, "api/access_code", default="")
    return {**found, "access_code": code} if code else found


# --- Steps --------------------------------------------------------------------------------------
def _known(agent: ApiClient, order: Exercise) -> ApiRequest | None:
    rows = agent.requests.select_related("case", "client")
    row = rows.filter(once=_once(agent, order)).first()
    if row is not None and vault.get(row.case, "api/body") != _digest(order):
        raise Conflict("A request of this agent-request-id came before, with another content.")
    return row


def _open(agent: ApiClient, order: Exercise) -> ApiRequest:
    name = order.name or order.email or order.phone_number
    if not name:
        raise Invalid("Give a name, an email or a phone_number: who is meant?")
    if order.callback:
        check_callbacks(agent, [order.callback])
    now, actor = timezone.now(), client_actor(agent)
    row = ApiRequest(
        client=agent,
        subject_request_id=uuid4(),
        submitted_time=order.issued_at,
        received_at=now,
        once=_once(agent, order),
        told_status=IN_PROGRESS,
    )

    def keep(opened: OpenedCase) -> None:
        row.case = opened.case
        row.save(force_insert=True)
        items: dict[str, Any] = {
            "api/body": _digest(order),
            "api/access_code": opened.access_code,
            "mandate/sender": {"name": agent.name, "email": ""},  # `email` is the person's
        }
        if order.agent_request_id:
            items["api/agent_request_id"] = order.agent_request_id
        if order.callback:
            items["api/callbacks"] = [order.callback]
        vault.put_each(row.case, items)

    open_case(
        intake=Intake(
            name=name,
            email=order.email,
            aliases=tuple(each for each in (order.phone_number,) if each and each != name),
            message="\n".join(order.notes),
            on_behalf=True,
        ),
        received_at=now,
        channel=Channel.API,
        actor=actor,
        region=REGIONS[order.regime],
        keep=keep,
    )
    audit.append_entry(
        type="api.requested",
        actor=actor.name,
        case=row.case,
        data={
            "request": str(row.subject_request_id),
            "protocol": f"DRP {drp.VERSION}",
            "on_instruction": False,
            "agent_verified": list(order.verified),
            "submitted_time": order.issued_at.isoformat(timespec="seconds"),
            "received_time": now.isoformat(timespec="seconds"),
            "clock_from": "received_time",
        },
    )
    return row


def _once(agent: ApiClient, order: Exercise) -> str:
    """What makes a message the same, as a keyed digest: an agent's id may be an address."""
    what = ["id", order.agent_request_id] if order.agent_request_id else ["all", order.message]
    text = json.dumps([agent.pk, *what], sort_keys=True)
    return salted_hmac("rtbf.drp.once", text, algorithm="sha256").hexdigest()


def _digest(order: Exercise) -> str:
    """Of the content without its times, which differ where an agent signs the same request anew."""
    content = {name: value for name, value in order.message.items() if name not in TIMES}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _denial(case: Case) -> str:
    """Why the request was denied, in the protocol's words; empty if it was not, or the agent may
    not know."""
    decision = Decision.objects.filter(case=case, state=Decision.State.APPROVED).first()
    if decision is None or not Mandate.objects.filter(case=case, covers_answers=True).exists():
        return ""
    if decision.abuse == Abuse.EXCESSIVE:
        return "too_many_requests"
    return DENIALS.get(Outcome(decision.outcome), "")


def _details(case: Case, word: str) -> str:
    """A sentence that the agent may pass on to the person."""
    if word == EXTENDED:
        return f"The period was extended: {case.extension_cause}."
    if word in (FULFILLED, DENIED):
        if Mandate.objects.filter(case=case, covers_answers=True).exists():
            return "The answer says what was erased, what is kept and why, and the remedies."
        return "The request is closed; the answer went to the person."
    return ""
