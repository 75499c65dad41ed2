"""Cosignatures and time stamps: asked for beside the signer, frozen before a bundle is made."""

import importlib
import logging
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from requests_app import audit, dossier, keys, marks, tasks
from requests_app import witness as witnesses
from requests_app.exports import bundle
from requests_app.models import Case, Checkpoint, CheckpointMark
from requests_app.signer import open_signer, sign_next
from requests_app.verifier import archive, notes, statements
from requests_app.verifier.__main__ import main
from requests_app.verifier.checks import Result, verify
from requests_app.verifier.errors import Invalid
from requests_app.verifier.trust import parse_trust
from requests_app.witness import Witness, open_witness
from rtbf.settings import env_witnesses
from tests import factories
from tests.requests_app import bundles
from tests.requests_app.test_signer import append
from tests.requests_app.test_witness import NAME, served
from tests.requests_app.trees import Tree

pytestmark = [pytest.mark.django_db, pytest.mark.database]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def witness(settings, tmp_path: Path) -> Iterator[Witness]:
    """A second party at work that knows the log's key, and is asked."""
    vkey = keys.log_key(settings.RTBF_SIGNER_DIR).vkey
    made = open_witness(tmp_path / "witness", name=NAME, logs=[vkey])
    with served(made) as url:
        settings.RTBF_WITNESSES = {url: made.vkey}
        yield made


@pytest.fixture
def second_witness_is_dead(settings, witness: Witness, tmp_path: Path) -> str:
    dead = open_witness(tmp_path / "dead", name="dead.example", logs=[])
    settings.RTBF_WITNESSES = {**settings.RTBF_WITNESSES, "http://127.0.0.1:9/": dead.vkey}
    return dead.vkey


