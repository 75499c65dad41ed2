"""OpenDSR 2.0 on the wire: signed answers, certificates, the erasure request to a processor.

Spec: github.com/opengdpr/opengdpr, OpenDSR 2.0. A processor signs the raw bytes of every answer
(SHA-256 with RSA or ECDSA) by the key of a certificate that an authority issued for its domain; the
signature is checked before anything is parsed. `encoded_request` is personal data and never kept.
"""

from __future__ import annotations

import base64
import binascii
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import verification
from django.conf import settings

from requests_app import outgoing
from requests_app.outgoing import Answer

API_VERSION = "2.0"
DOMAIN, SIGNATURE = "X-OpenDSR-Processor-Domain", "X-OpenDSR-Signature"
OLD_DOMAIN, OLD_SIGNATURE = "X-OpenGDPR-Processor-Domain", "X-OpenGDPR-Signature"


class OpenDsrError(Exception):
    """An answer or a signature is not what the protocol asks for; the text repeats none of it."""


@dataclass(frozen=True)
class Receipt:
    """What a processor promised, once its signature held."""

    subject_request_id: str
    expected_completion_time: str


@dataclass(frozen=True)
class Processor:
    """Where a processor is called; the certificate must be for the host of that address."""

    endpoint: str  # https://dsr.vendor.example/opendsr
    host: str
    listed: frozenset[str]

    def call(self, method: str, path: str, content: bytes = b"") -> Answer:
        headers = {"content-type": "application/json"} if content else {}
        url = f"{self.endpoint.rstrip('/')}{path}"
        return outgoing.call(method, url, hosts=self.listed, content=content, headers=headers)


def processor(endpoint: str) -> Processor:
    """The processor at an address of the recipient register, which lists its host by that."""
    found = outgoing.URL.fullmatch(endpoint)
    if found is None:
        raise OpenDsrError("The address of the processor is not a plain https address.")
    host = found["host"].lower()
    listed = frozenset({f"{host}:{found['port']}" if found["port"] else host})
    outgoing.target(endpoint, listed)
    return Processor(endpoint, host.strip("[]"), listed)


def request_erasure(to: Processor, body: bytes) -> Receipt:
    """Send an erasure request; a receipt only for an answer that the processor signed.

    The certificate is fetched and checked first, so that nothing leaves for one without. Raises
    OpenDsrError, OutgoingError.
    """
    certificate = fetch_certificate(to)
    answer = to.call("POST", "/requests", body)
    if answer.status != 201:
        raise OpenDsrError(f"The processor answered with status {answer.status}.")
    check_answer(answer, certificate, host=to.host)
    content = parse(answer.body)
    asked = parse(body).get("subject_request_id")
    expected = content.get("expected_completion_time")
    if content.get("subject_request_id") != asked or not isinstance(expected, str):
        raise OpenDsrError("The answer is about another request, or names no date.")
    return Receipt(str(asked), expected[:40])


def fetch_certificate(to: Processor) -> x509.Certificate:
    """The certificate that discovery names, at the processor's own host, up to a trusted root."""
    answer = to.call("GET", "/discovery")
    url = parse(answer.body).get("processor_certificate")
    if answer.status != 200 or not isinstance(url, str):
        raise OpenDsrError("Discovery names no certificate.")
    pem = outgoing.call("GET", url, hosts=to.listed)
    if pem.status != 200:
        raise OpenDsrError(f"The certificate is not there (status {pem.status}).")
    return trusted_certificate(pem.body, to.host)


def trusted_certificate(pem: bytes, host: str) -> x509.Certificate:
    """The first certificate of a PEM text, if its chain holds now and it is for `host`.

    Roots are the public ones, and those of RTBF_OUTGOING_CA.
    """
    roots = _public_roots()
    if settings.RTBF_OUTGOING_CA:
        own = Path(settings.RTBF_OUTGOING_CA).read_bytes()
        roots = [*roots, *x509.load_pem_x509_certificates(own)]
    try:
        leaf, *others = x509.load_pem_x509_certificates(pem)
        store = verification.Store(roots)
        verifier = (
            verification.PolicyBuilder().store(store).build_server_verifier(x509.DNSName(host))
        )
        verifier.verify(leaf, others)
    except (ValueError, verification.VerificationError, x509.UnsupportedGeneralNameType) as problem:
        raise OpenDsrError(f"The certificate is not good ({type(problem).__name__}).") from None
    return leaf


