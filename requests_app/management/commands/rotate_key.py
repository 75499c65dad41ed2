"""`manage.py rotate_key log|attest`: let a signing key be followed by a new one."""

from typing import Any

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from requests_app import keys
from requests_app.commands import ToldCommand
from requests_app.models import AuditKey


class Command(ToldCommand):
    help = (
        "Make a new signing key. Both kinds are entered in the log, and bundles made before still"
        " verify with the new trust file (export_trust). Run it for `log` where the signer's folder"
        " is; the signer, running or at its next start, changes over by itself."
    )
    examples = (
        ("rotate_key log", "where the signer's folder is; the signer changes over by itself"),
        ("rotate_key attest", "the key of statements"),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("purpose", choices=AuditKey.Purpose.values)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            if options["purpose"] == AuditKey.Purpose.LOG:
                key = keys.prepare_log_key(settings.RTBF_SIGNER_DIR)
                then = "The signer enters it in the log and signs the next checkpoint with both."
            else:
                key = keys.rotate_attest_key()
                then = f"Copy {settings.RTBF_KEY_DIR / keys.ATTEST_FILE} to every other machine."
        except (keys.KeyFileError, keys.KeyChangeRefused) as problem:
            raise CommandError(str(problem)) from None
        self.tell(
            {"purpose": options["purpose"], "vkey": key.vkey},
            options,
            f"{options['purpose']} {key.vkey}",
            then,
        )
