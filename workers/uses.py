"""How much each key asks of the gateway, counted until the record has it."""

import logging
import threading
from datetime import date

from requests_app.services import gateway as record

log = logging.getLogger(__name__)


class Uses:
    """What keys asked since it was last noted in the record: counts, from the event loop's thread;
    the follower's notes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._new: dict[tuple[int, date], record.Use] = {}

    def add(self, client: int, use: record.Use, day: date) -> None:
        with self._lock:
            self._new[client, day] = self._new.get((client, day), record.Use()) + use

    def note(self) -> None:
        """Hand all over to the record; what it does not take is kept for the next time."""
        with self._lock:
            new, self._new = self._new, {}
        try:
            if new:
                record.note_use(new)
        except Exception as error:  # noqa: BLE001  (nobody follows the record once this thread ends)
            log.error("the use of keys was not noted: %s", type(error).__name__)
            for (client, day), use in new.items():
                self.add(client, use, day)
