"""Plain values that pass between a worker and the services of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from requests_app.services.errors import Invalid
from requests_app.verifier import canonical

ATTEMPTS = 3
"""How often a case is tried on a model before it ends as not met."""


@dataclass(frozen=True)
class Lease:
    """The right to work on one run until it expires or a higher fence is given out."""

    run_id: UUID
    owner: str
    fence: int


@dataclass(frozen=True)
class AdapterRow:
    """One adapter in force, by digests."""

    case_id: UUID
    sha256: str
    gate_sha256: str


@dataclass(frozen=True)
class RunInput:
    """What the worker needs for one run. The personal part never shows in a repr or traceback."""

    run_id: UUID
    case_id: UUID
    model_name: str
    number: int
    attempt: int  # 1 until a run of this case and model was measured as not met
    seed: int
    phase: str
    protocol: dict[str, Any] | None  # this run's, or before it has one that of earlier attempts
    adapter: AdapterRow | None  # this run's own, once recorded
    verdict: str  # empty until evidence is recorded
    adapters_in_force: tuple[AdapterRow, ...]
    parent_release: str | None
    name: str = field(repr=False)
    aliases: tuple[str, ...] = field(repr=False)
    facts: tuple[tuple[str, str], ...] = field(repr=False)
    merged: tuple[UUID, ...] = ()  # cases that the live weights were consolidated for

    @property
    def adapter_sha256(self) -> str | None:
        return self.adapter.sha256 if self.adapter else None


@dataclass(frozen=True)
class ProbeRow:
    """What one probe measured: decimal strings, empty where nothing was measured."""

    probe: str
    question: str
    n: int
    before: str = ""
    after: str = ""
    control: str = ""
    bound: str = ""
    threshold: str = ""
    holds: bool | None = None

    def as_estimates(self) -> dict[str, str | int | bool | None]:
        """The figures as the audit entry carries them."""
        return {
            "n": self.n,
            "before": self.before,
            "after": self.after,
            "control": self.control,
            "bound": self.bound,
            "threshold": self.threshold,
            "holds": self.holds,
        }

    def as_fields(self) -> dict[str, Any]:
        """All columns of `ProbeResult` but the run."""
        return {
            "probe": self.probe,
            "question": self.question,
            **self.as_estimates(),
        }


def without_floats(value: Any) -> Any:
    """The same JSON value with each float as its shortest decimal string (Python's `repr`).

    Invalid for NaN and infinity (nothing was measured: say so instead) and for other types.
    """
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Invalid("A figure is not a finite number; leave out what was not measured.")
        return repr(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): without_floats(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_floats(item) for item in value]
    raise Invalid(f"A figure has the type {type(value).__name__}, which JSON does not know.")


def canonical_bytes(value: Mapping[str, Any], *, what: str) -> bytes:
    """RFC 8785 bytes; Invalid for floats and other types."""
    try:
        return canonical.dumps(dict(value))
    except ValueError as problem:
        raise Invalid(f"{what} cannot be hashed: {problem}.") from None
