"""Codes that people type: made from `secrets`, stored as keyed digests, compared in constant time.

Alphabet after Crockford's base 32: no I, L, O, U, so that a code read aloud or from paper works.
"""

from __future__ import annotations

import secrets
from uuid import UUID

from django.utils.crypto import constant_time_compare, salted_hmac

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
CONFIRMATION_LENGTH = 8  # 40 bits, five tries, fifteen minutes
ACCESS_LENGTH = 16  # 80 bits; opens the status page together with the reference
GROUP = 4


def new_code(length: int) -> str:
    """Random code in groups of four, e.g. `7GQ2-M0XK`."""
    text = "".join(secrets.choice(ALPHABET) for _ in range(length))
    return "-".join(text[i : i + GROUP] for i in range(0, length, GROUP))


def normalise(code: str) -> str:
    """What was meant: capitals, no separators, O read as 0, I and L as 1."""
    kept = "".join(c for c in code.upper() if c.isascii() and c.isalnum())
    return kept.translate(str.maketrans("OIL", "011"))


def code_digest(purpose: str, case_id: UUID, code: str) -> str:
    """Hex HMAC-SHA256 under the installation's secret, bound to purpose and case."""
    return salted_hmac(
        f"rtbf.{purpose}", f"{case_id}:{normalise(code)}", algorithm="sha256"
    ).hexdigest()


def code_matches(purpose: str, case_id: UUID, code: str, *, digest: str) -> bool:
    """Constant-time comparison; an empty digest never matches."""
    matches = constant_time_compare(code_digest(purpose, case_id, code), digest)
    return bool(digest) and matches
