"""`manage.py bundle ERQ-2026-000123 bundle.zip`: write the last exported bundle of a case."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app.dossier import BundleNotReady, gather
from requests_app.exports import bundle
from requests_app.keys import KeyFileError
from requests_app.models import Case


class Command(BaseCommand):
    help = "Write the evidence bundle of a case, as of its last export."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference")
        parser.add_argument("path", type=Path)
        parser.add_argument(
            "--since", type=int, help="log size of a checkpoint that the auditor already holds"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        case = Case.objects.filter(reference=options["reference"]).first()
        if case is None:
            raise CommandError(f"There is no case {options['reference']}.")
        try:
            data = bundle.render(gather(case), since=options["since"])
        except (BundleNotReady, KeyFileError, ValueError) as problem:
            raise CommandError(str(problem)) from None
        options["path"].write_bytes(data)
        self.stdout.write(f"{options['path']}: {len(data)} bytes")
