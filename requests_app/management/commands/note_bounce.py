"""`manage.py note_bounce < mail`: note that the announcement of a letter came back."""

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from requests_app.services.bounces import LARGEST, read_notification, record_bounce
from requests_app.services.errors import Invalid, NotFound


class Command(ToldCommand):
    help = (
        "Read delivery status notifications (RFC 3464), one from standard input or each file of a"
        " maildir, and mark the letters that could not be announced. Other mail is left alone."
    )
    examples = (
        ("note_bounce < mail", "one notification, as a mail server hands it over"),
        ("note_bounce --maildir /var/mail/bounces", "every new mail of a maildir"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--maildir", type=Path, help="folder with new/; read mail goes to cur/")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["maildir"] is None:
            try:
                self.stdout.write(_note(sys.stdin.buffer.read(LARGEST + 1)))
            except (Invalid, NotFound) as refused:
                raise CommandError(str(refused)) from None
            return
        new, read = options["maildir"] / "new", options["maildir"] / "cur"
        if not new.is_dir() or not read.is_dir():
            raise CommandError("This is no maildir: it has no folders new/ and cur/.")
        for number, path in enumerate(sorted(p for p in new.iterdir() if p.is_file()), start=1):
            try:
                with path.open("rb") as mail:
                    told = _note(mail.read(LARGEST + 1))
            except (Invalid, NotFound) as refused:
                told = str(refused)
            path.rename(read / f"{path.name}:2,S")
            self.stdout.write(f"{number}: {told}")


def _note(raw: bytes) -> str:
    """What was done with one mail, in words that hold no personal data."""
    bounce = read_notification(raw)
    if bounce is None:
        return "Nothing failed for good."
    return (
        "A letter is marked."
        if record_bounce(bounce)
        else "The letter was marked before, or its case is sealed."
    )
