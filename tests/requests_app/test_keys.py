"""Keys of the record: rotated and revoked by log size, and what the verifier makes of it."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command

from requests_app import dossier, keys
from requests_app.exports import bundle
from requests_app.models import AuditEntry, AuditKey, Case, LogHead
from requests_app.verifier import archive, notes, statements
from requests_app.verifier.checks import Result, verify
from requests_app.verifier.errors import Invalid
from requests_app.verifier.trust import parse_trust
from tests import factories
from tests.requests_app import bundles
from tests.requests_app.test_audit import body

pytestmark = [pytest.mark.django_db, pytest.mark.database]

WITNESS = "witness.example/w1"
WITNESS_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def checked(data: bytes, text: str | None = None) -> Result:
    """With the trust file as it is handed out now."""
    trust = parse_trust((text or keys.trust_text()).encode(), pinned=True, file="trust.txt")
    return verify(data, trust=trust)


def rendered(case: Case) -> bytes:
    return bundle.render(dossier.gather(case))


def vkey_of(purpose: str, *, retired: bool) -> str:
    return AuditKey.objects.get(purpose=purpose, valid_to__isnull=not retired).vkey


def rotated(purpose: str) -> None:
    """A rotation as it ends: the signer has signed it."""
    call_command("rotate_key", purpose)
    bundles.sign()


# --- Rotation -----------------------------------------------------------------------------------
@pytest.mark.parametrize("purpose", ["log", "attest"])
def test_a_bundle_from_before_a_rotation_verifies_with_the_new_trust_file(purpose: str) -> None:
    data = bundles.export(factories.completed_case())
    old_trust = keys.trust_text()
    rotated(purpose)
    result = checked(data)
    assert [w for w in result.warnings if f"The {purpose} key" in w and "retired" in w]
    assert len(result.warnings) == 1
    assert checked(data, old_trust).warnings == ()


@pytest.mark.parametrize("purpose", ["log", "attest"])
def test_a_bundle_from_after_a_rotation_needs_the_new_trust_file(purpose: str) -> None:
    case = factories.completed_case()
    bundles.export(case)
    old_trust = keys.trust_text()
    rotated(purpose)
    data = bundles.export(case)
    assert checked(data).warnings == ()
    with pytest.raises(Invalid, match="trusted"):
        checked(data, old_trust)


def test_the_checkpoint_at_the_change_over_is_good_with_the_old_trust_file_and_the_new() -> None:
    case = factories.completed_case()
    bundles.sign()
    keys.attest_key()
    bundles.sign()
    old_trust = keys.trust_text()
    bundles.prepare(case)
    with pytest.MonkeyPatch.context() as patch:  # both in one look: export and change of keys
        patch.setattr("requests_app.signer._sign_head", lambda signer: (signer, None))
        call_command("rotate_key", "log")
        patch.setattr("requests_app.keys.replace_log_key", lambda _: None)
        bundles.sign()
    bundles.sign()
    data = rendered(case)
    note = archive.read_archive(data)[statements.CHECKPOINT]
    assert note.count(notes.DASH.encode()) == 2
    assert checked(data).warnings == ()
    assert checked(data, old_trust).warnings == ()


def test_after_a_rotation_of_the_log_key_a_bundle_asked_for_again_has_the_same_bytes() -> None:
    case = factories.completed_case()
    data = bundles.export(case)
    rotated("log")
    assert rendered(case) == data


def test_after_a_rotation_of_the_attest_key_a_bundle_asked_for_again_is_signed_anew() -> None:
    case = factories.completed_case()
    data = bundles.export(case)
    rotated("attest")
    again = rendered(case)
    assert again != data
    assert checked(again).warnings == ()


def test_the_old_attest_key_is_gone_and_is_not_taken_back(settings) -> None:
    path = settings.RTBF_KEY_DIR / keys.ATTEST_FILE
    keys.attest_key()
    old = path.read_bytes()
    call_command("rotate_key", "attest")
    assert path.read_bytes() != old
    assert sorted(each.name for each in settings.RTBF_KEY_DIR.iterdir() if "pem" in each.name) == [
        keys.ATTEST_FILE
    ]
    path.write_bytes(old)  # a machine that was forgotten
    with pytest.raises(keys.KeyFileError, match="retired"):
        keys.attest_key()
    with pytest.raises(CommandError, match="retired"):
        call_command("rotate_key", "attest")
    assert AuditEntry.objects.filter(type="key.rotated").count() == 1


def test_an_interrupted_rotation_of_the_attest_key_is_finished_by_repeating_it(monkeypatch) -> None:
    keys.attest_key()
    with monkeypatch.context() as crash:
        crash.setattr("requests_app.keys._replace", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            keys.rotate_attest_key()
    with pytest.raises(keys.KeyFileError, match="rotate_key attest"):
        keys.attest_key()
    call_command("rotate_key", "attest")
    assert keys.attest_key().vkey == vkey_of("attest", retired=False)
    assert AuditEntry.objects.filter(type="key.rotated").count() == 1


def test_a_stale_next_key_does_not_retire_a_key_twice(settings) -> None:
    key = keys.attest_key()
    path = settings.RTBF_KEY_DIR / keys.ATTEST_FILE
    old = path.read_bytes()
    call_command("rotate_key", "attest")
    retired_at = AuditKey.objects.get(vkey=key.vkey).valid_to
    path.write_bytes(old)
    keys._make(path.with_name("attest.next.pem"))
    with pytest.raises(CommandError, match="retired before"):
        call_command("rotate_key", "attest")
    assert AuditKey.objects.get(vkey=key.vkey).valid_to == retired_at


# --- Revocation ---------------------------------------------------------------------------------
def revoke(purpose: str, *, from_size: int | None = None) -> AuditKey:
    vkey = vkey_of(purpose, retired=True)
    row = AuditKey.objects.get(vkey=vkey)
    size = row.valid_from if from_size is None else from_size
    call_command("revoke_key", vkey, from_size=size, reason="compromised")
    return AuditKey.objects.get(vkey=vkey)


@pytest.mark.parametrize("purpose", ["log", "attest"])
def test_what_a_revoked_key_signed_above_the_size_counts_no_more(purpose: str) -> None:
    data = bundles.export(factories.completed_case())
    rotated(purpose)
    key = revoke(purpose)
    entry = AuditEntry.objects.get(type="key.revoked")
    assert body(entry)["data"] == {
        "purpose": purpose,
        "vkey": key.vkey,
        "from_size": key.revoked_from,
        "reason": "compromised",
    }
    with pytest.raises(Invalid, match=f"The {purpose} key"):
        checked(data)


@pytest.mark.parametrize("purpose", ["log", "attest"])
def test_what_it_signed_up_to_the_size_counts_with_a_warning(purpose: str) -> None:
    data = bundles.export(factories.completed_case())
    size = checked(data).head.size
    rotated(purpose)
    revoke(purpose, from_size=size)
    (warning,) = checked(data).warnings
    assert f"The {purpose} key" in warning
    assert "revoked for log sizes above" in warning


def test_an_export_whose_checkpoint_counts_no_more_is_made_again_on_a_later_one() -> None:
    case = factories.completed_case()
    data = bundles.export(case)
    rotated("log")
    revoke("log")
    bundles.sign()
    again = rendered(case)
    assert checked(again).head.size > verify(data).head.size
    assert checked(again).warnings == ()


def with_cosignature(data: bytes, *, at: datetime) -> bytes:
    """The bundle as if a witness had cosigned its checkpoint, signed anew by the attest key."""
    files = archive.read_archive(data)
    note = files[statements.CHECKPOINT]
    text, _ = notes.read_note(note, file="")
    line = notes.cosign(text, name=WITNESS, private=WITNESS_KEY, at=int(at.timestamp()))
    cosigned = note + line.encode()
    changes = {
        name: content.replace(note, cosigned)
        for name, content in files.items()
        if name == statements.CHECKPOINT or name.endswith(".tlog-proof")
    }
    attest = keys.attest_key()
    made = bundles.Made(data, files, "", attest, attest, b"", b"")
    return bundles.forge(made, changes)


WITNESS_LINE = f"witness {notes.note_key(WITNESS, WITNESS_KEY, kind=notes.COSIGNATURE).vkey}\n"


@pytest.mark.parametrize(("seconds", "counts"), [(-60, True), (60, False)])
def test_a_witness_that_cosigned_before_the_revocation_saves_what_the_log_key_signed(
    seconds: int, counts: bool
) -> None:
    data = bundles.export(factories.completed_case())
    now = datetime.now(UTC)
    cosigned = with_cosignature(data, at=now + timedelta(seconds=seconds))
    rotated("log")
    revoke("log")
    text = keys.trust_text() + WITNESS_LINE
    if counts:
        (warning,) = checked(cosigned, text).warnings
        assert f"{WITNESS} cosigned it before the revocation" in warning
    else:
        with pytest.raises(Invalid, match="The log key"):
            checked(cosigned, text)
    with pytest.raises(Invalid, match="The log key"):
        checked(cosigned)  # the witness is not pinned


def test_a_cosignature_saves_no_statement() -> None:
    data = with_cosignature(
        bundles.export(factories.completed_case()), at=datetime.now(UTC) - timedelta(days=1)
    )
    rotated("attest")
    revoke("attest")
    with pytest.raises(Invalid, match="The attest key"):
        checked(data, keys.trust_text() + WITNESS_LINE)


def test_a_key_in_use_an_unknown_one_and_a_size_it_never_signed_are_refused() -> None:
    bundles.sign()
    keys.attest_key()
    bundles.sign()
    for vkey, size, words in (
        (vkey_of("log", retired=False), 1, "Rotate it first"),
        ("nobody.example+00000000+AA==", 1, "knows no key"),
    ):
        with pytest.raises(CommandError, match=words):
            call_command("revoke_key", vkey, from_size=size, reason="lost")
    rotated("attest")
    with pytest.raises(CommandError, match="was used for log sizes"):
        revoke("attest", from_size=LogHead.objects.get().size)
    revoke("attest")
    with pytest.raises(CommandError, match="revoked before"):
        revoke("attest")
    with pytest.raises(ValueError, match="is not one of"):
        keys.revoke_key(vkey="x", from_size=1, reason="a person said so")
    assert AuditEntry.objects.filter(type="key.revoked").count() == 1


def test_the_trust_file_says_since_when_and_the_one_in_a_bundle_stays_as_it_was() -> None:
    case = factories.completed_case()
    enclosed = archive.read_archive(bundles.export(case))[statements.TRUST]
    rotated("log")
    key = revoke("log")
    line = next(each for each in keys.trust_text().splitlines() if key.vkey in each)
    assert key.revoked_at is not None
    stamp = key.revoked_at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert line.endswith(
        f"from={key.valid_from} to={key.valid_to} revoked={key.revoked_from}@{stamp}"
    )
    assert keys.trust_text(known_at=key.valid_to).encode() == enclosed


def test_keys_of_witnesses_are_in_the_trust_file_as_comments_only(settings) -> None:
    bundles.sign()
    keys.attest_key()
    settings.RTBF_WITNESSES = {"https://w.example": WITNESS_LINE.split()[1]}
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    assert f"# {WITNESS_LINE}" in keys.trust_text()
    assert trust.for_purpose("witness") == []
