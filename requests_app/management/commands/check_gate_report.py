"""`manage.py check_gate_report gate.json --file build.jsonl`: asked before training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from requests_app import training_gate
from requests_app.services import suppression
from requests_app.services.errors import ServiceError
from requests_app.training_data import DataError
from requests_app.training_gate import GateRefused


class Command(BaseCommand):
    help = (
        "Check that a signed gate report allows training on exactly this file, with the suppression"
        " list as it is now. Exit 0: it does; 1: it does not; 2: could not be checked."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("report", type=Path)
        parser.add_argument("--file", type=Path, required=True)
        parser.add_argument("--set", default="", metavar="NAME", help="as it was given to the gate")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            said = training_gate.check(
                options["report"].read_bytes(),
                options["file"],
                list_sha256=suppression.list_in_force(options["set"]).sha256,
                training_set=options["set"],
            )
        except GateRefused as refused:
            self.stderr.write(f"Do not train on this file. {refused}")
            sys.exit(1)
        except (DataError, ServiceError, OSError) as problem:
            self.stderr.write(f"The report could not be checked: {problem}")
            sys.exit(2)
        self.stdout.write(f"{said['records']} records, looked through on {said['scannedAt']}.")
