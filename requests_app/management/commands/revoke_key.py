"""`manage.py revoke_key VKEY --from-size N --reason lost`: take back what a key is good for."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import keys
from requests_app.commands import ToldCommand


class Command(ToldCommand):
    help = (
        "Revoke a key that was rotated: what it signed for larger logs counts no more, unless a"
        " witness cosigned it before now. Then hand out the new trust file (export_trust)."
    )
    examples = (
        (
            "revoke_key VKEY --from-size 1200 --reason lost",
            "what it signed beyond entry 1200 counts no more",
        ),
    )
    reports = True

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
        self.tell(
            {"vkey": key.vkey, "good_up_to": key.revoked_from},
            options,
            f"{key.vkey} is good up to log size {key.revoked_from} only.",
        )
