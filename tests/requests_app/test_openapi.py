"""The API keeps to its own description, whatever is sent: no fault of the server, no odd answer."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.test import Client
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as property_settings
from pytest_django.fixtures import Settings
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from requests_app import api as api_module
from requests_app import drp_api
from requests_app.api import api
from requests_app.services import api_requests
from tests import factories
from tests.tls_server import certificate

pytestmark = pytest.mark.django_db

PATHS = {
    "/api/opendsr/discovery",
    "/api/opendsr/requests",
    "/api/opendsr/requests/{subject_request_id}",
    "/api/cases",
    "/api/cases/{reference}/evidence",
    "/api/drp/v1/agent/{agent_id}",
    "/api/drp/v1/data-rights-request",
    "/api/drp/v1/data-rights-request/{request_id}",
}
EXAMPLES = 25
AGENT_KEY = Ed25519PrivateKey.generate()
REQUEST_PARTS = ("method", "url", "headers", "params", "data", "json", "cookies", "files")
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def test_the_description_is_public_and_names_every_call(client: Client) -> None:
    described = client.get("/api/openapi.json").json()
    assert set(described["paths"]) == PATHS


@pytest.fixture
def keys(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What opens the calls whose address begins so."""
    (tmp_path / "key.pem").write_bytes(certificate().key_pem)
    (tmp_path / "cert.pem").write_bytes(certificate().pem)
    settings.RTBF_OPENDSR_KEY = str(tmp_path / "key.pem")
    settings.RTBF_OPENDSR_CERTIFICATE = str(tmp_path / "cert.pem")
    settings.RTBF_DRP_BUSINESS_ID = "CONTROLLER"
    for module in (api_module, drp_api):
        monkeypatch.setattr(module, "PER_MINUTE", 10_000)
    factories.confirmed_case()
    _, made = api_requests.create_client(
        name="fuzzer", controller_id="c", role="controller", scopes=api_requests.SCOPES
    )
    _, token = api_requests.create_client(
        name="agent",
        controller_id="AGENT",
        role="agent",
        scopes=["write:requests"],
        verify_key=base64.b64encode(AGENT_KEY.public_key().public_bytes_raw()).decode(),
    )
    return {"/api/drp/": token, "/api/": made}


def sent(case: schemathesis.Case, keys: dict[str, str]) -> schemathesis.Response:
    """The answer to a made-up call, by Django's client, which stays in the test's transaction.

    What an agent sends is signed, or nothing but signatures would be tried.
    """
    kwargs = case.as_transport_kwargs(base_url="http://testserver")
    key = next(key for start, key in keys.items() if case.path.startswith(start))
    kwargs["headers"]["Authorization"] = f"Bearer {key}"
    if case.path.startswith("/api/drp/") and isinstance(kwargs.get("data"), bytes):
        kwargs["data"] = signed(kwargs["data"])
    allowed = {name: kwargs[name] for name in REQUEST_PARTS if name in kwargs}
    request = requests.Request(**allowed).prepare()
    body = request.body or b""
    answer = Client().generic(
        request.method or "",
        request.path_url,
        body.encode() if isinstance(body, str) else body,
        content_type=request.headers.get("Content-Type", ""),
        headers=dict(request.headers),
    )
    return schemathesis.Response(
        status_code=answer.status_code,
        headers={name.lower(): [value] for name, value in answer.headers.items()},
        content=answer.content,
        request=request,
        elapsed=0.0,
        verify=False,
    )


def signed(content: bytes) -> bytes:
    return base64.b64encode(AGENT_KEY.sign(content) + content)


def operation_takes_anything(operation: schemathesis.APIOperation[Any, Any, Any, Any]) -> bool:
    return bool(operation.body or operation.query or operation.path_parameters)


def operations() -> list[schemathesis.APIOperation[Any, Any, Any, Any]]:
    schema = schemathesis.openapi.from_dict(json.loads(json.dumps(api.get_openapi_schema())))
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.label)
def test_every_answer_is_one_that_the_description_names(
    operation: schemathesis.APIOperation[Any, Any, Any, Any],
    mode: schemathesis.GenerationMode,
    keys: dict[str, str],
) -> None:
    seen = set()
    if mode == schemathesis.GenerationMode.NEGATIVE and not operation_takes_anything(operation):
        pytest.skip("there is nothing to get wrong")

    @given(operation.as_strategy(mode))
    @property_settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def call(case: schemathesis.Case) -> None:
        answer = sent(case, keys)
        seen.add(answer.status_code)
        case.validate_response(answer, checks=CHECKS)

    call()
    assert seen
    assert max(seen) < 500
