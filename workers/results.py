"""One row for each probe, as the record and its reports print it: decimal strings, no texts."""

from collections.abc import Mapping
from typing import Any

from workers.probes import load_probe
from workers.verification import HOLDS, SHORT, decimal

Row = dict[str, Any]


def probe_results(figures: Mapping[str, Any]) -> list[Row]:
    """Rows with probe, question, n, before, after, control, bound, threshold, holds.

    A value that was not measured is an empty string; `holds` is None where nothing is decided. A
    probe that could not be measured has no row.
    """
    return [_row(name, found) for name, found in figures.get("probes", {}).items()]


def _row(name: str, found: Mapping[str, Any]) -> Row:
    limits = found.get("limits") or [None]
    return {
        "probe": name,
        "question": load_probe(name).QUESTION,
        "n": found["n"],
        **{key: _text(found[key]) for key in ("before", "after", "control", "bound")},
        "threshold": _text(limits[0]),
        "holds": {HOLDS: True, SHORT: False}.get(found.get("outcome", "")),
    }


def _text(value: float | None) -> str:
    return "" if value is None else decimal(value)
