"""`manage.py apply_retention`: destroy what has been kept for its time; beat does so every day."""

import json
from dataclasses import asdict
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from requests_app.services import retention


class Command(BaseCommand):
    help = (
        "Seal every case that the retention policy names (RTBF_KEEP_UNCONFIRMED_DAYS,"
        " RTBF_KEEP_CLOSED_DAYS). Legal holds and letters not sent stop it."
        " Example: manage.py apply_retention --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="show it, destroy nothing")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        met = list(retention.going()) if options["dry_run"] else retention.apply_retention()
        gone = [item for item in met if not item.stopped_by]
        if options["json"]:
            rows = [
                {
                    "case": item.reference,
                    "rule": item.rule,
                    "since": item.since.isoformat(),
                    "stopped_by": item.stopped_by,
                }
                for item in met
            ]
            told = {"dry_run": options["dry_run"], "cases": rows}
            if options["dry_run"]:
                records = retention.records_past_their_time()
                told["records_past_their_time"] = [
                    {**asdict(each), "keep_until": each.keep_until.isoformat()} for each in records
                ]
            self.stdout.write(json.dumps(told, indent=2))
            return
        for item in met:
            what = f"stays: {item.stopped_by}" if item.stopped_by else item.rule
            self.stdout.write(f"{item.reference}  due since {item.since:%Y-%m-%d}  {what}")
        word = "would be sealed" if options["dry_run"] else "sealed"
        self.stdout.write(f"{len(gone)} {word}, {len(met) - len(gone)} stopped.")
        for each in retention.records_past_their_time() if options["dry_run"] else ():
            self.stdout.write(
                f"{each.reference}  its record had to be kept until {each.keep_until}"
                f" ({each.jurisdiction}); it stays, and holds no personal data"
            )
