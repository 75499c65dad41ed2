"""OpenDSR on the wire: only a processor's signed answer counts, and nothing leaves for another."""

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from requests_app import opendsr
from requests_app.opendsr import OpenDsrError
from requests_app.outgoing import Answer, CallRefused
from tests.tls_server import Certified, Reply, Seen, authority, certificate, served


@pytest.fixture
def trusted(settings: Settings, tmp_path: Path) -> Path:
    settings.RTBF_OUTGOING_CA = str(tmp_path / "ca.pem")
    (tmp_path / "ca.pem").write_bytes(certificate().ca_pem)
    return tmp_path


def body_for(subject_request_id: str) -> bytes:
    return opendsr.erasure_request(
        regulation="gdpr",
        subject_request_id=subject_request_id,
        submitted_time=datetime(2026, 11, 2, tzinfo=UTC),
        identities=[],
        extension={"reference": "ERQ-2026-000001"},
    )


def sign(certified: Certified, body: bytes) -> dict[str, str]:
    signature = certified.key.sign(body, ec.ECDSA(SHA256()))
    encoded = base64.b64encode(signature).decode()
    return {opendsr.DOMAIN: "localhost", opendsr.SIGNATURE: encoded}


def vendor(
    *,
    change: Callable[[dict[str, str], bytes], tuple[dict[str, str], bytes]] = lambda h, b: (h, b),
    pem: bytes = b"",
    url: str = "",
    status: int = 201,
) -> Callable[[Seen], Reply]:
    """A processor that keeps to the protocol but for what is changed."""

    def reply(seen: Seen) -> Reply:
        if seen.path == "/dsr/discovery":
            address = url or f"https://{seen.headers['host']}/cert.pem"
            return 200, {}, json.dumps({"processor_certificate": address}).encode()
        if seen.path == "/cert.pem":
            return 200, {}, pem or certificate().pem
        content = {
            "controller_id": "c",
            "expected_completion_time": "2026-12-01T00:00:00Z",
            "received_time": "2026-11-02T00:00:00Z",
            "encoded_request": base64.b64encode(seen.body).decode(),
            "subject_request_id": json.loads(seen.body)["subject_request_id"],
        }
        answer = json.dumps(content).encode()
        headers, answer = change(sign(certificate(), answer), answer)
        return status, headers, answer

    return reply


def test_a_signed_answer_is_a_receipt_without_the_request(trusted: Path) -> None:
    wanted = str(uuid4())
    with served(vendor(), trusted) as (port, seen):
        to = opendsr.processor(f"https://localhost:{port}/dsr/")
        receipt = opendsr.request_erasure(to, body_for(wanted))
    assert receipt == opendsr.Receipt(wanted, "2026-12-01T00:00:00Z")
    assert [each.path for each in seen] == ["/dsr/discovery", "/cert.pem", "/dsr/requests"]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda h, b: (h, b.replace(b"2026-12", b"2027-12")), id="body changed"),
        pytest.param(lambda h, b: ({**h, opendsr.DOMAIN: "evil.example"}, b), id="other domain"),
        pytest.param(lambda h, b: ({**h, opendsr.SIGNATURE: "!!"}, b), id="not base64"),
        pytest.param(lambda h, b: ({**h, opendsr.SIGNATURE: ""}, b), id="empty signature"),
        pytest.param(lambda h, b: ({}, b), id="no headers"),
        pytest.param(lambda h, b: (sign(certificate(), b"[]"), b"[]"), id="not an object"),
        pytest.param(
            lambda h, b: (lambda other: (sign(certificate(), other), other))(
                json.dumps({**json.loads(b), "subject_request_id": str(uuid4())}).encode()
            ),
            id="about another request",
        ),
    ],
)
def test_an_answer_that_is_not_signed_for_this_request_counts_for_nothing(
    change: Callable[[dict[str, str], bytes], tuple[dict[str, str], bytes]], trusted: Path
) -> None:
    with served(vendor(change=change), trusted) as (port, _):
        to = opendsr.processor(f"https://localhost:{port}/dsr")
        with pytest.raises(OpenDsrError):
            opendsr.request_erasure(to, body_for(str(uuid4())))


@pytest.mark.parametrize(
    "pem",
    [
        pytest.param(lambda: certificate("other.example").pem, id="other name"),
        pytest.param(lambda: certificate(by="Nobody").pem, id="unknown authority"),
        pytest.param(
            lambda: authority("Self")[1].public_bytes(Encoding.PEM), id="signed by itself"
        ),
        pytest.param(lambda: b"no certificate", id="no certificate"),
    ],
)
def test_nothing_of_the_person_leaves_for_a_processor_without_a_good_certificate(
    pem: Callable[[], bytes], trusted: Path
) -> None:
    with served(vendor(pem=pem()), trusted) as (port, seen):
        to = opendsr.processor(f"https://localhost:{port}/dsr")
        with pytest.raises(OpenDsrError, match="not good"):
            opendsr.request_erasure(to, body_for(str(uuid4())))
        assert [each.method for each in seen] == ["GET", "GET"]


def test_a_certificate_from_elsewhere_is_not_fetched(trusted: Path) -> None:
    with served(vendor(url="https://evil.example/cert.pem"), trusted) as (port, seen):
        to = opendsr.processor(f"https://localhost:{port}/dsr")
        with pytest.raises(CallRefused, match="not listed"):
            opendsr.request_erasure(to, body_for(str(uuid4())))
        assert len(seen) == 1


def test_a_refusal_of_the_processor_is_not_a_receipt(trusted: Path) -> None:
    with served(vendor(status=400), trusted) as (port, _):
        to = opendsr.processor(f"https://localhost:{port}/dsr")
        with pytest.raises(OpenDsrError, match="status 400"):
            opendsr.request_erasure(to, body_for(str(uuid4())))


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_what_we_sign_checks_against_our_certificate(
    kind: str, settings: Settings, tmp_path: Path
) -> None:
    key = (
        rsa.generate_private_key(public_exponent=65537, key_size=2048)
        if kind == "rsa"
        else ec.generate_private_key(ec.SECP256R1())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(pem)
    settings.RTBF_OPENDSR_KEY = str(tmp_path / "key.pem")
    raw = base64.b64decode(opendsr.sign(b"body"))
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        public.verify(raw, b"body", padding.PKCS1v15(), SHA256())
    else:
        public.verify(raw, b"body", ec.ECDSA(SHA256()))


LEAF = x509.load_pem_x509_certificate(certificate().pem)


@given(st.binary(max_size=60), st.text(max_size=60))
def test_no_made_up_signature_passes(body: bytes, signature: str) -> None:
    answer = Answer(
        200, {opendsr.DOMAIN.lower(): "localhost", "x-opendsr-signature": signature}, body
    )
    with pytest.raises(OpenDsrError):
        opendsr.check_answer(answer, LEAF, host="localhost")
