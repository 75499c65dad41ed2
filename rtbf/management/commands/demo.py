"""`manage.py demo`: one whole case over HTTP and the real queue, then the evidence summary."""

import json
import os
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from rtbf.demo import DemoError, run_demo
from rtbf.stack import StackError
from rtbf.visitor import VisitError


class Command(BaseCommand):
    help = (
        "File an erasure request as a person would, decide it as two members of staff would, let\n"
        "the worker erase and verify, and check the evidence bundle with the offline verifier.\n\n"
        "examples:\n"
        "  manage.py demo\n"
        "  manage.py demo --person 7 --json"
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.formatter_class = RawDescriptionHelpFormatter
        parser.add_argument(
            "--person", type=int, default=0, help="which of the twenty erasable customers (0-19)"
        )
        parser.add_argument("--dir", type=Path, default=Path(settings.RTBF_VAR_DIR) / "demo")
        parser.add_argument("--json", action="store_true", help="print only the summary")

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
