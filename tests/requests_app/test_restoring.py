"""An older backup is restored: nothing is served or recorded until the erasures were replayed."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings

from requests_app import audit, dossier, exports, external, extract, keys, vault
from requests_app.actors import SYSTEM
from requests_app.exports import bundle
from requests_app.lifecycle import CaseStatus, RunState
from requests_app.models import (
    AuditEntry,
    AuditKey,
    AuditOpening,
    Case,
    CaseKey,
    Checkpoint,
    ExportJob,
    LogHead,
    Release,
    SuppressionTag,
    VaultItem,
)
from requests_app.services import cases, letters, suppression
from requests_app.services.manifests import live_manifest
from requests_app.services.restoring import RestoreRefused, replay_erasures, why_not_served
from requests_app.tasks import send_letters
from requests_app.verifier import canonical
from requests_app.verifier.checks import verify
from requests_app.verifier.trust import parse_trust
from rtbf.celery import start_on_current_record
from tests import canaries, factories
from tests.backups import Backup, restore, take_backup
from tests.factories import (
    case_in_review,
    completed_case,
    confirmed_case,
    executing_case,
    make_staff,
    propose,
    work_off,
)
from tests.requests_app.bundles import prepare, sign

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


numbers = count()


def seal(case: Case) -> None:
    cases.seal_case(case_id=case.id, actor=SYSTEM)


def append(number: int = 1) -> None:
    for _ in range(number):
        with transaction.atomic():
            data = {"number": next(numbers)}
            audit.append_entry(type="test.happened", actor="system:test", data=data)


def secrets_of(case: Case) -> dict[str, bytes | str]:
    return {
        "wrapped key": bytes(CaseKey.objects.get(case=case).wrapped or b""),
        **{
            f"salt {i}": bytes(opening.salt)
            for i, opening in enumerate(AuditOpening.objects.filter(case=case))
        },
    }


def leaked(secrets: dict[str, bytes | str]) -> list[str]:
    return canaries.leaks(canaries.stored_rows() | canaries.database_files(), secrets)


def log_bytes() -> list[bytes]:
    rows = AuditEntry.objects.order_by("seq").values_list("body", flat=True)
    return [bytes(body) for body in rows]


def copied_entries() -> list[bytes]:
    return [body for _, body in external.read_entries(external.entries_file())]


def back_up() -> Backup:
    cache.clear()
    return take_backup()


# --- The drill ----------------------------------------------------------------------------------
@pytest.mark.alone
def test_backup_go_on_seal_restore_refuse_replay_serve(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    keys.attest_key()
    sealed, exported, running = completed_case(), completed_case(), executing_case()
    unsent = confirmed_case()
    prepare(exported)
    sign()
    given_out = bundle.render(dossier.gather(exported))
    saved, secrets = back_up(), secrets_of(sealed)

    seal(sealed)
    assert leaked(secrets) == []
    late = confirmed_case()
    gone = completed_case()
    seal(gone)
    work_off(running.runs.get())
    write_manifest(settings)
    letters.send_pending_letters()
    signed = sign()
    assert signed is not None
    before, live = log_bytes(), live_manifest("demo")
    assert live is not None

    restore(saved)
    assert set(leaked(secrets)) != set()
    assert not unsent.letters.filter(sent_at__isnull=False).exists()
    refuses_everything()
    dry = replay_erasures(dry_run=True)
    assert dry.sealed_again == (sealed.reference,)
    refuses_everything()

    call_command("replay_erasures", json=True)
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert said["sealed_again"] == [sealed.reference]
    assert said["size"] == signed.size
    redo = {each["reference"]: each for each in said["redo"]}
    assert redo.keys() == {late.reference, running.reference, unsent.reference}
    assert not redo[late.reference]["has_row"]
    assert "run.verified" in redo[running.reference]["steps"]
    assert said["releases"] == [{"model_name": "demo", "digest": live.digest, "why_not": ""}]

    assert log_bytes()[: signed.size] == before
    assert AuditEntry.objects.latest("seq").type == "record.restored"
    assert leaked(secrets) == []
    check_sealed(Case.objects.get(pk=sealed.pk))
    assert live_manifest("demo") == live
    assert unsent.letters.filter(sent_at__isnull=False).exists()
    assert Client().get("/").status_code == Client().get("/healthz").status_code == 200
    start_on_current_record()
    audit.verify_log()
    later = sign()
    assert later is not None
    assert later.size == signed.size + 1
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    assert verify(given_out, trust=trust).authenticated
    assert Client().get(f"/transparency/checkpoint/{signed.size}").content.decode() == signed.note

    assert not replay_erasures().did_anything
    assert AuditEntry.objects.count() == later.size
    call_command("replay_erasures")
    assert "nothing to do" in capsys.readouterr().out
    confirmed_case()  # work goes on


def write_manifest(settings: Settings) -> None:
    """What the worker leaves in the release store."""
    folder = Path(settings.RTBF_RELEASE_DIR)
    folder.mkdir(parents=True)
    for release in Release.objects.all():
        (folder / f"{release.digest}.json").write_bytes(bytes(release.manifest))


def refuses_everything() -> None:
    """Pages, health, appends, tasks, workers and the signer, each with what to do."""
    page = Client().get("/")
    assert page.status_code == 503
    assert "manage.py replay_erasures" in page.content.decode()
    german = Client(headers={"Accept-Language": "de"}).get("/")
    assert german.headers["Content-Language"] == "de"
    assert "Zurzeit nicht verfügbar" in german.content.decode()
    assert Client().get("/healthz").status_code == 503
    with pytest.raises(audit.LogError, match="replay_erasures"):
        append()
    with pytest.raises(SystemExit, match="replay_erasures"):
        start_on_current_record()
    with pytest.raises(CommandError, match="replay_erasures"):
        call_command("sign_checkpoints", once=True)
    mails = len(factories.mail.outbox)
    send_letters()
    assert len(factories.mail.outbox) == mails


def check_sealed(case: Case) -> None:
    assert case.status == CaseStatus.SEALED
    assert case.sealed_at is not None
    assert (case.access_digest, case.code_digest) == ("", "")
    assert not VaultItem.objects.filter(case=case).exists()
    assert not AuditOpening.objects.filter(case=case).exists()
    with pytest.raises(vault.VaultSealed):
        vault.get(case, "name")


def test_a_run_of_a_case_that_was_sealed_meanwhile_does_not_go_on() -> None:
    case = executing_case()
    sign()
    saved = back_up()
    run = case.runs.get()
    work_off(run)
    cases.send_answer(case_id=case.id, actor_member=make_staff("officer"))
    letters.send_pending_letters()
    seal(case)
    sign()
    restore(saved)
    replay_erasures()
    run.refresh_from_db()
    assert run.state == RunState.CANCELLED
    check_sealed(Case.objects.get(pk=case.pk))


def test_the_suppression_list_is_as_it_was_left_also_for_cases_sealed_since() -> None:
    sealed, objecting = propose(case_in_review()), executing_case()
    sign()
    saved = back_up()
    cases.approve_decision(case_id=sealed.id, actor_member=make_staff("approver"))
    tags = set(SuppressionTag.objects.filter(case_id=sealed.id).values_list("kind", "tag"))
    assert tags
    work_off(sealed.runs.get())
    cases.send_answer(case_id=sealed.id, actor_member=make_staff("officer"))
    letters.send_pending_letters()
    seal(sealed)
    suppression.remove_tags(case_id=objecting.id, actor_member=make_staff("officer"))
    sign()
    restore(saved)
    assert SuppressionTag.objects.filter(case_id=objecting.id).exists()
    replay_erasures()
    again = SuppressionTag.objects.filter(case_id=sealed.id).values_list("kind", "tag")
    assert {(kind, bytes(tag)) for kind, tag in again} == {(k, bytes(t)) for k, t in tags}
    assert not SuppressionTag.objects.filter(case_id=objecting.id).exists()
    check_sealed(Case.objects.get(pk=sealed.pk))
    audit.verify_log()


def test_a_release_whose_manifest_is_not_there_is_named() -> None:
    case = executing_case()
    sign()
    saved = back_up()
    work_off(case.runs.get())
    sign()
    restore(saved)
    (release,) = replay_erasures().releases
    assert "manifest cannot be read" in release.why_not
    assert live_manifest("demo") is None


def test_an_empty_database_gets_the_whole_log_back(capsys: pytest.CaptureFixture[str]) -> None:
    saved = back_up()
    keys.attest_key()
    case = completed_case()
    seal(case)
    sign()
    for purpose in ("attest", "log"):
        call_command("rotate_key", purpose)
    sign()
    retired = AuditKey.objects.get(purpose="attest", valid_to__isnull=False)
    keys.revoke_key(vkey=retired.vkey, from_size=retired.valid_to, reason="lost")
    sign()
    before, trust = log_bytes(), keys.trust_text()
    restore(saved)
    assert not LogHead.objects.exists()
    capsys.readouterr()
    call_command("replay_erasures")
    assert f"{len(before)} entries appended again" in capsys.readouterr().out
    assert log_bytes()[:-1] == before
    assert keys.trust_text() == trust
    audit.verify_log()
    assert sign() is not None


# --- What is refused ----------------------------------------------------------------------------
def restored_log() -> Backup:
    """Three entries in the backup, three more signed after it, the backup restored."""
    append(3)
    sign()
    saved = back_up()
    append(3)
    sign()
    restore(saved)
    return saved


def test_a_database_that_went_on_by_itself_after_the_restore_is_refused(
    settings: Settings,
) -> None:
    restored_log()
    elsewhere = settings.RTBF_CHECKPOINT_FILE.with_name("moved")
    settings.RTBF_CHECKPOINT_FILE.rename(elsewhere)  # the check is blind
    append(1)
    elsewhere.rename(settings.RTBF_CHECKPOINT_FILE)
    with pytest.raises(RestoreRefused, match="went on by itself"):
        replay_erasures()
    elsewhere = settings.RTBF_CHECKPOINT_FILE.rename(elsewhere)
    append(4)
    elsewhere.rename(settings.RTBF_CHECKPOINT_FILE)
    assert "went on by itself" in why_not_served()  # as many entries, but not those


@pytest.mark.parametrize("harm", ["short", "changed", "absent", "swapped"])
def test_a_copy_that_is_not_what_was_signed_is_refused(tmp_path: Path, harm: str) -> None:
    restored_log()
    before = log_bytes()
    lines = external.entries_file().read_bytes().splitlines(keepends=True)
    if harm == "short":
        lines = lines[:-1]
    elif harm == "changed":
        lines[6] = lines[6].replace(b"happened", b"HAPPENED")
    elif harm == "swapped":
        lines[5], lines[6] = lines[6], lines[5]
    copy = tmp_path / "copy"
    if harm != "absent":
        copy.write_bytes(b"".join(lines))
    with pytest.raises(CommandError, match=r"Give another copy|Give a later|cannot be read"):
        call_command("replay_erasures", log=copy)
    assert log_bytes() == before


def test_a_line_that_a_crash_cut_off_and_entries_beyond_the_signed_ones_are_left_out(
    tmp_path: Path,
) -> None:
    restored_log()
    copy = tmp_path / "copy"
    copy.write_bytes(external.entries_file().read_bytes() + b'{"unsigned":1}\n{"cut off')
    assert replay_erasures(copy).did_anything
    audit.verify_log()


def test_without_a_signed_checkpoint_there_is_nothing_to_replay_to(settings: Settings) -> None:
    restored_log()
    settings.RTBF_CHECKPOINT_FILE.unlink()
    with pytest.raises(RestoreRefused, match="no signed checkpoint"):
        replay_erasures()


@pytest.mark.parametrize("change", [b"", b"log x\n\n", b"\xff", None])
def test_a_damaged_checkpoint_file_stops_serving_until_it_is_removed(
    settings: Settings, change: bytes | None
) -> None:
    append()
    sign()
    path: Path = settings.RTBF_CHECKPOINT_FILE
    note = path.read_bytes()
    path.write_bytes(note.replace(b"\n3\n", b"\n2\n") if change is None else change)
    page = Client().get("/")
    assert page.status_code == 503
    assert "is damaged" in page.content.decode()
    with pytest.raises(RestoreRefused, match="damaged"):
        replay_erasures()
    path.unlink()
    sign()
    assert path.read_bytes() == note
    assert Client().get("/").status_code == 200


def test_a_checkpoint_of_another_log_stops_serving(settings: Settings) -> None:
    append()
    sign()
    settings.RTBF_LOG_ORIGIN = "rtbf.example/log/other"
    assert "is of the log rtbf.example/log/test" in why_not_served()


def exported_log(first: int) -> bytes:
    """The internal export of the audit log, from an entry on."""
    day = timezone.now().date()  # the days of the log are in UTC
    job = ExportJob(export="audit_log", level="internal", first=day, last=day)
    lines = b"".join(exports.load_job("audit_log").render(extract.gather(job))).splitlines(True)
    return b"".join([lines[0], *lines[1 + first :]])


@pytest.mark.parametrize("first", [0, 4])
def test_an_export_of_the_audit_log_is_a_copy_too(tmp_path: Path, first: int) -> None:
    """Also one of a later period, that begins within what the database still has."""
    append(3)
    sign()
    saved = back_up()
    append(3)
    sign()
    copy, before = tmp_path / "log.jsonl", log_bytes()
    copy.write_bytes(exported_log(first))
    restore(saved)
    assert replay_erasures(copy).did_anything
    assert log_bytes()[: len(before)] == before


def test_an_export_for_the_public_is_none(tmp_path: Path) -> None:
    restored_log()
    copy = tmp_path / "log.jsonl"
    copy.write_bytes(b'{"schema":"audit-log-export.v1"}\n{"seq":0,"leaf":"00"}\n')
    with pytest.raises(RestoreRefused, match="internal level"):
        replay_erasures(copy)


# --- What the signer keeps outside --------------------------------------------------------------
def test_the_copy_holds_exactly_what_was_signed_and_grows_with_it() -> None:
    for number in (1, 4):
        append(number)
        checkpoint = sign()
        assert checkpoint is not None
        append()  # not signed yet
        copied = copied_entries()
        assert copied == log_bytes()[: checkpoint.size]
        signed = external.last_checkpoint()
        assert signed is not None
        assert (signed.note, signed.head.size) == (checkpoint.note, checkpoint.size)


def test_after_a_crash_before_publishing_the_next_start_publishes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append(2)
    sign()
    append(2)
    with monkeypatch.context() as crash:
        crash.setattr("requests_app.external.publish", lambda **_: 1 / 0)
        crash.setattr("requests_app.signer._publish_again", lambda *_: None)
        with pytest.raises(ZeroDivisionError):
            sign()
    external.entries_file().write_bytes(b"half a li")
    assert why_not_served() == ""  # the older checkpoint is in the log
    assert sign() is None
    signed = external.last_checkpoint()
    assert signed is not None
    assert signed.head.size == Checkpoint.objects.latest("size").size
    assert copied_entries() == log_bytes()[: signed.head.size]


def test_the_copy_holds_no_personal_data() -> None:
    seal(completed_case())
    sign()
    content = external.entries_file().read_bytes()
    canonical.loads(content.splitlines()[0])
    assert not any(word.encode() in content for word in factories.CANARIES)
