"""`manage.py check_gate_report gate.json --file build.jsonl`: asked before training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from requests_app import training_gate
from requests_app.commands import ToldCommand
from requests_app.services import suppression
from requests_app.services.errors import ServiceError
from requests_app.training_data import DataError
from requests_app.training_gate import GateRefused


class Command(ToldCommand):
    help = (
        "Check that a signed gate report allows training on exactly this file, with the suppression"
        " list as it is now."
    )
    examples = (
        (
            "check_gate_report gate.json --file build.jsonl && train",
            "in a pipeline, before training",
        ),
        ("check_gate_report gate.json --set crm --file clean.jsonl --json", "of a registered set"),
    )
    exits = "0: it may be trained on; 1: it may not; 2: could not be checked"
    reports = True

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
        self.tell(
            {"allowed": True, "records": said["records"], "scanned_at": said["scannedAt"]},
            options,
            f"{said['records']} records, looked through on {said['scannedAt']}.",
        )
