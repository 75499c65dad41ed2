"""`manage.py export_trust`: the public keys, for whoever verifies bundles."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import keys
from requests_app.commands import ToldCommand
from requests_app.models import AuditKey


class Command(ToldCommand):
    help = "Write the trust file. Hand it over by another way than the bundles."
    examples = (
        ("export_trust trust.txt", "write the trust file"),
        ("export_trust > trust.txt", "the same, by standard output"),
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("path", nargs="?", help="file to write; standard output without it")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            keys.attest_key()
        except keys.KeyFileError as problem:
            raise CommandError(str(problem)) from None
        if not AuditKey.objects.filter(purpose=AuditKey.Purpose.LOG).exists():
            raise CommandError(
                "The log has no key yet. Start the signer first: manage.py sign_checkpoints --once"
            )
        if options["path"] is None:
            self.stdout.write(keys.trust_text(), ending="")
        else:
            Path(options["path"]).write_text(keys.trust_text())
