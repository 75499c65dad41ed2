"""PDF/A-3a (ISO 19005-3) and PDF/UA-1 (ISO 14289-1) by typst, from a template of ours.

typst refuses to write a document that misses what either asks for, as far as a program can see.
Typeset from its embedded fonts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import typst


def typeset(template: Path, told: Mapping[str, Any], at: datetime, **inputs: str) -> bytes:
    """PDF bytes; the same `told`, `inputs` and time, to the second, give the same bytes."""
    pdf = typst.Compiler(ignore_system_fonts=True).compile(
        input=template.read_bytes(),
        format="pdf",
        sys_inputs={"told": json.dumps(told), **inputs},
        pdf_standards=["a-3a", "ua-1"],
        timestamp=at.replace(microsecond=0),
    )
    return cast(bytes, pdf)
