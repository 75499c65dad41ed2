"""`manage.py locate_records ERQ-2026-000123 --by ana`: a person's records in training sets."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandError, CommandParser

from requests_app import locating
from requests_app.commands import ToldCommand, case_named, member_named, progress
from requests_app.models import RecordSearch
from requests_app.services import training
from requests_app.services.errors import ServiceError


class Command(ToldCommand):
    help = (
        "Look through every registered training set for a person's records, here and now. What is"
        " found waits on the case's page for somebody to say whether it is theirs."
    )
    examples = (
        (
            "locate_records ERQ-2026-000123 --by ana",
            "search every registered set, with a bar for each",
        ),
        ("locate_records ERQ-2026-000123 --by ana --json", "the result as one JSON object"),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="e.g. ERQ-2026-000123")
        parser.add_argument("--by", required=True, metavar="USERNAME")

    def handle(self, *args: Any, **options: Any) -> None:
        member = member_named(options["by"])
        case = case_named(options["reference"])
        try:
            queued = training.queue_searches(case_id=case.id, actor_member=member)
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        done = [searched(search) for search in queued]
        rows = [
            {
                "set": each.training_set_id,
                "state": each.state,
                "records": each.records,
                "found": each.found,
                "error": each.error,
            }
            for each in done
        ]
        self.tell(
            {"case": case.reference, "searches": rows},
            options,
            *(
                f"{each.training_set_id}: {each.get_state_display().lower()},"
                f" {each.records} records, {each.found} new matches. {each.error}".rstrip()
                for each in done
            ),
        )


def searched(search: RecordSearch) -> RecordSearch:
    """The search once it is done, with a bar meanwhile."""
    with progress(search.training_set_id) as bar:
        locating.work_off(search.id, "command", progress=lambda records, found: bar(records))
    return RecordSearch.objects.get(pk=search.id)
