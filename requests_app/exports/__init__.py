"""Exports. One file is one export; its name is the file's name, and nothing is registered anywhere.

A file states what it is OF, and with that what its `render` takes and when it is made:

| OF | `render` takes | gives | made |
|---|---|---|---|
| `case` | `dossier.gather(case)` | bytes | while one waits |
| `record`, `release` | `extract.Extract` | bytes, piece by piece | by a job, `export_jobs` |

An export of the record or of a release also names the LEVELS of redaction that it can be made at.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast

from requests_app.dossier import Dossier
from requests_app.extract import Extract
from requests_app.models.exports import Level

CASE, RECORD, RELEASE = "case", "record", "release"


class Export(Protocol):
    """What every file of this folder says of itself."""

    OF: str
    TITLE: str
    CONTENT_TYPE: str
    EXTENSION: str


class CaseExport(Export, Protocol):
    """An export of one case."""

    def render(self, dossier: Dossier) -> bytes:
        """The export's bytes; the same dossier gives the same bytes."""


class JobExport(Export, Protocol):
    """An export of the whole record or of a release."""

    LEVELS: tuple[Level, ...]

    def render(self, extract: Extract) -> Iterator[bytes]:
        """The export's bytes in pieces, so that no more than a page of rows is in memory."""


class UnknownExport(LookupError):
    """There is no export of that name; the message lists those there are."""


def names(*of: str) -> list[str]:
    """All exports, or those of a case, of the record, of a release."""
    found = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in found if not of or _load(name).OF in of]


def load(name: str) -> CaseExport:
    """The export `name` of a case; UnknownExport lists the known ones."""
    return cast(CaseExport, _known(name, CASE))


def load_job(name: str) -> JobExport:
    """The export `name` of the record or of a release; UnknownExport lists the known ones."""
    return cast(JobExport, _known(name, RECORD, RELEASE))


def file_name(name: str, dossier: Dossier) -> str:
    """Name for the download: the case's reference and the export, nothing personal."""
    return f"{dossier.reference}-{name}.{load(name).EXTENSION}"


def _known(name: str, *of: str) -> Export:
    if name not in (known := names(*of)):
        raise UnknownExport(f"There is no export “{name}”. Known: {', '.join(known)}.")
    return _load(name)


def _load(name: str) -> Export:
    return cast(Export, import_module(f"{__name__}.{name}"))
