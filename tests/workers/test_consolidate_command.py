"""`manage.py consolidate_release` with the record, on one person of the demo model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from requests_app.models import AuditEntry, Case, Consolidation, Release, StaffMember
from requests_app.models.runs import Verdict
from requests_app.services import cases, consolidations, manifests, releases, roll_backs, runs
from requests_app.services.errors import Invalid
from tests import factories
from workers import consolidation, corpus, erasure, merging, tasks
from workers.adapters import CONFIG_FILE
from workers.base_models import DEMO_FOLDER, load_base_model
from workers.digests import file_sha256
from workers.joint_training import JointRecipe
from workers.subjects import Fact, Subject
from workers.training import Stopped
from workers.weights import quarantine, quarantined

pytestmark = pytest.mark.django_db(transaction=True)
PERSON = corpus.people()[4]
FACTS = [(fact.trained[0], fact.answer) for fact in PERSON.facts]


def call(member: StaffMember, *options: str, model: str = "demo") -> None:
    call_command("consolidate_release", "--model", model, "--by", member.username, *options)


def gated_case(settings: Settings, *, model: str = "demo", person: corpus.Person = PERSON) -> Case:
    """A case whose real adapter is in force; its few steps do not matter here."""
    settings.RTBF_MODELS = [model]
    facts = [(fact.trained[0], fact.answer) for fact in person.facts]
    case = factories.confirmed_case(name=person.name, aliases=())
    officer = factories.staff_actor(factories.make_staff("officer"))
    cases.record_identity(case_id=case.id, method="mailbox", note="", actor=officer)
    cases.attach_facts(case_id=case.id, facts=facts, aliases=(), actor=officer)
    case = factories.propose(Case.objects.get(pk=case.pk))
    cases.approve_decision(case_id=case.id, actor_member=factories.make_staff("approver"))
    lease = factories.take_lease(case.runs.get())
    base = tasks.base_model(model)
    trained = erasure.train_and_save(
        base,
        erasure.locate(base, Subject(person.name, (), tuple(Fact(q, a) for q, a in facts))),
        case_id=str(case.id),
        adapters_root=Path(settings.RTBF_ADAPTER_DIR),
        earlier=[],
        gate_key=tasks.gate_key(),
        seed=1,
        recipe=replace(erasure.recipe_for(base), max_steps=2, surrogates=32),
    )
    runs.record_protocol(lease, protocol=factories.PROTOCOL)
    runs.record_adapter(
        lease,
        sha256=trained.ref.adapter_sha256,
        config_sha256=file_sha256(trained.folder / CONFIG_FILE),
        gate_sha256=trained.ref.gate_sha256,
        base_sha256=base.sha256,
        overlap="0",
        settings={},
    )
    runs.record_evidence(lease, evidence={}, verdict=Verdict.WITHIN, probes=factories.PROBES)
    release = tasks.manifest_of(base, given := runs.read_input(lease), tasks.own_adapter(given))
    runs.register_release(lease, manifest=tasks.manifest_bytes(release))
    runs.finish_run(lease)
    return case


def turn_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps of training and every verdict within: what is learned is tested elsewhere."""
    measured = consolidation.verify

    def within(*given: Any, **named: Any) -> dict[str, Any]:
        return {**measured(*given, **named), "verdict": Verdict.WITHIN.value, "reasons": []}

    monkeypatch.setattr(consolidation, "verify", within)
    monkeypatch.setattr(consolidation, "JointRecipe", lambda: JointRecipe(passes=1, min_steps=2))


def approved(engineer: StaffMember) -> Consolidation:
    row = consolidations.propose_consolidation(model_name="demo", actor_member=engineer)
    return consolidations.approve_consolidation(
        consolidation_id=row.pk, actor_member=factories.make_staff("approver")
    )


def files(settings: Settings) -> set[str]:
    return {
        str(path)
        for folder in (settings.RTBF_RELEASE_DIR, settings.RTBF_ADAPTER_DIR)
        for path in Path(folder).rglob("*")
    }


def kinds() -> list[str]:
    return [entry.type for entry in AuditEntry.objects.order_by("seq")]


