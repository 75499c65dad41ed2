"""Tasks of the legal queue: each fetches ids and calls one service. No message carries data."""

import os
import socket
from uuid import UUID

from celery import shared_task
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore

from requests_app import export_files, locating, marks, publication, vault
from requests_app.services import (
    accounts,
    callbacks,
    code_mails,
    consolidations,
    export_jobs,
    letters,
    rechecks,
    recipients,
    reminders,
    retention,
    runs,
    training,
    wake,
)
from requests_app.services.consolidations import CONSOLIDATION_TASK
from requests_app.services.export_jobs import EXPORT_TASK
from requests_app.services.rechecks import RECHECK_TASK
from requests_app.services.run_rows import RUN_TASK


@shared_task(name="requests_app.sweep_runs")
def sweep_runs() -> None:
    """Wake every run and consolidation that nobody works on; the message expires, since the next
    sweep repeats it."""
    runs.drop_orphaned_steps()
    for run_id in runs.runs_to_wake():
        wake.send(RUN_TASK, run_id, queue="model", expires=2 * settings.RTBF_SWEEP_SECONDS)
    for row_id in consolidations.consolidations_to_wake():
        wake.send(
            CONSOLIDATION_TASK, row_id, queue="model", expires=2 * settings.RTBF_SWEEP_SECONDS
        )


@shared_task(name="requests_app.sweep_rechecks")
def sweep_rechecks() -> None:
    """Wake every live release of which something is still to be measured again."""
    rechecks.end_superseded()
    for recheck_id in rechecks.rechecks_to_wake():
        wake.send(RECHECK_TASK, recheck_id, queue="model", expires=2 * settings.RTBF_SWEEP_SECONDS)


@shared_task(name="requests_app.queue_rechecks")
def queue_rechecks() -> None:
    """Have the cases in force measured again where their time has come."""
    rechecks.queue_due_rechecks()


@shared_task(name="requests_app.send_letters")
def send_letters() -> None:
    """Mail the codes and announce the letters that wait."""
    code_mails.release_codes()
    letters.send_pending_codes()
    letters.send_pending_letters()


@shared_task(name="requests_app.tell_recipients")
def tell_recipients() -> None:
    """Tell recipients of erasures, where that goes by mail or by a call."""
    recipients.send_pending_notices()


@shared_task(name="requests_app.send_callbacks")
def send_callbacks() -> None:
    """Tell API clients of the new status of their requests."""
    callbacks.send_callbacks()


@shared_task(name="requests_app.remind_staff")
def remind_staff() -> None:
    """Remind staff of deadlines that near or have passed."""
    reminders.queue_reminders()
    reminders.send_reminders()


@shared_task(name="requests_app.purge_drafts")
def purge_drafts() -> None:
    """Delete form drafts older than a day, and invitations that lapsed."""
    vault.purge_drafts()
    accounts.purge_invitations()


@shared_task(name="requests_app.apply_retention")
def apply_retention() -> None:
    """Seal what has been kept for its time, and forget log-ins that ran out."""
    retention.apply_retention()
    SessionStore.clear_expired()


@shared_task(name="requests_app.collect_marks")
def collect_marks() -> None:
    """Ask witnesses and the time-stamping authority about the newest checkpoint."""
    marks.collect()


@shared_task(name="requests_app.publish_checkpoint")
def publish_checkpoint() -> None:
    """Put the newest checkpoint where the operator cannot quietly replace it, when it is due."""
    publication.publish()


@shared_task(name=training.SEARCH_TASK)
def locate_records(search_id: str) -> None:
    """Look through one training set for a person's records."""
    locating.work_off(UUID(search_id), f"{socket.gethostname()}:{os.getpid()}")


@shared_task(name="requests_app.sweep_searches")
def sweep_searches() -> None:
    """Wake every search that nobody works on."""
    for search_id in training.searches_to_wake():
        wake.send(training.SEARCH_TASK, search_id, expires=2 * settings.RTBF_SWEEP_SECONDS)


@shared_task(name=EXPORT_TASK)
def make_export(job_id: str) -> None:
    """Make one export of the record, under a lease of its row."""
    export_files.make(UUID(job_id), owner=f"{socket.gethostname()}:{os.getpid()}")


@shared_task(name="requests_app.sweep_exports")
def sweep_exports() -> None:
    """Wake every export that nobody makes."""
    for job_id in export_jobs.exports_to_wake():
        wake.send(EXPORT_TASK, job_id, expires=2 * settings.RTBF_SWEEP_SECONDS)


@shared_task(name="requests_app.remove_exports")
def remove_exports() -> None:
    """Remove the files of exports a week after they were made."""
    export_jobs.remove_old_exports()