@contextmanager
def answering(answer: Callable[[bytes], tuple[int, bytes]]) -> Iterator[str]:
    """A server of one answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, body = answer(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def trust_text(*pinned: Witness) -> str:
    return keys.trust_text() + "".join(f"witness {each.vkey}\n" for each in pinned)


def checked(data: bytes, *pinned: Witness) -> Result:
    return verify(data, trust=parse_trust(trust_text(*pinned).encode(), pinned=True, file="t"))


def rendered(case: Case) -> bytes:
    return bundle.render(dossier.gather(case))


def signed() -> Checkpoint:
    append()
    checkpoint = bundles.sign()
    assert checkpoint is not None
    return checkpoint


def grow_old(monkeypatch: pytest.MonkeyPatch, *, by: timedelta) -> None:
    now = timezone.now() + by
    monkeypatch.setattr("requests_app.marks.timezone.now", lambda: now)


# --- Closing ------------------------------------------------------------------------------------
def test_where_nobody_is_asked_the_signer_closes_at_once() -> None:
    checkpoint = signed()
    assert marks.newest_closed() == checkpoint
    assert marks.cosigned_note(checkpoint) == checkpoint.note.encode()
    assert marks.collect() is None


def test_the_migration_closes_what_was_signed_before_anybody_could_be_asked() -> None:
    checkpoint = signed()
    checkpoint.marks.all().delete()
    migration = importlib.import_module("requests_app.migrations.0010_key_revocation_and_marks")
    migration.close_all(apps, None)
    assert marks.newest_closed() == checkpoint


def test_a_cosigned_checkpoint_is_closed_and_its_bundle_says_who_cosigned_and_when(
    witness: Witness, tmp_path: Path, capsys
) -> None:
    case = factories.completed_case()
    bundles.prepare(case)
    bundles.sign()
    with pytest.raises(dossier.BundleNotReady, match="witnesses"):
        rendered(case)
    tasks.collect_marks()
    data = rendered(case)
    result = checked(data, witness)
    assert [mark.key.vkey for mark in result.cosignatures] == [witness.vkey]
    assert result.warnings == ()
    assert statements.NO_WITNESS not in result.limitations
    assert statements.NO_WITNESS in checked(data).limitations  # not pinned: it counts for nothing
    report = archive.read_archive(data)["report.html"].decode()
    assert statements.ONE_HISTORY in report
    assert statements.NO_WITNESS not in report
    (tmp_path / "bundle.zip").write_bytes(data)
    (tmp_path / "trust.txt").write_text(trust_text(witness))
    assert main([str(tmp_path / "bundle.zip"), "--trust", str(tmp_path / "trust.txt")]) == 0
    assert f"Cosigned by {NAME} at 20" in capsys.readouterr().out


def test_pinned_witnesses_that_did_not_cosign_are_a_warning(
    witness: Witness, settings, tmp_path: Path, capsys
) -> None:
    settings.RTBF_WITNESSES = {}
    data = bundles.export(factories.completed_case())
    result = checked(data, witness)
    assert "None of the witnesses" in result.warnings[0]
    assert statements.NO_WITNESS in result.limitations
    (tmp_path / "bundle.zip").write_bytes(data)
    (tmp_path / "trust.txt").write_text(trust_text(witness))
    assert main([str(tmp_path / "bundle.zip"), "--trust", str(tmp_path / "trust.txt")]) == 4


def test_a_bundle_that_brings_its_own_witness_along_is_not_cosigned(witness: Witness) -> None:
    """Without a trust file from elsewhere no witness is pinned, whatever keys/trust.txt says."""
    case = factories.completed_case()
    bundles.prepare(case)
    bundles.sign()
    tasks.collect_marks()
    data = rendered(case)
    files = archive.read_archive(data)
    attest = keys.attest_key()
    made = bundles.Made(data, files, "", attest, attest, b"", b"")
    line = f"witness {witness.vkey}\n".encode()
    brought = bundles.forge(made, {statements.TRUST: files[statements.TRUST] + line})
    result = verify(brought)
    assert (result.authenticated, result.cosignatures) == (False, ())
    assert statements.NO_WITNESS in result.limitations


def test_no_changed_cosignature_of_a_pinned_witness_is_accepted(witness: Witness) -> None:
    case = factories.completed_case()
    bundles.prepare(case)
    bundles.sign()
    tasks.collect_marks()
    data = rendered(case)
    files = archive.read_archive(data)
    note = files[statements.CHECKPOINT]
    _, lines = notes.read_note(note, file="")
    name, material = lines[-1]
    assert name == NAME
    changed = bytearray(material)
    changed[20] ^= 1
    line = f"{notes.DASH} {name} {notes.encode(bytes(changed))}\n".encode()
    forged = note[: note.rindex(notes.DASH.encode())] + line
    attest = keys.attest_key()
    made = bundles.Made(data, files, "", attest, attest, b"", b"")
    changes = {
        file: content.replace(note, forged) for file, content in files.items() if note in content
    }
    with pytest.raises(Invalid, match="cosignature"):
        checked(bundles.forge(made, changes), witness)


def test_a_bundle_asked_for_again_has_the_same_bytes_whoever_is_asked_later(
    witness: Witness, settings
) -> None:
    case = factories.completed_case()
    bundles.prepare(case)
    bundles.sign()
    tasks.collect_marks()
    data = rendered(case)
    signed()
    tasks.collect_marks()
    settings.RTBF_WITNESSES = {"http://127.0.0.1:9/": witness.vkey}
    tasks.collect_marks()
    assert rendered(case) == data


def test_each_checkpoint_is_proven_from_the_one_cosigned_last(witness: Witness) -> None:
    for _ in range(3):
        checkpoint = signed()
        assert marks.collect() == checkpoint
        assert CheckpointMark.objects.get(checkpoint=checkpoint, kind="cosignature")
    assert CheckpointMark.objects.filter(kind="closed").count() == 3


def test_of_several_that_wait_only_the_newest_is_asked_and_closed(witness: Witness) -> None:
    case = factories.completed_case()
    bundles.prepare(case)
    first, newest = bundles.sign(), signed()
    assert marks.collect() == newest
    assert first is not None
    assert not first.marks.exists()
    assert checked(rendered(case), witness).head.size == newest.size


def test_what_the_witness_knows_better_it_tells(witness: Witness) -> None:
    signed()
    marks.collect()
    CheckpointMark.objects.filter(kind="cosignature").delete()  # our memory of it is lost
    checkpoint = signed()
    assert marks.collect() == checkpoint
    assert checkpoint.marks.filter(kind="cosignature").exists()


def test_a_dead_witness_holds_up_no_signing_and_bundles_for_a_minute_only(
    witness: Witness, second_witness_is_dead: str, settings, monkeypatch
) -> None:
    checkpoint = signed()
    assert marks.collect() is None
    later = signed()
    assert marks.collect() is None
    assert [mark.name for mark in later.marks.all()] == [witness.vkey]
    grow_old(monkeypatch, by=marks.PATIENCE)
    assert marks.collect() == later
    assert marks.closed_after(0) == later
    assert [mark.name for mark in checkpoint.marks.all()] == [witness.vkey]


def test_checkpoints_from_before_nobody_was_asked_any_more_are_closed(
    second_witness_is_dead: str, settings
) -> None:
    checkpoint = signed()
    assert marks.collect() is None
    settings.RTBF_WITNESSES = {}
    assert marks.collect() == checkpoint


def test_a_closed_checkpoint_gets_no_further_mark(witness: Witness) -> None:
    checkpoint = signed()
    marks.close(checkpoint)
    key = notes.parse_vkey(witness.vkey, kind=notes.COSIGNATURE)
    marks._store_cosignature(checkpoint, key, b"line")
    assert marks.cosigned_note(checkpoint) == checkpoint.note.encode()


def test_the_change_over_of_the_log_key_is_cosigned_by_a_witness_of_the_old_one(
    witness: Witness, settings
) -> None:
    with open_signer(settings.RTBF_SIGNER_DIR) as signer:
        append()
        signer, _ = sign_next(signer)
        keys.prepare_log_key(settings.RTBF_SIGNER_DIR)
        signer, checkpoint = sign_next(signer)
    assert marks.collect() == checkpoint


# --- Witnesses that cannot be used --------------------------------------------------------------
def test_a_forked_log_is_not_cosigned_and_the_witness_keeps_the_proof(
    witness: Witness, settings, caplog, monkeypatch
) -> None:
    signed()
    marks.collect()
    # The holder of the log key makes another history and asks for its cosignature.
    other = [bytes([number]) * 32 for number in range(9)]
    tree = Tree(other)
    key = keys.log_key(settings.RTBF_SIGNER_DIR)
    head = notes.TreeHead(key.name, 9, tree.root())
    note = notes.sign_note(notes.checkpoint_text(head), name=key.name, private=key.private)
    forked = Checkpoint.objects.create(
        size=9, root=tree.root(), note=note.decode(), created_at=timezone.now()
    )
    monkeypatch.setattr(audit, "consistency_proof", lambda a, b: tree.consistency(a, b))
    assert marks.collect() is None
    assert not forked.marks.exists()
    assert "status 422" in caplog.text
    assert len(list((witness.folder / "refused").iterdir())) == 1


def test_a_log_restored_from_a_backup_is_told_so(witness: Witness, caplog) -> None:
    checkpoint = signed()
    state = witnesses._state_file(witness.folder, checkpoint.note.partition("\n")[0])
    longer = checkpoint.note.replace(f"\n{checkpoint.size}\n", "\n999\n")
    state.write_text(longer)
    assert marks.collect() is None
    assert "has seen a longer log" in caplog.text


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"\xff\xfe"),
        (200, "— witness.example/w1 AAAAAAAA\n".encode()),
        (200, "— other.example AAAAAAAA\n".encode()),
        (200, b"\n\n"),
        (200, b"x" * 100_000),
        (409, b"many\n"),
        (409, b"999999\n"),
        (409, "٣\n".encode()),
        (404, b"no"),
        (302, b""),
        (500, b"a name and an address that must not be logged"),
    ],
)
def test_an_answer_that_is_none_is_logged_without_what_it_says(
    witness: Witness, settings, caplog, status: int, body: bytes
) -> None:
    checkpoint = signed()
    with answering(lambda _: (status, body)) as url:
        settings.RTBF_WITNESSES = {url: witness.vkey}
        assert marks.collect() is None
    assert not checkpoint.marks.exists()
    (record,) = [each for each in caplog.records if each.name == "requests_app.marks"]
    assert record.levelno == logging.WARNING
    assert "must not be logged" not in caplog.text


def test_a_witness_of_another_key_than_the_pinned_one_does_not_count(
    witness: Witness, settings, tmp_path: Path
) -> None:
    other = open_witness(tmp_path / "other", name=NAME, logs=[])
    (url,) = settings.RTBF_WITNESSES
    settings.RTBF_WITNESSES = {url: other.vkey}
    checkpoint = signed()
    assert marks.collect() is None
    assert not checkpoint.marks.exists()


def test_a_witness_that_drips_is_given_up(witness: Witness, settings, monkeypatch) -> None:
    monkeypatch.setattr(marks, "SECONDS", 0.2)
    stop = threading.Event()

    def never(_: bytes) -> tuple[int, bytes]:
        stop.wait(5)
        return 200, b""

    checkpoint = signed()
    with answering(never) as url:
        settings.RTBF_WITNESSES = {url: witness.vkey}
        started = timezone.now()
        assert marks.collect() is None
        assert timezone.now() - started < timedelta(seconds=3)
        stop.set()
    assert not checkpoint.marks.exists()


# --- Time stamps --------------------------------------------------------------------------------
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="the openssl program is not here")
CONFIG = """
[tsa]
default_tsa = own
[own]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256
ess_cert_id_alg = sha256
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = critical, timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[req]
distinguished_name = name
[name]
"""


def openssl(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=check
    )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A time-stamping authority under a root of its own, both made by openssl."""
    folder = tmp_path_factory.mktemp("tsa")
    (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))
    (folder / "serial").write_text("01\n")
    make = ("req", "-config", "tsa.cnf", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    openssl(
        folder, *make, "-x509", "-nodes", "-days", "30", "-subj", "/CN=root",
        "-extensions", "root", "-keyout", "root.key", "-out", "root.pem",
    )  # fmt: skip
    openssl(folder, *make, "-nodes", "-subj", "/CN=tsa", "-keyout", "tsa.key", "-out", "tsa.csr")
    openssl(
        folder, "x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key",
        "-set_serial", "2", "-days", "30", "-extfile", "tsa.cnf", "-extensions", "leaf",
        "-out", "tsa.pem",
    )  # fmt: skip
    (folder / "chain.pem").write_text(
        (folder / "tsa.pem").read_text() + (folder / "root.pem").read_text()
    )
    return folder


@pytest.fixture
def stamping(authority: Path, settings) -> Iterator[Path]:
    def reply(query: bytes) -> tuple[int, bytes]:
        (authority / "query.tsq").write_bytes(query)
        openssl(
            authority, "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query.tsq",
            "-out", "reply.tsr",
        )  # fmt: skip
        return 200, (authority / "reply.tsr").read_bytes()

    with answering(reply) as url:
        settings.RTBF_TSA_URL = url
        settings.RTBF_TSA_CERTIFICATE = str(authority / "chain.pem")
        yield authority


@needs_openssl
def test_the_time_stamp_in_a_bundle_is_good_by_the_line_in_its_readme(
    stamping: Path, witness: Witness, tmp_path: Path, capsys
) -> None:
    case = factories.completed_case()
    bundles.prepare(case)
    bundles.sign()
    tasks.collect_marks()
    data = rendered(case)
    result = checked(data, witness)
    assert statements.STAMP_UNCHECKED in result.limitations
    assert result.cosignatures
    for name, content in archive.read_archive(data).items():
        (tmp_path / "opened" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "opened" / name).write_bytes(content)
    readme = (tmp_path / "opened" / "README.txt").read_text()
    line = readme[readme.index("openssl ts -verify") :].partition("\n\n")[0]
    words = line.replace("tsa-root.pem", str(stamping / "root.pem")).split()
    assert words[0] == "openssl"
    assert "Verification: OK" in openssl(tmp_path / "opened", *words[1:]).stdout
    checkpoint = tmp_path / "opened" / statements.CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes() + b"\n")
    assert openssl(tmp_path / "opened", *words[1:], check=False).returncode != 0
    (tmp_path / "bundle.zip").write_bytes(data)
    (tmp_path / "trust.txt").write_text(trust_text(witness))
    assert main([str(tmp_path / "bundle.zip"), "--trust", str(tmp_path / "trust.txt")]) == 0
    assert "was not checked here" in capsys.readouterr().out


