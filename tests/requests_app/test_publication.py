"""Checkpoints go where the operator cannot quietly replace them; each place at most once a day."""

from datetime import timedelta
from email.message import Message
from pathlib import Path

import pytest
from django.core import mail
from django.core.cache import cache
from django.core.files.storage import storages
from django.utils import timezone

from requests_app import keys, marks, publication, tasks
from requests_app.models import Checkpoint, CheckpointMark
from requests_app.verifier import notes
from rtbf import settings as written
from tests.requests_app import bundles
from tests.requests_app.test_signer import append

pytestmark = [pytest.mark.django_db, pytest.mark.database]

OFFICER = "dpo@controller.example"


@pytest.fixture(autouse=True)
def folder(settings, tmp_path: Path) -> Path:
    """The storage of this installation; returns its folder."""
    settings.STORAGES = {
        **settings.STORAGES,
        "checkpoints": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": str(tmp_path / "published")},
        },
    }
    settings.RTBF_CHECKPOINT_MAIL = OFFICER
    settings.RTBF_CHECKPOINT_PUBLISH_HOURS = 24
    return tmp_path / "published"


def signed() -> Checkpoint:
    append()
    checkpoint = bundles.sign()
    assert checkpoint is not None
    return checkpoint


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def attached(message: Message) -> bytes:
    (part,) = [p for p in message.walk() if p.get_content_disposition() == "attachment"]
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content


def a_day_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now() + timedelta(hours=25)
    monkeypatch.setattr("requests_app.publication.timezone.now", lambda: now)


def test_a_checkpoint_is_mailed_and_stored_byte_for_byte(folder: Path, settings) -> None:
    checkpoint = signed()
    tasks.publish_checkpoint()
    note = checkpoint.note.encode()
    assert files(folder) == {str(checkpoint.size): note}
    (message,) = mail.outbox
    assert message.to == [OFFICER]
    assert attached(message.message()) == note
    key = notes.parse_vkey(keys.log_key(settings.RTBF_SIGNER_DIR).vkey)
    notes.open_checkpoint(attached(message.message()), [key], file="mail")


def test_the_same_one_is_published_once_and_others_after_a_day_only(
    folder: Path, monkeypatch
) -> None:
    first = signed()
    for _ in range(2):
        tasks.publish_checkpoint()
    second = signed()
    tasks.publish_checkpoint()
    assert list(files(folder)) == [str(first.size)]
    assert len(mail.outbox) == 1
    a_day_later(monkeypatch)
    for _ in range(2):
        tasks.publish_checkpoint()
    assert set(files(folder)) == {str(first.size), str(second.size)}
    assert len(mail.outbox) == 2


def test_a_quiet_log_is_not_published_again(folder: Path, monkeypatch) -> None:
    signed()
    tasks.publish_checkpoint()
    a_day_later(monkeypatch)
    tasks.publish_checkpoint()
    assert len(mail.outbox) == 1


def test_without_an_address_nothing_is_mailed(folder: Path, settings) -> None:
    settings.RTBF_CHECKPOINT_MAIL = ""
    signed()
    tasks.publish_checkpoint()
    assert mail.outbox == []
    assert len(files(folder)) == 1


def test_before_the_first_checkpoint_nothing_happens(folder: Path) -> None:
    tasks.publish_checkpoint()
    assert files(folder) == {}


def test_a_checkpoint_that_may_still_get_marks_waits(folder: Path) -> None:
    checkpoint = signed()
    checkpoint.marks.all().delete()
    tasks.publish_checkpoint()
    assert files(folder) == {}
    marks.close(checkpoint)
    tasks.publish_checkpoint()
    assert len(files(folder)) == 1


def test_what_hinders_the_mail_hinders_no_storage_is_logged_without_data_and_tried_again(
    folder: Path, settings, caplog
) -> None:
    signed()
    settings.EMAIL_BACKEND = "tests.broken_mail.EmailBackend"
    tasks.publish_checkpoint()
    assert len(files(folder)) == 1
    assert "requests_app.publication.mail" in [record.name for record in caplog.records]
    assert OFFICER not in caplog.text
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    tasks.publish_checkpoint()
    assert len(mail.outbox) == 1


def test_what_hinders_the_storage_hinders_no_mail(folder: Path, caplog) -> None:
    folder.parent.mkdir(exist_ok=True)
    folder.write_text("a file where the folder should be")
    signed()
    tasks.publish_checkpoint()
    assert len(mail.outbox) == 1
    assert "requests_app.publication.storage" in [record.name for record in caplog.records]
    folder.unlink()
    tasks.publish_checkpoint()
    assert len(files(folder)) == 1


def test_after_a_crash_before_it_was_noted_the_stored_one_is_left_as_it_is(folder: Path) -> None:
    signed()
    tasks.publish_checkpoint()
    CheckpointMark.objects.filter(kind="published").delete()
    before = files(folder)
    tasks.publish_checkpoint()
    assert files(folder) == before
    assert CheckpointMark.objects.filter(kind="published", name="storage").count() == 1


def test_another_note_of_the_same_size_in_the_storage_is_an_alarm_and_stays(
    folder: Path, caplog
) -> None:
    checkpoint = signed()
    name = publication.file_name(checkpoint)
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_bytes(b"another history")
    tasks.publish_checkpoint()
    assert "a fork?" in caplog.text
    assert (folder / name).read_bytes() == b"another history"
    assert not CheckpointMark.objects.filter(kind="published", name="storage").exists()


def test_two_processes_do_not_publish_the_same_at_once(folder: Path) -> None:
    signed()
    cache.add("publish:mail", 1)
    cache.add("publish:storage", 1)
    tasks.publish_checkpoint()
    assert files(folder) == {}
    assert mail.outbox == []


def test_the_default_storage_is_a_folder_of_the_installation() -> None:
    options = written.STORAGES["checkpoints"]["OPTIONS"]
    assert options == {"location": str(written.RTBF_VAR_DIR / "checkpoints")}
    assert storages["checkpoints"].exists("nothing") is False
