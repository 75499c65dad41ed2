"""The signer signs what extends its memory and refuses everything else."""

import json
import shutil
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from requests_app import audit, keys
from requests_app.models import AuditEntry, AuditKey, Checkpoint, LogHead
from requests_app.signer import STATE_FILE, SignerRefused, open_signer, sign_next
from requests_app.verifier import notes
from tests.append_only import rewritten_log, triggers_dropped
from tests.requests_app.bundles import sign

pytestmark = pytest.mark.database


def append(count: int = 1) -> None:
    for _ in range(count):
        with transaction.atomic():
            number = AuditEntry.objects.count()
            audit.append_entry(type="test.happened", actor="system:test", data={"number": number})


def rewrite(seq: int, *, also_leaf: bool) -> None:
    """What an owner of the database can do behind the triggers."""
    if also_leaf:
        rewritten_log(lambda bodies: bodies[seq].update(type="test.HAPPENED"))
        return
    body = bytes(AuditEntry.objects.get(seq=seq).body).replace(b"happened", b"HAPPENED")
    with triggers_dropped():
        AuditEntry.objects.filter(seq=seq).update(body=body, type="test.HAPPENED")


@pytest.mark.django_db
def test_the_signed_checkpoint_opens_with_the_key_that_the_log_made_known() -> None:
    append(3)
    checkpoint = sign()
    assert checkpoint is not None
    key = notes.parse_vkey(AuditKey.objects.get(purpose="log").vkey)
    head, _ = notes.open_checkpoint(checkpoint.note.encode(), [key], file="checkpoint")
    assert (head.size, head.root) == (LogHead.objects.get().size, audit.root(head.size))
    assert AuditEntry.objects.filter(type="key.added").count() == 1


@pytest.mark.django_db
def test_a_head_is_signed_once_and_a_grown_one_again() -> None:
    append()
    first = sign()
    assert first is not None
    assert sign() is None
    append(5)
    second = sign()
    assert second is not None
    assert second.size == first.size + 5


@pytest.mark.django_db
def test_a_signer_that_stays_up_signs_each_new_head(settings) -> None:
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        for _ in range(3):
            append()
            signer, checkpoint = sign_next(signer)
            assert checkpoint is not None
        assert sign_next(signer)[1] is None
    assert Checkpoint.objects.count() == 3


@pytest.mark.django_db
def test_after_a_crash_between_memory_and_checkpoint_the_same_note_is_made_again(
    settings, monkeypatch
) -> None:
    append(2)
    with open_signer(settings.RTBF_SIGNER_DIR) as signer, monkeypatch.context() as crash:
        crash.setattr("requests_app.signer._store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sign_next(signer)
    assert not Checkpoint.objects.exists()
    checkpoint = sign()
    assert checkpoint is not None
    assert checkpoint.size == LogHead.objects.get().size


@pytest.mark.django_db
def test_key_and_memory_are_for_the_signer_alone(settings) -> None:
    append()
    sign()
    folder = Path(settings.RTBF_SIGNER_DIR)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "log.pem").stat().st_mode & 0o777 == 0o600


@pytest.mark.django_db
def test_a_key_that_others_can_read_is_refused(settings) -> None:
    append()
    sign()
    (Path(settings.RTBF_SIGNER_DIR) / "log.pem").chmod(0o644)
    with pytest.raises(CommandError, match="chmod 600"):
        call_command("sign_checkpoints", once=True)


@pytest.mark.django_db
def test_a_second_signer_in_the_same_folder_is_refused(settings) -> None:
    append()
    folder = settings.RTBF_SIGNER_DIR
    with open_signer(folder), pytest.raises(SignerRefused, match="Another signer"):
        open_signer(folder).__enter__()


@pytest.mark.django_db
def test_a_signer_without_its_memory_is_refused(settings) -> None:
    append()
    sign()
    (Path(settings.RTBF_SIGNER_DIR) / STATE_FILE).unlink()
    with pytest.raises(SignerRefused, match="Restore the signer's folder"):
        sign()


@pytest.mark.django_db
def test_a_signer_with_a_damaged_memory_is_refused(settings) -> None:
    append()
    sign()
    path = Path(settings.RTBF_SIGNER_DIR) / STATE_FILE
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "root": "00" * 32}))
    with pytest.raises(SignerRefused, match="damaged"):
        sign()


@pytest.mark.django_db
def test_another_key_than_the_known_one_is_refused(settings, tmp_path) -> None:
    append()
    with open_signer(tmp_path / "elsewhere"):
        pass  # makes another key known before anything is signed
    with pytest.raises(SignerRefused, match="another key"):
        sign()


