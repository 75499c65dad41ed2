"""The offline verifier accepts what was signed and logged, and not one bit else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import requests_app.verifier
from requests_app import actors, dossier, keys
from requests_app.dossier import BundleNotReady
from requests_app.exports import bundle as bundle_export
from requests_app.models import Case
from requests_app.models.runs import ProbeResult, Verdict
from requests_app.services import cases, intake, letters, manifests, releases, roll_backs, runs
from requests_app.verifier import archive, notes, statements
from requests_app.verifier.__main__ import main
from requests_app.verifier.checks import verify
from requests_app.verifier.errors import Invalid
from requests_app.verifier.trust import parse_trust
from tests import factories
from tests.requests_app import bundles, test_exports
from tests.requests_app.bundles import Made, made_bundle, refused

pytestmark = pytest.mark.django_db


@pytest.fixture
def made() -> Made:
    return made_bundle()


# --- What is accepted ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "claim"),
    [
        ("succeeded", "suppression-measured"),
        ("not_met", "procedure-executed"),
        ("failed", "request-recorded"),
        ("nothing", "request-recorded"),
        ("refused", "request-recorded"),
    ],
)
@pytest.mark.database
def test_every_outcome_of_a_case_gets_a_bundle_that_verifies(kind: str, claim: str) -> None:
    data = bundles.export(test_exports.CASES[kind]())
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    result = verify(data, trust=trust)
    assert (result.claim, result.authenticated, result.warnings) == (claim, True, ())
    limits = {"succeeded": 6, "not_met": 7}.get(kind, 3)  # it took several attempts
    assert len(result.limitations) == limits + 1


def answered_case(outcome: str) -> Case:
    case = factories.propose(factories.case_in_review(), outcome=outcome)
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    cases.send_answer(case_id=case.id, actor_member=factories.make_staff("officer"))
    letters.send_pending_letters()
    return Case.objects.get(pk=case.pk)


def withdrawn_case() -> Case:
    case = intake.withdraw_case(case_id=factories.case_in_review().id, actor=actors.SUBJECT)
    letters.send_pending_letters()
    return case


ENDED = {
    **{o: partial(answered_case, o) for o in ("refused", "cannot_identify", "excessive")},
    "withdrawn": withdrawn_case,
}


@pytest.mark.database
@pytest.mark.parametrize("ended", ENDED)
def test_a_case_without_a_run_is_sealed_and_verifies_and_says_so(
    ended: str, tmp_path, capsys
) -> None:
    case = ENDED[ended]()
    keys.attest_key()
    cases.seal_case(case_id=case.id, actor=actors.SYSTEM)
    bundles.sign()
    (tmp_path / "bundle.zip").write_bytes(bundle_export.render(dossier.gather(case)))
    (tmp_path / "trust.txt").write_text(keys.trust_text())
    assert main([str(tmp_path / "bundle.zip"), "--trust", str(tmp_path / "trust.txt")]) == 0
    told = capsys.readouterr().out
    assert "No erasure run: no model was touched" in told
    assert f"Decision: {'none' if ended == 'withdrawn' else ended}." in told
    assert "Claim (request-recorded)" in told
    assert "L3: " in told


def test_a_second_attempt_is_verified_with_the_first_and_the_limit_of_having_tried_twice() -> None:
    case = factories.executing_case()
    factories.work_off(case.runs.get(), verdict=Verdict.NOT_MET)
    factories.work_off(case.runs.get(number=2))
    data = bundles.export(case)
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    result = verify(data, trust=trust)
    assert [run["verdict"] for run in result.runs] == ["not_met", "within_thresholds"]
    assert any("other wordings" in limit for limit in result.limitations)
    assert result.claim == "suppression-measured"


@pytest.mark.database
def test_a_bundle_says_whether_its_case_is_gated_merged_or_revoked() -> None:
    """The level follows the events of the case, and a merged case has other limits."""
    merged, revoked = (factories.completed_case() for _ in range(2))
    officer, approver = factories.make_staff("officer"), factories.make_staff("approver")
    releases.propose_revocation(case_id=revoked.id, cause="appeal", actor_member=officer)
    releases.revoke_case(case_id=revoked.id, actor_member=approver)
    before = manifests.live_manifest("demo")
    assert before is not None
    releases.register_consolidation(
        model_name="demo",
        manifest=factories.manifest_of(
            [], merged=[merged.id], base=factories.digest("new"), parent=before.digest
        ),
        plan_sha256=factories.digest("plan"),
        retained="registered",
        cases={merged.id: releases.CaseFigures(Verdict.WITHIN, factories.PROBES)},
        actor_member=factories.make_staff("engineer"),
    )

    def stated(case: Case) -> tuple[str, str, bool]:
        data = bundles.export(case)
        trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
        result = verify(data, trust=trust)
        claim = bundles.statement_of(archive.read_archive(data), "statement.dsse.json")
        said = claim["predicate"]["claim"]
        assert [run["level"] for run in result.runs] == [said["level"]]
        limits = " ".join(result.limitations)
        assert ("earlier weights" in limits) == (said["level"] == "merged")
        return result.claim, said["level"], said["baseModelUnchanged"]

    assert stated(merged) == ("suppression-in-weights", "merged", False)
    assert stated(revoked) == ("erasure-revoked", "revoked", True)
    roll_backs.roll_back_release(digest=before.digest, reason="fault", actor_member=approver)
    assert stated(merged) == ("suppression-measured", "gated", True)


@pytest.mark.parametrize(("verdict", "word"), [("not_met", "FAILED"), ("inconclusive", "WARNED")])
@pytest.mark.database
def test_a_test_is_stated_as_it_was_logged(verdict: str, word: str) -> None:
    case = factories.executing_case()
    factories.work_off(case.runs.get(), verdict=verdict)
    ProbeResult.objects.update(holds=True)  # what is stated comes from the log, not from this row
    data = bundles.export(case)
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    run, *next_attempt = verify(data, trust=trust).runs
    words = {test["name"]: test["result"] for test in run["tests"]}
    assert words == {"trained": "INFORMATIONAL", "unseen": word}
    file = f"eval/{run['run']}/test-result.dsse.json" if next_attempt else "test-result.dsse.json"
    result = bundles.statement_of(archive.read_archive(data), file)
    assert result["predicate"][f"{word.lower()}Tests"] == ["unseen"]
    assert result["predicate"]["passedTests"] == []


def test_no_statement_is_signed_about_a_record_that_does_not_back_it() -> None:
    """Figures that say another verdict than the run; the page then says why."""
    case = factories.executing_case()
    run = case.runs.get()
    lease = factories.take_lease(run)
    runs.record_protocol(lease, protocol=factories.protocol(run))
    factories.record_adapter(lease, run)
    figures = factories.evidence(run, verdict="not_met")
    runs.record_evidence(
        lease, evidence=figures, verdict="within_thresholds", probes=factories.probes("not_met")
    )
    runs.finish_run(lease)
    with pytest.raises(BundleNotReady, match="verdict"):
        bundles.export(case)


def test_an_ordinary_zip_tool_reads_the_bundle(made: Made) -> None:
    with zipfile.ZipFile(BytesIO(made.bundle)) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == made.files


def test_an_adapter_file_is_compared_with_the_statement(made: Made) -> None:
    (run,) = verify(made.bundle, trust=made.trust).runs
    verify(made.bundle, trust=made.trust, adapter_sha256=run["adapter"]["sha256"])
    with pytest.raises(Invalid, match="adapter file"):
        verify(made.bundle, trust=made.trust, adapter_sha256="00" * 32)


@pytest.mark.database
def test_an_earlier_checkpoint_of_the_auditor_is_linked(settings) -> None:
    keys.attest_key()
    seen = bundles.sign()
    case = factories.completed_case()
    bundles.export(case)
    assert seen is not None
    trust = parse_trust(keys.trust_text().encode(), pinned=True, file="trust.txt")
    data = bundle_export.render(dossier.gather(case), since=seen.size)
    verify(data, trust=trust, since=seen.note.encode())
    log = keys.log_key(Path(settings.RTBF_SIGNER_DIR))
    other = notes.TreeHead(log.name, seen.size, b"\x01" * 32)
    note = notes.sign_note(notes.checkpoint_text(other), name=log.name, private=log.private)
    with pytest.raises(Invalid, match="rewritten"):
        verify(data, trust=trust, since=note)


def test_a_checkpoint_that_the_proof_does_not_start_from_says_what_to_ask_for(made: Made) -> None:
    with pytest.raises(Invalid, match="--since"):
        verify(made.bundle, trust=made.trust, since=made.later_checkpoint)


# --- What is not --------------------------------------------------------------------------------
def test_no_bit_flip_all_through_the_archive_is_accepted(made: Made) -> None:
    for position in range(0, len(made.bundle), 4):
        changed = bytearray(made.bundle)
        changed[position] ^= 1 << position // 4 % 8
        with pytest.raises(Invalid):
            verify(bytes(changed), trust=made.trust)


def test_a_dropped_file_is_named(made: Made) -> None:
    for name in made.files:
        files = {other: data for other, data in made.files.items() if other != name}
        assert refused(made, archive.write_archive(files)).file == name


def test_an_added_file_is_named(made: Made) -> None:
    for name in ("extra.txt", "events/9999.json", "eval/weights.safetensors"):
        data = archive.write_archive({**made.files, name: b"x"})
        assert refused(made, data).file == name


def test_bytes_before_and_after_the_archive_are_refused(made: Made) -> None:
    for data in (b"x" + made.bundle, made.bundle + b"x", made.bundle[:-1], b"", b"PK\x05\x06"):
        refused(made, data)


def test_the_same_files_in_another_zip_form_are_refused(made: Made) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        target = BytesIO()
        with zipfile.ZipFile(target, "w", method) as written:
            for name, data in made.files.items():
                written.writestr(name, data)
        refused(made, target.getvalue())


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/passwd", "a//b", "a/", ".hidden", "a\\b", "a/../b", "é", "", "C:x"]
)
def test_names_that_lead_elsewhere_cannot_be_written(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        archive.write_archive({name: b"x"})


def test_another_key_of_the_same_name_is_not_trusted(made: Made) -> None:
    for purpose, key in (("log", made.log), ("attest", made.attest)):
        stranger = notes.note_key(key.name, Ed25519PrivateKey.generate()).vkey
        text = made.trust_text.replace(key.vkey, stranger)
        with pytest.raises(Invalid, match="trusted"):
            verify(made.bundle, trust=parse_trust(text.encode(), pinned=True, file="t"))
        assert purpose in text


def test_the_log_key_cannot_sign_statements_nor_the_attest_key_checkpoints(made: Made) -> None:
    text = f"log {made.attest.vkey}\nattest {made.log.vkey}\n"
    with pytest.raises(Invalid, match="not trusted"):
        verify(made.bundle, trust=parse_trust(text.encode(), pinned=True, file="t"))


def test_a_key_that_was_not_yet_known_or_already_retired_is_refused(made: Made) -> None:
    size = verify(made.bundle, trust=made.trust).head.size
    for validity in (f"from={size}", f"from=0 to={size - 1}"):
        text = f"log {made.log.vkey} {validity}\nattest {made.attest.vkey}\n"
        with pytest.raises(Invalid, match="not trusted for a log"):
            verify(made.bundle, trust=parse_trust(text.encode(), pinned=True, file="t"))


# --- The command --------------------------------------------------------------------------------
@pytest.fixture
def on_disk(made: Made, tmp_path: Path) -> Path:
    (tmp_path / "bundle.zip").write_bytes(made.bundle)
    (tmp_path / "trust.txt").write_text(made.trust_text)
    return tmp_path


def test_exit_0_names_the_limits_on_success_too(on_disk: Path, capsys) -> None:
    assert main([str(on_disk / "bundle.zip"), "--trust", str(on_disk / "trust.txt")]) == 0
    text = capsys.readouterr().out
    assert text.startswith("VERIFIED: case ")
    assert "L1: It is not proof" in text
    assert statements.NO_WITNESS in text


def test_exit_1_says_in_one_sentence_what_is_wrong_and_where(on_disk: Path, capsys) -> None:
    path = on_disk / "bundle.zip"
    data = bytearray(path.read_bytes())
    data[data.index(b'"type":"case.received"')] ^= 1
    path.write_bytes(bytes(data))
    assert main([str(path), "--trust", str(on_disk / "trust.txt")]) == 1
    text = capsys.readouterr().out
    assert text == (
        "INVALID: events/0000.json: The content was changed: it does not fit its checksum.\n"
    )


def test_exit_2_when_a_file_cannot_be_read(on_disk: Path, capsys) -> None:
    assert main([str(on_disk / "bundle.zip"), "--trust", str(on_disk / "nothing.txt")]) == 2
    assert "nothing.txt" in capsys.readouterr().err


def test_exit_3_without_a_trust_file(on_disk: Path, capsys) -> None:
    assert main([str(on_disk / "bundle.zip")]) == 3
    assert "SELF-CONSISTENT, NOT AUTHENTICATED" in capsys.readouterr().out


def test_exit_4_with_a_key_that_was_retired_later(on_disk: Path, made: Made, capsys) -> None:
    (on_disk / "trust.txt").write_text(f"log {made.log.vkey} to=999\nattest {made.attest.vkey}\n")
    arguments = [str(on_disk / "bundle.zip"), "--trust", str(on_disk / "trust.txt"), "--json"]
    assert main(arguments) == 4
    printed = json.loads(capsys.readouterr().out)
    assert printed["exit"] == 4
    assert "retired" in printed["warnings"][0]


def test_the_folder_runs_alone_with_cryptography_only(made: Made, on_disk: Path) -> None:
    folder = Path(requests_app.verifier.__file__).parent
    alone = on_disk / "alone"
    shutil.copytree(folder, alone / "verifier", ignore=shutil.ignore_patterns("__pycache__"))
    probe = (
        "import sys; from verifier.__main__ import main; code = main(sys.argv[1:]);"
        "print(sorted({n.partition('.')[0] for n in sys.modules} & "
        "{'django', 'rfc8785', 'celery', 'requests_app', 'torch', 'numpy'})); sys.exit(code)"
    )
    for command in (["-m", "verifier"], ["-c", probe]):
        done = subprocess.run(
            [sys.executable, *command, "../bundle.zip", "--trust", "../trust.txt"],
            cwd=alone,
            env={"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("VERIFIED")
    assert done.stdout.rstrip().endswith("[]")