@needs_openssl
def test_without_a_certificate_only_the_digest_and_the_nonce_are_checked(
    stamping: Path, settings
) -> None:
    settings.RTBF_TSA_CERTIFICATE = ""
    checkpoint = signed()
    assert marks.collect() == checkpoint
    stamp = marks.stamp_of(checkpoint)
    assert stamp is not None
    assert stamp.chain == b""


@needs_openssl
def test_a_stamp_that_the_certificates_do_not_lead_to_is_not_stored(
    stamping: Path, settings, tmp_path: Path, caplog
) -> None:
    openssl(
        tmp_path, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes", "-days", "30", "-subj", "/CN=other", "-keyout", "k", "-out", "other.pem",
    )  # fmt: skip
    settings.RTBF_TSA_CERTIFICATE = str(tmp_path / "other.pem")
    checkpoint = signed()
    assert marks.collect() is None
    assert not checkpoint.marks.exists()
    assert "is not good" in caplog.text


@needs_openssl
def test_a_stamp_for_something_else_is_not_stored(stamping: Path, settings) -> None:
    settings.RTBF_TSA_CERTIFICATE = ""
    stamp = marks.ask_authority(b"something else")
    checkpoint = signed()
    with answering(lambda _: (200, stamp.response)) as url:
        settings.RTBF_TSA_URL = url
        assert marks.collect() is None
    assert not checkpoint.marks.exists()


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"\x30\x03\x02\x01\x02"),
        (200, bytes.fromhex("30053003020102")),  # a status of rejection, and no token
        (200, b"\xff" * 50),
        (503, b""),
    ],
)
def test_an_authority_that_gives_none_holds_bundles_up_for_two_minutes_only(
    settings, monkeypatch, caplog, status: int, body: bytes
) -> None:
    with answering(lambda _: (status, body)) as url:
        settings.RTBF_TSA_URL = url
        checkpoint = signed()
        assert marks.collect() is None
        assert "authority did not stamp" in caplog.text
        grow_old(monkeypatch, by=2 * marks.PATIENCE)
        assert marks.collect() == checkpoint
    assert marks.stamp_of(checkpoint) is None


def test_a_certificate_file_that_is_missing_is_logged_and_tried_again(settings, caplog) -> None:
    settings.RTBF_TSA_URL = "http://127.0.0.1:9/"
    settings.RTBF_TSA_CERTIFICATE = "/nowhere/tsa.pem"
    signed()
    assert marks.collect() is None
    assert "FileNotFoundError" in caplog.text


# --- Settings -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("value", "good"),
    [
        ("https://w.example=VKEY", True),
        ("http://127.0.0.1:8087=VKEY", True),
        ("http://w.example=VKEY", False),
        ("ftp://127.0.0.1=VKEY", False),
        ("https://w.example=rtbf.example+00000000+AA==", False),
        ("https://w.example", False),
    ],
)
def test_witnesses_are_asked_over_https_or_on_this_machine_only(
    witness: Witness, monkeypatch, value: str, good: bool
) -> None:
    monkeypatch.setenv("RTBF_WITNESSES", value.replace("VKEY", witness.vkey))
    if good:
        assert list(env_witnesses("RTBF_WITNESSES").values()) == [witness.vkey]
    else:
        with pytest.raises(ImproperlyConfigured):
            env_witnesses("RTBF_WITNESSES")
