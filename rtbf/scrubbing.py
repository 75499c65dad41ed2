"""Log lines without personal data, by refusing first: only what cannot hold any is written.

A line is the message's own text, which our code and Django write as constants, with its arguments
filled in. Numbers, ids, references and plain names of code pass; every other text becomes `[…]`.
A library that fills its text in itself may have put anything there: of loggers that are not named
in READABLE only the place is written. Of an exception the types and the places are kept; its words
only where it is an exception of this project, whose messages name ids and never values.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

HIDDEN = "[…]"
OURS = ("rtbf", "requests_app", "workers")
READABLE = (*OURS, "django", "celery", "kombu", "uvicorn")

# An id, a reference, a number, a digest, a dotted name of code, a queue or task name.
HARMLESS = re.compile(
    r"[0-9a-f]{8}-[0-9a-f-]{27}|ERQ-\d{4}-\d{6,9}|[0-9a-f]{64}|-?\d+(\.\d+)?(e-?\d+)?s?"
    r"|(celery|kombu|django|uvicorn|rtbf|requests_app|workers)(\.[A-Za-z_]\w*)+|(legal|model)@[\w.-]+"
)
SAFE_TYPES = (int, float, UUID, date, timedelta, type(None))


class Scrubbed(logging.Formatter):
    """Formats a record as the module says; see the settings' LOGGING."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record)} {record.levelname} {record.name} {message(record)}"
        if record.exc_info and record.exc_info[1] is not None:
            line = f"{line}\n{exception(record.exc_info[1])}"
        return line


class ScrubbedJson(Scrubbed):
    """The same as one JSON object a line: time, level, logger, message, and error if there is."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": message(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = exception(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def message(record: logging.LogRecord) -> str:
    """The text of a record with its harmless arguments; only its place for unknown loggers."""
    if record.name.split(".")[0] not in READABLE or not isinstance(record.msg, str):
        return f"{HIDDEN} ({record.module}:{record.lineno})"
    if not record.args:
        return one_line(record.msg) if _is_constant(record) else HIDDEN
    args: Any = (
        {key: harmless(value) for key, value in record.args.items()}
        if isinstance(record.args, Mapping)
        else tuple(harmless(value) for value in record.args)
    )
    try:
        return one_line(record.msg % args)
    except (TypeError, ValueError):  # a number's format met a hidden text
        return f"{HIDDEN} ({record.module}:{record.lineno})"


def harmless(value: object) -> object:
    """`value` if it cannot tell who somebody is, else `[…]`."""
    if isinstance(value, SAFE_TYPES):
        return value
    if isinstance(value, str) and (HARMLESS.fullmatch(value) or _is_name_of_code(value)):
        return value
    return HIDDEN


def exception(error: BaseException) -> str:
    """Types and places of an exception and what caused it, the words of our own exceptions only."""
    lines = []
    for each in _chain(error):
        for frame in traceback.extract_tb(each.__traceback__):
            lines.append(f"  {_place(frame.filename)}:{frame.lineno} in {frame.name}")
        kind = type(each)
        ours = kind.__module__.split(".")[0] in OURS
        words = f": {one_line(str(each))}" if ours and str(each) else ""
        lines.append(f"{kind.__module__}.{kind.__qualname__}{words}")
    return "\n".join(lines)


def one_line(text: str) -> str:
    """No line breaks: nobody writes a second line into the log (CWE-117)."""
    return " ".join(text.split())


def _is_constant(record: logging.LogRecord) -> bool:
    """Whether a message without arguments is the source's own words: only our code keeps to that,
    and what Celery and uvicorn say of themselves at start."""
    root = record.name.split(".")[0]
    return root in OURS or root in ("celery", "uvicorn", "kombu")


def _is_name_of_code(value: str) -> bool:
    """The name of an exception class, as in “not mailed (TimeoutError)”."""
    return value.isidentifier() and value.endswith(("Error", "Refused", "Exception", "Timeout"))


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)  # type: ignore[assignment]
    return found[::-1]


def _place(filename: str) -> str:
    return "/".join(Path(filename).parts[-3:])
