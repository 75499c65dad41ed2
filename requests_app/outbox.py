"""The mail of an installation on one machine: files in EMAIL_FILE_PATH instead of a mail server.

A message names a case by its reference and holds the person's address, so each is a file of its own
that goes when the case is sealed.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

REFERENCE = re.compile(r"\bERQ-\d{4}-\d{6,}\b")


class EmailBackend(BaseEmailBackend):
    """Django's mail backend that writes `<reference>-<time>-<random>.eml`."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        folder = _folder()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for message in email_messages:
            case = REFERENCE.search(str(message.subject))
            name = f"{case[0] if case else 'mail'}-{time.time_ns()}-{secrets.token_hex(4)}"
            partial = folder / f".{name}"
            partial.write_bytes(message.message().as_bytes())
            partial.rename(folder / f"{name}.eml")
        return len(email_messages)


def forget(reference: str) -> int:
    """Delete the messages about a case; returns how many there were."""
    paths = [*_folder().glob(f"{reference}-*.eml"), *_folder().glob(f".{reference}-*")]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _folder() -> Path:
    return Path(settings.EMAIL_FILE_PATH)
