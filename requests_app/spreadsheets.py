"""Lines of CSV files that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO

# What makes a spreadsheet read a cell as a formula, full-width forms and hidden starts included
# (OWASP, CSV Injection; CWE-1236).
FORMULA_STARTS = tuple("=+-@\t\r\n\0＝＋－＠")  # noqa: RUF001


def line(cells: Iterable[object]) -> bytes:
    """One line in UTF-8 (RFC 4180), every cell quoted; what could be taken for a formula has an
    apostrophe in front. None is an empty cell."""
    out = StringIO()
    texts = ["" if cell is None else str(cell) for cell in cells]
    csv.writer(out, quoting=csv.QUOTE_ALL).writerow(map(_inert, texts))
    return out.getvalue().encode()


def _inert(text: str) -> str:
    starts = text.startswith(FORMULA_STARTS) or text.lstrip().startswith(FORMULA_STARTS)
    return f"'{text}" if starts else text