# --- Keys that change over ----------------------------------------------------------------------
def signers_of(checkpoint: Checkpoint | None, *vkeys: str) -> list[str]:
    assert checkpoint is not None
    pinned = [notes.parse_vkey(vkey) for vkey in vkeys]
    return [
        key.vkey
        for key in notes.open_checkpoint(checkpoint.note.encode(), pinned, file="checkpoint")[1]
    ]


def log_vkeys() -> list[str]:
    return list(
        AuditKey.objects.filter(purpose="log").order_by("id").values_list("vkey", flat=True)
    )


@pytest.mark.django_db
def test_a_new_log_key_is_entered_and_both_sign_where_it_takes_over(settings) -> None:
    append()
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        signer, before = sign_next(signer)
        call_command("rotate_key", "log")
        signer, changeover = sign_next(signer)
        append()
        signer, after = sign_next(signer)
    old, new = log_vkeys()
    entry = AuditEntry.objects.get(type="key.rotated")
    assert json.loads(bytes(entry.body))["data"] == {"purpose": "log", "retired": old, "vkey": new}
    retired, present = AuditKey.objects.filter(purpose="log").order_by("id")
    assert (retired.valid_to, present.valid_from, present.valid_to) == (entry.seq, entry.seq, None)
    assert signers_of(before, old, new) == [old]
    assert signers_of(changeover, old, new) == [old, new]
    assert changeover is not None
    assert changeover.size == entry.seq + 1
    assert signers_of(after, old, new) == [new]
    assert not (Path(settings.RTBF_SIGNER_DIR) / "log.next.pem").exists()
    call_command("verify_log")


@pytest.mark.django_db
def test_a_stopped_signer_changes_over_at_its_next_start_and_so_again() -> None:
    append()
    sign()
    for _ in range(2):
        call_command("rotate_key", "log")
        append()  # signed by the old key alone, before its successor is entered
        call_command("sign_checkpoints", once=True)
    first, second, third = log_vkeys()
    newest = Checkpoint.objects.order_by("size").last()
    assert signers_of(newest, first, second, third) == [second, third]
    assert sign() is None


