"""`manage.py sample`: made-up cases of a year and a half, through the real services."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand, progress
from rtbf.sample import make_sample
from rtbf.sample_runs import SampleError


class Command(ToldCommand):
    help = (
        "Fill an empty installation with made-up cases of the last eighteen months: every state,"
        " channel and kind of ending, runs with events and evidence, all through the real services."
        " People, addresses and figures are invented, and the pages say so. It refuses where there"
        " are cases, and on a production installation: the log is append-only, so a sample cannot"
        " be taken out again."
    )
    examples = (
        ("sample", "two hundred cases"),
        ("sample --cases 40 --seed 7 --json", "another forty, ends with one JSON object"),
        ("sample --cases 200", "in an installation of its own: RTBF_VAR_DIR=var/sample before it"),
    )
    exits = "0: made; 1: refused, nothing was made; 2: the command line is wrong"
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cases", type=int, default=200, help="how many; default %(default)s")
        parser.add_argument("--seed", type=int, default=1, help="of chance; default %(default)s")

    def handle(self, *args: Any, **options: Any) -> None:
        with progress("cases", total=options["cases"]) as bar:
            try:
                entries = make_sample(
                    count=options["cases"],
                    seed=options["seed"],
                    report=lambda done, of: bar(done),
                )
            except SampleError as refused:
                raise CommandError(str(refused)) from None
        found = {"cases": options["cases"], "seed": options["seed"], "entries": entries}
        self.tell(found, options, f"{options['cases']} cases, {entries} entries in the log.")
