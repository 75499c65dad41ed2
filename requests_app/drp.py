"""Data Rights Protocol 1.0 on the wire: what an agent signs, and the order in which it is checked.

Spec: github.com/consumer-reports-innovation-lab/data-rights-protocol, 1.0 (the text of 0.9.4), 3.06
and 3.07. A message is base64 of an Ed25519 signature and the JSON that it signs (libsodium's
combined mode). What an agent is refused repeats nothing of its message.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings

VERSION = "1.0"
AGENT_ID = re.compile(r"[A-Z_]{1,80}")  # 3.05.1; a business has one of the same form
SIGNATURE = 64  # bytes
LONGEST_VALID = timedelta(hours=1)  # the protocol recommends ten minutes


class Refused(Exception):
    """A message is not taken; `fatal`: it will not be at another try either."""

    def __init__(self, status: int, message: str, *, fatal: bool = True) -> None:
        super().__init__(message)
        self.status, self.fatal = status, fatal


def is_set_up() -> bool:
    """Whether this business is in a directory, by its id there."""
    return bool(AGENT_ID.fullmatch(settings.RTBF_DRP_BUSINESS_ID))


def open_message(raw: bytes, *, key: Ed25519PublicKey) -> dict[str, Any]:
    """The object that an agent signed: base64 first, then the signature, and only then JSON.

    Raises Refused.
    """
    try:
        content = base64.b64decode(raw.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "The message is not base64.") from None
    try:
        key.verify(content[:SIGNATURE], content[SIGNATURE:])
    except InvalidSignature:
        raise Refused(403, "The signature is not that of this agent.") from None
    try:
        message = json.loads(content[SIGNATURE:])
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Refused(400, "What was signed is no JSON object.")
    return message


def check_claims(message: Mapping[str, Any], *, agent_id: str, now: datetime) -> datetime:
    """Check from whom, for whom and when a message is, in the order of 3.07; returns when it was
    issued. Raises Refused."""
    if message.get("agent-id") != agent_id:
        raise Refused(403, "agent-id is not the agent of this token.")
    if message.get("business-id") != settings.RTBF_DRP_BUSINESS_ID:
        raise Refused(403, "business-id is not this business.")
    issued, expires = _time(message, "issued-at"), _time(message, "expires-at")
    if issued > now:
        raise Refused(400, "issued-at lies in the future: is the agent's clock right?")
    if expires <= now:
        raise Refused(400, "expires-at has passed: sign the request anew.")
    if expires - issued > LONGEST_VALID:
        raise Refused(400, "A message may be good for an hour at most.")
    return issued


def _time(message: Mapping[str, Any], field: str) -> datetime:
    try:
        found = datetime.fromisoformat(message[field])
    except (KeyError, TypeError, ValueError):
        found = None
    if found is None or found.utcoffset() is None:
        raise Refused(400, f"{field} is no ISO 8601 time with a zone.")
    return found
