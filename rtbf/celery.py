"""The Celery application. Messages carry only ids; the database is the truth.

Queues: `legal` (mail, letters, sweeps) runs anywhere; `model` runs where the weights are, one task
at a time. A run's real state is its row with a lease, so a lost or doubled message does no harm.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rtbf.settings")

ONLY_IDS = re.compile(r"[0-9a-f-]{36}")


class OnlyIds(Celery):
    """A Celery application that publishes nothing but ids of rows, whoever asks it to.

    Every message passes `send_task`: tasks' own `delay` and `apply_async`, and beat.
    """

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Publish one message; ValueError, which does not repeat it, for any other argument."""
        if kwargs or not all(isinstance(a, str) and ONLY_IDS.fullmatch(a) for a in args or ()):
            raise ValueError(f"{name}: only ids may go through the queue.")
        return super().send_task(name, args, kwargs, **options)


app = OnlyIds("rtbf")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["requests_app", "workers"])
app.autodiscover_tasks(["workers"], related_name="rechecks")
