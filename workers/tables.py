"""A probe's rows as bytes: what is sealed as evidence, and what every figure is made of again.

Numbers and flags, with one keyed id a fact: HMAC-SHA256 under a salt that is drawn for the table
and stored in it, so that whoever may open the table can match a fact to it, and nobody else. Beside
them a few samples of what was said (`workers.samples`), which no figure is made of.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from workers.forget_sets import Located
from workers.probes import Row, Tables
from workers.samples import Sample

FORM = 1
SALT_BYTES = 16


class TableError(ValueError):
    """Stored rows cannot be read; the message says what to do."""


def written(tables: Tables, located: Located, samples: Sequence[Sample] = ()) -> bytes:
    """The rows of one probe with a fresh salt, as JSON bytes."""
    salt = secrets.token_bytes(SALT_BYTES)
    return _dumped(
        {
            "form": FORM,
            "salt": salt.hex(),
            "facts": [fact_id(salt, fact.question, fact.answer) for fact in located.facts],
            "sides": {side: [row.as_json() for row in rows] for side, rows in tables.items()},
            **({"samples": [each.as_json() for each in samples]} if samples else {}),
        }
    )


def read(data: bytes) -> Tables:
    """The rows again. Raises TableError where the bytes hold none."""
    try:
        found: Mapping[str, Any] = json.loads(data)
        if found["form"] != FORM:
            raise TableError("The rows have a form that this version does not know.")
        return {
            str(side): [Row.from_json(row) for row in rows] for side, rows in found["sides"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TableError(
            "Stored rows of a probe cannot be read: restore them from a backup."
        ) from error


def digest(data: bytes) -> str:
    """SHA-256 of a table's bytes, as the evidence names it."""
    return hashlib.sha256(data).hexdigest()


def fact_id(salt: bytes, question: str, answer: str) -> str:
    """The keyed id of a fact in one table."""
    return hmac.new(salt, f"{question}\n{answer}".encode(), hashlib.sha256).hexdigest()[:32]


def _dumped(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
