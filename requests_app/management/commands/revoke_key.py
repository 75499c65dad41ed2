"""`manage.py revoke_key VKEY --from-size N --reason lost`: take back what a key is good for."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app import keys


class Command(BaseCommand):
    help = (
        "Revoke a key that was rotated: what it signed for larger logs counts no more, unless a"
        " witness cosigned it before now. Then hand out the new trust file (export_trust)."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("vkey", help="as it stands in the trust file")
        parser.add_argument(
            "--from-size", type=int, required=True, help="the last log size that is above doubt"
        )
        parser.add_argument("--reason", choices=keys.REASONS, required=True)

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            key = keys.revoke_key(
                vkey=options["vkey"], from_size=options["from_size"], reason=options["reason"]
            )
        except keys.KeyChangeRefused as problem:
            raise CommandError(str(problem)) from None
        self.stdout.write(f"{key.vkey} is good up to log size {key.revoked_from} only.")
