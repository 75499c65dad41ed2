"""A mail server that takes a moment for each mail, so that two senders meet."""

import time
from collections.abc import Sequence

from django.core.mail import EmailMessage
from django.core.mail.backends import locmem

SECONDS = 0.05


class EmailBackend(locmem.EmailBackend):
    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:  # type: ignore[override]
        time.sleep(SECONDS)
        return super().send_messages(email_messages)
