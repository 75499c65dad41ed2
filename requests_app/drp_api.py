"""The Data Rights Protocol 1.0 for authorised agents: key set-up, deletion, status, revoking.

A request is signed (`drp`), and comes with the token that the agent fetched by a signed message of
its own. An error is `{code, message, fatal}`, code as text (3.06), and repeats nothing.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar, cast
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from ninja import Field, Router, Schema
from ninja.errors import HttpError
from ninja.security import HttpBearer
from pydantic import ConfigDict, StringConstraints, ValidationError

from requests_app import drp
from requests_app.models import ApiClient, ApiRequest
from requests_app.ratelimit import count
from requests_app.services import agent_requests, api_requests
from requests_app.services.errors import NotFound

PREFIX = "/api/drp/v1/"
PER_MINUTE = 120
LARGEST_BODY = 64 * 1024
DELETION = "deletion"
VERSIONS = ("0.9.4", drp.VERSION)  # the same text under two numbers

Form = TypeVar("Form", bound=Schema)
Short = Annotated[str, StringConstraints(max_length=50)]
Text = Annotated[str, StringConstraints(max_length=200)]
Long = Annotated[str, StringConstraints(max_length=500)]
Plain = Annotated[str, StringConstraints(max_length=200, pattern=r"^[ -~]*$")]


class DrpErrorOut(Schema):
    code: str
    message: str
    fatal: bool


class AgentOut(Schema):
    agent_id: str = Field(alias="agent-id")
    token: str


class DrpStatusOut(Schema):
    """The Exercise Status object (3.03)."""

    request_id: UUID
    received_at: str
    expected_by: str
    status: Literal["in_progress", "fulfilled", "denied", "revoked"]
    reason: Literal["no_match", "claim_not_covered", "too_many_requests", "other"] | None = None
    processing_details: str | None = None
    agent_request_id: str | None = None
    expires_at: str | None = None


class DrpExerciseOut(DrpStatusOut):
    """The first answer: what the person needs to follow the case, for the agent to hand on."""

    reference: str
    access_code: str | None = None


class ExerciseIn(Schema):
    """What an agent signs to ask for a deletion (2.01 and 3.04); other claims are not read."""

    model_config = ConfigDict(extra="ignore")

    version: Literal[VERSIONS] = Field(alias="drp.version")  # type: ignore[valid-type]
    exercise: Literal["deletion"]
    agent_request_id: Plain = Field("", alias="agent-request-id")
    regime: Literal["ccpa", "gdpr"] | None = None
    relationships: Annotated[list[Short], Field(max_length=10)] = []
    status_callback: Long = ""
    name: Text = ""
    email: Text = ""
    email_verified: bool = False
    phone_number: Short = ""
    phone_number_verified: bool = False
    address: Annotated[dict[Short, Text], Field(max_length=8)] = {}
    address_verified: bool = False
    power_of_attorney: Long = ""


class RevokeIn(Schema):
    """What an agent signs to take a request back; the reason is not kept."""

    model_config = ConfigDict(extra="ignore")

    reason: Annotated[str, StringConstraints(max_length=2000)] = ""


class AgentToken(HttpBearer):
    """An agent by the token that it fetched, within its limit."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiClient | None:
        agent = api_requests.client_of(token)
        if agent is None or agent.role != ApiClient.Role.AGENT:
            return None
        if count("drp", str(agent.pk), seconds=60) > PER_MINUTE:
            raise HttpError(429, "Too many calls. Wait a minute.")
        return agent


def _signed_body(schema: type[Schema] | None = None) -> dict[str, Any]:
    """How the description shows a signed message, with the form of what is signed."""
    body: dict[str, Any] = {
        "type": "string",
        "contentEncoding": "base64",
        "maxLength": LARGEST_BODY,
    }
    if schema is not None:
        body["x-signed-json"] = schema.model_json_schema(by_alias=True)
    return {"requestBody": {"required": True, "content": {"text/plain": {"schema": body}}}}


router = Router(auth=AgentToken(), tags=["Data Rights Protocol"])
REFUSED: dict[Any, Any] = dict.fromkeys((400, 401, 403, 404, 413, 429), DrpErrorOut)


@router.post(
    "/agent/{agent_id}",
    response={200: AgentOut, 403: None, 404: DrpErrorOut, 413: DrpErrorOut, 429: DrpErrorOut},
    auth=None,
    openapi_extra=_signed_body(),
)
def set_up_key(request: HttpRequest, agent_id: str) -> HttpResponse:
    """A token for the agent that signed; it ends the one before. 403 without a word otherwise."""
    _require_drp()
    if count("drp-set-up", request.META.get("REMOTE_ADDR", ""), seconds=60) > PER_MINUTE:
        raise HttpError(429, "Too many calls. Wait a minute.")
    try:
        token = agent_requests.make_token(agent_id, _body(request))
    except drp.Refused:
        return HttpResponse(status=403)
    return _answer({"agent-id": agent_id, "token": token})


