"""The HTTP API: OpenDSR 2.0 as a processor, and the record read-only for tools of staff; the Data
Rights Protocol for agents is in `drp_api`.

Every call carries `Authorization: Bearer <key>`; a client with a verify key signs what changes
anything (services.api_requests.signed_text). An error is `{code, message, errors[]}` and repeats
nothing of the request. The description is at /api/openapi.json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI, Query, Schema
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as InvalidRequest
from ninja.security import HttpBearer
from pydantic import AwareDatetime, ConfigDict, Field, StringConstraints

from requests_app import dossier, drp, drp_api, exports, opendsr, selectors
from requests_app.lifecycle import CaseStatus
from requests_app.models import ApiClient, ApiRequest, Case
from requests_app.ratelimit import count
from requests_app.services import api_requests
from requests_app.services.errors import Conflict, Invalid, NotAllowed, NotFound, WrongState

PER_MINUTE = 120
LARGEST_BODY = 64 * 1024
PAGE = 100
REFUSALS = ((NotFound, 404), (Conflict, 409), (WrongState, 409), (NotAllowed, 403), (Invalid, 400))

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=500)]


class ErrorOut(Schema):
    code: int
    message: str
    errors: list[str]


class IdentityIn(Schema):
    identity_type: Text
    identity_value: Text
    identity_format: Literal["raw"] = "raw"


class OwnExtension(Schema):
    """What only this installation understands, in `extensions` under its domain."""

    name: Annotated[str, StringConstraints(max_length=200)] = ""
    scope: Annotated[list[Text], Field(max_length=20)] = []


class RequestIn(Schema):
    """An OpenDSR 2.0 request; other subject request types than erasure are not supported."""

    model_config = ConfigDict(extra="ignore")

    regulation: Literal["gdpr", "ccpa"]
    subject_request_id: UUID
    subject_request_type: Literal["erasure"]
    submitted_time: AwareDatetime
    subject_identities: Annotated[list[IdentityIn], Field(min_length=1, max_length=20)]
    api_version: Annotated[str, StringConstraints(max_length=10)] = opendsr.API_VERSION
    status_callback_urls: Annotated[list[Url], Field(max_length=api_requests.CALLBACKS)] = []
    extensions: dict[str, OwnExtension] = {}


class RequestOut(Schema):
    controller_id: str
    expected_completion_time: str
    received_time: str
    encoded_request: str
    subject_request_id: UUID
    processor_signature: str
    extensions: dict[str, dict[str, str]]


class StatusOut(Schema):
    controller_id: str
    expected_completion_time: str
    subject_request_id: UUID
    request_status: Literal["pending", "in_progress", "completed", "cancelled"]


class SupportedIdentity(Schema):
    identity_type: str
    identity_format: str


class DiscoveryOut(Schema):
    api_version: str
    supported_identities: list[SupportedIdentity]
    supported_subject_request_types: list[str]
    processor_certificate: str


class CaseOut(Schema):
    reference: str
    status: str
    received_on: date
    due: date
    subject: str  # masked


class CasesOut(Schema):
    total: int
    cases: list[CaseOut]


class EvidenceOut(Schema):
    """The export `evidence_json`; more keys may come."""

    model_config = ConfigDict(extra="allow")

    reference: str


class ClientKey(HttpBearer):
    """A client by its key, within its limit, and by its signature where it has a verify key."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiClient | None:
        client = api_requests.client_of(token)
        if client is None or client.role == ApiClient.Role.AGENT:
            return None  # an agent asks by its own protocol alone, where a mandate is looked at
        if count("api", str(client.pk), seconds=60) > PER_MINUTE:
            raise HttpError(429, "Too many calls. Wait a minute.")
        if request.method in ("POST", "DELETE") and client.verify_key:
            signed = api_requests.is_signed(
                client,
                method=request.method,
                path=request.get_full_path(),
                body=request.body,
                timestamp=request.headers.get("X-RTBF-Timestamp", ""),
                signature=request.headers.get("X-RTBF-Signature", ""),
            )
            if not signed:
                raise HttpError(401, "The signature is missing, wrong, or older than five minutes.")
        return client


