"""`manage.py replay_erasures`: after a restore, destroy again what the backup brought back."""

import dataclasses
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app.commands import ToldCommand
from requests_app.services.errors import ServiceError
from requests_app.services.restoring import Replayed, replay_erasures


class Command(ToldCommand):
    help = (
        "Bring a restored database to the log that was signed last: append the entries it lost,"
        " destroy again what they say was destroyed, put the release in force again, and name what"
        " has to be done again. Safe to repeat. Web and workers start once it is done."
    )
    examples = (
        ("replay_erasures --dry-run", "what a restore has to destroy again"),
        ("replay_erasures --log copy.jsonl --json", "from a copy of the log's entries"),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--log",
            type=Path,
            metavar="FILE",
            help="a copy of the log's entries, or an internal export of it; else the signer's own",
        )
        parser.add_argument("--dry-run", action="store_true", help="say what would be done")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            done = replay_erasures(options["log"], dry_run=options["dry_run"])
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        found = {**dataclasses.asdict(done), "dry_run": options["dry_run"]}
        self.tell(found, options, *lines(done, dry_run=options["dry_run"]))


def lines(done: Replayed, *, dry_run: bool) -> list[str]:
    """What was done, in words."""
    found = ["Nothing was changed: this was a dry run."] if dry_run else []
    if not done.did_anything:
        return [*found, f"The database holds all {done.size} signed entries; nothing to do."]
    found.append(
        f"{done.size - done.first} entries appended again: {done.first} to {done.size}, root"
        f" {done.root}."
    )
    found += [f"Sealed again: {reference}" for reference in done.sealed_again]
    for release in done.releases:
        state = f"NOT in force: {release.why_not}" if release.why_not else "in force again"
        found.append(f"Release {release.digest[:12]} of {release.model_name}: {state}")
    for case in done.redo:
        what = "do again" if case.has_row else "the request was lost, ask for it again; lost"
        found.append(f"{case.reference or 'Of no case'}: {what}: {', '.join(case.steps)}")
    return found