@lru_cache(maxsize=1)
def _public_roots() -> list[x509.Certificate]:
    """Mozilla's; one has the serial number 0, of which a warning says that RFC 5280 forbids it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        return x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())


def check_answer(answer: Answer, certificate: x509.Certificate, *, host: str) -> None:
    """OpenDsrError unless the raw body is signed by the certificate's key, for that host."""
    headers = answer.headers
    domain = headers.get(DOMAIN.lower()) or headers.get(OLD_DOMAIN.lower(), "")
    signature = headers.get(SIGNATURE.lower()) or headers.get(OLD_SIGNATURE.lower(), "")
    if domain.strip().lower() != host:
        raise OpenDsrError("The answer names another domain than the one that was asked.")
    check_signature(answer.body, signature, certificate)


def check_signature(body: bytes, signature: str, certificate: x509.Certificate) -> None:
    """OpenDsrError unless base64 `signature` is over SHA-256 of `body`, RSA (PKCS #1) or ECDSA."""
    try:
        raw = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        raise OpenDsrError("The signature is not base64.") from None
    key = certificate.public_key()
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(raw, body, padding.PKCS1v15(), SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(raw, body, ec.ECDSA(SHA256()))
        else:
            raise OpenDsrError("The certificate's key is neither RSA nor ECDSA.")
    except InvalidSignature:
        raise OpenDsrError("The signature is not of this answer and certificate.") from None


def erasure_request(
    *,
    regulation: str,
    subject_request_id: str,
    submitted_time: datetime,
    identities: Sequence[Mapping[str, str]],
    extension: Mapping[str, object],
) -> bytes:
    """The body of an erasure request; `extension` is filed under our own domain."""
    return json.dumps(
        {
            "regulation": regulation,
            "subject_request_id": subject_request_id,
            "subject_request_type": "erasure",
            "submitted_time": submitted_time.isoformat(timespec="seconds"),
            "subject_identities": list(identities),
            "api_version": API_VERSION,
            "extensions": {own_domain(): dict(extension)},
        },
        ensure_ascii=False,
    ).encode()


def parse(body: bytes) -> dict[str, Any]:
    """A JSON object; OpenDsrError for anything else."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise OpenDsrError("The answer is not a JSON object.")
    return content


# --- We as the processor ------------------------------------------------------------------------
def own_domain() -> str:
    """The host of RTBF_PUBLIC_URL."""
    found = outgoing.URL.fullmatch(settings.RTBF_PUBLIC_URL)
    return found["host"].lower() if found else "localhost"


def is_set_up() -> bool:
    """Whether there is a key and a certificate to sign answers with."""
    return bool(settings.RTBF_OPENDSR_KEY and settings.RTBF_OPENDSR_CERTIFICATE)


def own_certificate() -> bytes:
    """The PEM chain of RTBF_OPENDSR_CERTIFICATE."""
    return Path(settings.RTBF_OPENDSR_CERTIFICATE).read_bytes()


def sign(body: bytes) -> str:
    """Base64 signature over SHA-256 of `body` by RTBF_OPENDSR_KEY, RSA (PKCS #1) or ECDSA."""
    key = load_pem_private_key(Path(settings.RTBF_OPENDSR_KEY).read_bytes(), password=None)
    if isinstance(key, rsa.RSAPrivateKey):
        raw = key.sign(body, padding.PKCS1v15(), SHA256())
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        raw = key.sign(body, ec.ECDSA(SHA256()))
    else:
        raise OpenDsrError("RTBF_OPENDSR_KEY is neither RSA nor ECDSA.")
    return base64.b64encode(raw).decode()


def signed_headers(body: bytes) -> dict[str, str]:
    """The headers of an answer or callback of ours."""
    return {DOMAIN: own_domain(), SIGNATURE: sign(body)}