api = NinjaAPI(
    title="Right to be Forgotten",
    version="1",
    description="OpenDSR 2.0 as a processor; Data Rights Protocol 1.0; the record, read-only.",
    docs_url=None,
    auth=ClientKey(),
)
Errors = dict[int, Any]
REFUSED: Errors = dict.fromkeys((400, 401, 403, 404, 429), ErrorOut)


# --- OpenDSR ------------------------------------------------------------------------------------
@api.get("/opendsr/discovery", response={200: DiscoveryOut, 404: ErrorOut}, auth=None)
def discovery(request: HttpRequest) -> HttpResponse:
    """What this processor supports, and where its certificate is."""
    _require_opendsr()
    return _signed(
        {
            "api_version": opendsr.API_VERSION,
            "supported_identities": [
                {"identity_type": kind, "identity_format": "raw"}
                for kind in api_requests.IDENTITY_TYPES
            ],
            "supported_subject_request_types": ["erasure"],
            "processor_certificate": request.build_absolute_uri("/api/opendsr/certificate.pem"),
        }
    )


@api.get("/opendsr/certificate.pem", auth=None, include_in_schema=False)
def certificate(request: HttpRequest) -> HttpResponse:
    """The certificate that answers are signed with."""
    _require_opendsr()
    return HttpResponse(opendsr.own_certificate(), content_type="application/x-pem-file")


@api.post("/opendsr/requests", response={201: RequestOut, 409: ErrorOut, 413: ErrorOut, **REFUSED})
def open_request(request: HttpRequest, order: RequestIn) -> HttpResponse:
    """An erasure request; the same id with the same body again gets the same answer."""
    client = _client(request, "write:requests")
    _require_opendsr()
    if len(request.body) > LARGEST_BODY:
        raise HttpError(413, "The request is too long.")
    ours = order.extensions.get(opendsr.own_domain(), OwnExtension())
    row = api_requests.open_request(
        client,
        api_requests.Order(
            raw=request.body,
            subject_request_id=order.subject_request_id,
            regulation=order.regulation,
            submitted_time=order.submitted_time,
            identities=[(i.identity_type, i.identity_value) for i in order.subject_identities],
            callbacks=order.status_callback_urls,
            name=ours.name.strip(),
            scope=ours.scope,
        ),
    )
    return _signed(api_requests.first_answer(row, request.body), status=201)


@api.get("/opendsr/requests/{uuid:subject_request_id}", response={200: StatusOut, **REFUSED})
def request_status(request: HttpRequest, subject_request_id: UUID) -> HttpResponse:
    """Where a request stands."""
    client = _client(request, "write:requests")
    _require_opendsr()
    return _status(api_requests.find_request(client, subject_request_id), status=200)


@api.delete(
    "/opendsr/requests/{uuid:subject_request_id}",
    response={202: StatusOut, 409: ErrorOut, **REFUSED},
)
def cancel_request(request: HttpRequest, subject_request_id: UUID) -> HttpResponse:
    """Cancel a request while it is pending."""
    client = _client(request, "write:requests")
    _require_opendsr()
    return _status(api_requests.cancel_request(client, subject_request_id), status=202)


# --- The record, read-only ----------------------------------------------------------------------
class CaseQuery(Schema):
    status: Literal[tuple(CaseStatus.values)] | None = None  # type: ignore[valid-type]
    page: Annotated[int, Field(ge=1, le=10_000)] = 1


@api.get("/cases", response={200: CasesOut, **REFUSED})
def cases(request: HttpRequest, query: Query[CaseQuery]) -> CasesOut:
    """Open cases by due date, or those of a status; a hundred a page, the person masked."""
    _client(request, "read:cases")
    found = selectors.queue(query.status)
    first = (query.page - 1) * PAGE
    return CasesOut(
        total=found.count(),
        cases=[
            CaseOut(
                reference=case.reference,
                status=case.status,
                received_on=case.received_on,
                due=case.due,
                subject=selectors.masked_email(case),
            )
            for case in found[first : first + PAGE]
        ],
    )


