"""The Celery application. Messages carry only ids; the database is the truth.

Queues: `legal` (mail, letters, sweeps) runs anywhere; `model` runs where the weights are, one task
at a time. A run's real state is its row with a lease, so a lost or doubled message does no harm.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import Celery, Task, signals
from celery.utils.log import get_task_logger

from rtbf.telemetry import task_span

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rtbf.settings")

log = get_task_logger(__name__)
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


class OnCurrentRecord(Task):
    """A task that does nothing while the database does not hold what was signed last."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if why_not_served():
            log.critical("Not worked on: the database does not hold what was signed last.")
            return None
        queue = (self.request.delivery_info or {}).get("routing_key")
        note_seen(queue)
        with task_span(self.name, queue):
            return super().__call__(*args, **kwargs)


def start_on_current_record(**_: Any) -> None:
    """No worker starts on a database that is behind its log."""
    if reason := why_not_served():
        raise SystemExit(f"The worker does not start. {reason}")


def why_not_served() -> str:
    """See `restoring.why_not_served`; imported late, since Django is set up after this module."""
    from requests_app.services.restoring import why_not_served as reason

    return reason()


def note_seen(queue: str | None) -> None:
    """See `wake.note_seen`; nothing for a task that was called without a message."""
    from requests_app.services import wake

    if queue in wake.QUEUES:
        wake.note_seen(queue)


def give_way(sender: Any, **_: Any) -> None:
    """What trains gets the processor time that nobody else on the machine wants.

    Linux may weigh whole sessions against each other, and niceness only within one (autogroup, see
    sched(7)); each of our processes has a session of its own.
    """
    from django.conf import settings

    if "model" in sender.app.amqp.queues.consume_from and settings.RTBF_WORKER_NICE:
        os.nice(settings.RTBF_WORKER_NICE)
        with suppress(OSError):  # another system, or a container without it
            Path("/proc/self/autogroup").write_text(str(settings.RTBF_WORKER_NICE))


signals.worker_init.connect(start_on_current_record)
signals.worker_init.connect(give_way)
app = OnlyIds("rtbf", task_cls=OnCurrentRecord)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["requests_app", "workers"])
app.autodiscover_tasks(["workers"], related_name="rechecks")
app.autodiscover_tasks(["workers"], related_name="merging")
