"""`manage.py locate_records ERQ-2026-000123 --by ana`: a person's records in training sets."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from requests_app import locating, selectors
from requests_app.models import RecordSearch
from requests_app.services import training
from requests_app.services.errors import ServiceError


class Command(BaseCommand):
    help = (
        "Look through every registered training set for a person's records, here and now. What is"
        " found waits on the case's page for somebody to say whether it is theirs."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("reference", help="e.g. ERQ-2026-000123")
        parser.add_argument("--by", required=True, metavar="USERNAME")

    def handle(self, *args: Any, **options: Any) -> None:
        member = selectors.active_staff(options["by"])
        if member is None:
            raise CommandError(f"There is no member of staff {options['by']} who is active.")
        case = selectors.case_by_reference(options["reference"])
        if case is None:
            raise CommandError(f"There is no case {options['reference']}.")
        try:
            queued = training.queue_searches(case_id=case.id, actor_member=member)
        except ServiceError as refused:
            raise CommandError(str(refused)) from None
        for search in queued:
            self.stderr.write(f"{search.training_set_id} …")
            locating.work_off(search.id, "command", progress=self._progress)
            done = RecordSearch.objects.get(pk=search.id)
            self.stdout.write(
                f"{done.training_set_id}: {done.get_state_display().lower()},"
                f" {done.records} records, {done.found} new matches. {done.error}".rstrip()
            )

    def _progress(self, records: int, found: int) -> None:
        self.stderr.write(f"{records} records, {found} matches")
