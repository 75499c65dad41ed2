"""Exports of a case. One file is one export: TITLE, CONTENT_TYPE, EXTENSION, render(dossier).

The file name is the export's name; nothing is registered anywhere.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import Protocol, cast

from requests_app.dossier import Dossier


class Export(Protocol):
    """What a file of this folder offers; `render` takes `dossier.gather(case)`."""

    TITLE: str
    CONTENT_TYPE: str
    EXTENSION: str

    def render(self, dossier: Dossier) -> bytes:
        """The export's bytes; the same dossier gives the same bytes."""


class UnknownExport(LookupError):
    """There is no export of that name; the message lists those there are."""


def names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Export:
    """The export `name`; UnknownExport lists the known ones."""
    if name not in names():
        raise UnknownExport(f"There is no export “{name}”. Known: {', '.join(names())}.")
    return cast(Export, import_module(f"{__name__}.{name}"))


def file_name(name: str, dossier: Dossier) -> str:
    """Name for the download: the case's reference and the export, nothing personal."""
    return f"{dossier.reference}-{name}.{load(name).EXTENSION}"
