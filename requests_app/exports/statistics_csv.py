"""The same statistics as a table: one line for each figure, named by its path in the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from requests_app import period_statistics, spreadsheets
from requests_app.extract import Extract
from requests_app.models.exports import Level

OF = "record"
TITLE = _("Statistics of a period (CSV)")
CONTENT_TYPE = "text/csv; charset=utf-8; header=present"
EXTENSION = "csv"
LEVELS = (Level.PUBLIC, Level.AUTHORITY)


def render(extract: Extract) -> Iterator[bytes]:
    """Lines of part, figure and value; a value that is not told is empty."""
    yield spreadsheets.line(("part", "figure", "value"))
    for path, value in _flat(period_statistics.count(extract)):
        yield spreadsheets.line((path[0], " / ".join(path[1:]), value))


def _flat(told: Mapping[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], object]]:
    for key, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, *above, key)
        else:
            yield (*above, key), value
