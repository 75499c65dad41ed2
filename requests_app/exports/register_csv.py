"""The register of cases for a spreadsheet, one line a case, safe to open.

What 11 CCR § 7101 and an authority want kept: date and manner of the request, date and nature of
the answer, the basis of a refusal. It has a line for each person, so there is none for the public.
"""

from __future__ import annotations

from collections.abc import Iterator

from django.utils.translation import gettext_lazy as _

from requests_app import spreadsheets
from requests_app.exports import register_json
from requests_app.extract import Extract
from requests_app.models.exports import Level

OF = "record"
TITLE = _("Register of cases (CSV)")
CONTENT_TYPE = "text/csv; charset=utf-8; header=present"
EXTENSION = "csv"
LEVELS = (Level.AUTHORITY, Level.INTERNAL)


def render(extract: Extract) -> Iterator[bytes]:
    """A line of column names, then one line a case; lists are joined by semicolons."""
    yield spreadsheets.line(register_json.COLUMNS)
    for row in extract.cases():
        told = register_json.tell(row, on=extract.made_on)
        yield spreadsheets.line(_cell(told[column]) for column in register_json.COLUMNS)


def _cell(value: object) -> object:
    """A value as a cell: lists by semicolons, what is true or false as yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return "; ".join(_cell_of(each) for each in value)
    return value


def _cell_of(item: object) -> str:
    if isinstance(item, dict):
        return " ".join(str(value) for value in item.values() if value)
    return str(item)