@pytest.mark.django_db
@pytest.mark.parametrize("where", ["keys.record_rotation", "_store", "keys.replace_log_key"])
def test_a_change_over_goes_on_after_a_crash_anywhere_in_it(where: str, monkeypatch) -> None:
    append()
    sign()
    call_command("rotate_key", "log")
    with monkeypatch.context() as crash:
        crash.setattr(f"requests_app.signer.{where}", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sign()
    sign()
    old, new = log_vkeys()
    newest = Checkpoint.objects.order_by("size").last()
    assert signers_of(newest, old, new) == [old, new]
    assert AuditEntry.objects.filter(type="key.rotated").count() == 1
    append()
    assert signers_of(sign(), old, new) == [new]


@pytest.mark.django_db
def test_a_signer_that_stays_up_goes_on_where_the_database_went_away(settings, monkeypatch) -> None:
    append()
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        signer, _ = sign_next(signer)
        call_command("rotate_key", "log")
        with monkeypatch.context() as crash:
            crash.setattr("requests_app.signer._store", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                sign_next(signer)
        signer, checkpoint = sign_next(signer)
    assert signers_of(checkpoint, *log_vkeys()) == log_vkeys()


@pytest.mark.django_db
def test_a_rotation_that_only_the_database_knows_of_is_refused(settings) -> None:
    append()
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        signer, _ = sign_next(signer)
        forged = keys.SigningKey(signer.key.name, Ed25519PrivateKey.generate())
        keys.record_rotation(purpose="log", old=signer.key, new=forged)
        with pytest.raises(SignerRefused, match="never held"):
            sign_next(signer)
    with pytest.raises(CommandError, match="never held"):
        call_command("sign_checkpoints", once=True)
    assert Checkpoint.objects.count() == 1


@pytest.mark.django_db
def test_a_log_key_that_somebody_adds_to_the_database_is_refused() -> None:
    append()
    sign()
    forged = notes.note_key("rtbf.example/log/test", Ed25519PrivateKey.generate())
    audit.register_key(purpose="log", vkey=forged.vkey, name=forged.name)
    with pytest.raises(SignerRefused, match="never held"):
        sign()


@pytest.mark.django_db
def test_a_signers_folder_from_before_the_rotation_is_refused(settings, tmp_path) -> None:
    append()
    sign()
    folder = Path(settings.RTBF_SIGNER_DIR)
    shutil.copytree(folder, tmp_path / "backup")
    call_command("rotate_key", "log")
    sign()
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "backup", folder)
    with pytest.raises(SignerRefused, match="Restore the signer's folder"):
        sign()


@pytest.mark.django_db
def test_a_state_from_before_keys_could_change_is_taken_over(settings) -> None:
    append()
    sign()
    path = Path(settings.RTBF_SIGNER_DIR) / STATE_FILE
    state = json.loads(path.read_text())
    assert state.pop("keys") == log_vkeys()
    path.write_text(json.dumps(state))
    append()
    assert sign() is not None
    assert json.loads(path.read_text())["keys"] == log_vkeys()


@pytest.mark.django_db
def test_a_key_file_put_in_the_place_of_the_old_one_by_hand_is_refused(settings) -> None:
    append()
    sign()
    folder = Path(settings.RTBF_SIGNER_DIR)
    keys.prepare_log_key(folder)
    keys.replace_log_key(folder)
    with pytest.raises(SignerRefused, match="rotate_key log"):
        sign()


@pytest.mark.django_db
def test_neither_the_present_key_nor_a_retired_one_can_follow(settings) -> None:
    append()
    sign()
    folder = Path(settings.RTBF_SIGNER_DIR)
    shutil.copy(folder / "log.pem", folder / "log.next.pem")
    shutil.copy(folder / "log.pem", folder / "retired.pem")
    with pytest.raises(CommandError, match="was in use before"):
        call_command("sign_checkpoints", once=True)
    (folder / "log.next.pem").unlink()
    call_command("rotate_key", "log")
    sign()
    shutil.copy(folder / "retired.pem", folder / "log.next.pem")
    with pytest.raises(CommandError, match="was in use before"):
        call_command("sign_checkpoints", once=True)
    assert len(log_vkeys()) == 2


@pytest.mark.django_db(transaction=True)
def test_a_rewritten_history_is_not_signed_by_a_new_key_either() -> None:
    append(6)
    sign()
    rewrite(3, also_leaf=True)
    call_command("rotate_key", "log")
    with pytest.raises(CommandError, match="Nothing was signed"):
        call_command("sign_checkpoints", once=True)
    assert len(log_vkeys()) == 1


@pytest.mark.django_db
def test_before_the_first_key_there_is_nothing_to_rotate() -> None:
    for purpose in ("log", "attest"):
        with pytest.raises(CommandError, match="yet"):
            call_command("rotate_key", purpose)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("also_leaf", [False, True])
@pytest.mark.parametrize("grown", [False, True])
def test_an_entry_rewritten_behind_the_triggers_is_signed_by_no_signer(
    also_leaf: bool, grown: bool
) -> None:
    append(6)
    sign()
    rewrite(3, also_leaf=also_leaf)
    if grown:
        append()
    with pytest.raises(CommandError, match="Nothing was signed"):
        call_command("sign_checkpoints", once=True)
    with pytest.raises(CommandError, match=r"changed after"):
        call_command("verify_log")
    assert Checkpoint.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_history_rewritten_under_a_running_signer_is_not_signed(settings) -> None:
    append(6)
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        signer, _ = sign_next(signer)
        rewrite(3, also_leaf=True)
        append()
        with pytest.raises(SignerRefused, match="does not extend"):
            sign_next(signer)


@pytest.mark.django_db(transaction=True)
def test_a_log_cut_back_to_an_earlier_backup_is_not_signed() -> None:
    append(6)
    sign()
    rewritten_log(lambda bodies: bodies.__delitem__(slice(4, None)))
    with pytest.raises(CommandError, match="Nothing was signed"):
        call_command("sign_checkpoints", once=True)
    with pytest.raises(CommandError, match="were signed"):
        call_command("verify_log")


@pytest.mark.django_db(transaction=True)
def test_the_database_refuses_changes_again_after_a_flush() -> None:
    append()
    with pytest.raises(Exception, match="append-only"), connection.cursor() as cursor:
        cursor.execute("DELETE FROM requests_app_auditentry")


@pytest.mark.django_db
def test_verify_log_says_what_it_found_in_order(capsys) -> None:
    append(4)
    sign()
    call_command("verify_log")
    assert "6 entries in 0 cases and 1 checkpoints" in capsys.readouterr().out


@pytest.mark.django_db
def test_trust_is_exported_only_once_the_log_has_a_key(tmp_path) -> None:
    with pytest.raises(CommandError, match="Start the signer first"):
        call_command("export_trust")
    sign()
    append()
    sign()
    call_command("export_trust", str(tmp_path / "trust.txt"))
    lines = (tmp_path / "trust.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["#", "attest", "log"]
