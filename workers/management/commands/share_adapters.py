"""``manage.py share_adapters``: put back on the shared storage what it lost."""

from typing import Any

from django.core.management.base import CommandError

from requests_app.commands import ToldCommand
from workers import shared_files
from workers.adapters import AdapterError


class Command(ToldCommand):
    help = (
        "Puts the adapters in force that lie in this machine's RTBF_ADAPTER_DIR on the shared"
        " storage (RTBF_ADAPTER_STORAGE) if it lost them, or is a new one. What is there stays."
    )
    examples = (
        ("share_adapters", "after the storage was lost, on a machine whose folder has all"),
        ("share_adapters --json", "with one JSON object as the result"),
    )
    exits = "0: done; 1: there is no shared storage, or it does not answer"
    reports = True

    def handle(self, *args: Any, **options: Any) -> None:
        if shared_files.shared() is None:
            raise CommandError("This installation shares no adapters: RTBF_ADAPTER_STORAGE.")
        try:
            count = shared_files.put_missing()
        except AdapterError as error:
            raise CommandError(str(error)) from None
        self.tell({"put": count}, options, f"{count} adapters were put on the shared storage.")
