"""Publication of checkpoints where the operator cannot quietly replace them: a mailbox, a storage.

Whoever has an old checkpoint can ask for a bundle that continues it (`manage.py bundle --since`).
At most one checkpoint in RTBF_CHECKPOINT_PUBLISH_HOURS goes to each place, always the newest that
gets no more marks. At least once: it counts as published only after the place took it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta

from django.conf import settings
from django.core.cache import cache
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.mail import EmailMessage
from django.db import DatabaseError
from django.utils import timezone

from requests_app import marks
from requests_app.models import Checkpoint, CheckpointMark

CLAIM_SECONDS = 300  # how long one process may take over one place
STORAGE = "checkpoints"  # its alias in STORAGES
Kind = CheckpointMark.Kind


class AlreadyTaken(Exception):
    """The storage holds another note of the same log and size."""


def publish() -> None:
    """Publish the newest closed checkpoint wherever it is due; what hinders one place, no other."""
    checkpoint = marks.newest_closed()
    if checkpoint is None:
        return
    for place, send in _places().items():
        if not _is_due(place, checkpoint) or not cache.add(_claim(place), 1, CLAIM_SECONDS):
            continue
        logger = logging.getLogger(f"{__name__}.{place}")
        try:
            send(checkpoint)
        except AlreadyTaken:
            text = "There is another checkpoint of %d entries than the log has: a fork?"
            logger.error(text, checkpoint.size)
        except DatabaseError:
            raise
        except Exception as problem:  # noqa: BLE001  (each storage has its own; texts quote addresses)
            text = "The checkpoint of %d entries was not published (%s)."
            logger.warning(text, checkpoint.size, type(problem).__name__)
        else:
            checkpoint.marks.get_or_create(
                kind=Kind.PUBLISHED, name=place, defaults={"created_at": timezone.now()}
            )
        finally:
            cache.delete(_claim(place))


def file_name(checkpoint: Checkpoint) -> str:
    """Name of the checkpoint in the storage: the log's, then the size."""
    origin = checkpoint.note.partition("\n")[0].replace("/", "_")
    return f"{origin}/{checkpoint.size}"


def _places() -> Mapping[str, Callable[[Checkpoint], None]]:
    return {"storage": _store} | ({"mail": _mail} if settings.RTBF_CHECKPOINT_MAIL else {})


def _is_due(place: str, checkpoint: Checkpoint) -> bool:
    published = CheckpointMark.objects.filter(kind=Kind.PUBLISHED, name=place)
    since = timezone.now() - timedelta(hours=settings.RTBF_CHECKPOINT_PUBLISH_HOURS)
    return not published.filter(created_at__gt=since).exists() and not (
        published.filter(checkpoint=checkpoint).exists()
    )


def _store(checkpoint: Checkpoint) -> None:
    storage, name = storages[STORAGE], file_name(checkpoint)
    note = marks.cosigned_note(checkpoint)
    if not storage.exists(name):
        storage.save(name, ContentFile(note))
        return
    with storage.open(name) as stored:
        if stored.read() != note:
            raise AlreadyTaken


def _mail(checkpoint: Checkpoint) -> None:
    origin = checkpoint.note.partition("\n")[0]
    mail = EmailMessage(
        subject=f"Checkpoint {checkpoint.size} of {origin}",
        body="The signed head of the audit log is attached. Keep it: a later bundle can be checked"
        " against it (--since). It holds no personal data.\n",
        to=[settings.RTBF_CHECKPOINT_MAIL],
    )
    mail.attach(
        f"checkpoint-{checkpoint.size}", marks.cosigned_note(checkpoint), "application/octet-stream"
    )
    mail.send()


def _claim(place: str) -> str:
    return f"publish:{place}"
