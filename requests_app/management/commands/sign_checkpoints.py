"""`manage.py sign_checkpoints`: the signer's own process."""

import signal
import threading
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser
from django.db import OperationalError, close_old_connections

from requests_app.commands import ToldCommand
from requests_app.keys import KeyChangeRefused, KeyFileError
from requests_app.signer import SignerRefused, open_signer, sign_next


class Command(ToldCommand):
    help = "Sign the head of the audit log whenever it has grown; refuse if it was rewritten."
    examples = (
        ("sign_checkpoints", "sign on, until it is stopped"),
        ("sign_checkpoints --once", "sign the head as it is, and end"),
    )
    exits = "0: stopped, or signed once; 1: nothing could be signed; 2: the command line is wrong"

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--interval", type=float, default=1.0, help="seconds between looks")
        parser.add_argument("--once", action="store_true", help="sign once and end")

    def handle(self, *args: Any, **options: Any) -> None:
        stop = threading.Event()
        if not options["once"]:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: stop.set())
        try:
            self._sign(stop, once=options["once"], interval=options["interval"])
        except (SignerRefused, KeyFileError, KeyChangeRefused) as problem:
            raise CommandError(f"Nothing was signed. {problem}") from None

    def _sign(self, stop: threading.Event, *, once: bool, interval: float) -> None:
        with open_signer(settings.RTBF_SIGNER_DIR) as signer:
            self.stdout.write(f"Signing as {signer.key.vkey}")
            while True:
                try:
                    signer, checkpoint = sign_next(signer)
                except OperationalError as problem:  # the database is away or busy: look again
                    if once:
                        raise CommandError(f"The database could not be read: {problem}") from None
                    self.stderr.write(f"The database could not be read, trying again: {problem}")
                    checkpoint = None
                if checkpoint is not None:
                    self.stdout.write(f"Signed {checkpoint}")
                if once or stop.wait(interval):
                    return
                close_old_connections()