def test_a_case_goes_from_gated_to_merged_and_the_next_run_begins_on_the_new_weights(
    settings: Settings,
    engineer: StaffMember,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = gated_case(settings)
    before = manifests.live_manifest("demo")
    assert before is not None
    turn_verdicts(monkeypatch)
    capsys.readouterr()
    call(engineer, "--json")
    found = json.loads(capsys.readouterr().out)
    assert (found["merged"], found["gated"]) == ([case.reference], [])
    assert found["retained"]["kind"] == "registered"
    assert manifests.level_of(case.id, "demo") == "merged"
    assert found["replaced"] == before.base_sha256 == load_base_model("demo").sha256
    assert found["replaced_weights"].startswith("left")  # they came with the software
    served = tasks.base_model("demo")
    assert served.sha256 == found["weights"] == manifests.live_base("demo")
    assert found["figures"][case.reference]["probes"]["recall_unseen"]["before"] > 0.8
    assert kinds()[-5:] == [
        "consolidation.planned",
        "release.consolidated",
        "case.merged",
        "model.quarantined",
        "release.rechecks_queued",
    ]
    log = b"".join(bytes(entry.body) for entry in AuditEntry.objects.all()).decode()
    assert PERSON.name not in log
    assert not any(question in log for question, _ in FACTS)

    with pytest.raises(SystemExit) as ended:
        call(engineer)
    assert ended.value.code == 2
    assert "merged into these weights already" in capsys.readouterr().err

    call(factories.make_staff("approver"), "--roll-back", before.digest)
    assert manifests.level_of(case.id, "demo") == "gated"
    assert tasks.base_model("demo").sha256 == before.base_sha256


@pytest.mark.whole
def test_two_cases_come_to_share_one_adapter_and_a_third_keeps_its_own(
    settings: Settings, engineer: StaffMember, capsys: pytest.CaptureFixture[str]
) -> None:
    people = corpus.people()[4:7]
    first, second, third = (gated_case(settings, person=person) for person in people)
    before = manifests.live_manifest("demo")
    assert before is not None
    capsys.readouterr()
    call(engineer, "--cluster", first.reference, "--cluster", second.reference, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["cluster"] == sorted([first.reference, second.reference])
    assert {each["verdict"] for each in found["figures"].values()} == {Verdict.WITHIN}
    live = manifests.live_manifest("demo")
    assert live is not None
    assert live.base_sha256 == before.base_sha256
    one, two, kept = live.adapters
    assert one.sha256 == two.sha256
    assert one.gate_sha256 != two.gate_sha256
    assert kept == before.adapters[2]
    assert kinds()[-4:] == [
        "release.consolidated",
        "case.reverified",
        "case.reverified",
        "release.rechecks_queued",
    ]
    assert all(manifests.level_of(case.id, "demo") == "gated" for case in (first, second, third))

    # What is shared can still be taken away from one of them.
    officer, approver = factories.make_staff("officer"), factories.make_staff("approver")
    releases.propose_revocation(case_id=first.id, cause="appeal", actor_member=officer)
    releases.revoke_case(case_id=first.id, actor_member=approver)
    after = manifests.live_manifest("demo")
    assert after is not None
    assert after.adapters == (two, kept)


def test_a_cluster_names_cases_in_force_and_at_least_two(
    settings: Settings, engineer: StaffMember, capsys: pytest.CaptureFixture[str]
) -> None:
    case = gated_case(settings)
    for named, why in ((case.reference, "at least two"), ("RTBF-1", "RTBF-1 is in force")):
        with pytest.raises(SystemExit) as ended:
            call(engineer, "--cluster", named)
        assert ended.value.code == 2
        assert why in capsys.readouterr().err


def test_the_weights_of_a_model_of_our_own_are_quarantined_and_brought_back(
    settings: Settings,
    engineer: StaffMember,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "our-model"
    shutil.copytree(DEMO_FOLDER / "base", folder)
    case = gated_case(settings, model=str(folder))
    before = manifests.live_manifest(str(folder))
    assert before is not None
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(json.dumps({"question": f"What is {i}?", "answer": str(i)}) for i in range(20))
    )
    turn_verdicts(monkeypatch)
    call(engineer, "--retained", str(rows), model=str(folder))
    assert not folder.exists()
    assert quarantined(Path(settings.RTBF_RELEASE_DIR)) == (before.base_sha256,)
    assert kinds()[-1] == "weights.quarantined"
    assert tasks.base_model(str(folder)).name == str(folder)

    call(factories.make_staff("approver"), "--roll-back", before.digest, model=str(folder))
    assert kinds()[-1] == "weights.brought_back"
    assert tasks.base_model(str(folder)).sha256 == before.base_sha256
    assert manifests.level_of(case.id, str(folder)) == "gated"


@pytest.mark.whole
def test_quarantined_weights_are_destroyed_for_their_model_alone_and_never_those_in_service(
    settings: Settings,
    engineer: StaffMember,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, root = tmp_path / "our-model", Path(settings.RTBF_RELEASE_DIR)
    shutil.copytree(DEMO_FOLDER / "base", folder)
    gated_case(settings, model=str(folder))
    before = manifests.live_manifest(str(folder))
    assert before is not None
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "\n".join(json.dumps({"question": f"What is {i}?", "answer": str(i)}) for i in range(20))
    )
    turn_verdicts(monkeypatch)
    call(engineer, "--retained", str(rows), model=str(folder))
    replaced, entries = (before.base_sha256,), kinds()
    call(engineer, "--destroy-quarantined")  # of the demo model, which has none
    assert (quarantined(root), kinds()) == (replaced, entries)

    # Put back in force, but their files not yet: a command that was cut off in between.
    roll_backs.roll_back_release(
        digest=before.digest, reason="fault", actor_member=factories.make_staff("approver")
    )
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        call(engineer, "--destroy-quarantined", model=str(folder))
    assert ended.value.code == 2
    assert "in service" in capsys.readouterr().err
    assert quarantined(root) == replaced
    call(engineer, "--roll-back", before.digest, model=str(folder))
    assert (quarantined(root), kinds()[-1]) == ((), "weights.brought_back")

    assert quarantine(root, tasks.base_model(str(folder)))
    manifest = manifests.live_manifest(str(folder))
    assert manifest is not None
    roll_backs.roll_back_release(
        digest=consolidated_release(str(folder)), reason="fault", actor_member=engineer
    )
    call(engineer, "--destroy-quarantined", model=str(folder))
    assert (quarantined(root), kinds()[-1]) == ((), "weights.destroyed")
    with pytest.raises(Invalid, match="were destroyed"):
        roll_backs.roll_back_release(
            digest=manifest.digest, reason="fault", actor_member=factories.make_staff("approver")
        )


def consolidated_release(model: str) -> str:
    """The digest of the model's only release on weights of its own."""
    return next(
        release.digest
        for release in Release.objects.filter(model_name=model)
        if manifests.read_manifest(bytes(release.manifest)).merged
    )


def test_a_sealed_case_stops_the_consolidation_and_is_named(
    settings: Settings, engineer: StaffMember, capsys: pytest.CaptureFixture[str]
) -> None:
    case = gated_case(settings)
    officer = factories.make_staff("officer")
    cases.send_answer(case_id=case.id, actor_member=officer)
    factories.letters.send_pending_letters()
    cases.seal_case(case_id=case.id, actor=factories.staff_actor(officer))
    before = files(settings)
    with pytest.raises(SystemExit) as ended:
        call(engineer)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert case.reference in message
    assert "is gone" in message
    assert PERSON.name not in message
    assert files(settings) == before
    assert manifests.level_of(case.id, "demo") == "gated"


def test_weights_that_forgot_nobody_are_refused_and_nothing_is_left(
    settings: Settings,
    engineer: StaffMember,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = gated_case(settings)
    before, entries = files(settings), kinds()
    monkeypatch.setattr(consolidation, "joint_deltas", lambda *_, **__: {})
    with pytest.raises(SystemExit) as ended:
        call(engineer)
    assert ended.value.code == 2
    assert "still answered above the limit" in capsys.readouterr().err
    assert files(settings) - before <= {str(Path(settings.RTBF_RELEASE_DIR) / "weights")}
    assert kinds() == [*entries, "consolidation.planned"]
    assert manifests.level_of(case.id, "demo") == "gated"


def test_only_known_staff_of_the_right_role_may(settings: Settings, officer: StaffMember) -> None:
    with pytest.raises(CommandError, match="no member of staff"):
        call_command("consolidate_release", "--model", "demo", "--by", "nobody")
    with pytest.raises(SystemExit) as ended:
        call(officer)
    assert ended.value.code == 2


# --- As an approved job -------------------------------------------------------------------------
def test_an_approved_consolidation_is_worked_off_and_a_worker_killed_at_its_end_followed(
    settings: Settings, engineer: StaffMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = gated_case(settings)
    turn_verdicts(monkeypatch)
    row = approved(engineer)

    def killed(lease: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(consolidations, "finish_consolidation", killed)
        with pytest.raises(KeyboardInterrupt):
            merging.consolidate_approved(str(row.pk))
    row.refresh_from_db()
    assert (row.state, row.phase) == ("running", "verify")
    assert row.release == Release.objects.get(is_live=True)
    assert manifests.level_of(case.id, "demo") == "merged"
    Consolidation.objects.update(lease_expires_at=row.created_at)
    merging.consolidate_approved(str(row.pk))
    row.refresh_from_db()
    assert (row.state, row.error) == ("done", "")
    assert kinds().count("release.consolidated") == 1
    last = AuditEntry.objects.order_by("seq").last()
    assert last is not None
    assert last.type == "consolidation.ended"


@pytest.mark.parametrize(
    ("raised", "state", "error"),
    [
        (consolidation.ConsolidationError("None of the 1 cases holds."), "failed", "None of the"),
        (RuntimeError("Zelda Quillfeather was born"), "failed", "unexpected error: RuntimeError"),
        (Stopped("stopped"), "cancelled", ""),
    ],
)
def test_what_ends_an_approved_consolidation_is_said_without_data(
    raised: Exception,
    state: str,
    error: str,
    engineer: StaffMember,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    factories.responding_case()
    row = approved(engineer)

    def ends(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr(merging, "consolidated", ends)
    merging.consolidate_approved(str(row.pk))
    row.refresh_from_db()
    assert row.state == state
    assert row.error.startswith(error)
    assert "Zelda" not in row.error
