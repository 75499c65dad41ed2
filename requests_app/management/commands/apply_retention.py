"""`manage.py apply_retention`: destroy what has been kept for its time; beat does so every day."""

from dataclasses import asdict
from typing import Any

from django.core.management.base import CommandParser

from requests_app.commands import ToldCommand
from requests_app.services import retention


class Command(ToldCommand):
    help = (
        "Seal every case that the retention policy names (RTBF_KEEP_UNCONFIRMED_DAYS,"
        " RTBF_KEEP_CLOSED_DAYS). Legal holds and letters not sent stop it."
    )
    examples = (
        ("apply_retention --dry-run", "what would be sealed today, and what stops the rest"),
        ("apply_retention --json", "seal it, with one JSON object as the result"),
    )
    reports = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="show it, destroy nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        met = list(retention.going()) if options["dry_run"] else retention.apply_retention()
        gone = [item for item in met if not item.stopped_by]
        rows = [
            {
                "case": item.reference,
                "rule": item.rule,
                "since": item.since.isoformat(),
                "stopped_by": item.stopped_by,
            }
            for item in met
        ]
        word = "would be sealed" if options["dry_run"] else "sealed"
        told: dict[str, Any] = {"dry_run": options["dry_run"], "cases": rows}
        records = retention.records_past_their_time() if options["dry_run"] else ()
        if options["dry_run"]:
            told["records_past_their_time"] = [
                {**asdict(each), "keep_until": each.keep_until.isoformat()} for each in records
            ]
        self.tell(
            told,
            options,
            *(
                f"{item.reference}  due since {item.since:%Y-%m-%d} "
                f" {f'stays: {item.stopped_by}' if item.stopped_by else item.rule}"
                for item in met
            ),
            f"{len(gone)} {word}, {len(met) - len(gone)} stopped.",
            *(
                f"{each.reference}  its record had to be kept until {each.keep_until}"
                f" ({each.jurisdiction}); it stays, and holds no personal data"
                for each in records
            ),
        )