@router.get("/agent/{agent_id}", response={200: dict[str, str], **REFUSED})
def check_token(request: HttpRequest, agent_id: str) -> HttpResponse:
    """Whether the token is this agent's and still good."""
    _require_drp()
    if _agent(request).controller_id != agent_id:
        raise drp.Refused(403, "This is not the token of that agent.")
    return _answer({})


@router.post(
    "/data-rights-request",
    response={200: DrpExerciseOut, 409: DrpErrorOut, **REFUSED},
    openapi_extra=_signed_body(ExerciseIn),
    exclude_none=True,
)
def exercise(request: HttpRequest) -> HttpResponse:
    """A deletion request; the same one again gets the same answer. Other rights are refused."""
    _require_drp()
    agent, now = _agent(request), timezone.now()
    message = drp.open_message(_body(request), key=api_requests.public_key(agent.verify_key))
    issued_at = drp.check_claims(message, agent_id=agent.controller_id, now=now)
    if message.get("exercise") != DELETION:
        raise drp.Refused(400, "This rights action is not supported: only deletion is.")
    order = _order(message, issued_at=issued_at)
    return _answer(agent_requests.first_answer(agent_requests.exercise_deletion(agent, order)))


@router.get(
    "/data-rights-request/{uuid:request_id}",
    response={200: DrpStatusOut, **REFUSED},
    exclude_none=True,
)
def status(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """Where a request stands; 403 for one that is not this agent's, or that nobody made."""
    _require_drp()
    return _answer(agent_requests.status_content(_own(request, request_id)))


@router.delete(
    "/data-rights-request/{uuid:request_id}",
    response={200: DrpStatusOut, 409: DrpErrorOut, **REFUSED},
    openapi_extra=_signed_body(RevokeIn),
    exclude_none=True,
)
def revoke(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """Take a request back before anything is carried out; once more changes nothing."""
    _require_drp()
    agent = _agent(request)
    message = drp.open_message(_body(request), key=api_requests.public_key(agent.verify_key))
    _read(RevokeIn, message)
    _own(request, request_id)
    row = api_requests.cancel_request(agent, request_id)
    return _answer(agent_requests.status_content(row))


def error(status: int, message: str, *, fatal: bool = False) -> HttpResponse:
    """An error as the protocol has it (3.06)."""
    return _answer({"code": str(status), "message": message, "fatal": fatal}, status=status)


# --- Steps --------------------------------------------------------------------------------------
def _require_drp() -> None:
    if not drp.is_set_up():
        raise HttpError(404, "The Data Rights Protocol is not set up here.")


def _agent(request: HttpRequest) -> ApiClient:
    return cast(ApiClient, request.auth)  # type: ignore[attr-defined]


def _own(request: HttpRequest, request_id: UUID) -> ApiRequest:
    try:
        return api_requests.find_request(_agent(request), request_id)
    except NotFound:
        raise drp.Refused(403, "This is not a request of this agent.") from None


def _body(request: HttpRequest) -> bytes:
    if len(request.body) > LARGEST_BODY:
        raise HttpError(413, "The message is too long.")
    return request.body


def _read(form: type[Form], message: dict[str, Any]) -> Form:
    try:
        return form.model_validate(message)
    except ValidationError as problem:
        known = {each.alias or name for name, each in form.model_fields.items()}
        places = {str(each["loc"][0]) for each in problem.errors()} & known
        raise drp.Refused(
            400, f"Not as the protocol has it: {', '.join(sorted(places))}."
        ) from None


def _order(message: dict[str, Any], *, issued_at: datetime) -> agent_requests.Exercise:
    found = _read(ExerciseIn, message)
    claims = ("email", "phone_number", "address")
    verified = [
        claim for claim in claims if getattr(found, claim) and getattr(found, f"{claim}_verified")
    ]
    notes = {
        "Address": found.address.get("formatted", "") or ", ".join(found.address.values()),
        "Power of attorney": found.power_of_attorney,
        "May be known as": ", ".join(found.relationships),
        "Verified, as the agent says": ", ".join(verified),
    }
    return agent_requests.Exercise(
        message=message,
        issued_at=issued_at,
        agent_request_id=found.agent_request_id,
        regime=found.regime or "",
        name=found.name.strip(),
        email=found.email.strip(),
        phone_number=found.phone_number.strip(),
        notes=[f"{what}: {text}" for what, text in notes.items() if text],
        verified=verified,
        callback=found.status_callback,
    )


def _answer(content: dict[str, Any], *, status: int = 200) -> HttpResponse:
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "60"}}.get(status, {})
    return HttpResponse(
        json.dumps(content), status=status, content_type="application/json", headers=headers
    )
