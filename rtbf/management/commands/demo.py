"""`manage.py demo`: one whole case over HTTP and the real queue, then the evidence summary."""

import json
import os
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from requests_app.commands import ToldCommand
from rtbf.demo import DemoError, run_demo
from rtbf.stack import StackError
from rtbf.visitor import VisitError


class Command(ToldCommand):
    help = (
        "File an erasure request as a person would, decide it as two members of staff would, let"
        " the worker erase and verify, and check the evidence bundle with the offline verifier."
        " Ends with one JSON object; with --json nothing is said meanwhile."
    )
    examples = (
        ("demo", "one whole case; a few minutes"),
        ("demo --person 7 --json", "another customer, quietly"),
    )
    exits = (
        "0: every bar holds; 1: one does not, or it could not go on; 2: the command line is wrong"
    )
    reports = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--person", type=int, default=0, help="which of the twenty erasable customers (0-19)"
        )
        parser.add_argument("--dir", type=Path, default=Path(settings.RTBF_VAR_DIR) / "demo")

    def handle(self, *args: Any, **options: Any) -> None:
        started = float(os.environ.get("RTBF_DEMO_STARTED", time.time()))
        say = (lambda text: None) if options["json"] else self.stderr.write
        try:
            summary = run_demo(options["dir"], person=options["person"], started=started, say=say)
        except (DemoError, StackError, VisitError) as error:
            raise CommandError(str(error)) from error
        self.stdout.write(json.dumps(summary, indent=2))
        if failed := [bar["name"] for bar in summary["bars"] if not bar["holds"]]:
            raise CommandError(f"Ended, but these bars do not hold: {', '.join(failed)}")
