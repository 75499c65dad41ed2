"""`manage.py verify_log`: read the whole log again and compare it with all that was signed."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from requests_app import audit


class Command(BaseCommand):
    help = "Hash every stored entry anew; check leaf hashes, case chains, the head, checkpoints."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            log = audit.verify_log()
        except audit.LogError as problem:
            raise CommandError(str(problem)) from None
        self.stdout.write(
            f"{log.entries} entries in {log.cases} cases and {log.checkpoints} checkpoints fit"
            f" together. Root of the log: {log.root.hex()}"
        )
