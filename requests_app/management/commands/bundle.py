"""`manage.py bundle ERQ-2026-000123 bundle.zip`: write the last exported bundle of a case."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand, case_named
from requests_app.dossier import BundleNotReady, gather
from requests_app.exports import bundle
from requests_app.keys import KeyFileError


class Command(ToldCommand):
    help = "Write the evidence bundle of a case, as of its last export."
    examples = (
        ("bundle ERQ-2026-000123 bundle.zip", "the bundle of the case as of its last export"),
        (
            "bundle ERQ-2026-000123 bundle.zip --since 1200 --json",
            "with a proof from the checkpoint of size 1200, which the auditor has",
        ),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference")
        parser.add_argument("path", type=Path)
        parser.add_argument(
            "--since", type=int, help="log size of a checkpoint that the auditor already holds"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        case = case_named(options["reference"])
        try:
            data = bundle.render(gather(case), since=options["since"])
        except (BundleNotReady, KeyFileError, ValueError) as problem:
            raise CommandError(str(problem)) from None
        options["path"].write_bytes(data)
        path = str(options["path"])
        self.tell({"path": path, "bytes": len(data)}, options, f"{path}: {len(data)} bytes")