@api.get("/cases/{slug:reference}/evidence", response={200: EvidenceOut, **REFUSED})
def evidence(request: HttpRequest, reference: str) -> HttpResponse:
    """The case's evidence: timeline, runs, figures, claim, limits. No personal data."""
    _client(request, "read:evidence")
    case: Case | None = selectors.case_by_reference(reference)
    if case is None:
        raise NotFound("There is no such case.")
    content = exports.load("evidence_json").render(dossier.gather(case))
    return HttpResponse(content, content_type="application/json")


# --- Steps --------------------------------------------------------------------------------------
def _client(request: HttpRequest, scope: str) -> ApiClient:
    client = cast(ApiClient, request.auth)  # type: ignore[attr-defined]
    if scope not in client.scopes:
        raise NotAllowed(f"This key lacks the scope {scope}.")
    return client


def _require_opendsr() -> None:
    if not opendsr.is_set_up():
        raise HttpError(404, "OpenDSR is not set up here.")


def _status(row: ApiRequest, *, status: int) -> HttpResponse:
    return _signed(api_requests.status_content(row), status=status)


def _signed(content: Mapping[str, object], *, status: int = 200) -> HttpResponse:
    body = json.dumps(content).encode()
    return HttpResponse(
        body,
        status=status,
        content_type="application/json",
        headers=opendsr.signed_headers(body),
    )


api.add_router("/drp/v1", drp_api.router)


# --- Errors: places and rules, never values -----------------------------------------------------
def _error(
    request: HttpRequest, status: int, message: str, errors: list[str] | None = None
) -> HttpResponse:
    if request.path.startswith(drp_api.PREFIX):
        return drp_api.error(status, message)
    content = {"code": status, "message": message, "errors": errors or []}
    headers = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "60"}}.get(status, {})
    return HttpResponse(
        json.dumps(content), status=status, content_type="application/json", headers=headers
    )


@api.exception_handler(InvalidRequest)
def _invalid(request: HttpRequest, problem: InvalidRequest) -> HttpResponse:
    """The place of each fault by the names of our own fields, and the rule that it breaks."""
    lines = [f"{_place(each['loc'])}: {each['type']}" for each in problem.errors[:20]]
    return _error(request, 400, "The request is not of the form that this call takes.", lines)


def _place(loc: tuple[object, ...]) -> str:
    known = {*RequestIn.model_fields, *IdentityIn.model_fields, *OwnExtension.model_fields}
    known |= {*CaseQuery.model_fields, "body", "query", "path", "order", "subject_request_id"}
    return ".".join(str(p) if isinstance(p, int) or p in known else "…" for p in loc)


@api.exception_handler(AuthenticationError)
def _stranger(request: HttpRequest, problem: AuthenticationError) -> HttpResponse:
    return _error(request, 401, "Give a key that is known here: Authorization: Bearer …")


@api.exception_handler(HttpError)
def _refused(request: HttpRequest, problem: HttpError) -> HttpResponse:
    return _error(request, problem.status_code, str(problem))


@api.exception_handler(drp.Refused)
def _refused_agent(request: HttpRequest, problem: drp.Refused) -> HttpResponse:
    return drp_api.error(problem.status, str(problem), fatal=problem.fatal)


@csrf_exempt
def no_such_call(request: HttpRequest) -> HttpResponse:
    """An address under /api/ that is none of the calls above, for machines."""
    return _error(request, 404, "There is no such call.")


def _of_service(status: int) -> Any:
    return lambda request, problem: _error(request, status, str(problem))


for _kind, _code in REFUSALS:
    api.add_exception_handler(_kind, _of_service(_code))
